"""The command line: answers on stdout, one sentence and exit status 2 for wrong input, no partial file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch import Tensor, nn

from wordmask import __version__
from wordmask.cli import main, weights
from wordmask.cli.segment import parse_hints, parse_slices
from wordmask.data.letterbox import Letterbox
from wordmask.demo.client import free_port
from wordmask.errors import RequestError, UnknownModelError
from wordmask.models.base import (
    Capabilities,
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.loading import choose_device
from wordmask.models.presets import Preset
from wordmask.words.prompts import Prompt


class BrightSegmenter(Segmenter):
    """Marks what is brighter than the middle of the window for every word but "polyp", of which it sees
    nothing.
    """

    name = "simple_vilmedsam"
    capabilities = Capabilities(attribution=True)

    def __init__(self) -> None:
        super().__init__(
            Preset(
                model=self.name,
                name="stub",
                title="Stub",
                description="marks what is bright",
                slice_batch=4,
                pair_batch=8,
            )
        )
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)

    @classmethod
    def from_preset(cls, preset: Preset, weights: Path | None = None) -> BrightSegmenter:
        return cls()

    @property
    def fingerprint(self) -> str:
        return "bright"

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        size = (slices.shape[-2], slices.shape[-1])
        return SliceFeatures(
            tuple(keys), {"grey": slices.mean(1)}, {"all": Letterbox(size, size, (1.0, 1.0), (0.0, 0.0))}
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        seen = torch.tensor([0.0 if prompt.word == "polyp" else 1.0 for prompt in prompts])
        return PromptFeatures(tuple(prompts), {"seen": seen}, torch.ones(len(prompts), dtype=torch.bool))

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        pairs = all_pairs(len(slices), len(prompts)) if pairs is None else pairs
        seen = prompts.tensors["seen"][pairs[:, 1]][:, None, None]
        grey = slices.tensors["grey"][pairs[:, 0]]
        return SegmenterOutput(
            (grey - 0.5) * 20 * seen - (1 - seen) * 20, slices.frames["all"], attribution=grey
        )


@pytest.fixture
def a_ct(tmp_path: Path) -> Path:
    """12 slices of 20 x 24, 2 x 1 x 1 mm; soft tissue with a bright cube of 4 x 6 x 6 voxels."""
    voxels = np.full((12, 20, 24), -160, dtype=np.int16)
    voxels[4:8, 6:12, 8:14] = 200
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetOrigin((-3.0, 5.0, 100.0))
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(image, path)
    return path


@pytest.fixture
def a_stub_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordmask.models.loading.load_segmenter", lambda *_, **__: BrightSegmenter().eval())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr in one line."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, " ".join(captured.err.split())


@pytest.mark.usefixtures("a_stub_model")
def test_segment_writes_a_label_map_in_the_geometry_of_the_image(
    a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "segment", a_ct, "liver, polyp", "-o", tmp_path / "labels.nii.gz")
    assert status == 0
    labels, image = sitk.ReadImage(tmp_path / "labels.nii.gz"), sitk.ReadImage(a_ct)
    assert labels.GetSize() == image.GetSize()
    np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-6)
    values, counts = np.unique(sitk.GetArrayFromImage(labels), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True))[1] == 4 * 6 * 6
    assert "liver" in out
    assert "not found" in out, "a word that is not there is an answer, not a failure"


@pytest.mark.usefixtures("a_stub_model")
def test_json_gives_the_statistics_to_scripts(
    a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "segment", a_ct, "liver, polyp", "-o", tmp_path / "labels.nii.gz", "--json")
    summary = json.loads(out)
    assert status == 0
    assert summary["label_names"] == {"liver": 1, "polyp": 2}
    assert summary["not_found"] == ["polyp"]
    assert summary["statistics"]["liver"]["millilitres"] == pytest.approx(4 * 6 * 6 * 2 / 1000)


@pytest.mark.usefixtures("a_stub_model")
def test_overlay_with_panels_is_a_picture(
    a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.png"
    arguments = ("-o", tmp_path / "labels.nii.gz", "--overlay", overlay)
    assert run(capsys, "segment", a_ct, "liver", *arguments)[0] == 0
    plain = Image.open(overlay).size
    assert run(capsys, "segment", a_ct, "liver", *arguments, "--attribution", "--uncertainty")[0] == 0
    assert Image.open(overlay).size[1] > plain[1], "each panel is a row more"


@pytest.mark.usefixtures("a_stub_model")
def test_slices_outside_the_range_stay_empty(
    a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            capsys,
            "segment",
            a_ct,
            "liver",
            "-o",
            tmp_path / "part.nii.gz",
            "--plane",
            "axial",
            "--slices",
            "5:6",
        )[0]
        == 0
    )
    labels = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "part.nii.gz"))
    assert [k for k in range(12) if labels[k].any()] == [5, 6]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"words": ""}, "word"),
        ({"words": "liver" * 60}, "256"),
        ({"image": "missing.nii.gz"}, "missing.nii.gz"),
        ({"--slices": "9"}, "40:52"),
        ({"--slices": "3:99"}, "slices"),
        ({"--point": "1,2"}, "10,20,5"),
        ({"--point": "1,2,3"}, "cannot use points"),
        ({"--box": "1,2,3"}, "10,20,5:40,50,9"),
        ({"--box": "1,2,3:4,5"}, "10,20,5:40,50,9"),
        ({"--box": "1,2,3:4,5,6"}, "cannot use box"),
        ({"--roi": "1,2,3"}, "--roi takes two voxels"),
        ({"--roi": "1,2,3:4,5,9999"}, "not a part of the image"),
        ({"--prompt-set": "P2"}, "leave the prompt set out"),
        ({"--plane": "diagonal"}, "diagonal"),
        ({"--window": "lunk"}, "lunk"),
        ({"--threshold": "1.5"}, "1.5"),
        ({"-o": "no_such_folder/labels.nii.gz"}, "no folder"),
        ({"-o": "labels.txt"}, "labels.txt"),
        ({"-o": "labels.png"}, ".nii.gz"),
        ({"-o": "ct.nii.gz"}, "is the input image"),
        ({"--overlay": "overlay.pdf"}, "PNG"),
    ],
)
@pytest.mark.usefixtures("a_stub_model")
def test_wrong_input_is_one_sentence_and_status_2_and_writes_nothing(
    changed: dict[str, str],
    sentence: str,
    a_ct: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(a_ct.parent)
    before = a_ct.read_bytes()
    request = {"image": a_ct.name, "words": "liver", "-o": "labels.nii.gz"} | changed
    options = [part for name, value in request.items() if name.startswith("-") for part in (name, value)]
    status, out, err = run(capsys, "segment", request["image"], request["words"], *options)
    assert (status, out) == (2, "")
    assert err.startswith("wordmask: ")
    assert sentence in err
    assert "Traceback" not in err
    assert [path.name for path in a_ct.parent.iterdir()] == ["ct.nii.gz"]
    assert a_ct.read_bytes() == before


def test_panels_without_a_picture_are_refused(
    a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "segment", a_ct, "liver", "-o", tmp_path / "labels.nii.gz", "--uncertainty")
    assert status == 2
    assert "--overlay" in err


@pytest.mark.parametrize(
    ("option", "name"), [("--model", "simple_vilmedsan"), ("--preset", "tinny"), ("--device", "cupu")]
)
def test_an_unknown_model_preset_or_device_is_status_2(
    option: str, name: str, a_ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "segment", a_ct, "liver", "-o", tmp_path / "labels.nii.gz", option, name)
    assert status == 2
    assert repr(name) in err


def test_a_missing_argument_is_status_2_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "segment")
    assert (status, out) == (2, "")
    assert "IMAGE" in err


def test_words_lists_the_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "words")
    assert status == 0
    assert all(word in out for word in ("liver", "spleen", "polyp"))


@pytest.mark.parametrize(("typed", "meant"), [("sple", "spleen"), ("livr", "liver")])
def test_words_completes_and_corrects(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "words", typed)
    assert status == 0
    assert meant in out


def test_weights_list_shows_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path))
    status, out, err = run(capsys, "weights", "list")
    assert status == 0
    assert all(name in out for name in ("sam_vit_b", "biomedclip", "Apache-2.0"))
    assert "WORDMASK_WEIGHTS" in err


def test_weights_import_of_a_wrong_file_is_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path / "cache"))
    (tmp_path / "sam.pth").write_bytes(b"not SAM")
    status, out, err = run(capsys, "weights", "import", "sam_vit_b", tmp_path / "sam.pth")
    assert (status, out) == (2, "")
    assert "7 bytes instead of 375042383" in err


def test_version_and_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, f"wordmask {__version__}\n")
    status, out, err = run(capsys, "check", "--port", free_port())
    assert status == 0, err
    assert "monailabel" in out


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert 'wordmask segment ct.nii.gz "liver, spleen" -o labels.nii.gz' in out


def test_help_does_not_load_torch() -> None:
    code = "import sys; from wordmask.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("text", ["4", "a:b", "5:", ":", "1:2:3", "-1:4", "1.5:3"])
def test_a_slice_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="40:52"):
        parse_slices(text)


def test_points_and_a_box_are_read() -> None:
    hints = parse_hints(["1,2,3", " 4.5, 6 ,7"], "0,1,2:3,4,5")
    assert hints.points == ((1.0, 2.0, 3.0, True), (4.5, 6.0, 7.0, True))
    assert hints.box == ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0))
    assert not parse_hints([], None).kinds()


def test_a_slice_range_is_read() -> None:
    assert parse_slices("3:7") == (3, 7)
    assert parse_slices(None) is None


def test_a_terminal_without_umlauts_shows_a_sentence_and_not_a_trace(tmp_path: Path) -> None:
    code = (
        "import sys; from wordmask.cli import main; sys.exit(main(['words', 'Nierenh' + chr(246) + 'hle']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "Nierenh\\xf6hle" in found.stdout + found.stderr


@pytest.mark.parametrize(
    "command", [("check", "a" * 300), ("segment", "ct.nii.gz", "liver", "-o", "a" * 300)]
)
def test_a_path_that_the_system_refuses_is_status_2(command, capsys):
    assert main(command) == 2
    assert "cannot be used (File name too long)" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mps", "meta", "gpu"])
def test_a_device_that_is_not_supported_is_refused(device):
    with pytest.raises(UnknownModelError, match=f"There is no device '{device}'"):
        choose_device(device)


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UnknownModelError, match="the last CUDA device of this machine is cuda:1"):
        choose_device("cuda:2")


def test_weights_with_a_restricted_licence_wait_until_it_is_accepted(monkeypatch, capsys, tmp_path):
    fetched = []
    monkeypatch.setattr(weights, "fetch", lambda name, **_: fetched.append(name) or tmp_path)
    assert main(["weights", "fetch", "unimedclip"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "CC-BY-NC-4.0, these weights are for non-commercial use only" in error
    assert "wordmask weights fetch unimedclip --accept-licence" in error
    assert fetched == []
    assert main(["weights", "fetch", "unimedclip", "--accept-licence"]) == 0
    assert main(["weights", "fetch", "biomedclip"]) == 0
    assert fetched == ["unimedclip", "biomedclip"]
