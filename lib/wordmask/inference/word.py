"""One word of a request, and what its run has found out about it so far.

Knows numbers per slice and marks; not models, not how they are computed (run.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wordmask.data.volumes import Volume
from wordmask.data.windows import Window
from wordmask.inference import presence
from wordmask.inference.doubt import worth_a_look
from wordmask.inference.overlaps import Tally, WordMarks
from wordmask.inference.result import WordStatistics
from wordmask.models.base import PromptFeatures, Segmenter
from wordmask.words.prompts import Prompt

Floats = NDArray[np.float32]


@dataclass(eq=False)
class Word:
    """One word of one request.

    Attributes:
        prompt: the word as it was asked for.
        window_name: how its grey values become 0..1.
        window: the CT window of that name; None for images without windows.
        segmenter: the one that answers for the word.
        features: its features of the word.
        slices: how many slices the volume has.
        refused: whether the model does not know the word and therefore marks nothing.
        logits: [n], presence logit per slice; NaN where a slice was not judged.
        marks: the word's marked pixels, slice by slice.
        highest: probability of the most probable pixel.
        doubt: slice -> how many of its pixels may be wrong (`doubt.doubtful_pixels`).
        maps: name of an output -> [n, h, w].
        reason: why nothing may be marked, for people; empty while there is no reason.
    """

    prompt: Prompt
    window_name: str
    window: Window | None
    segmenter: Segmenter
    features: PromptFeatures
    slices: int
    refused: bool = False
    logits: Floats = field(init=False)
    marks: WordMarks = field(default_factory=dict)
    highest: float = 0.0
    doubt: dict[int, float] = field(default_factory=dict)
    maps: dict[str, Floats] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        self.logits = np.full(self.slices, np.nan, dtype=np.float32)

    @property
    def known(self) -> bool:
        """Whether the model's text encoder and training met the word."""
        return bool(self.features.known.all())

    @property
    def presence(self) -> float:
        """0..1; see WordStatistics."""
        if np.isnan(self.logits).all():
            return self.highest
        return presence.probability(presence.volume_logit(self.logits))

    def explain_absence(self, tally: Tally, threshold: float) -> str:
        """The sentence about a word without a voxel.

        Empty when the word has voxels, or when a warning about its refusal already says so.
        """
        if tally.voxels or self.refused:
            return ""
        if self.reason:
            return f"Nothing was marked for {self.prompt.word!r}: {self.reason}."
        if self.marks:
            return (
                f"Nothing was marked for {self.prompt.word!r}: wherever it was found, another word was more "
                "probable."
            )
        return (
            f"Nothing was marked for {self.prompt.word!r}: no pixel was above the threshold of {threshold:g}."
        )

    def statistics(self, tally: Tally, volume: Volume) -> WordStatistics:
        """The numbers about the word for the result.

        Args:
            tally: what the word won.
            volume: the image, for the size of a voxel.
        """
        found = tally.voxels > 0
        spacing = volume.geometry.spacing
        return WordStatistics(
            presence=self.presence,
            voxels=tally.voxels,
            millilitres=None if volume.is_picture else tally.voxels * float(np.prod(spacing)) / 1000,
            mean_probability=tally.probability / tally.voxels if found else None,
            mean_uncertainty=tally.uncertainty / tally.voxels if found else None,
            largest_slice=tally.largest_slice,
            slices_to_check=worth_a_look(self.doubt, tally.areas),
        )
