"""CLIP, divided after any block: pixels to hidden states, hidden states to image embeddings, texts to theirs.

Everything is differentiable and trainable; `load_clip` freezes the encoder that it returns. Knows open_clip's
models, with its own vision transformer or one from timm, and the tiny one; not where public weights come from
(clip_sources.py), slices, volumes, or the bottleneck between ``head`` and ``tail``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional

from wordmask.encoders.clip_sources import (
    OPENAI_MEAN,
    OPENAI_STD,
    load_catalogued,
    load_local_directory,
    load_named_hub,
    load_openai,
)
from wordmask.encoders.configs import ClipConfig, TinyClipArchitecture
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.text_trunks import TextTrunk, text_trunk
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.encoders.vision_trunks import square, vision_trunk
from wordmask.errors import WeightsError


class Tokenizer(Protocol):
    """Converts texts to token ids."""

    def __call__(self, texts: list[str], /) -> Tensor:
        """Token ids [K, context], int64; long texts are cut, short ones padded."""
        ...


class ClipEncoder(nn.Module):
    """An open_clip model that can be stopped after a block and restarted there.

    Args:
        model: of open_clip.
        tokenizer: of this model.
        mean: of red, green and blue in 0..1.
        std: likewise, the standard deviation.

    Attributes:
        image_size: S, side of its pictures in pixels.
        grid: g, patches along one side.
        width: D, channels of a token.
        embed_dim: E, length of an embedding.
        depth: number of blocks.
        mean: [3, 1, 1], of pixels in 0..1.
        std: likewise.

    Raises:
        WeightsError: the vision tower is not a plain transformer with one class token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        visual: Any = model.visual
        self._trunk = vision_trunk(visual)
        self.grid, self.width, self.depth = self._trunk.grid, self._trunk.width, len(self._trunk.blocks)
        self.image_size = square(visual.image_size)
        with torch.no_grad():
            self.embed_dim: int = self._trunk.project(torch.zeros(1, 1, self.width)).shape[-1]
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(
                name, torch.tensor(value, dtype=torch.float32).reshape(3, 1, 1), persistent=False
            )

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the factor of cosines, a scalar."""
        scale: Tensor = self.model.get_parameter("logit_scale")
        return scale

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise pixels [N, 3, S, S] in 0..1 by the mean and deviation of the model's training."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"Pictures must be [N, 3, {self.image_size}, {self.image_size}], got {tuple(pixels.shape)}."
            )
        return (pixels - self.mean) / self.std

    def head(self, pixels: Tensor, layer: int) -> Tensor:
        """Compute the first blocks of the vision tower.

        Args:
            pixels: [N, 3, S, S], normalised.
            layer: the last block to compute, counted from 0.

        Returns:
            Hidden states [N, 1 + g * g, D] after block ``layer``.
        """
        self._check_layer(layer)
        hidden = self._trunk.embed(pixels)
        for block in self._trunk.blocks[: layer + 1]:
            hidden = block(hidden)
        return hidden

    def tail(self, hidden: Tensor, layer: int) -> Tensor:
        """Compute the remaining blocks of the vision tower.

        The last block computes the class token alone: the result is the same, and a late bottleneck becomes
        cheap.

        Args:
            hidden: [N, 1 + g * g, D], after block ``layer``.
            layer: counted from 0.

        Returns:
            Image embeddings [N, E], not normalised.
        """
        self._check_layer(layer)
        for block in self._trunk.blocks[layer + 1 : -1]:
            hidden = block(hidden)
        if layer < self.depth - 1:
            hidden = self._trunk.class_only(self._trunk.blocks[-1], hidden)
        return self._trunk.project(hidden[:, :1])[:, 0]

    def tail_tokens(self, hidden: Tensor, layer: int) -> Tensor:
        """Compute the remaining blocks of the vision tower for every token.

        Args:
            hidden: [N, 1 + g * g, D], after block ``layer``.
            layer: counted from 0.

        Returns:
            [N, 1 + g * g, E]: row 0 is the image embedding, the others describe the patches.
        """
        self._check_layer(layer)
        for block in self._trunk.blocks[layer + 1 :]:
            hidden = block(hidden)
        return self._trunk.project(hidden)

    def block(self, hidden: Tensor, number: int) -> Tensor:
        """Compute one block of the vision tower, counted from 0: [N, 1 + g * g, D] -> the same."""
        self._check_layer(number)
        computed: Tensor = self._trunk.blocks[number](hidden)
        return computed

    def project(self, hidden: Tensor) -> Tensor:
        """Embeddings of the class token and of the patches, [N, 1 + g * g, E], after the last block."""
        return self._trunk.project(hidden)

    @cached_property
    def text(self) -> TextTrunk:
        """The text tower, block by block; WeightsError: it is of an unknown kind."""
        return text_trunk(self.model)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, [len(texts), E], each row of length 1.

        In evaluation mode texts are encoded one at a time, so that no bit of a word's embedding depends on
        the other words; in training mode as one batch.
        """
        if not texts:
            return self.logit_scale.new_zeros(0, self.embed_dim)
        groups = [list(texts)] if self.training else [[text] for text in texts]
        tokens = [self.tokenizer(group).to(self.logit_scale.device) for group in groups]
        return torch.cat([functional.normalize(self.embed_tokens(ids), dim=-1) for ids in tokens])

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids [K, context] that are not normalised, [K, E]."""
        model: Any = self.model
        if hasattr(model, "text") and hasattr(model.text, "pooler"):
            # A BERT masks its padding: without the columns where all texts have ended (of 256) it is faster,
            # and the result is the same.
            used = (tokens != model.text.config.pad_token_id).any(0).nonzero()
            tokens = tokens[:, : int(used.max()) + 1]
        embeddings: Tensor = model.encode_text(tokens)
        return embeddings

    def knows(self, text: str) -> bool:
        """Whether every token of ``text`` has a row of its own.

        Always true for public weights, whose tables are complete; tiny has only some rows.
        """
        return not isinstance(self.tokenizer, TinyTokenizer) or self.tokenizer.knows(text)

    def fingerprint(self) -> str:
        """A digest that changes with any weight and any setting that changes an embedding.

        Such settings are heads, activation, the pixels' mean, and tiny's token ids.
        """
        facts = self._picture_facts()
        if isinstance(self.tokenizer, TinyTokenizer):
            facts.append(self.tokenizer.token_ids)
        return fingerprint(self.model, architecture=json.dumps(facts))

    def vision_fingerprint(self) -> str:
        """A digest of all that the embedding of a picture depends on, but not of the text tower."""
        visual: nn.Module = self.model.get_submodule("visual")
        return fingerprint(visual, architecture=json.dumps(self._picture_facts()))

    def _picture_facts(self) -> list[Any]:
        return [self._trunk.facts, self.image_size, self.mean.flatten().tolist(), self.std.flatten().tolist()]

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.depth:
            raise ValueError(f"This encoder has blocks 0 to {self.depth - 1}, got {layer}.")


def build_tiny_clip(architecture: TinyClipArchitecture, token_ids: Sequence[int]) -> ClipEncoder:
    """Build a tiny CLIP with random weights (torch's current seed), in training mode, not frozen.

    Args:
        architecture: its sizes.
        token_ids: ids that have a row in the text table; see `TinyTokenizer`.
    """
    tokenizer = TinyTokenizer(token_ids, architecture.context_length)
    vision = CLIPVisionCfg(
        image_size=architecture.image_size,
        patch_size=architecture.patch_size,
        width=architecture.width,
        layers=architecture.layers,
        head_width=architecture.head_width,
        no_ln_pre=architecture.no_ln_pre,
    )
    text = CLIPTextCfg(
        context_length=architecture.context_length,
        vocab_size=tokenizer.rows,
        width=architecture.text_width,
        layers=architecture.text_layers,
        heads=architecture.text_heads,
    )
    return ClipEncoder(CLIP(architecture.embed_dim, vision, text), tokenizer)


def load_clip(config: ClipConfig, *, token_ids: Iterable[int] = ()) -> ClipEncoder:
    """Load the encoder that ``config`` names: float32, evaluation mode, frozen, on the CPU.

    Tiny has random weights; load its state dict afterwards.

    Args:
        config: which CLIP.
        token_ids: of tiny only, as the card of its weights lists them.

    Raises:
        WeightsError: weights are missing, damaged or of another architecture.
    """
    kind, _, name = config.source.partition(":")
    if kind == "tiny":
        ids = tuple(token_ids)
        if not ids:
            raise WeightsError(
                "Preset tiny needs token ids, but the card of its weights does not list any; install the "
                "weights again."
            )
        encoder = build_tiny_clip(config.architecture or TinyClipArchitecture(), ids)
    else:
        if kind == "weights":
            parts = load_catalogued(name)
        elif kind == "openai":
            parts = load_openai(name, config.checkpoint)
        elif kind == "hf-hub":
            parts = load_named_hub(name)
        else:
            parts = load_local_directory(name)
        encoder = ClipEncoder(parts.model, parts.tokenizer, mean=parts.mean, std=parts.std)
    return encoder.float().eval().requires_grad_(False)
