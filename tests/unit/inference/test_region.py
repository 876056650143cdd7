"""A region of interest: its slices are computed whole, and nothing is marked outside of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.support.small_volumes import a_volume, organs, segment
from tests.support.stub_segmenters import PromptFreeStub, WordDependentStub, stub_preset

from wordmask.data.geometry import Geometry, Plane, slicing_for
from wordmask.data.volumes import Volume
from wordmask.errors import RequestError
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.base import Capabilities, Hints
from wordmask.models.presets import PresencePreset

ROI = ((2, 3, 1), (25, 30, 18))  # (i, j, k)
PART = np.s_[1:19, 3:31, 2:26]  # [k, j, i]
TURNED = (
    (1, 0, 0, 0, 1, 0, 0, 0, 1),
    (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    (0, 0, 1, -1, 0, 0, 0, -1, 0),
    (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
)


def turned(direction: tuple[float, ...]) -> Volume:
    volume = organs()
    geometry = volume.geometry
    return replace(volume, geometry=Geometry(geometry.size, geometry.spacing, geometry.origin, direction))


@pytest.mark.parametrize("stub", [PromptFreeStub, WordDependentStub])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("direction", TURNED)
def test_inside_it_is_the_answer_for_the_whole_image_and_outside_nothing(stub, plane, direction):
    volume = turned(direction)
    maps = ("probability", "uncertainty", *(["attribution"] if stub.capabilities.attribution else []))
    keep = ("labels", *maps)
    asked = {"plane": plane, "keep": keep, "clean": False}
    found = segment(stub, volume, ["liver", "spleen"], roi=ROI, **asked)
    whole = segment(stub, volume, ["liver", "spleen"], **asked)
    assert found.geometry == volume.geometry
    assert found.labels.any()
    np.testing.assert_array_equal(found.labels[PART], whole.labels[PART])
    outside = np.ones(found.labels.shape, bool)
    outside[PART] = False
    assert not found.labels[outside].any()
    for name, maps in found.maps.items():
        np.testing.assert_array_equal(maps["liver"][PART], whole.maps[name]["liver"][PART])
        assert not maps["liver"][outside].any()
    for word, numbers in found.statistics.items():
        assert numbers.voxels == (found.mask(word)).sum()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("direction", TURNED[:3])
def test_slices_are_counted_in_the_whole_image(plane, direction):
    volume = turned(direction)
    found = segment(PromptFreeStub, volume, "liver", plane=plane, roi=ROI)
    areas = slicing_for(volume.geometry, Plane(plane)).cut(found.labels).sum(axis=(1, 2))
    assert found.statistics["liver"].largest_slice == int(np.argmax(areas))
    assert found.slices == len(areas)


def test_only_the_slices_of_the_region_are_computed():
    pipeline = VolumeSegmenter(PromptFreeStub(stub_preset()))
    pipeline.segment(organs(), "liver", plane="axial", roi=ROI)
    assert pipeline.segmenter.slices_encoded == ROI[1][2] - ROI[0][2] + 1


def test_slices_and_region_are_both_kept_to():
    found = segment(PromptFreeStub, organs(), "liver", roi=ROI, slices=(10, 21))
    marked = np.flatnonzero(found.labels.any(axis=(1, 2)))
    assert (marked.min(), marked.max()) == (10, 14)
    with pytest.raises(RequestError, match="None of the slices 20 to 22 is in the region of interest"):
        segment(PromptFreeStub, organs(), "liver", roi=ROI, slices=(20, 22))


class Takes(PromptFreeStub):
    capabilities = Capabilities(hints=frozenset({"points", "box"}), presence=True)
    seen: Hints | None = None

    def forward(self, slices: Any, prompts: Any, pairs: Any = None, hints: Hints | None = None) -> Any:
        type(self).seen = hints
        return super().forward(slices, prompts, pairs, hints)


def test_hints_have_to_be_in_the_region():
    beside = VoxelHints(((10.0, 14.0, 8.0, True), (30.0, 14.0, 8.0, False)))
    segment(Takes, organs(), "liver", roi=ROI, hints=beside)
    assert len(Takes.seen.points) == 2
    with pytest.raises(RequestError, match="in slice 8, lies outside of the region of interest"):
        segment(Takes, organs(), "liver", roi=ROI, hints=VoxelHints(((30.0, 14.0, 8.0, True),)))
    with pytest.raises(RequestError, match="A hint lies on slice 20, which is not computed"):
        segment(Takes, organs(), "liver", roi=ROI, hints=VoxelHints(((10.0, 14.0, 20.0, True),)))


def test_a_box_beside_the_region_is_refused():
    box = VoxelHints(box=((27.0, 5.0, 6.0), (33.0, 12.0, 9.0)))
    with pytest.raises(RequestError, match="The box lies outside of the region of interest"):
        segment(Takes, organs(), "liver", roi=ROI, hints=box)
    across = VoxelHints(box=((20.0, 5.0, 6.0), (33.0, 12.0, 9.0)))
    segment(Takes, organs(), "liver", roi=ROI, hints=across)


def test_the_least_area_is_a_share_of_the_region():
    strict = stub_preset(presence=PresencePreset(slice_logit=-50, volume_logit=-50, minimum_area=0.05))
    small = ((6, 8, 5), (12, 14, 10))  # 49 pixels in the liver, 2.9 % of a slice
    assert segment(PromptFreeStub, organs(), "liver", roi=small, preset=strict).labels.any()


def test_corners_are_taken_as_those_of_a_box():
    found = [
        segment(PromptFreeStub, organs(), "liver", roi=roi).labels
        for roi in (((-0.5, 0, 0), (36.5, 45.5, 22.5)), ((36, 45, 22), (0, 0, 0)), None)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].any()


def test_a_picture_has_regions_too():
    picture = np.zeros((1, 40, 50, 3), np.uint8)
    picture[0, 10:30, 10:30] = round(0.75 * 255)
    volume = a_volume(picture, modality="picture")
    found = segment(PromptFreeStub, volume, "liver", roi=((5, 5, 0), (19, 34, 0)))
    assert found.labels[0, 15:25, 15:20].all()
    assert not found.labels[0, :, 20:].any()


@pytest.mark.parametrize(
    ("roi", "sentence"),
    [
        (((0, 0, 0), (37, 10, 10)), "not a part of the image, which has 37x46x23 voxels"),
        (((-1, 0, 0), (20, 20, 20)), "not a part of the image"),
        (((0, 0, 0), (20, float("nan"), 10)), "not a part of the image"),
    ],
)
def test_a_region_that_cannot_be_used_is_refused(roi, sentence):
    with pytest.raises(RequestError, match=sentence):
        segment(PromptFreeStub, organs(), "liver", roi=roi)
