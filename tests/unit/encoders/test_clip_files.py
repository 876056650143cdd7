"""Where a CLIP may come from, and files that are refused: folders, archives, the hub, fetched weights."""

from __future__ import annotations

import hashlib
import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from pydantic import ValidationError
from safetensors.torch import save_file
from tests.public_files import Public, biomed_config, make_biomed_folder
from tests.support.small_clips import WORDS, pictures
from torch import nn

from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.configs import ClipConfig
from wordmask.errors import WeightsError


def folder_digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def a_copy(a_biomedclip_folder: Public, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in a_biomedclip_folder.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load_folder(folder: Path) -> ClipEncoder:
    return load_clip(ClipConfig(source=f"local-dir:{folder}"))


def test_a_folder_is_read_without_network_and_stays_as_it_was(a_copy: Path) -> None:
    before = folder_digest(a_copy)
    load_folder(a_copy)
    assert folder_digest(a_copy) == before


def test_safetensors_are_preferred_to_an_older_file(a_copy: Path, encoders: dict[str, ClipEncoder]) -> None:
    state = {name: value.clone() for name, value in encoders["biomedclip"].model.state_dict().items()}
    state["logit_scale"] += 1
    save_file(state, a_copy / "open_clip_model.safetensors")
    assert load_folder(a_copy).logit_scale == encoders["biomedclip"].logit_scale + 1


def test_a_folder_of_openais_kind_is_read_too(
    an_openai_file: Public, tmp_path: Path, encoders: dict[str, ClipEncoder]
) -> None:
    config = open_clip.get_model_config("Small-8-quickgelu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    (tmp_path / "open_clip_model.safetensors").write_bytes(an_openai_file.path.read_bytes())
    assert load_folder(tmp_path).fingerprint() == encoders["openai"].fingerprint()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openais_own_archive_is_read_without_running_its_code(
    an_openai_file: Public, tmp_path: Path, encoders: dict[str, ClipEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deepcopy(an_openai_file.model).half()  # as OpenAI stored most of it
    for name, size in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    example = (torch.rand(1, 3, 32, 32).half(), an_openai_file.tokenizer(["liver"]))
    torch.jit.trace(model, example, check_trace=False).save(str(tmp_path / "ViT-B-16.pt"))
    monkeypatch.setattr(torch.jit, "load", None)
    clip = load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "ViT-B-16.pt")))
    assert clip.fingerprint() == encoders["openai"].fingerprint()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("open_clip_config.json", "'copy' has no open_clip_config.json"),
        ("open_clip_pytorch_model.bin", "'copy' has no weights"),
        ("tokenizer.json", "'copy' has no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_name(a_copy: Path, missing: str, sentence: str) -> None:
    (a_copy / missing).unlink()
    if missing == "tokenizer.json":
        (a_copy / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=sentence) as refused:
        load_folder(a_copy)
    assert str(a_copy.parent) not in str(refused.value)


def test_an_unknown_text_tower_needs_its_configuration(a_copy: Path) -> None:
    (a_copy / "config.json").unlink()
    config = json.loads((a_copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "somebody/some-bert"
    (a_copy / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"has no config.json.*somebody/some-bert"):
        load_folder(a_copy)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model_cfg": {}}', '{"model_cfg": {"vision_cfg": 1, "text_cfg": 2}}', "\udcff"]
)
def test_a_damaged_configuration_is_refused(a_copy: Path, content: str) -> None:
    (a_copy / "open_clip_config.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(WeightsError, match="does not describe a CLIP"):
        load_folder(a_copy)


def test_a_configuration_that_cannot_be_built_is_refused(a_copy: Path) -> None:
    config = biomed_config("a_trunk_of_tomorrow", 160, 24)
    (a_copy / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be built"):
        load_folder(a_copy)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise"])
def test_damaged_weights_are_refused(
    a_copy: Path, encoders: dict[str, ClipEncoder], name: str, damage: str
) -> None:
    path = a_copy / name
    if name.endswith("safetensors"):
        save_file(encoders["biomedclip"].model.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "noise": bytes(range(256)) * 40}[damage]
    )
    with pytest.raises(WeightsError, match=name) as refused:
        load_folder(a_copy)
    assert str(a_copy.parent) not in str(refused.value)


def test_a_truncated_archive_of_torchscript_is_refused(an_openai_file: Public, tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    torch.jit.trace(layer, torch.zeros(1, 3)).save(str(tmp_path / "other.pt"))
    with pytest.raises(WeightsError, match=r"other.pt has another architecture"):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "other.pt")))
    data = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"half.pt"):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "half.pt")))


@pytest.mark.parametrize("change", ["missing", "extra", "another shape"])
def test_weights_of_another_architecture_are_refused(
    an_openai_file: Public, tmp_path: Path, change: str
) -> None:
    state = {name: value.clone() for name, value in an_openai_file.model.state_dict().items()}
    if change == "missing":
        del state["visual.proj"]
    elif change == "extra":
        state["visual.proj2"] = torch.zeros(1)
    else:
        state["visual.positional_embedding"] = torch.zeros(
            26, 128
        )  # open_clip would resample these in silence
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(
        WeightsError, match=r"other.safetensors has another architecture.*1 tensors.*visual.p"
    ):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "other.safetensors")))


def test_a_file_of_weights_cannot_run_code(a_copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (trace,))

    torch.save({"model": Attack()}, a_copy / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model.bin"):
        load_folder(a_copy)
    (a_copy / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model.bin"):
        load_folder(a_copy)
    assert not trace.exists()


def test_a_clip_that_sees_in_another_way_is_refused() -> None:
    text = CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    residual = CLIP(16, CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32), text)
    averaged = CLIP(16, CLIPVisionCfg(layers=1, width=64, patch_size=8, image_size=32, pool_type="avg"), text)
    convolved = CLIP(
        16, CLIPVisionCfg(timm_model_name="test_convnext", timm_pool="avg", image_size=160), text
    )
    for model, sentence in (
        (residual, "ModifiedResNet"),
        (averaged, "class token"),
        (convolved, "timm trunk"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            ClipEncoder(model, SimpleTokenizer(context_length=8))


@pytest.mark.parametrize(
    "source", ["openai:ViT-B-16", "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"]
)
def test_without_network_and_files_the_sentence_says_what_to_do(source: str) -> None:
    with pytest.raises(WeightsError, match=r"could not be downloaded.*wordmask weights list"):
        load_clip(ClipConfig(source=source))


def test_a_hub_name_reads_the_files_of_the_hub(
    a_biomedclip_folder: Public,
    encoders: dict[str, ClipEncoder],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = a_biomedclip_folder.path
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(
        hf_model_name=str(folder), hf_tokenizer_name=str(folder)
    )  # as if the hub answered
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")

    def download(_: str, filename: str | None = None, **__: object) -> str:
        return str((tmp_path if filename else folder) / (filename or "open_clip_pytorch_model.bin"))

    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", download)
    clip = load_clip(ClipConfig(source="hf-hub:somebody/biomedclip"))
    assert clip.fingerprint() == encoders["biomedclip"].fingerprint()
    assert torch.equal(clip.encode_text(WORDS), encoders["biomedclip"].encode_text(WORDS))


def test_tiny_without_its_token_ids_is_refused() -> None:
    with pytest.raises(WeightsError, match="token ids"):
        load_clip(ClipConfig(source="tiny"))


@pytest.mark.parametrize(
    "values",
    [
        {"source": "tinny"},
        {"source": "hf-hub:"},
        {"source": "tiny", "checkpoint": "a.pt"},
        {"source": "openai:ViT-B-16", "architecture": {}},
        {"source": "tiny", "architecture": {"patch_size": 9}},
        {"source": "tiny", "architecture": {"widht": 96}},
        {"source": "tiny", "layer": 3},
    ],
)
def test_a_configuration_with_a_slip_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClipConfig(**values)


@pytest.mark.slow
def test_a_plain_copy_of_the_hub_at_full_size_needs_no_configuration_of_its_text_tower(
    tmp_path: Path,
) -> None:
    torch.manual_seed(6)
    public = make_biomed_folder(tmp_path / "full", WORDS, ship_bert=False)
    clip = load_folder(public.path)
    assert (clip.image_size, clip.grid, clip.width, clip.embed_dim, clip.depth) == (224, 14, 768, 512, 12)
    pixels = pictures(clip, 1)
    with torch.no_grad():
        whole = public.model.encode_image(pixels)
        for layer in (7, 10):
            torch.testing.assert_close(clip.tail(clip.head(pixels, layer), layer), whole, atol=1e-5, rtol=0)
        expected = public.model.encode_text(public.tokenizer(WORDS), normalize=True)
        torch.testing.assert_close(clip.encode_text(WORDS), expected, atol=1e-5, rtol=0)


def test_weights_that_were_fetched_are_found_by_their_name(
    a_biomedclip_folder: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wordmask.encoders.clip_sources.weights_path",
        {"biomedclip": Path(a_biomedclip_folder.path)}.__getitem__,
    )
    direct = load_clip(ClipConfig(source=f"local-dir:{a_biomedclip_folder.path}"))
    assert load_clip(ClipConfig(source="weights:biomedclip")).fingerprint() == direct.fingerprint()


@pytest.mark.parametrize("name", ["biomedclip", "openai_vit_b_16"])
def test_weights_that_are_missing_are_answered_with_the_command_to_type(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=f"wordmask weights fetch {name}"):
        load_clip(ClipConfig(source=f"weights:{name}"))


def test_weights_that_are_no_clip_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordmask.encoders.clip_sources.weights_path", lambda _: tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="'sam_vit_b' are not a CLIP"):
        load_clip(ClipConfig(source="weights:sam_vit_b"))
