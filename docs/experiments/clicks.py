"""Does a word save clicks? Dice against the number of clicks, with the word and without it.

    python -m docs.experiments.clicks
    python -m docs.experiments.report

On the pictures of the sample studies, for the words that they show, with the preset tiny. Clicks are
simulated: each in the middle of the largest error that is left. "With the word" is CLIP-Guided SAM as it
ships; without a click, the word alone. "Without the word" is the same network, trained from the same start
for the same steps on the same drawings, but with clicks only and with every word replaced by nothing: no
similarity map, no mask prompt, no guidance. It is trained when it is missing, in about 20 minutes. "Plain
SAM" is the bundled SAM, which Simple-ViLMedSAM's training has changed since it learned from clicks.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from docs.experiments.forgetting import SAMPLES
from docs.experiments.results import Results
from docs.experiments.samples import load_cases
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.clicks import next_click
from wordmask.learning.evaluation.metrics import dice
from wordmask.learning.guided_prompts import PromptShares
from wordmask.models.base import PromptFeatures
from wordmask.models.clip_guided_sam.model import CLIPGuidedSAM
from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset
from wordmask.models.loading import load_segmenter
from wordmask.models.registry import load_preset
from wordmask.pretraining.clip_guided_sam_stage import PLAN, fit
from wordmask.pretraining.phantom_data import cached_slices
from wordmask.words.prompts import Prompt

MODEL, PLAIN = "clip_guided_sam", "medclip_samv2"
COUNTS = (0, 1, 2, 3, 5)
CLICKS_ALONE = PromptShares(word=0.0, clicks=1.0, most=5)
Point = tuple[float, float, float, bool]  # voxel, and whether it is inside


class Wordless(CLIPGuidedSAM):
    """The model without its words: no text, so no similarity either."""

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """As in the model, for a text of zeros."""
        features = super().encode_prompts(prompts)
        text = torch.zeros_like(features.tensors["text"])
        tensors = features.tensors | {"text": text, "inside": self.network.text_parts(text)}
        return PromptFeatures(features.prompts, tensors, features.known)


def main() -> None:
    """Click on every structure in every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--steps", type=int, default=PLAN.steps, help="of the network without words")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    results = Results(asked.output / "clicks.jsonl")
    cases = [case for case in load_cases(SAMPLES) if case.volume.is_picture]
    ways = {
        "with the word": load_segmenter(MODEL, device="cpu"),
        "without the word": wordless(asked.output / "clicks_wordless", asked.steps),
        "plain SAM": load_segmenter(PLAIN, device="cpu"),
    }
    for way, segmenter in ways.items():
        pipeline = VolumeSegmenter(segmenter)
        for case in cases:
            for word, mask in case.masks.items():
                key = {"way": way, "case": case.case.name, "word": word}
                if mask.any() and not results.has(**key):
                    for clicks, score in correct(pipeline, case, word, first=way == "with the word").items():
                        results.add({**key, "clicks": clicks}, {"dice": round(score, 4)})


def wordless(folder: Path, steps: int) -> CLIPGuidedSAM:
    """The network that learns from clicks alone; an earlier training continues."""
    preset = load_preset(MODEL, "tiny")
    assert isinstance(preset, CLIPGuidedSAMPreset)
    preset = preset.model_copy(update={"presence": None})
    folder.mkdir(parents=True, exist_ok=True)
    data = cached_slices(PLAN.slices, PLAN.seed + 300, folder)
    return fit(preset, data, replace(PLAN, steps=steps), folder, shares=CLICKS_ALONE, kind=Wordless)


def correct(pipeline: VolumeSegmenter, case: LabelledVolume, word: str, *, first: bool) -> dict[int, float]:
    """Dice by number of clicks.

    Args:
        pipeline: answers.
        case: a picture.
        word: that it shows.
        first: whether the mask of the word alone is corrected; otherwise an empty one.
    """
    truth, prompt = case.masks[word][0], case.prompts[word]
    mask = np.zeros_like(truth)
    points: list[Point] = []
    scores = {}
    for number in range(max(COUNTS) + 1):
        if number:
            click = next_click(mask, truth)
            if click is not None:
                points.append((float(click[0]), float(click[1]), 0.0, click[2]))
        if points or first:
            answer = pipeline.segment(case.volume, [prompt], hints=VoxelHints(points=tuple(points)))
            mask = answer.mask(word)[0]
        if number in COUNTS:
            scores[number] = dice(mask, truth)
    return scores


if __name__ == "__main__":
    main()
