"""What simple rules reach on the sample studies: a grey-value threshold and a mean mask per word.

They were fitted with the tiny weights, and are applied to whole volumes and pictures, as the model is. Knows
the samples and the file of `wordmask.pretraining.baselines`; not the server.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.slices import to_unit_range
from wordmask.data.volumes import read_volume
from wordmask.data.windows import find_window
from wordmask.demo.samples import SampleCase, true_mask
from wordmask.learning.evaluation.metrics import dice
from wordmask.pretraining.baselines import FILE
from wordmask.weights.checkpoint import checkpoint_folder

BUNDLE = "bundled/simple_vilmedsam_tiny"


def baseline_dice(cases: Sequence[SampleCase]) -> dict[str, dict[str, float]]:
    """Word -> mean Dice of ``threshold`` and ``atlas`` over the cases that show it."""
    fitted = load_file(checkpoint_folder(BUNDLE) / FILE)
    collected: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        grey, truth = _canonical(case)
        for word, values in case.words.items():
            mask = true_mask(truth, values)
            for name, found in _both(fitted, case.modality, word, grey).items():
                collected.setdefault(word, {}).setdefault(name, []).append(dice(found, mask))
    return {
        word: {name: float(np.mean(values)) for name, values in scores.items()}
        for word, scores in collected.items()
    }


def _both(
    fitted: dict[str, Tensor], kind: str, word: str, grey: NDArray[np.float32]
) -> dict[str, NDArray[np.bool_]]:
    sign, value = fitted[f"threshold/{kind}/{word}"].tolist()
    atlas = (
        interpolate(fitted[f"atlas/{kind}/{word}"][None, None], size=grey.shape[1:], mode="nearest")[
            0, 0
        ].numpy()
        > 0.5
    )
    return {"threshold": sign * grey >= sign * value, "atlas": np.broadcast_to(atlas, grey.shape)}


def _canonical(case: SampleCase) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Grey values [n, h, w] in 0..1 as the model sees them, and the truth on the same slices."""
    volume = read_volume(case.image)
    slicing = slicing_for(volume.geometry, Plane.AXIAL)
    window = find_window("soft_tissue") if volume.modality == "CT" else None
    grey = to_unit_range(volume, slicing.cut(volume.array), window).mean(1)
    truth = case.true_labels()
    return grey, slicing.cut(truth) if not volume.is_picture else truth
