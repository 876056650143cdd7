"""Labelled slices as a 2-D data set in nnU-Net's raw format.

Each slice lies in the square and has the grey values that the model will see. Knows nnU-Net's files; not
nnU-Net, not where the labels come from. File names are numbers, so that the name of an image never gets into
nnU-Net's logs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.data.letterbox import labels_in_frame
from wordmask.inference.request import choose_window, cut_volume
from wordmask.learning.weak.pseudo_labels import SliceLabels
from wordmask.models.medclip_samv2_weak.model import square_frame
from wordmask.models.presets import Preset
from wordmask.words.prompts import Prompt

CHUNK = 16  # slices in memory at a time
ENDING = ".tif"  # holds 0..1 as they are
Square = tuple[NDArray[np.float32], NDArray[np.uint8]]  # [S, S, 3] in 0..1, [S, S]


def write_raw_dataset(
    folder: Path,
    labelled: Sequence[SliceLabels],
    chosen: Sequence[Sequence[int]],
    words: Sequence[Prompt],
    learned: Sequence[int],
    *,
    side: int,
    preset: Preset,
    report: Callable[[int, int], None],
) -> int:
    """Write the chosen slices of each image, under each window that a request for one of the words would use.

    A slice that is black all over is left out.

    Args:
        folder: of the data set.
        labelled: the images.
        chosen: indices of the slices of each image.
        words: what the labels' values mean.
        learned: those of the values, from 1, that become classes 1, 2, ... here.
        side: of the square, in pixels.
        preset: of the model, for the windows.
        report: called with the images that are done and their number.

    Returns:
        How many slices were written.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    classes = np.zeros(len(words) + 1, np.uint8)
    classes[list(learned)] = np.arange(1, len(learned) + 1)
    files: dict[str, dict[str, Any]] = {}
    asked = [words[value - 1] for value in learned]
    for number, (one, indices) in enumerate(zip(labelled, chosen, strict=True)):
        report(number, len(labelled))
        for pixels, values in _squares(one, indices, asked, side, preset):
            if pixels.any():
                name = f"slice_{len(files):06d}"
                files[name] = {
                    "images": [f"imagesTr/{name}_0000{ENDING}"],
                    "label": f"labelsTr/{name}{ENDING}",
                }
                _write(folder / files[name]["images"][0], pixels)
                _write(folder / files[name]["label"], classes[values])
    dataset = {
        "channel_names": {str(channel): "noNorm" for channel in range(3)},  # 0..1 already
        "labels": {"background": 0, **{f"word_{value}": value for value in range(1, len(learned) + 1)}},
        "numTraining": len(files),
        "file_ending": ENDING,
        "dataset": files,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    return len(files)


def _squares(
    one: SliceLabels, indices: Sequence[int], words: Sequence[Prompt], side: int, preset: Preset
) -> Iterator[Square]:
    """The slices of one image, once per window."""
    volume = one.image.read()
    view = cut_volume(volume, plane="auto", slices=None, skip_air=True)
    labels = torch.from_numpy(one.read())
    frame = square_frame(view.shape[1:], side)
    for _, window in dict(choose_window(prompt, volume, None, preset) for prompt in words).items():
        for start in range(0, len(indices), CHUNK):
            part = list(indices[start : start + CHUNK])
            pixels = frame.to_model(torch.from_numpy(view.unit_range(part, window))).clamp(0, 1)
            values = labels_in_frame(labels[part], frame, side)
            yield from zip(pixels.permute(0, 2, 3, 1).contiguous().numpy(), values.numpy(), strict=True)


def _write(path: Path, array: NDArray[Any]) -> None:
    from tifffile import imwrite  # comes with nnU-Net

    imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack", compression="zlib")
