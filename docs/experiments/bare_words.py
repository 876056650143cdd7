"""What MedCLIPSeg loses when it is told a bare word instead of a sentence, and what its parts are worth.

    python -m docs.experiments.bare_words --seeds 1 2 3

Trains the preset tiny on drawings, with and without adapters, draws and bare words, and on shares of the
drawings. Judges on new drawings, and on the same as another scanner would show them, which no training saw.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from docs.experiments.results import Results
from wordmask.learning.evaluation.metrics import dice
from wordmask.learning.prompt_styles import Style
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.registry import load_preset
from wordmask.pretraining.adapter_stages import Plan
from wordmask.pretraining.decoder_stage import word_shares
from wordmask.pretraining.medclipseg_stage import fit, mark
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices, make_slices

SLICES, TESTS, STEPS = 2_000, 60, 400
STYLES: tuple[Style, ...] = ("bare", "original")
NOISE, BIAS, CURVE = 0.05, 0.25, (0.5, 2.0)  # of the other scanner; pixels are 0..1
TEST_SEED = 77


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        pvl: whether there are adapters.
        probabilistic: whether they draw.
        bare: share of bare words in the training; the others are sentences.
        share: of the drawings that are learned from.
    """

    pvl: bool = True
    probabilistic: bool = True
    bare: float = 0.5
    share: float = 1.0

    def preset(self) -> MedCLIPSegPreset:
        """The preset tiny, so changed."""
        preset = load_preset("medclipseg", "tiny")
        assert isinstance(preset, MedCLIPSegPreset)
        changes: dict[str, Any] = {"probabilistic": self.probabilistic}
        if not self.pvl:
            changes["last"] = preset.adapters.first - 1
        draws = self.pvl and self.probabilistic
        return preset.model_copy(
            update={
                "adapters": preset.adapters.model_copy(update=changes),
                "samples": preset.samples if draws else 1,
            }
        )


VARIANTS = (
    Variant(),
    Variant(bare=0.0),
    Variant(probabilistic=False),
    Variant(pvl=False),
    Variant(pvl=False, bare=0.0),
)
SHARES = tuple(Variant(share=share) for share in (0.1, 0.25, 0.5))  # the first of the others has all


def other_scanner(slices: PhantomSlices) -> PhantomSlices:
    """The same structures with another curve of grey levels, a shading from side to side, and more noise."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    images = slices.images.float() / 255
    count, _, height, width = images.shape
    low, high = (torch.tensor(end).log() for end in CURVE)
    curve = (torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low).exp()
    coarse = torch.rand(count, 1, 3, 3, generator=generator) * 2 - 1
    shading = 1 + BIAS * F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    noise = NOISE * torch.randn(count, 1, height, width, generator=generator)
    changed: Tensor = (images**curve * shading + noise).clamp(0, 1)
    return PhantomSlices((changed * 255).round().to(torch.uint8), slices.labels, slices.kinds)


def first(slices: PhantomSlices, share: float) -> PhantomSlices:
    """A share of the slices."""
    count = round(share * len(slices))
    return PhantomSlices(slices.images[:count], slices.labels[:count], slices.kinds[:count])


def mean_dice(model: MedCLIPSeg, data: PhantomSlices, style: Style) -> float:
    """Over all words that the slices show, drawn as for a user."""
    there = word_shares(data.labels) > 2 * SMALLEST_PRESENT
    drawn = model.preset.samples > 1
    found = []
    for row in range(len(data)):
        words = there[row].nonzero()[:, 0].tolist()
        if words:
            masks = mark(model, data, row, words, style, drawn=drawn)
            found += [dice(mask.numpy(), truth.numpy()) for mask, truth in zip(*masks, strict=True)]
    return float(np.mean(found))


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--shares", action="store_true", help="only the variants with a share of the drawings"
    )
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/bare_words.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.results)
    drawings = make_slices(SLICES, 1)
    tests = make_slices(TESTS, TEST_SEED)
    sets = {"drawings": tests, "another scanner": other_scanner(tests)}
    for seed in asked.seeds:
        for variant in SHARES if asked.shares else VARIANTS:
            key = {**vars(variant), "seed": seed}
            if results.has(**key):
                continue
            with tempfile.TemporaryDirectory() as folder:
                plan = Plan(SLICES, TESTS, STEPS, seed)
                model = fit(
                    variant.preset(), first(drawings, variant.share), plan, Path(folder), bare=variant.bare
                )
            for name, data in sets.items():
                scores = {f"dice_{style}": round(mean_dice(model, data, style), 4) for style in STYLES}
                results.add({**key, "set": name}, scores)


if __name__ == "__main__":
    main()
