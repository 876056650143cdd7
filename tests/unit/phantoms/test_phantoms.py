"""The phantoms: reproducible, sides where they belong, words that really go missing."""

import torch

from wordmask.phantoms.body import ct_slices, ct_volume
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import LABELS, WORD_LABELS, WORDS, label_values, word_table
from wordmask.words.vocabulary import load_vocabulary


def test_the_same_seed_draws_the_same_slices():
    first, second = ct_slices(4, 48, Random(5)), ct_slices(4, 48, Random(5))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_left_organs_lie_right_of_right_organs_in_the_image():
    _, labels = ct_slices(60, 64, Random(1))
    columns = torch.arange(64.0)
    for organ in ("kidney", "lung"):
        left, right = (labels == LABELS.index(f"{side} {organ}") for side in ("left", "right"))
        both = left.any(2).any(1) & right.any(2).any(1)
        assert both.any()
        centres = [(mask[both] * columns).sum((1, 2)) / mask[both].sum((1, 2)) for mask in (left, right)]
        assert (centres[0] > centres[1]).all()


def test_a_volume_is_one_patient_from_head_to_foot():
    _, labels = ct_volume(24, 64, (0.05, 1.0), Random(11))
    heights = {
        name: (labels == LABELS.index(name)).any(2).any(1).nonzero().float().mean()
        for name in ("right lung", "bladder", "liver")
    }
    assert heights["right lung"] < heights["liver"]
    assert torch.isnan(heights["bladder"]) or heights["liver"] < heights["bladder"]


def test_tumors_lie_in_the_liver():
    _, labels = ct_slices(80, 64, Random(2))
    tumor, liver = labels == LABELS.index("liver tumor"), labels == LABELS.index("liver")
    with_tumor = tumor.any(2).any(1)
    assert with_tumor.any()
    assert (liver[with_tumor].any(2).any(1)).all()


def test_about_one_picture_in_five_shows_no_lesion():
    for kind in ("endoscopy", "dermoscopy", "ultrasound"):
        images, labels = KINDS[kind](100, 32, Random(3))
        empty = (labels.flatten(1).max(1).values == 0).float().mean()
        assert 0.08 < empty < 0.35, kind
        assert images.min() >= 0
        assert images.max() <= 1


def test_words_are_in_the_vocabulary_and_cover_their_labels():
    vocabulary = load_vocabulary()
    assert all(vocabulary.lookup(word) is not None for word in WORDS)
    table = word_table()
    for row, word in enumerate(WORDS):
        assert table[row].nonzero()[:, 0].tolist() == sorted(label_values(word))
    assert WORD_LABELS["kidney"] == ("left kidney", "right kidney")
