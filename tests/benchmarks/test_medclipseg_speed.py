"""How much faster MedCLIPSeg is than its published flow: ViT-B size, random weights, ratios within one run.

The published flow runs both towers from their first block for every (slice, word) pair and sample, with texts
padded to 256 tokens, and throws its first pass away.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.clip_sources import UNIMED_VISION, build_bert_clip
from wordmask.models.base import SliceKey
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.registry import load_preset
from wordmask.words.prompts import parse_prompts

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

CONTEXT, TOKENS = 256, 5  # places of the published tokenizer; tokens of a bare word with start and end
PUBLISHED_SAMPLES, TIMED_PASSES = 30, 3  # every pass of the published flow costs the same
WORDS = "liver, left kidney"


def tokenize(texts: list[str]) -> Tensor:
    """Five tokens and padding; what they say does not matter."""
    ids = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    ids[:, :TOKENS] = torch.tensor([2, 4000, 5000, 6000, 3])
    return ids


@pytest.fixture(scope="module")
def a_model() -> MedCLIPSeg:
    torch.manual_seed(0)
    preset = load_preset("medclipseg", "unimedclip")
    assert isinstance(preset, MedCLIPSegPreset)
    clip = ClipEncoder(build_bert_clip(UNIMED_VISION, quick_gelu=True), tokenize)
    return MedCLIPSeg(preset, clip).eval().requires_grad_(False)


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, in which other work does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.no_grad()
def test_a_pair_costs_a_quarter_of_the_published_flow(a_model, capsys):
    pixels, prompts = torch.rand(1, 3, 224, 224), parse_prompts(WORDS)
    padded = a_model.preset.model_copy(
        update={"adapters": a_model.preset.adapters.model_copy(update={"see_padding": True})}
    )
    published = MedCLIPSeg(padded, a_model.clip).eval()
    images, tokens = a_model.normalise(pixels), tokenize(["liver"])
    published.joint_forward(images, tokens, samples=1)  # warm up
    one_pass = seconds(
        lambda: [published.joint_forward(images, tokens, samples=1) for _ in range(TIMED_PASSES)]
    )
    theirs = (PUBLISHED_SAMPLES + 1) * one_pass / TIMED_PASSES
    lines = [f"\npublished flow: {theirs:.1f} s of the processor per pair (31 passes)"]
    ours = {}
    for samples in (1, 8, PUBLISHED_SAMPLES):
        a_model.preset = a_model.preset.model_copy(update={"samples": samples})
        features = {}

        def encode(features=features) -> None:
            features["slices"] = a_model.encode_slices(pixels, [SliceKey("0" * 64, "axial", 0)])
            features["words"] = a_model.encode_prompts(prompts)

        spent = seconds(encode)
        spent += seconds(lambda features=features: a_model(features["slices"], features["words"]))
        ours[samples] = spent / len(prompts)
        ratio = theirs / ours[samples]
        lines.append(f"S = {samples}: {ours[samples]:.1f} s per pair, {ratio:.1f} times as fast")
    with capsys.disabled():
        print("\n".join(lines))
    assert theirs / ours[load_preset("medclipseg", "unimedclip").samples] > 4
