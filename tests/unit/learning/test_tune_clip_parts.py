"""The parts of a tuning of CLIP against hand-made cases: retrieval, batches, pictures, presence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.captioned_pictures import write_pairs

from wordmask.errors import VolumeError
from wordmask.learning.captions import ImageCaption, read_caption_list
from wordmask.learning.clip_tuning.batches import epoch_batches, store_pictures
from wordmask.learning.clip_tuning.presence_fit import fit_presence
from wordmask.learning.clip_tuning.retrieval import retrieval
from wordmask.models.word_scores import WordScores
from wordmask.progress import CancelToken


def test_retrieval_of_a_hand_computed_case():
    scores = torch.tensor(
        [[3.0, 2.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 5.0, 6.0], [9.0, 8.0, 7.0, 6.5]]
    )
    image, text = scores, torch.eye(4)
    found = retrieval(image, text, "abcd", "wxyz")  # every pair meets all others: fewer than fifty
    # rivals that score as high: rows 0, 1, 1, 3; columns [3 4 0 9], [2 3 0 8], [1 2 5 7], [0 1 6 6.5]: 2, 1,
    # 1, 0
    assert (found.image_to_text_top1, found.image_to_text_top2) == (0.25, 0.75)
    assert (found.text_to_image_top1, found.text_to_image_top2) == (0.25, 0.75)
    assert found.top1 == 0.25
    # The same caption twice: the second row is right with the first text.
    alike = retrieval(image, text, "aacd", "wxyz")
    assert alike.image_to_text_top1 == 0.5
    assert retrieval(image, text, "abcd", "wxyy").image_to_text_top1 == 0.5  # a picture twice
    # An encoder that says the same of everything.
    assert retrieval(torch.ones(4, 2), torch.ones(4, 2), "abcd", "wxyz").top1 == 0


def test_a_pair_that_is_left_over_is_asked_among_as_many_rivals_as_the_others():
    image, text, names = -torch.eye(11), torch.eye(11), range(11)  # each is least like its own
    found = retrieval(image, text, names, names, batch=10)
    # A single pair would always be right.
    assert (found.image_to_text_top1, found.text_to_image_top2, found.pairs) == (0, 0, 11)
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 51, 4, generator=generator)
    assert retrieval(image, text, range(51), range(51)) == retrieval(image, text, range(51), range(51))


def test_equal_captions_and_equal_pictures_never_meet_and_batches_are_as_large_as_they_can_be():
    captions = ["liver"] * 20 + ["spleen"] * 5 + [f"finding {n}" for n in range(31)]
    pictures = [*range(54), 0, 25]  # the last two pairs are second captions of pictures
    seen = set()
    for epoch in range(12):
        batches = epoch_batches(captions, pictures, batch=8, seed=1, epoch=epoch)
        for rows in batches:
            assert 2 <= len(rows) <= 8
            assert len({captions[row] for row in rows}) == len({pictures[row] for row in rows}) == len(rows)
        used = [row for rows in batches for row in rows]
        assert len(used) == len(set(used))
        seen |= set(used)
    assert seen == set(range(56))
    distinct = epoch_batches(range(64), range(64), batch=16, seed=1, epoch=0)
    assert [len(rows) for rows in distinct] == [16] * 4
    assert distinct != epoch_batches(range(64), range(64), batch=16, seed=1, epoch=1)
    assert epoch_batches(["same"] * 4, range(4), batch=2, seed=1, epoch=0) == []


def test_pictures_are_kept_as_bytes_and_an_image_that_is_broken_leaves_nothing(tmp_path):
    pairs = read_caption_list(write_pairs(tmp_path, 3), least_characters=20).pairs

    def store(listed, name):
        return store_pictures(tmp_path / name, listed, 32, (), lambda *_: None, CancelToken())

    kept = store(pairs, "pictures.npy")
    assert isinstance(kept, np.memmap)
    assert (kept.shape, kept.dtype) == ((3, 3, 32, 32), np.uint8)
    assert kept[0, :, 0].max() == 0  # the padding of a picture that is wider than high
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(VolumeError, match=r"line 9 of list\.csv"):
        store(
            [*pairs, ImageCaption(tmp_path / "broken.png", "x", "line 9 of list.csv", "x")],
            "other.npy",
        )
    assert not (tmp_path / "other.npy").exists()


def test_presence_keeps_its_meaning_where_cosines_moved_and_gives_up_where_they_are_lost():
    generator = torch.Generator().manual_seed(1)
    before, scores = torch.rand(60, 9, generator=generator) * 2 - 1, WordScores(presence=(7.0, -2.0))
    wanted = scores.presence(before).detach()
    fit = fit_presence(scores, before, 0.25 * before + 0.6, -4.0)
    torch.testing.assert_close(scores.presence(0.25 * before + 0.6), wanted, atol=1e-2, rtol=1e-3)
    assert fit.holds
    assert fit.agreement > 0.99
    lost = fit_presence(
        WordScores(presence=(7.0, -2.0)), before, torch.rand(60, 9, generator=generator), -4.0
    )
    assert not lost.holds
