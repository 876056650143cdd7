"""Batches of one fixed shape."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from wordmask.data.letterbox import Letterbox
from wordmask.inference.batching import fixed_batches, join_prompts, join_slices, pair_row, store_slice
from wordmask.inference.cache import CacheKey, FeatureCache
from wordmask.models.base import PromptFeatures, SliceFeatures, SliceKey
from wordmask.words.prompts import Prompt

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 500), unique=True), st.integers(1, 9))
def test_every_item_comes_once_in_its_own_row_of_a_full_batch(items, size):
    seen = []
    for batch in fixed_batches(items, size=size, row=int):
        assert len(batch.items) == size
        assert set(batch.items) <= set(items)
        for row in batch.wanted:
            assert batch.items[row] % size == row
            seen.append(batch.items[row])
    assert sorted(seen) == sorted(items)


@given(st.sets(st.integers(0, 500), min_size=1), st.data())
def test_the_row_of_an_item_does_not_depend_on_the_others(items, data):
    part = data.draw(st.sets(st.sampled_from(sorted(items)), min_size=1))
    rows = {
        batch.items[row]: row
        for batch in fixed_batches(sorted(items), size=4, row=int)
        for row in batch.wanted
    }
    rows_of_part = {
        batch.items[row]: row
        for batch in fixed_batches(sorted(part), size=4, row=int)
        for row in batch.wanted
    }
    assert rows_of_part == {item: rows[item] for item in part}


def test_neighbouring_slices_fill_batches_without_waste():
    assert len(list(fixed_batches(range(5, 21), size=8, row=int))) == 2


def test_one_item_still_makes_a_full_batch_of_its_copies():
    (batch,) = fixed_batches(["a"], size=3, row=lambda _: 1)
    assert batch.items == ("a", "a", "a")
    assert batch.wanted == (1,)


def test_nothing_to_do_makes_no_batch():
    assert list(fixed_batches([], size=3, row=int)) == []


def test_pairs_of_one_slice_spread_over_the_rows():
    words = ["liver", "spleen", "aorta", "left kidney", "right kidney", "heart", "stomach", "bladder"]
    rows = [pair_row(7, word) % 8 for word in words]
    assert max(rows.count(row) for row in rows) <= 3
    assert [
        pair_row(8, word) - row
        for word, row in zip(words, (pair_row(7, word) for word in words), strict=True)
    ] == [1] * 8


def some_features(rows: int) -> SliceFeatures:
    keys = tuple(SliceKey("d", "axial", i) for i in range(rows))
    frames = {
        "clip": Letterbox.fit((301, 517), (112, 112), "center"),
        "sam": Letterbox.fit((301, 517), (160, 160), "top_left"),
    }
    return SliceFeatures(
        keys, {"hidden": torch.randn(rows, 3, 5), "counts": torch.arange(rows * 2).view(rows, 2)}, frames
    )


def test_features_come_back_from_the_cache_rounded_to_float16_with_exact_frames():
    features = some_features(3)
    cache = FeatureCache(1 << 20)
    keys = [CacheKey("d", "axial", i, None, "e") for i in range(3)]
    stored = cache.get_many(keys, lambda missing: [store_slice(features, i) for i in missing])
    joined = join_slices(stored, features.keys, CPU)
    assert joined.frames == features.frames
    assert joined.keys == features.keys
    torch.testing.assert_close(
        joined.tensors["hidden"], features.tensors["hidden"].half().float(), rtol=0, atol=0
    )
    assert joined.tensors["hidden"].dtype == torch.float32
    torch.testing.assert_close(joined.tensors["counts"], features.tensors["counts"])


def test_rows_kept_in_different_precision_can_share_a_batch():
    features = some_features(2)
    stored = [store_slice(features, 0), store_slice(features, 1)]
    stored[0]["hidden"] = stored[0]["hidden"].half()
    assert join_slices(stored, features.keys, CPU).tensors["hidden"].dtype == torch.float32


def test_words_join_in_order_and_may_repeat():
    def features(word: str, value: float, known: bool) -> PromptFeatures:
        return PromptFeatures(
            (Prompt(word, (), None, (0, 0, 0)),), {"text": torch.full((1, 2), value)}, torch.tensor([known])
        )

    liver, spleen = features("liver", 1.0, True), features("spleen", 2.0, False)
    joined = join_prompts([liver, spleen, liver])
    assert [prompt.word for prompt in joined.prompts] == ["liver", "spleen", "liver"]
    torch.testing.assert_close(joined.tensors["text"][:, 0], torch.tensor([1.0, 2.0, 1.0]))
    assert joined.known.tolist() == [True, False, True]
