"""MedCLIPSeg's network: CLIP's two towers side by side, adapters between them, and the mask head.

Written from methods.md 3. Knows pixels, tokens and noise; not slices, words or files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder
from wordmask.models.medclipseg.adapters import PVLAdapter
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.noise import KeyedNoise

LAYER_NORM_EPS = 1e-6  # of the upscale blocks
Direction = Literal["image", "text"]
_DIRECTIONS: tuple[Direction, Direction] = ("image", "text")
# (sample, block, direction) -> standard normal numbers [B, tokens that are read, width of the adapters]
Noise = Callable[[int, int, Direction], Tensor]


@dataclass(frozen=True, eq=False)
class Joint:
    """What both towers make of B pairs, S times.

    Attributes:
        text: [S, B, E], not normalised.
        patches: [S, B, g * g, E], of unit length.
    """

    text: Tensor
    patches: Tensor


class FreeNoise:
    """Noise of a batch from a generator of torch.

    Args:
        shapes: of what each direction reads, (tokens, width).
        batch: pairs.
        generator: None: torch's own.
        device: where the noise is needed.
    """

    def __init__(
        self,
        shapes: Mapping[Direction, tuple[int, int]],
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shapes, self.batch, self.generator, self.device = shapes, batch, generator, device

    def __call__(self, sample: int, block: int, direction: Direction) -> Tensor:
        drawn = torch.randn(self.batch, *self.shapes[direction], generator=self.generator)
        return drawn.to(self.device)

    def mean(self, sample: int, block: int, direction: Direction) -> Tensor:
        """No noise: values are then their means."""
        return torch.zeros(self.batch, *self.shapes[direction], device=self.device)


class PairNoise(FreeNoise):
    """Noise of one pair that depends on its key, the sample, the block and the direction alone.

    Args:
        shapes: as of `FreeNoise`.
        seed: of all noise.
        pair: key of the pair: slice and word.
        device: where the noise is needed.
    """

    def __init__(
        self,
        shapes: Mapping[Direction, tuple[int, int]],
        seed: int,
        pair: Hashable,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(shapes, 1, device=device)
        self.seed, self.pair = seed, pair

    def __call__(self, sample: int, block: int, direction: Direction) -> Tensor:
        draw = KeyedNoise(self.seed, 1, *self.shapes[direction])
        return draw([(self.pair, sample, block, direction)], 0)[0].to(self.device)


class UpscaleBlock(nn.Module):
    """Twice the side of a map, [B, C, h, w] -> [B, C, 2h, 2w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels, LAYER_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.smooth(F.gelu(self.enlarge(maps)))
        normed: Tensor = self.norm(found.movedim(1, -1))
        return normed.movedim(-1, 1)


class JointNetwork(nn.Module):
    """CLIP, the adapters and the mask head.

    Args:
        clip: frozen.
        preset: of the model.
    """

    def __init__(self, clip: ClipEncoder, preset: MedCLIPSegPreset) -> None:
        super().__init__()
        self.clip, self.blocks, self.settings = clip, preset.adapters.blocks, preset.adapters
        self.adapters = nn.ModuleList(
            PVLAdapter(
                clip.width,
                clip.text.width,
                self.settings.width,
                beta=self.settings.beta,
                gate=self.settings.gate,
            )
            for _ in self.blocks
        )
        width = clip.embed_dim
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(UpscaleBlock(width) for _ in range(preset.upscale)))

    @property
    def alone(self) -> int:
        """How many blocks of each tower come before the first adapter."""
        return self.blocks.start if len(self.blocks) else self.clip.depth

    def noise_shapes(self, length: int) -> dict[Direction, tuple[int, int]]:
        """The shapes of the noise, (tokens, width), for texts of ``length`` tokens."""
        return {
            "image": (length, self.settings.width),
            "text": (1 + self.clip.grid**2, self.settings.width),
        }

    def start_image(self, pixels: Tensor) -> Tensor:
        """Image tokens that do not depend on the text, [N, 1 + g * g, D].

        Args:
            pixels: [N, 3, S, S], normalised.
        """
        return self.clip.head(pixels, self.alone - 1)

    def start_text(self, tokens: Tensor) -> Tensor:
        """Text tokens that do not depend on the image, [N, T, D'].

        Args:
            tokens: [N, T], token ids.
        """
        hidden = self.clip.text.embed(tokens)
        for number in range(min(self.alone, self.clip.text.depth)):
            hidden = self.clip.text.block(hidden, number, tokens)
        return hidden

    def forward(self, image: Tensor, text: Tensor, tokens: Tensor, samples: int, noise: Noise) -> Joint:
        """Run both towers side by side from where the adapters begin.

        What no draw has touched yet is computed once for all samples.

        Args:
            image: [B, 1 + g * g, D], of `start_image`.
            text: [B, T, D'], of `start_text`.
            tokens: [B, T], token ids.
            samples: S.
            noise: what is drawn.
        """
        tower, batch = self.clip.text, len(image)
        real = None if self.settings.see_padding else tower.real(tokens)
        row_tokens, row_real = tokens, real
        for number in range(self.alone, self.clip.depth):
            if number in self.blocks:
                seen, read = (
                    torch.cat([noise(sample, number, direction) for sample in range(samples)])
                    for direction in _DIRECTIONS
                )
                adapter = self.adapters[number - self.blocks.start]
                image, text = adapter(image, text, seen, read, row_real)
                row_tokens = tokens.repeat(samples, 1)
                row_real = None if real is None else real.repeat(samples, 1)
            image = self.clip.block(image, number)
            if number < tower.depth:
                text = tower.block(text, number, row_tokens)
        if len(image) < samples * batch:  # there are no adapters
            image, text = image.repeat(samples, 1, 1), text.repeat(samples, 1, 1)
            row_tokens = tokens.repeat(samples, 1)
        patches = F.normalize(self.clip.project(image)[:, 1:], dim=-1)
        shape = (samples, batch)
        return Joint(tower.project(text, row_tokens).unflatten(0, shape), patches.unflatten(0, shape))

    def draw(self, joint: Joint) -> Tensor:
        """Logits of the mask, [S, B, 4g, 4g] with two upscale blocks, on CLIP's square."""
        text, patches = joint.text.flatten(0, 1), joint.patches.flatten(0, 1)
        grid = self.clip.grid
        maps = self.upscale(patches.mT.unflatten(2, (grid, grid)))
        logits = torch.einsum("bc,bchw->bhw", self.mask_head(F.normalize(text, dim=-1)), maps)
        return logits.unflatten(0, joint.text.shape[:2])
