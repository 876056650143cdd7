"""When memory runs out in the middle of a request: smaller batches, then a sentence.

The stubs really ask torch for too much.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.small_volumes import WORDS, organs
from tests.support.stub_segmenters import PromptFreeStub, stub_preset

from wordmask.errors import OutOfMemoryError
from wordmask.inference.memory import is_out_of_memory, with_smaller_batches
from wordmask.inference.pipeline import VolumeSegmenter


class Greedy(PromptFreeStub):
    """Has memory for ``most`` rows at a time and asks torch for a million gigabytes when there are more."""

    most = 10**6

    def encode_slices(self, slices, keys):
        self._ask(len(slices))
        return super().encode_slices(slices, keys)

    def forward(self, slices, prompts, pairs=None, hints=None):
        self._ask(len(slices))
        return super().forward(slices, prompts, pairs, hints)

    def _ask(self, rows: int) -> None:
        if rows > self.most:
            torch.empty(10**15, dtype=torch.uint8)


def test_the_request_is_computed_in_smaller_batches(caplog):
    model = Greedy(stub_preset(slice_batch=8, pair_batch=8))
    full = VolumeSegmenter(model).segment(organs(), WORDS)
    model.most = 2
    model.batches.clear()
    small = VolumeSegmenter(model).segment(organs(), WORDS)
    np.testing.assert_array_equal(small.labels, full.labels)
    assert max(rows for _, rows in model.batches) == 2
    assert "batches of 1/4" in caplog.text


def test_without_memory_for_one_slice_there_is_a_sentence_and_the_next_request_works():
    model = Greedy(stub_preset(slice_batch=8, pair_batch=8))
    segmenter = VolumeSegmenter(model)
    model.most = 0
    with pytest.raises(OutOfMemoryError, match="even one slice at a time"):
        segmenter.segment(organs(), WORDS)
    model.most = 8
    assert segmenter.segment(organs(), WORDS).labels.any()


def test_what_is_no_lack_of_memory_is_passed_on_at_once():
    calls = []

    def attempt(share: int) -> None:
        calls.append(share)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        with_smaller_batches(attempt, largest=8)
    assert calls == [1]


def test_the_ways_in_which_memory_runs_out_are_known():
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(10**15, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(10**15, dtype=np.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_out_of_memory(RuntimeError("expected scalar type Float"))
