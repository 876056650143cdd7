"""Prompts for SAM, one per (slice, word) pair, and the masks that SAM draws from them.

Prompts are made from the objects of a map or from a person's hints. Rows stay in their places and shapes do
not depend on the objects, so that no pair's mask depends on another pair's. Knows SAM and its frame; not
words or maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.sam import decode_prompts
from wordmask.models.base import Hints, SliceKey
from wordmask.models.coarse_masks import boxes as boxes_of
from wordmask.models.coarse_masks import points as points_of
from wordmask.models.presets import SamPromptsPreset

NOTHING = -20.0  # logit of pairs without an object
NO_POINT = -1  # SAM's label of padding
EPSILON = 1e-6  # a fused probability keeps at least this distance from 0 and 1
CENTRE = 0.5  # SAM locates a pixel by its index, a frame by its left edge


@dataclass(frozen=True)
class SamPrompts:
    """Prompts for SAM in pixels of its frame, pixel i centred at i.

    Attributes:
        given: bool [P], false for pairs without a prompt, whose rows contain the whole frame.
        boxes: [P, 4] (x0, y0, x1, y1), or None.
        points: coordinates [P, n, 2] and labels [P, n], or None.
    """

    given: Tensor
    boxes: Tensor | None
    points: tuple[Tensor, Tensor] | None

    def draw(self, sam: Sam, embeddings: Tensor, settings: SamPromptsPreset) -> Tensor:
        """Let SAM draw a mask for each pair.

        Args:
            sam: the model.
            embeddings: [P, C, g, g], of the pairs' slices.
            settings: of the preset.

        Returns:
            Logits [P, 4g, 4g]; `NOTHING` for pairs without a prompt.
        """
        device = embeddings.device
        masks, scores = decode_prompts(
            sam, embeddings,
            boxes=None if self.boxes is None else self.boxes.to(device),
            points=None if self.points is None else (self.points[0].to(device), self.points[1].to(device)),
            multimask=settings.fusion != "single",
        )  # fmt: skip
        return torch.where(self.given.to(device)[:, None, None], fuse(masks, scores, settings), NOTHING)


def fuse(masks: Tensor, scores: Tensor, settings: SamPromptsPreset) -> Tensor:
    """Fuse SAM's masks of each pair into one.

    The setting ``fusion`` decides how: "single" takes the first; "mean" averages the probabilities; "scored"
    weights them by the scores stretched to 0..1 (methods.md 2.1), equally where the scores are equal;
    "staple" treats the three masks as raters of unknown skill (Warfield et al., IEEE TMI 23(7), 2004).

    Args:
        masks: [P, M, h, w], logits.
        scores: [P, M], predicted IoU.
        settings: of the preset.

    Returns:
        Logits [P, h, w].
    """
    if settings.fusion == "single":
        return masks[:, 0]
    if settings.fusion == "staple":
        return torch.stack([_staple(of_pair) for of_pair in masks]).logit(eps=EPSILON)
    least, largest = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    plain = torch.ones_like(scores)
    stretched = torch.where(largest > least, (scores - least) / (largest - least).clamp_min(1e-12), plain)
    weights = stretched if settings.fusion == "scored" else plain
    mixed = (masks.sigmoid() * weights[:, :, None, None]).sum(1) / weights.sum(1)[:, None, None]
    return mixed.logit(eps=EPSILON)


def _staple(masks: Tensor) -> Tensor:
    """Estimate probabilities [h, w] from the logits [M, h, w] of one pair with STAPLE.

    Masks that agree everywhere are returned as they are.
    """
    raters = (masks > 0).cpu().numpy()
    if (raters == raters[0]).all():
        return (masks[0] > 0).to(masks)
    images = [sitk.GetImageFromArray(rater.astype(np.uint8)) for rater in raters]
    return torch.from_numpy(sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))).to(masks)


def prompts_of_hints(hints: Hints | None, keys: Sequence[SliceKey], frame: Letterbox) -> SamPrompts | None:
    """Make prompts from a person's hints.

    Args:
        hints: in pixels of slices.
        keys: the slice of each pair.
        frame: of SAM.

    Returns:
        Prompts for the pairs; None when no hint lies in any of the slices.
    """
    if hints is None or not hints.kinds():
        return None
    most = max(1, len(hints.points))
    boxes = _whole(frame, len(keys))
    places, labels = torch.zeros(len(keys), most, 2), torch.full((len(keys), most), NO_POINT)
    given = torch.zeros(len(keys), dtype=torch.bool)
    for row, key in enumerate(keys):
        if hints.box is not None and hints.box[0] <= key.index <= hints.box[1]:
            boxes[row] = _to_sam(torch.tensor(hints.box[2:]).reshape(2, 2), frame).flatten()
            given[row] = True
        mine = [point for point in hints.points if point[0] == key.index]
        for number, (_, x, y, positive) in enumerate(mine):
            places[row, number], labels[row, number] = _to_sam(torch.tensor([x, y]), frame), int(positive)
            given[row] = True
    if not given.any():
        return None
    return SamPrompts(
        given, boxes if hints.box is not None else None, (places, labels) if hints.points else None
    )


def _to_sam(points: Tensor, frame: Letterbox) -> Tensor:
    return frame.points_to_model(points.float() + CENTRE) - CENTRE


def _whole(frame: Letterbox, rows: int) -> Tensor:
    """The whole slice as a box, [rows, 4]."""
    corners = torch.tensor([[-CENTRE, -CENTRE], [frame.original[1] - CENTRE, frame.original[0] - CENTRE]])
    return _to_sam(corners, frame).flatten().repeat(rows, 1)


def prompts_of_objects(
    objects: Sequence[NDArray[np.bool_]],
    keys: Sequence[int],
    frame: Letterbox,
    side: int,
    settings: SamPromptsPreset,
) -> SamPrompts:
    """Make prompts from the objects of maps: boxes around them, points in them, or both.

    Args:
        objects: bool [1 or 0, h, w] per pair: one object or none.
        keys: seed of the points per pair.
        frame: of SAM.
        side: pixels of the objects' grid along SAM's frame.
        settings: of the preset.
    """
    scale, rows = frame.model[0] / side, len(objects)
    boxes, given = _whole(frame, rows), torch.zeros(rows, dtype=torch.bool)
    places = torch.zeros(rows, settings.positive + settings.negative, 2)
    labels = torch.full(places.shape[:2], NO_POINT)
    for row, (found, key) in enumerate(zip(objects, keys, strict=True)):
        for one in found:
            given[row] = True
            x0, y0, x1, y1 = boxes_of(one[None])[0].tolist()
            boxes[row] = torch.tensor([x0, y0, x1 + 1, y1 + 1]) * scale - CENTRE
            chosen, signs = points_of(one, settings.positive, settings.negative, key)
            places[row, : len(chosen)] = (torch.from_numpy(chosen) + CENTRE) * scale - CENTRE
            labels[row, : len(chosen)] = torch.from_numpy(signs).to(labels)
    points = (places, labels)
    return SamPrompts(
        given,
        None if settings.prompts == "points" else boxes,
        None if settings.prompts == "boxes" else points,
    )
