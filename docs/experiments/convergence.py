"""How fast the mean of MedCLIPSeg's samples settles: a plot of its error against the number of samples.

    python -m docs.experiments.convergence

The error is the root mean square, over the pixels of one picture, of the difference from the mean of other
samples. Independent samples make it fall with the square root of their number.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

from docs.experiments.forgetting import SAMPLES
from wordmask.data.volumes import read_volume
from wordmask.models.loading import load_segmenter
from wordmask.models.medclipseg.model import MedCLIPSeg

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAIRS = (("endoscopy_1", "polyp"), ("ultrasound_1", "breast tumor"), ("xray_1", "heart"))
ALL, PART = 1024, 64  # samples, and how many are drawn at a time
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images/medclipseg_convergence.png"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_segmenter("medclipseg", device="cpu")
    assert isinstance(model, MedCLIPSeg)
    figure, axes = plt.subplots(figsize=(5.5, 3.8))
    for name, word in PAIRS:
        drawn = samples(model, SAMPLES / "studies" / f"{name}.png", word)
        errors = [error_of(drawn, count) for count in COUNTS]
        slope = np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
        print(f"{name}, {word}: {errors[0]:.4f} with 1 sample, {errors[-1]:.4f} with {COUNTS[-1]}")
        axes.loglog(COUNTS, errors, marker="o", label=f"{word} (exponent {slope:.2f})")
    first = float(axes.lines[0].get_ydata()[0])
    axes.loglog(COUNTS, [first / count**0.5 for count in COUNTS], "k:", label="one over the square root")
    axes.set(xlabel="samples", ylabel="error of the mean probability", xticks=COUNTS, xticklabels=COUNTS)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(asked.output, dpi=110)


@torch.no_grad()
def samples(model: MedCLIPSeg, path: Path, word: str) -> np.ndarray:
    """Probabilities of a word in a picture, [ALL, S, S]."""
    pixels = torch.tensor(read_volume(path).array[0]).movedim(-1, 0)[None].float() / 255
    frame = model.slice_frame((pixels.shape[-2], pixels.shape[-1]))
    images = model.normalise(frame.to_model(pixels.expand(-1, 3, -1, -1)))
    tokens = model.clip.tokenizer([word])
    torch.manual_seed(1)
    parts = [model.joint_forward(images, tokens, samples=PART)[:, 0] for _ in range(ALL // PART)]
    return np.asarray(torch.cat(parts).sigmoid().numpy())


def error_of(drawn: np.ndarray, count: int) -> float:
    """Error of the mean of ``count`` samples, over disjoint groups of them."""
    groups = drawn[: ALL // 2].reshape(-1, count, *drawn.shape[1:]).mean(axis=1)
    return float(np.sqrt(np.square(groups - drawn[ALL // 2 :].mean(axis=0)).mean()))


if __name__ == "__main__":
    main()
