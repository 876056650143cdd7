"""CLIP-Guided SAM's network: CLIP, SAM, and the adapters in every block of SAM's image encoder.

Written from methods.md 4.2, 4.3 and 4.8. Knows pixels and embeddings; not slices, words or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.clip_surgery import surgery_tokens
from wordmask.models.clip_guided_sam.adapters import RegularAdapter, SemanticAdapter, enlarge
from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset

RELEASED_SCALE = 0.5  # of both adapters in the released code


@dataclass(frozen=True, eq=False)
class Started:
    """What SAM's encoder makes of N slices before it sees a word; c is the side of CLIP's grid, g of SAM's.

    Attributes:
        hidden: [N, g, g, D], after the first block with a semantic adapter, but without its contribution.
        inside: [N, g, g, A], inside this adapter without similarity and word.
        vision: [N, S - 1, c, c, A], what CLIP's patches add inside the following ones.
    """

    hidden: Tensor
    inside: Tensor
    vision: Tensor


class GuidedNetwork(nn.Module):
    """CLIP, SAM and the adapters.

    Args:
        clip: its vision tower looks at the slices.
        sam: with its prompt encoder and mask decoder.
        preset: of the model.
    """

    def __init__(self, clip: ClipEncoder, sam: Sam, preset: CLIPGuidedSAMPreset) -> None:
        super().__init__()
        self.clip, self.sam, self.surgery = clip, sam, preset.surgery
        self.released = preset.form == "released"
        blocks, inside = sam.image_encoder.blocks, preset.adapters.width
        width = sam.image_encoder.patch_embed.proj.out_channels
        self.regular = nn.ModuleList(RegularAdapter(width, inside) for _ in blocks)
        # Of the last blocks, in their order.
        self.semantic = nn.ModuleList(
            SemanticAdapter(width, inside, clip.embed_dim)
            for _ in range(preset.adapters.semantic_blocks or len(blocks))
        )

    @property
    def first(self) -> int:
        """The first block with a semantic adapter, counted from 0."""
        return len(self.regular) - len(self.semantic)

    def clip_tokens(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """CLIP-Surgery's embeddings of class token and patches, [N, 1 + c * c, E], not normalised.

        Args:
            pixels: [N, 3, S, S], SAM's input.
            valid: bool [S, S], where it shows the slice.
        """
        if not self.released:
            # From SAM's mean and deviation of pixels to CLIP's, which are almost the same; padding is black.
            unit = (pixels * self.sam.pixel_std + self.sam.pixel_mean) / 255 * valid
            pixels = (unit - self.clip.mean) / self.clip.std
        size = self.surgery.image_size
        small = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
        return surgery_tokens(self.clip, small, blocks=self.surgery.blocks)

    def normalise(self, tokens: Tensor) -> Tensor:
        """Unit vectors [N, T, E]: each token, or in the released form each channel along the tokens."""
        return F.normalize(tokens, dim=1 if self.released else -1)

    def text_vector(self, words: Tensor, empty: Tensor | None) -> Tensor:
        """The word's vector without what is common to all texts, [E], of unit length.

        Args:
            words: [synonyms, E], embeddings that are not normalised.
            empty: [texts, E], likewise, of sentences without a word; None: nothing is subtracted.
        """
        # The released code subtracts a unit vector from one that is not.
        word = (words if self.released else F.normalize(words, dim=-1)).mean(0)
        if empty is not None:
            word = word - F.normalize(F.normalize(empty, dim=-1).mean(0), dim=-1)
        return F.normalize(word, dim=-1)

    def encode(self, pixels: Tensor, text: Tensor, fused: Tensor) -> Tensor:
        """SAM's image embeddings, guided by words, without any short cut.

        Args:
            pixels: [P, 3, S, S], SAM's input.
            text: [P, E], of `text_vector`.
            fused: [P, c, c, E], CLIP's patches plus their similarity to the word.

        Returns:
            [P, C, g, g].
        """
        hidden = self._embed(pixels)
        for number in range(self.first):
            hidden, _ = self._block(hidden, number)
        for number, adapter in enumerate(self._semantics(), start=self.first):
            hidden, normed = self._block(hidden, number)
            hidden = hidden + self._scale * adapter.guided(normed, text, fused)
        return self._neck(hidden)

    def start(self, pixels: Tensor, patches: Tensor) -> Started:
        """Compute all that does not depend on the word.

        Args:
            pixels: [N, 3, S, S], SAM's input.
            patches: [N, c, c, E], of CLIP, normalised.
        """
        hidden = self._embed(pixels)
        for number in range(self.first):
            hidden, _ = self._block(hidden, number)
        hidden, normed = self._block(hidden, self.first)
        adapters = self._semantics()
        vision = torch.stack([adapter.vision_part(patches) for adapter in adapters], dim=1)
        inside = adapters[0].down(normed) + enlarge(vision[:, 0], normed.shape[1])
        return Started(hidden, inside, vision[:, 1:])

    def text_parts(self, text: Tensor) -> Tensor:
        """What words add inside every semantic adapter, [K, E] -> [K, S, A]."""
        return torch.stack([adapter.text_part(text) for adapter in self._semantics()], dim=1)

    def finish(self, started: Started, similarity: Tensor, texts: Tensor) -> Tensor:
        """SAM's image embeddings from what was computed before; the same as `encode` but for rounding.

        Args:
            started: of the slices of P pairs.
            similarity: [P, c, c], of CLIP's patches and the words.
            texts: [P, S, A], of `text_parts`.

        Returns:
            [P, C, g, g].
        """
        side, hidden = started.hidden.shape[1], started.hidden
        for place, adapter in enumerate(self._semantics()):
            seen = adapter.similarity_part(similarity)
            if place == 0:
                inside = started.inside
            else:
                hidden, normed = self._block(hidden, self.first + place)
                inside, seen = adapter.down(normed), seen + started.vision[:, place - 1]
            inside = inside + enlarge(seen, side) + texts[:, place, None, None]
            hidden = hidden + self._scale * adapter.finish(inside)
        return self._neck(hidden)

    @property
    def _scale(self) -> float:
        """Of the semantic adapters."""
        return RELEASED_SCALE if self.released else 1.0

    def _semantics(self) -> list[SemanticAdapter]:
        return list(self.semantic)  # type: ignore[arg-type]  # ModuleList forgets what is in it

    def _embed(self, pixels: Tensor) -> Tensor:
        encoder = self.sam.image_encoder
        hidden: Tensor = encoder.patch_embed(pixels) + encoder.pos_embed
        return hidden

    def _block(self, hidden: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """A block without its semantic adapter.

        Args:
            hidden: [N, g, g, D].
            number: of the block, counted from 0.

        Returns:
            The hidden state after the block, and the input of its MLP, which the semantic adapter reads, too.
        """
        block, hidden = self.sam.image_encoder.blocks[number], self._attend(hidden, number)
        normed = block.norm2(hidden)
        return hidden + block.mlp(normed), normed

    def _attend(self, hidden: Tensor, number: int) -> Tensor:
        """The first half of a block: attention and the regular adapter, [N, g, g, D] -> the same."""
        block, adapter = self.sam.image_encoder.blocks[number], self.regular[number]
        if self.released:
            # Windows are padded before the normalisation, so padding is its bias instead of zeros.
            mixed = _in_windows(hidden, block.window_size, lambda tokens: block.attn(block.norm1(tokens)))
            return hidden + (1 + RELEASED_SCALE) * mixed + RELEASED_SCALE * adapter(mixed)
        normed = block.norm1(hidden)
        return hidden + _in_windows(normed, block.window_size, block.attn) + adapter(normed)

    def _neck(self, hidden: Tensor) -> Tensor:
        embedding: Tensor = self.sam.image_encoder.neck(hidden.permute(0, 3, 1, 2))
        return embedding


def _in_windows(tokens: Tensor, size: int, attend: Any) -> Tensor:
    """Apply ``attend`` to windows of tokens [N, g, g, D]; with size 0 to all tokens at once."""
    if size == 0:
        attended: Tensor = attend(tokens)
        return attended
    windows, padded = window_partition(tokens, size)
    joined: Tensor = window_unpartition(attend(windows), size, padded, tuple(tokens.shape[1:3]))
    return joined
