"""How long words take on a volume with the tiny model, and how much memory.

First word, next word, three words.

Ratios within one run; seconds and bytes are printed for the table and not asserted, for they belong to the
machine.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest
import torch

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.loading import load_segmenter
from wordmask.phantoms.body import ct_volume
from wordmask.phantoms.painting import Random

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

SLICES, SIZE = 64, 256
WORDS = ("liver", "spleen", "heart")
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.fixture(scope="module")
def a_volume():
    hounsfield, _ = ct_volume(SLICES, SIZE, (0.1, 0.9), Random(800_001))
    geometry = Geometry(
        size=(SIZE, SIZE, SLICES), spacing=(1.5, 1.5, 6.0), origin=(0.0, 0.0, 0.0), direction=IDENTITY
    )
    return Volume(
        array=hounsfield.round().numpy().astype(np.int16)[::-1].copy(),
        geometry=geometry,
        modality="CT",
        name="phantom",
    )


@pytest.fixture(scope="module")
def a_segmenter():
    segmenter = load_segmenter("simple_vilmedsam", device="cpu")
    with torch.no_grad():  # the first call pays for imports and code generation
        segmenter.encode_slices(torch.zeros(8, 3, 64, 64), [None] * 8)
    return segmenter


def seconds(action):
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def test_the_next_word_is_at_least_five_times_faster_than_the_first(a_segmenter, a_volume, capsys):
    pipeline = VolumeSegmenter(a_segmenter)
    first = seconds(lambda: pipeline.segment(a_volume, ["spleen"]))
    following = [
        seconds(lambda word=word: pipeline.segment(a_volume, [word]))
        for word in ("heart", "stomach", "bladder")
    ]
    ratio = first / float(np.median(following))
    with capsys.disabled():
        print(
            f"\nfirst word {first:.2f} s, next words {', '.join(f'{s:.2f}' for s in following)} s: "
            f"{ratio:.1f} times faster (median)"
        )
    assert ratio >= 5


def test_three_words_on_sixty_four_slices(a_segmenter, a_volume, capsys):
    pipeline = VolumeSegmenter(a_segmenter)
    took = seconds(lambda: pipeline.segment(a_volume, list(WORDS)))
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(
            f"\n{SLICES} slices of {SIZE} x {SIZE}, {len(WORDS)} words: {took:.1f} s, {gigabytes:.2f} GB "
            "resident at most"
        )
    assert gigabytes < 3
