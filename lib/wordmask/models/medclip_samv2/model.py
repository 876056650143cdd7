"""MedCLIP-SAMv2 (Medical Image Analysis 2025), untrained: a map of the word becomes boxes or points for SAM.

Written from methods.md 2.1. Differs from the released code: maps stay floating point in the slice's own frame
(no 8-bit round trips, nothing is cropped away), a slice without a map has no box, and random numbers are
keyed by slice and word. Knows slices, words, CLIP, SAM, and the frames between them; not volumes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wordmask.encoders.clip import load_clip
from wordmask.encoders.sam import load_sam
from wordmask.models.base import (
    Capabilities,
    Hints,
    PromptFeatures,
    SegmenterOutput,
    SliceFeatures,
    all_pairs,
)
from wordmask.models.bottleneck import normalise_maps
from wordmask.models.clip_sam import ClipSamSegmenter, with_rows
from wordmask.models.coarse_masks import coarse_masks, components
from wordmask.models.medclip_samv2.preset import MedCLIPSAMv2Preset
from wordmask.models.noise import key_text
from wordmask.models.sam_prompts import NOTHING, prompts_of_hints, prompts_of_objects
from wordmask.weights.checkpoint import load_checkpoint
from wordmask.words.prompt_sets import sentences
from wordmask.words.prompts import Prompt

USED = ("clip.", "sam.", "scores.")  # parts of a checkpoint; this model has no decoder of its own


class MedCLIPSAMv2(ClipSamSegmenter):
    """CLIP and SAM as they were published, or with a CLIP that was tuned on captions."""

    name = "medclip_samv2"
    preset: MedCLIPSAMv2Preset
    capabilities = Capabilities(
        hints=frozenset({"points", "box"}), prompt_sets=True, presence=True, attribution=True
    )

    @classmethod
    def from_preset(cls, preset: MedCLIPSAMv2Preset, weights: Path | None = None) -> Self:
        """Build the model; public weights are all that it needs.

        Args:
            preset: of this model.
            weights: folder of a version with a tuned CLIP, which replaces the preset's. The preset's list of
                trained words stays valid. Presence is not judged when the version's card says that it cannot
                be (`wordmask.learning.clip_tuning.presence_fit`).

        Raises:
            WeightsError: weights are missing or damaged.
        """
        checkpoints = [
            load_checkpoint(location).only(USED)
            for location in (preset.weights, weights)
            if location is not None
        ]
        token_ids = checkpoints[-1].token_ids if checkpoints else ()
        if weights is not None and not (
            checkpoints[-1].card.presence and checkpoints[-1].card.presence.holds
        ):
            preset = preset.model_copy(update={"presence": None})
        words = checkpoints[0].words if preset.weights is not None else ()
        model = cls(
            preset, load_clip(preset.clip, token_ids=token_ids), load_sam(preset.sam), trained_words=words
        )
        for number, checkpoint in enumerate(checkpoints):
            checkpoint = with_rows(checkpoint, token_ids)
            (checkpoint.apply if number == 0 and preset.weights is not None else checkpoint.overlay)(model)
        return model

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether scale and bias of the cosine were trained, which those of public weights are not."""
        return self.preset.presence is not None

    def encode_words(self, prompts: Sequence[Prompt]) -> Tensor:
        """Text embeddings of the words' prompt sets, [K, E].

        The embedding of several sentences is their mean, normalised again.
        """
        default = self.preset.zero_shot.prompt_set
        texts = [sentences(prompt, prompt.prompt_set or default) for prompt in prompts]
        # Word by word, so that no embedding depends on the other words.
        embeddings = [self.clip.encode_text(text).mean(0) for text in texts]
        return F.normalize(torch.stack(embeddings), dim=-1)

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment pairs, as `Segmenter.forward`: logits [P, 4g, 4g] in SAM's frame, padding included.

        A person's hints replace the model's own prompts in their slice.
        """
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        settings, frame = self.preset.zero_shot, slices.frames["sam"]
        side = 4 * self.sam.prompt_encoder.image_embedding_size[0]
        maps = normalise_maps(self.bottleneck_maps(slices, prompts, pairs))
        saliency = slices.frames["clip"].resample(maps, frame, (side, side))
        embeddings = slices.tensors["sam"][pairs[:, 0].to(self.device)].float()
        objects = self._objects(slices, prompts, pairs, saliency)
        keys = [
            _number((settings.seed, slices.keys[row], prompts.prompts[word].word))
            for row, word in pairs.tolist()
        ]
        logits = torch.full_like(saliency, NOTHING)
        # The first object of every pair, then the second, and so on.
        for number in range(max((len(found) for found in objects), default=0)):
            one_each = [found[number : number + 1] for found in objects]
            own = prompts_of_objects(one_each, keys, frame, side, settings)
            logits = torch.maximum(logits, own.draw(self.sam, embeddings, settings))
        logits = _largest(logits, [len(found) for found in objects])
        marked = prompts_of_hints(hints, [slices.keys[row] for row in pairs[:, 0].tolist()], frame)
        if marked is not None:
            logits = torch.where(
                marked.given.to(self.device)[:, None, None],
                marked.draw(self.sam, embeddings, settings),
                logits,
            )
        return SegmenterOutput(
            logits, frame, presence=self.presence(slices, prompts, pairs), attribution=saliency
        )

    def _objects(
        self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor, saliency: Tensor
    ) -> list[NDArray[np.bool_]]:
        """The objects of each pair's map, largest first, at most as many as the body has of the structure."""
        settings, frame, side = self.preset.zero_shot, slices.frames["sam"], saliency.shape[-1]
        height, width = (
            max(1, round(length * scale * side / model))
            for length, scale, model in zip(frame.original, frame.scale, frame.model, strict=True)
        )
        maps = saliency[:, :height, :width].cpu().contiguous()  # the padding is not background
        masks = coarse_masks(maps, settings.split, settings.threshold).numpy()
        found = []
        for mask, values, word in zip(masks, maps.numpy(), pairs[:, 1].tolist(), strict=True):
            found.append(
                components(
                    mask, values, most=prompts.prompts[word].objects,
                    least_area=settings.least_area, least_confidence=settings.least_confidence,
                )
            )  # fmt: skip
        return found


def _number(key: object) -> int:
    """A seed for the points of a key, the same in every process."""
    return int.from_bytes(hashlib.sha256(key_text(key).encode()).digest()[:8], "little")


def _largest(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Keep only as many parts of each pair's mask as it had objects, so that SAM's crumbs disappear."""
    kept = logits.clone()
    for row, count in enumerate(counts):
        mask = (logits[row] > 0).cpu().numpy()
        dropped = mask & ~components(mask, np.ones(mask.shape, np.float32), most=max(1, count)).any(0)
        kept[row][torch.from_numpy(dropped).to(logits.device)] = NOTHING
    return kept
