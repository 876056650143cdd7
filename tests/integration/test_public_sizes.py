"""MedCLIP-SAMv2 at the published sizes.

Files of the published architectures with random numbers, imported, loaded, and used.

What a mask means cannot be seen here, only that it is made, where it lies, and that it is the same every
time. Minutes, and up to 8 GB of
memory: one model at a time, a few slices each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tests.public_files import make_biomed_folder, registered, write_sam

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import write_labels
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.weights.catalogue import catalogue
from wordmask.words.prompts import parse_prompts

WORD, SENTENCE = "liver", "a smooth round mass with a bright rim in the upper abdomen"
PUBLISHED = {"sam_vit_b": 375_042_383, "sam_vit_h": 2_564_550_879}  # bytes
TILTED = (1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["vit_b", "vit_h"])
def a_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MedCLIPSAMv2]:
    """Loaded by its preset; its files are gone afterwards, and at no time are those of both SAMs there."""
    folder, name = tmp_path_factory.mktemp(request.param), f"sam_{request.param}"
    torch.manual_seed(3)
    clip = make_biomed_folder(folder / "biomedclip", [WORD, SENTENCE]).path
    write_sam(folder / "sam.pth", request.param)
    assert (folder / "sam.pth").stat().st_size == pytest.approx(
        PUBLISHED[name], rel=1e-3
    )  # the same tensors in the same precision
    with registered(folder / "weights", biomedclip=clip, **{name: folder / "sam.pth"}):
        for path in (folder / "sam.pth", *clip.iterdir()):
            path.unlink()
        yield load_segmenter("medclip_samv2", preset=f"biomedclip_{request.param}", device="cpu")
        for path in (folder / "weights").glob("*/*"):
            path.unlink()


@pytest.fixture(scope="module")
def a_tilted_volume() -> Volume:
    """[2, 60, 48], MR: two slices of blocks."""
    blocks = np.random.default_rng(4).integers(0, 500, (2, 10, 8)).repeat(6, axis=1).repeat(6, axis=2)
    geometry = Geometry((48, 60, 2), (1.5, 1.25, 7.0), (-20.0, 30.0, 12.5), TILTED)
    return Volume(blocks.astype(np.int16), geometry, "MR", "study.nii.gz")


@pytest.fixture(scope="module")
def a_picture() -> Volume:
    """60 x 80 in colours."""
    blocks = np.random.default_rng(5).integers(0, 255, (1, 6, 8, 3)).repeat(10, axis=1).repeat(10, axis=2)
    return Volume(blocks.astype(np.uint8), Geometry.of_picture(80, 60), "picture", "study.png")


def test_the_catalogue_knows_the_sizes_of_the_published_files():
    assert {name: catalogue()[name].size for name in PUBLISHED} == PUBLISHED


def test_a_slice_of_a_volume_is_marked_on_the_grid_of_its_file(a_model, a_tilted_volume, tmp_path):
    segmenter = VolumeSegmenter(a_model)
    result = segmenter.segment(
        a_tilted_volume, [WORD, SENTENCE], slices=(1, 1), keep=("probability", "attribution")
    )
    maps = [result.maps[name][word] for name in ("probability", "attribution") for word in (WORD, SENTENCE)]
    assert all(one.shape == (2, 60, 48) and np.isfinite(one).all() for one in maps)
    assert all(one[1].std() > 1e-3 and not one[0].any() for one in maps)
    assert np.abs(maps[2] - maps[3]).max() > 1e-3  # of two words
    # Between the least and the largest probability of the word, something must be marked, and something not.
    middle = float(np.median(maps[0][1]))
    again = segmenter.segment(a_tilted_volume, WORD, slices=(1, 1), threshold=middle, keep=("probability",))
    np.testing.assert_array_equal(again.maps["probability"][WORD], maps[0])
    assert set(np.unique(again.labels)) == {0, 1}
    write_labels(tmp_path / "labels.nii.gz", again)
    written = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), again.labels)
    np.testing.assert_allclose(written.GetDirection(), TILTED, atol=1e-6)
    np.testing.assert_allclose(written.GetSpacing(), (1.5, 1.25, 7.0), atol=1e-6)
    np.testing.assert_allclose(written.GetOrigin(), (-20.0, 30.0, 12.5), atol=1e-6)


def test_a_picture_is_marked_the_same_every_time_and_as_a_person_says(a_model, a_picture):
    first = VolumeSegmenter(a_model)
    together = first.segment(a_picture, [WORD, SENTENCE], keep=("probability", "attribution")).maps
    again = (
        VolumeSegmenter(a_model).segment(a_picture, WORD, keep=("probability", "attribution")).maps
    )  # features again
    for name in ("probability", "attribution"):
        assert together[name][WORD].shape == together[name][SENTENCE].shape == (1, 60, 80)
        np.testing.assert_array_equal(again[name][WORD], together[name][WORD])
    alone = again["probability"][WORD]
    box, point = VoxelHints(box=((5, 8, 0), (40, 30, 0))), VoxelHints(points=((60, 45, 0, True),))
    boxed, pointed = (
        first.segment(a_picture, WORD, hints=hints, keep=("probability",)).maps["probability"][WORD]
        for hints in (box, point)
    )
    assert np.isfinite([alone, boxed, pointed]).all()
    assert (
        min(np.abs(one - other).max() for one, other in ((alone, boxed), (alone, pointed), (boxed, pointed)))
        > 1e-3
    )


def test_presence_is_not_judged_and_the_preset_says_so(a_model):
    assert not any(a_model.judges_presence(prompt) for prompt in parse_prompts([WORD, SENTENCE]))
    assert "cannot tell that a word is absent" in a_model.preset.description
