"""Cards of versions: those that earlier code published are read field by field, and nothing in them is lost.

The files in cards/ were written by trainings of commit 6c4117a.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from wordmask.errors import WeightsError
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import CARD, checkpoint_folder, read_card

CARDS = sorted((Path(__file__).parent / "cards").glob("*.json"))
BUNDLED = checkpoint_folder("bundled/simple_vilmedsam_tiny") / CARD


@pytest.mark.parametrize("path", [*CARDS, BUNDLED], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_card_on_disk_is_written_again_as_it_was(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert Card.model_validate(content).as_json() == content


def test_a_version_of_a_finetuning_says_what_it_was_trained_on():
    card = read(CARDS, "finetuning")
    assert (card.model, card.preset, card.parent, card.forced) == ("simple_vilmedsam", "tiny", None, True)
    assert card.learned == ("Heart-Spine",)
    assert {"Heart-Spine", "liver"} <= {*card.words}
    assert sorted(card.training_cases + card.validation_cases) == ["picture_0", "picture_1"]
    assert card.validation_dice.keys() == {"Heart-Spine"}
    assert card.decoder == {"ipp": True, "bid": "code", "refiner": True}


def test_a_version_whose_clip_was_tuned_says_what_retrieval_it_had():
    card = read(CARDS, "clip_tuning")
    assert card.retrieval.before.top1 == card.retrieval.after.top1 == 0.25
    assert card.presence.holds
    assert card.training_groups == 8


def test_a_version_of_nnunet_says_which_network_it_needs():
    card = read(CARDS, "weak")
    assert (card.words, card.side, card.members) == (("polyp",), 32, 1)
    assert card.network["network_class"].endswith("PlainConvUNet")


def test_fields_of_a_newer_release_are_kept(tmp_path):
    (tmp_path / CARD).write_text('{"words": ["liver"], "calibration": {"liver": 0.5}}', encoding="utf-8")
    assert read_card(tmp_path).as_json() == {"words": ["liver"], "calibration": {"liver": 0.5}}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"words": "liver"}',
        '{"words": [1]}',
        '{"token_ids": ["1"]}',
        '{"side": "wide"}',
        '{"members": 0}',
    ],
)
def test_a_card_of_wrong_types_is_damaged(tmp_path, content):
    (tmp_path / CARD).write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match="are damaged"):
        read_card(tmp_path)


def test_a_dice_that_is_not_a_number_is_unknown(tmp_path):
    (tmp_path / CARD).write_text('{"validation_dice": {"liver": NaN}}', encoding="utf-8")
    assert read_card(tmp_path).validation_dice == {"liver": None}


def test_a_card_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Card().words = ("liver",)


def read(cards: list[Path], training: str) -> Card:
    return Card.model_validate_json(
        next(path for path in cards if path.stem == training).read_text(encoding="utf-8")
    )
