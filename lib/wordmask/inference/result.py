"""The result of a segmentation: labels, their names, statistics of each word, and how it is written.

Knows label maps and numbers; not models, torch or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Geometry, Plane, slicing_for
from wordmask.data.volumes import write_label_map
from wordmask.inference.overlaps import Labels
from wordmask.words.prompts import Prompt


@dataclass(frozen=True)
class WordStatistics:
    """The numbers about one word of a segmentation.

    Attributes:
        presence: 0..1, how confident the model is that the structure is in the volume; without a presence
            output, the highest probability of a pixel.
        voxels: how many the word won.
        millilitres: their volume; None for pictures.
        mean_probability: 0..1, over those voxels; None without any.
        mean_uncertainty: nats, over those voxels; None without any. The model's own uncertainty where it has
            one, else the binary entropy of the probability.
        largest_slice: index along the slicing plane of the slice where it covers most; None without voxels.
        slices_to_check: the slices that are worth a look, because the mask may be wrong there, the most
            uncertain first (see `wordmask.inference.doubt`).
    """

    presence: float
    voxels: int
    millilitres: float | None
    mean_probability: float | None
    mean_uncertainty: float | None
    largest_slice: int | None
    slices_to_check: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one request, in the geometry of its volume.

    Attributes:
        labels: [k, j, i] uint8 or uint16, 0 is background.
        names: word -> value, 1..N in the order of the words.
        statistics: word -> numbers about it.
        not_found: words without a voxel.
        warnings: sentences for people, at least one for each word that was not found.
        model: its name.
        preset: its name.
        version: of the weights.
        window: word -> how grey values became 0..1.
        plane: along which slices were cut.
        geometry: of the volume and of the labels.
        prompts: the words as they were asked for.
        maps: the maps to ``keep``: "probability" (0..1), "uncertainty" (nats) or "attribution" (0..1) -> word
            -> [k, j, i] float32.
    """

    labels: Labels
    names: dict[str, int]
    statistics: dict[str, WordStatistics]
    not_found: list[str]
    warnings: list[str]
    model: str
    preset: str
    version: str
    window: dict[str, str]
    plane: str
    geometry: Geometry
    prompts: tuple[Prompt, ...]
    maps: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)

    def mask(self, word: str) -> NDArray[np.bool_]:
        """The voxels of one word, [k, j, i]; KeyError when the word was not asked for."""
        return np.asarray(self.labels == self.names[word])

    @property
    def slices(self) -> int:
        """How many slices the volume has along the plane."""
        return slicing_for(self.geometry, Plane(self.plane)).cut_shape[0]

    def summary(self) -> dict[str, Any]:
        """Everything except the arrays, ready for JSON: the server's answer and what the command prints."""
        return {
            "label_names": dict(self.names),
            "statistics": {word: asdict(statistics) for word, statistics in self.statistics.items()},
            "not_found": list(self.not_found),
            "warnings": list(self.warnings),
            "model": self.model,
            "preset": self.preset,
            "version": self.version,
            "window": dict(self.window),
            "plane": self.plane,
            "slices": self.slices,
        }


def write_labels(path: str | Path, segmentation: Segmentation, *, compress: bool = True) -> None:
    """Write the label map in the format that the file's name asks for, whole or not at all.

    Raises:
        VolumeError: it cannot be written.
    """
    write_label_map(Path(path), segmentation.labels, segmentation.geometry, compress=compress)
