"""How the tiny weights of CLIP-Guided SAM are made, in seconds: what learns, what stays, what is bundled."""

from __future__ import annotations

import torch

from wordmask.learning.seeds import step_generator
from wordmask.models.clip_guided_sam.model import CLIPGuidedSAM
from wordmask.models.registry import load_preset
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.adapter_stages import WORDS_PER_SLICE, Plan, choose_pairs
from wordmask.pretraining.clip_guided_sam_stage import TESTED, run
from wordmask.weights.checkpoint import load_checkpoint

FROZEN = ("network.clip.", "network.sam.image_encoder.", "scores.")


def test_a_short_run_bundles_a_model_on_the_bundled_encoders(tmp_path):
    scores = run(tmp_path, Plan(slices=16, test_slices=1, steps=1), tmp_path / "weights")
    checkpoint = load_checkpoint(tmp_path / "weights")
    assert set(scores) == set(checkpoint.card.as_json()["test"]) == set(TESTED)
    assert set(checkpoint.words) == set(WORDS)
    encoders = load_checkpoint("bundled/simple_vilmedsam_tiny").tensors
    changed = set()
    for name, tensor in checkpoint.tensors.items():
        start = encoders.get(name.removeprefix("network."))
        if start is not None and not torch.equal(tensor, start):
            changed.add(name)
    assert changed
    assert all(
        name.startswith(("network.sam.prompt_encoder.", "network.sam.mask_decoder.")) for name in changed
    )
    assert any(name.startswith(FROZEN) for name in checkpoint.tensors)
    loaded = CLIPGuidedSAM.from_preset(load_preset("clip_guided_sam", "tiny"), tmp_path / "weights")
    assert torch.equal(loaded.network.regular[0].up.weight, checkpoint.tensors["network.regular.0.up.weight"])


def test_each_slice_is_asked_for_words_that_it_shows_and_for_one_that_it_does_not():
    present = torch.zeros(3, len(WORDS), dtype=torch.bool)
    present[0, [2, 5, 7]] = True
    present[1, 4] = True
    pairs = choose_pairs(present, step_generator(1, 1))
    assert pairs[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    shown = present[pairs[:, 0], pairs[:, 1]].view(3, WORDS_PER_SLICE)
    assert shown.sum(1).tolist() == [2, 1, 0]
