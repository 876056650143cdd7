"""Files of weights: what is read, what is refused, and that nothing in them runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError

TENSORS = {"first": torch.arange(6.0).reshape(2, 3), "second": torch.ones(500, 4)}


def write(path: Path, content: object = TENSORS) -> Path:
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(content, path)
    return path


def assert_same(found: dict[str, Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_tensors_come_back_from_a_file(tmp_path: Path, name: str) -> None:
    assert_same(read_tensors(write(tmp_path / name)))


def test_a_training_checkpoint_gives_its_model(tmp_path: Path) -> None:
    """As Simple-ViLMedSAM writes it: optimiser, scheduler and a mean loss that numpy computed lie beside the
    weights.
    """
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    checkpoint = {
        "model": TENSORS,
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "loss": np.mean([0.5, 1.0]),
        "best_dice": -1.0,
    }
    assert_same(read_tensors(write(tmp_path / "best_model.pth", checkpoint)))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_cut_short_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    content = path.read_bytes()
    for keep in (0.0, 0.01, 0.5, 0.99):
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(WeightsError, match=f"^{name} cannot be read as weights: it is damaged") as caught:
            read_tensors(path)
        assert str(tmp_path) not in str(caught.value), keep
        assert "\n" not in str(caught.value), keep


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_web_page_is_not_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_tensors(tmp_path / name)


class Booby:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    write(tmp_path / "weights.pth", {"first": torch.ones(1), "bad": Booby(tmp_path / "it_ran")})
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_tensors(tmp_path / "weights.pth")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], torch.ones(1), {"epoch": 3}, {"model": {"epoch": 3}}]
)
def test_a_file_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match="not a file of named tensors"):
        read_tensors(write(tmp_path / "other.pth", content))


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^There is no file of weights gone\.pth;") as caught:
        read_tensors(tmp_path / "gone.pth")
    assert str(tmp_path) not in str(caught.value)
