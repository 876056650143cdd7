"""Stage 2 of the tiny weights: SAM's image encoder, prompt encoder and mask decoder.

The encoder starts from the tiny CLIP's blocks and learns to name every pixel with a throw-away head; every
third step SAM's own prompt encoder and mask decoder learn boxes and points on the same features.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox, labels_in_frame
from wordmask.encoders.sam import decode_prompts, preprocess
from wordmask.learning.losses import mask_loss
from wordmask.phantoms.words import LABELS
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import PhantomSlices, augment

BATCH = 16
ENCODER_RATE, HEAD_RATE = 6e-4, 2e-3
PROMPT_EVERY = 3
PROMPT_WEIGHT = 0.3
RARE = {"background": 0.5, "liver tumor": 2.0, "aorta": 2.0, "bladder": 1.5}
"""Cross-entropy weights that differ from 1."""


class SamWithHead(nn.Module):
    """The tiny SAM and a pixel classifier that is thrown away afterwards."""

    def __init__(self, sam: Sam, channels: int, data: PhantomSlices) -> None:
        super().__init__()
        self.sam = sam
        self.head = nn.Sequential(
            nn.ConvTranspose2d(channels, 48, 2, 2),
            nn.GELU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(48, 32, 2, 2),
            nn.GELU(),
            nn.Conv2d(32, len(LABELS), 1),
        )
        shares = (
            torch.bincount(data.labels[:800, 1::2, 1::2].flatten().long(), minlength=len(LABELS))
            .float()
            .clamp(min=1)
        )
        # From 0, the first hundred steps would only learn "background".
        self.head[-1].state_dict()["bias"].copy_((shares / shares.sum()).log())


def train_sam(model: SamWithHead, data: PhantomSlices, *, steps: int, seed: int, checkpoint: Path) -> None:
    """Cross-entropy at every step, prompts at every third."""
    weights = torch.tensor([RARE.get(name, 1.0) for name in LABELS])

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        images, labels = augment(data.images[rows], data.labels[rows], generator)
        embedding, frame = embed(model.sam, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.head(embedding).float()
        target = labels_in_frame(labels, frame, logits.shape[-1])
        losses = {"cross_entropy": F.cross_entropy(logits, target.long(), weight=weights)}
        total = losses["cross_entropy"]
        if step % PROMPT_EVERY == 0:
            losses["prompts"] = prompt_loss(
                model.sam,
                embedding.float(),
                target,
                use_boxes=step % (2 * PROMPT_EVERY) == 0,
                generator=generator,
            )
            total = total + PROMPT_WEIGHT * losses["prompts"]
        return {"loss": total, **losses}

    encoder = model.sam.image_encoder
    slow = [*encoder.blocks.parameters(), *encoder.patch_embed.parameters(), encoder.pos_embed]
    fast = [
        *encoder.neck.parameters(),
        *model.head.parameters(),
        *model.sam.prompt_encoder.parameters(),
        *model.sam.mask_decoder.parameters(),
    ]
    groups: list[dict[str, object]] = [
        {"params": slow, "lr": ENCODER_RATE},
        {"params": fast, "lr": HEAD_RATE},
    ]
    train(model, groups, loss, steps=steps, seed=seed, checkpoint=checkpoint)


def embed(sam: Sam, images: Tensor) -> tuple[Tensor, Letterbox]:
    """Pictures [B, 3, H, W] in 0..1 -> image embedding [B, C, g, g] and the frame it lies in."""
    size = sam.image_encoder.img_size
    frame = Letterbox.fit((images.shape[-2], images.shape[-1]), (size, size), "top_left")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = sam.image_encoder(preprocess(sam, frame.to_model(images), frame.valid()))
    return embedding.float(), frame


def prompt_loss(
    sam: Sam, embedding: Tensor, labels: Tensor, *, use_boxes: bool, generator: torch.Generator
) -> Tensor:
    """Boxes or points on one random structure per slice.

    Args:
        sam: the model that learns.
        embedding: [B, C, g, g].
        labels: [B, s, s] over SAM's frame.
        use_boxes: boxes instead of points.
        generator: of everything random.
    """
    rows, masks = random_structures(labels, generator)
    if len(rows) == 0:
        return embedding.new_zeros(())
    scale = sam.image_encoder.img_size / labels.shape[-1]
    if use_boxes:
        logits, _ = decode_prompts(sam, embedding[rows], boxes=jittered_boxes(masks, generator) * scale)
    else:
        points, signs = random_points(masks, generator)
        logits, _ = decode_prompts(sam, embedding[rows], points=(points * scale, signs))
    return mask_loss(logits[:, 0], masks)


def random_structures(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One present label per slice: row numbers [R] and masks [R, s, s]; slices without any are left out."""
    rows, masks = [], []
    for row, picture in enumerate(labels):
        values = picture.unique()
        values = values[values > 0]
        if len(values):
            chosen = values[torch.randint(len(values), (1,), generator=generator)]
            rows.append(row)
            masks.append((picture == chosen).float())
    return torch.tensor(rows, dtype=torch.long), torch.stack(masks) if masks else labels.new_zeros(
        0, *labels.shape[1:]
    )


def jittered_boxes(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Bounding boxes [R, 4] (x0, y0, x1, y1) in mask pixels, each side moved by up to 2 pixels."""
    boxes = []
    for mask in masks:
        ys, xs = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append([xs[0].item(), ys[0].item(), xs[-1].item() + 1, ys[-1].item() + 1])
    return torch.tensor(boxes) + torch.randint(-2, 3, (len(masks), 4), generator=generator).float()


def random_points(
    masks: Tensor, generator: torch.Generator, inside: int = 2, outside: int = 1
) -> tuple[Tensor, Tensor]:
    """Points [R, inside + outside, 2] as (x, y) in mask pixels and their labels (1 inside, 0 outside)."""
    size = masks.shape[-1]
    chosen = [
        torch.multinomial(m.flatten(1) + 1e-9, n, replacement=True, generator=generator)
        for m, n in ((masks, inside), (1 - masks, outside))
    ]
    index = torch.cat(chosen, 1)
    points = torch.stack([index % size, index // size], -1).float() + 0.5
    signs = torch.cat([torch.ones(len(masks), inside), torch.zeros(len(masks), outside)], 1)
    return points, signs
