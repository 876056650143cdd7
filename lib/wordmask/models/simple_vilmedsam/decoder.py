"""The decoder of Simple-ViLMedSAM: affinity refinement, implicit position prompt (IPP), and bidirectional
interaction decoder (BID).

Takes SAM's image embedding and a map of where the word is, and returns mask logits. Knows tensors only; not
words or slices.

Source: Simple-ViLMedSAM (CVPR 2026), written from its equations (methods.md 1.2 to 1.5). Differs: the mean
affinity is per image instead of per batch; rows of the affinity that the reference turns into NaN (uniform
images) keep their own cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.errors import WeightsError
from wordmask.models.simple_vilmedsam.preset import DecoderPreset

TEMPERATURE = 3.0  # methods.md 1.2: in the released code, not in the paper's formula
THRESHOLD = 1.2  # similarities below this multiple of their mean are cut off
# Above it even a cell's similarity to itself would be cut off.
LARGEST_MEAN_SIMILARITY = (1 - 1e-3) / THRESHOLD
LEAKY_SLOPE = 0.01

REFERENCE_NAMES = {  # parts of the published checkpoint -> ours
    "norm_input": "position_prompt.norm",
    "proj": "position_prompt.convolutions",
    "norm1": "position_prompt.norm_in",
    "mlp_map.lin1": "position_prompt.mlp.0",
    "mlp_map.lin2": "position_prompt.mlp.2",
    "norm_map": "position_prompt.norm_out",
    "cross_attn1": "image_to_prompt",
    "norm2": "norm_first",
    "mlp.lin1": "mlp.0",
    "mlp.lin2": "mlp.2",
    "norm3": "norm_middle",
    "cross_attn2": "prompt_to_image",
    "norm4": "norm_second",
    "output_upscaling1": "upsample_first",
    "output_upscaling2": "upsample_second",
}


def refine_by_affinity(features: Tensor, maps: Tensor) -> Tensor:
    """Spread each map over cells that look alike.

    The result is C A with C the row-wise softmax of 3 (S - 1.2 mean S) where that is not negative, and S the
    cosine similarity of cells. mean S = |mean q|^2 needs no pass over S.

    Args:
        features: [B, C, g, g], of the cells.
        maps: [B, M, g, g].

    Returns:
        [B, M, g, g].
    """
    # In bfloat16 a cell's similarity to itself may fall below the threshold.
    with torch.autocast(features.device.type, enabled=False):
        cells = F.normalize(features.float().flatten(2), dim=1)  # [B, C, N]
        mean = cells.mean(dim=2).square().sum(dim=1).clamp(max=LARGEST_MEAN_SIMILARITY)[:, None, None]
        affinity = TEMPERATURE * (cells.transpose(1, 2) @ cells - THRESHOLD * mean)
        itself = torch.eye(affinity.shape[-1], dtype=torch.bool, device=affinity.device)
        weights = affinity.masked_fill((affinity < 0) & ~itself, float("-inf")).softmax(dim=-1)
        return (maps.float().flatten(2) @ weights.transpose(1, 2)).view_as(maps)


class CrossAttention(nn.Module):
    """Multi-head attention at half width, without positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels // 2)
        self.k_proj = nn.Linear(channels, channels // 2)
        self.v_proj = nn.Linear(channels, channels // 2)
        self.out_proj = nn.Linear(channels // 2, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from ``query`` to ``key`` and ``value``, each [B, N, C]; returns the shape of ``query``.

        Key and value may have another N than the query.
        """
        q, k, v = (
            self._split(proj(x))
            for proj, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, h, w] over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _mlp(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.LeakyReLU(LEAKY_SLOPE), nn.Linear(hidden, channels))


def _upsampler(channels: int, widths: tuple[int, int, int]) -> nn.Sequential:
    """[B, C, g, g] -> [B, 1, 4g, 4g]."""
    first, second, third = widths
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(channels, first, 3, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE),
        nn.Conv2d(first, second, 3, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE),
        ChannelNorm(second),
        nn.LeakyReLU(LEAKY_SLOPE),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(second, third, 3, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE),
        nn.Conv2d(third, 1, 1),
    )


class ImplicitPositionPrompt(nn.Module):
    """Makes a prompt vector per cell, F_A, from map and refined map (methods.md 1.3)."""

    def __init__(self, preset: DecoderPreset, maps: int) -> None:
        super().__init__()
        channels, (first, second) = preset.channels, preset.widths
        self.norm = nn.LayerNorm((maps, preset.grid, preset.grid))
        self.convolutions = nn.Sequential(
            nn.Conv2d(maps, first, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(first),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(second),
            nn.Conv2d(second, channels, 1),
            nn.ReLU(),
        )
        self.norm_in, self.mlp, self.norm_out = (
            nn.LayerNorm(channels),
            _mlp(channels, preset.mlp),
            nn.LayerNorm(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, maps, g, g] -> [B, N, C]."""
        prompt = self.norm_in(self.convolutions(self.norm(maps)).flatten(2).transpose(1, 2))
        return self.norm_out(prompt + self.mlp(prompt))


class LinearPositionPrompt(nn.Module):
    """Makes a prompt vector per cell by one linear layer; for ablations."""

    def __init__(self, preset: DecoderPreset, maps: int) -> None:
        super().__init__()
        self.linear = nn.Linear(maps, preset.channels)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, maps, g, g] -> [B, N, C]."""
        return self.linear(maps.flatten(2).transpose(1, 2))


class PositionPromptDecoder(nn.Module):
    """Affinity, IPP, BID and the two upsamplers; 3,267,522 parameters at full size (methods.md 1.5).

    Without BID, Q1 is the image with the prompt added, and the mask is drawn from Q1 alone.

    Args:
        preset: sizes and variant.
        text_width: length of the word token, when the preset asks for one; the token is added to the position
            prompt and to Q1.
    """

    def __init__(self, preset: DecoderPreset | None = None, text_width: int = 0) -> None:
        super().__init__()
        preset = preset or DecoderPreset()
        self.preset = preset
        self.priors = 2 if preset.prior == "both" else 1
        channels = preset.channels
        position_prompt = ImplicitPositionPrompt if preset.ipp else LinearPositionPrompt
        self.position_prompt = position_prompt(preset, maps=2 * self.priors)
        self.norm_first, self.upsample_first = (
            nn.LayerNorm(channels),
            _upsampler(channels, preset.upsampler_widths),
        )
        if preset.bid != "none":
            self.image_to_prompt, self.prompt_to_image = (
                CrossAttention(channels, preset.heads) for _ in range(2)
            )
            self.mlp = _mlp(channels, preset.mlp)
            self.norm_middle, self.norm_second = (nn.LayerNorm(channels) for _ in range(2))
            self.upsample_second = _upsampler(channels, preset.upsampler_widths)
        self.word_token = nn.Linear(text_width, channels) if preset.word_token else None

    @classmethod
    def from_reference(cls, state: Mapping[str, Any], preset: DecoderPreset | None = None) -> Self:
        """Build a decoder with the weights of the published repository.

        Args:
            state: its checkpoint, ``{"model": {...}}``, or the inner dictionary.
            preset: sizes and variant.

        Raises:
            WeightsError: names or shapes are not those of the published decoder.
        """
        decoder = cls(preset)
        tensors = {name.removeprefix("module."): value for name, value in state.get("model", state).items()}
        renamed = {_our_name(name): value for name, value in tensors.items()}
        try:
            decoder.load_state_dict(renamed)
        except RuntimeError as error:
            raise WeightsError(
                f"This is not a checkpoint of the published Simple-ViLMedSAM decoder: {error}"
            ) from error
        return decoder.eval()

    def forward(self, sam_features: Tensor, attribution: Tensor, word: Tensor | None = None) -> Tensor:
        """Draw masks.

        Args:
            sam_features: [B, C, g, g].
            attribution: [B, priors, g, g], each map 0..1.
            word: [B, text_width], for the word token.

        Returns:
            Logits [B, 1, 4g, 4g].
        """
        refined = refine_by_affinity(sam_features, attribution)
        prompt = self.position_prompt(torch.cat([attribution, refined], dim=1))
        image = sam_features.flatten(2).transpose(1, 2)
        token = self.word_token(word)[:, None] if self.word_token is not None and word is not None else 0.0
        prompt = prompt + token
        attended = prompt if self.preset.bid == "none" else self.image_to_prompt(image, prompt, prompt)
        first = self.norm_first(attended + image) + token
        shape = sam_features.shape
        drawn: Tensor = self.upsample_first(first.transpose(1, 2).reshape(shape))
        if self.preset.bid == "none":
            return drawn
        second = self._second(first, prompt, image)
        return drawn + self.upsample_second(second.transpose(1, 2).reshape(shape))

    def _second(self, first: Tensor, prompt: Tensor, image: Tensor) -> Tensor:
        """Q2 (methods.md 1.4), by the released code or by the paper's equations.

        Both have the same parameters.
        """
        if self.preset.bid == "code":
            middle = self.norm_middle(first + self.mlp(first))
            return self.norm_second(middle + self.prompt_to_image(middle, image, image))
        middle = self.norm_middle(self.mlp(first + prompt))
        return self.norm_second(self.prompt_to_image(prompt, image, middle + image) + middle)


def _our_name(name: str) -> str:
    for theirs, ours in REFERENCE_NAMES.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name
