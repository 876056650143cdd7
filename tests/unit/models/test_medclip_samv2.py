"""MedCLIP-SAMv2: presets, prompts of SAM, fusion, hints, and what it marks with the bundled weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tests.support.stub_segmenters import random_medclip_samv2

from wordmask.data.letterbox import Letterbox
from wordmask.data.volumes import read_volume
from wordmask.demo.samples import load_samples
from wordmask.encoders.sam import decode_prompts
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.base import Hints, SliceKey
from wordmask.models.coarse_masks import components
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.preset import ZeroShotPreset
from wordmask.models.registry import load_preset, preset_names
from wordmask.models.sam_prompts import NOTHING, fuse, prompts_of_hints, prompts_of_objects
from wordmask.words.prompt_sets import sentences
from wordmask.words.prompts import parse_prompts

SAMPLES = Path(__file__).resolve().parents[3] / "sample_data"
KEYS = (SliceKey("0" * 64, "axial", 4), SliceKey("0" * 64, "axial", 5))


def test_presets_describe_the_published_sizes():
    assert preset_names("medclip_samv2") == ["biomedclip_vit_b", "biomedclip_vit_h", "tiny"]
    for name in preset_names("medclip_samv2"):
        preset = load_preset("medclip_samv2", name)
        assert preset.bottleneck.replicas == 10
        published = ZeroShotPreset(prompt_set="P5")
        assert preset.zero_shot == (
            ZeroShotPreset(split="fixed", threshold=0.7) if name == "tiny" else published
        )


def test_a_box_reaches_sam_as_the_pixels_that_it_covers():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 4:8] = True
    objects = [components(part, part.astype(np.float32), most=1) for part in (mask, np.zeros_like(mask))]
    frame = Letterbox.fit((80, 80), (160, 160), "top_left")
    asked = prompts_of_objects(
        objects, [1, 2], frame, 40, ZeroShotPreset(prompts="both", positive=3, negative=2)
    )
    assert asked.given.tolist() == [True, False]
    assert asked.boxes[0].tolist() == [15.5, 39.5, 31.5, 79.5]  # pixel i of SAM's frame is centred at i
    assert asked.boxes[1].tolist() == [-0.5, -0.5, 159.5, 159.5]
    places, labels = asked.points
    assert labels[0].tolist() == [1, 1, 1, 0, 0]
    assert labels[1].tolist() == [-1] * 5
    assert all(mask[int(y + 0.5) // 4, int(x + 0.5) // 4] for x, y in places[0, :3].tolist())
    only = prompts_of_objects(objects, [1, 2], frame, 40, ZeroShotPreset(prompts="points"))
    assert only.boxes is None


def test_masks_are_fused_plainly_or_by_their_scores():
    masks, scores = torch.tensor([[-2.0, 0.0, 3.0]]).reshape(1, 3, 1, 1), torch.tensor([[0.2, 0.6, 1.0]])
    probabilities = masks.sigmoid().flatten()
    assert fuse(masks, scores, ZeroShotPreset()).item() == -2.0
    assert fuse(masks, scores, ZeroShotPreset(fusion="mean")).sigmoid().item() == pytest.approx(
        probabilities.mean().item(), abs=1e-5
    )
    weighted = (0.5 * probabilities[1] + probabilities[2]) / 1.5
    assert fuse(masks, scores, ZeroShotPreset(fusion="scored")).sigmoid().item() == pytest.approx(
        weighted.item(), abs=1e-5
    )
    equal = fuse(masks, torch.full((1, 3), 0.4), ZeroShotPreset(fusion="scored"))
    assert equal.sigmoid().item() == pytest.approx(probabilities.mean().item(), abs=1e-5)


def test_staple_trusts_the_masks_that_agree_and_is_certain_where_all_do():
    agreeing, other = torch.full((20, 20), -3.0), torch.full((20, 20), -3.0)
    agreeing[5:15, 5:15], other[12:18, 12:18] = 3.0, 3.0
    masks = torch.stack([agreeing, agreeing, other])[None]
    fused = fuse(masks, torch.ones(1, 3), ZeroShotPreset(fusion="staple"))
    assert torch.equal(fused[0] > 0, agreeing > 0)
    alike = fuse(agreeing.repeat(1, 3, 1, 1), torch.ones(1, 3), ZeroShotPreset(fusion="staple"))
    assert torch.equal(alike[0] > 0, agreeing > 0)
    assert fuse(torch.full((1, 3, 8, 8), -3.0), torch.ones(1, 3), ZeroShotPreset(fusion="staple")).max() < -10


def test_the_text_of_a_word_is_what_its_prompt_set_says():
    model = random_medclip_samv2()
    (liver,) = parse_prompts("liver")
    said = {
        name: model.encode_prompts([replace(liver, prompt_set=name)]).tensors["text"][0]
        for name in ("P0", "P1", "P2", "P4")
    }
    described = [model.clip.encode_text([sentence])[0] for sentence in sentences(liver, "P4")]
    torch.testing.assert_close(said["P0"], model.clip.encode_text(["liver"])[0])
    torch.testing.assert_close(said["P2"], described[0])
    mean = torch.stack(described).mean(0)
    torch.testing.assert_close(said["P4"], mean / mean.norm())
    assert not torch.equal(said["P0"], said["P2"])
    assert torch.equal(said["P0"], model.encode_prompts([liver]).tensors["text"][0])


def test_a_persons_hints_replace_the_models_own_prompts_in_their_slice_alone():
    model = random_medclip_samv2()
    torch.manual_seed(7)
    slices, prompts = (
        model.encode_slices(torch.rand(2, 3, 50, 60), KEYS),
        model.encode_prompts(parse_prompts("liver")),
    )
    own, helped = model(slices, prompts), model(slices, prompts, hints=Hints(box=(5, 5, 10, 12, 30, 33)))
    assert torch.equal(own.logits[0], helped.logits[0])
    asked = prompts_of_hints(Hints(box=(5, 5, 10, 12, 30, 33)), KEYS, slices.frames["sam"])
    expected, _ = decode_prompts(model.sam, slices.tensors["sam"], boxes=asked.boxes)
    torch.testing.assert_close(helped.logits[1], expected[1, 0])
    assert not torch.equal(own.logits[1], helped.logits[1])
    pointed = model(slices, prompts, hints=Hints(points=((4, 20.0, 20.0, True), (4, 1.0, 1.0, False))))
    assert not torch.equal(own.logits[0], pointed.logits[0])
    assert torch.equal(own.logits[1], pointed.logits[1])


def test_a_slice_whose_map_is_flat_has_nothing():
    model = random_medclip_samv2()
    flat = model.encode_slices(torch.full((1, 3, 40, 40), 0.5), KEYS[:1])
    flat.tensors["hidden"] = torch.zeros_like(flat.tensors["hidden"])
    output = model(flat, model.encode_prompts(parse_prompts("liver")))
    assert output.attribution.max() > 0 or (output.logits == NOTHING).all()


def test_drawings_are_marked_without_any_training_of_this_model():
    """The bundled CLIP and SAM alone, on samples that no training used.

    What it misses is in docs/experiments.md.
    """
    segmenter = VolumeSegmenter(load_segmenter("medclip_samv2", device="cpu"))
    for case in load_samples(SAMPLES):
        for word in {"polyp", "skin lesion", "breast tumor"} & case.words.keys():
            labels = np.asarray(segmenter.segment(read_volume(case.image), word).labels).squeeze() > 0
            truth = np.isin(
                sitk.GetArrayFromImage(sitk.ReadImage(str(case.truth))).squeeze(), case.words[word]
            )
            assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.7, case.name
