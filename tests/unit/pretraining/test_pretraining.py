"""Training of the tiny weights, in seconds: it learns, it resumes, it bundles."""

import json

import pytest
import torch
from torch import nn

from wordmask.data.letterbox import Letterbox, labels_in_frame
from wordmask.errors import WeightsError
from wordmask.phantoms.words import LABELS, WORDS
from wordmask.pretraining import loop
from wordmask.pretraining.baselines import best_threshold
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import augment, make_slices, word_fractions, word_masks
from wordmask.pretraining.run import Plan, Pretraining
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


class InterruptedRunError(Exception):
    """Stands for a run that was killed."""


def quadratic(interrupt_at=None):
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def loss(generator, step):
        if step == interrupt_at:
            raise InterruptedRunError
        return {"loss": (module(torch.randn(8, 3, generator=generator)) - 1).square().mean()}

    return module, [{"params": list(module.parameters()), "lr": 0.1}], loss


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    whole, groups, loss = quadratic()
    train(whole, groups, loss, steps=6, warm_up=2, seed=3, checkpoint=tmp_path / "whole.pt")
    first, groups, loss = quadratic(interrupt_at=4)
    with pytest.raises(InterruptedRunError):
        train(first, groups, loss, steps=6, warm_up=2, seed=3, checkpoint=tmp_path / "parts.pt")
    second, groups, loss = quadratic()
    train(second, groups, loss, steps=6, warm_up=2, seed=3, checkpoint=tmp_path / "parts.pt")
    assert torch.equal(whole.weight, second.weight)


def test_augmented_labels_follow_their_picture():
    images = torch.zeros(4, 3, 40, 40, dtype=torch.uint8)
    images[:, :, 10:30, 12:28] = 255
    labels = torch.zeros(4, 40, 40, dtype=torch.uint8)
    labels[:, 10:30, 12:28] = 1
    for seed in range(6):
        moved, moved_labels = augment(images, labels, torch.Generator().manual_seed(seed))
        assert moved.shape[-2:] == moved_labels.shape[-2:]
        agreement = ((moved[:, 0] > 0.5) == (moved_labels > 0)).float().mean()
        assert agreement > 0.95


def test_labels_reach_the_frame_where_the_picture_does():
    labels = torch.zeros(1, 20, 40, dtype=torch.uint8)
    labels[:, 5:15, 10:30] = 2
    for align in ("center", "top_left", "stretch"):
        frame = Letterbox.fit((20, 40), (32, 32), align)
        picture = frame.to_model((labels[:, None] == 2).float())[:, 0] > 0.5
        assert ((labels_in_frame(labels, frame, 32) == 2) == picture).float().mean() > 0.97


def test_word_fractions_count_every_pixel_of_a_word():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4, :4] = LABELS.index("left kidney")
    labels[0, 4:, :2] = LABELS.index("right kidney")
    shares = word_fractions(labels, 2)[0]
    assert shares[WORDS.index("kidney")].tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert shares[WORDS.index("left kidney")].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_word_masks_are_the_union_of_a_words_labels():
    labels = torch.tensor(
        [[[0, LABELS.index("liver")], [LABELS.index("liver tumor"), LABELS.index("spleen")]]],
        dtype=torch.uint8,
    )
    assert word_masks(labels, torch.tensor([WORDS.index("liver")]))[0].tolist() == [[0, 1], [1, 0]]


def test_slices_of_all_kinds_are_drawn():
    data = make_slices(800, seed=4, size=16)
    assert set(data.kinds.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["bright thing", "dark thing"])
def test_the_best_threshold_is_found(sign):
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(5, 20, 20, generator=generator) < 0.3).float()
    grey = torch.rand(5, 20, 20, generator=generator) * 0.4 + (masks if sign > 0 else 1 - masks) * 0.5
    fitted = best_threshold(grey, masks)
    assert fitted[0] == sign
    found = fitted[0] * grey >= fitted[0] * fitted[1]
    assert (found == (masks > 0)).float().mean() > 0.98


def test_a_whole_pretraining_of_seconds_gives_weights_that_load(tmp_path):
    plan = Plan(
        slices=16, pair_slices=8, test_slices=2, clip_steps=2, sam_steps=2, decoder_steps=1, joint_steps=1
    )
    Pretraining(tmp_path / "run", plan).run(tmp_path / "bundle")
    bundle = load_checkpoint(tmp_path / "bundle")
    assert bundle.words == WORDS
    assert json.loads((tmp_path / "run" / "variants.json").read_text())
    assert bundle.card.as_json()["plan"]["clip_steps"] == 2
    assert all(tensor.isfinite().all() for tensor in bundle.tensors.values())


def test_a_bundle_of_another_architecture_names_what_does_not_fit():
    with pytest.raises(WeightsError, match=r"another architecture.*weight"):
        Checkpoint("small", nn.Linear(2, 2).state_dict()).apply(nn.Linear(3, 2))


@pytest.mark.parametrize("damage", [b"", b"garbage" * 10], ids=["empty", "garbage"])
def test_a_damaged_bundle_is_refused_with_a_sentence(tmp_path, damage):
    save_checkpoint(tmp_path / "weights", nn.Linear(2, 2).state_dict(), Card())
    (tmp_path / "weights" / "weights.safetensors").write_bytes(damage)
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(tmp_path / "weights")


def test_a_missing_checkpoint_says_what_is_missing(tmp_path):
    with pytest.raises(WeightsError, match="have no card"):
        load_checkpoint(tmp_path / "nothing")
