"""Small volumes and one-line requests for the tests of the pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.support.stub_segmenters import LEVELS, stub_preset

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import Segmentation
from wordmask.models.presets import Preset

WORDS = ["liver", "spleen", "kidney"]
GREY = 200.0  # grey value of 1.0 in a volume whose percentiles are 0 and 200


def a_volume(
    array: np.ndarray, *, modality: str = "MR", spacing: tuple[float, float, float] = (2.0, 1.0, 3.0)
) -> Volume:
    if modality == "picture":
        return Volume(array, Geometry.of_picture(array.shape[2], array.shape[1]), modality, "study.png")
    geometry = Geometry(array.shape[::-1], spacing, (10.0, -20.0, 5.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    return Volume(array, geometry, modality, "study.nii.gz")


def organs() -> Volume:
    """[23, 46, 37]: a liver in slices 3 to 14, a spleen in slices 8 to 19, noise everywhere, and white bars
    that set the percentiles.
    """
    random = np.random.default_rng(3)
    array = random.uniform(0, 12, (23, 46, 37))
    array[22, :12, :], array[22, 12:24, :] = GREY, 0  # 1.1 % of the volume each
    array[3:15, 5:25, 4:20] = LEVELS["liver"] * GREY + random.normal(0, 6, (12, 20, 16))
    array[8:20, 28:42, 18:33] = LEVELS["spleen"] * GREY + random.normal(0, 6, (12, 14, 15))
    return a_volume(np.clip(array, 0, GREY).astype(np.float32))


def a_ct() -> Volume:
    """[12, 30, 30] HU: air, a body of water in slices 2 to 9, an organ of 100 HU in it."""
    array = np.full((12, 30, 30), -1000, dtype=np.int16)
    array[2:10, 3:27, 3:27] = 0
    array[4:8, 8:20, 8:20] = 100
    return a_volume(array, modality="CT")


def segment(
    stub: type,
    volume: Volume,
    words: Any = WORDS,
    *,
    chunk: int | None = None,
    preset: Preset | None = None,
    **asked: Any,
) -> Segmentation:
    clean, cache = asked.pop("clean", True), asked.pop("cache", None)
    segmenter = VolumeSegmenter(stub(preset or stub_preset()), chunk=chunk, clean=clean, cache=cache)
    return segmenter.segment(volume, words, plane=asked.pop("plane", "axial"), **asked)


def assert_identical(one: Segmentation, other: Segmentation) -> None:
    """To the last bit: labels, maps and statistics."""
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.statistics == other.statistics
    assert (one.not_found, one.warnings, one.window) == (other.not_found, other.warnings, other.window)
    for name in one.maps:
        for word in one.maps[name]:
            np.testing.assert_array_equal(one.maps[name][word], other.maps[name][word])
