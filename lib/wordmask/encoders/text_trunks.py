"""The text towers of CLIPs, block by block: open_clip's own transformer, and a BERT.

Knows their classes; not how texts become tokens, or files of weights.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wordmask.errors import WeightsError


class TextTrunk(Protocol):
    """One kind of text transformer, block by block, on [N, T, D].

    Attributes:
        depth: number of blocks.
        width: D.
    """

    depth: int
    width: int

    def real(self, tokens: Tensor) -> Tensor:
        """Which tokens [N, T] belong to the texts and are not padding, bool [N, T]."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """The input of the first block, [N, T, D], of tokens [N, T]."""
        ...

    def block(self, hidden: Tensor, number: int, tokens: Tensor) -> Tensor:
        """One block, counted from 0, on hidden states [N, T, D] of tokens [N, T]."""
        ...

    def project(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """The embeddings of the texts [N, E], not normalised, after the last block."""
        ...


class OpenClipText:
    """open_clip's own causal transformer, whose last token stands for the text (tiny, OpenAI)."""

    def __init__(self, model: Any) -> None:
        if model.text_pool_type != "argmax":
            raise WeightsError("This CLIP's text tower is not a plain one; use ViT-B/16 of OpenAI.")
        self.model = model
        self.depth, self.width = len(model.transformer.resblocks), model.token_embedding.embedding_dim

    def real(self, tokens: Tensor) -> Tensor:
        """Up to the end of text, which has the highest number."""
        last = tokens.argmax(1)
        return torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]

    def embed(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.model.token_embedding(tokens)
        return hidden + self.model.positional_embedding[: tokens.shape[1]]

    def block(self, hidden: Tensor, number: int, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = self.model.attn_mask[:length, :length]
        computed: Tensor = self.model.transformer.resblocks[number](hidden, attn_mask=mask)
        return computed

    def project(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        chosen = hidden[torch.arange(len(hidden), device=hidden.device), tokens.argmax(1)]
        projection = self.model.text_projection
        normed: Tensor = self.model.ln_final(chosen)
        return projection(normed) if isinstance(projection, nn.Linear) else normed @ projection


class BertText:
    """A BERT inside open_clip's HFTextEncoder, whose first token stands for the text."""

    def __init__(self, text: Any) -> None:
        self.text, self.layers = text, text.transformer.encoder.layer
        self.depth, self.width = len(self.layers), text.transformer.config.hidden_size

    def real(self, tokens: Tensor) -> Tensor:
        """All but the padding."""
        kept: Tensor = tokens != self.text.config.pad_token_id
        return kept

    def embed(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.text.transformer.embeddings(input_ids=tokens)
        return hidden

    def block(self, hidden: Tensor, number: int, tokens: Tensor) -> Tensor:
        closed = ~self.real(tokens)[:, None, None, :]
        mask = torch.zeros(closed.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(closed, torch.finfo(hidden.dtype).min)
        computed = self.layers[number](hidden, attention_mask=mask)
        # Some releases of transformers return a tuple, others the hidden states alone.
        found: Tensor = computed[0] if isinstance(computed, tuple) else computed
        return found

    def project(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        found: Tensor = self.text.proj(hidden[:, 0])
        return found


def text_trunk(model: Any) -> TextTrunk:
    """The blocks of a CLIP's text tower.

    Args:
        model: of open_clip.

    Raises:
        WeightsError: it is neither open_clip's own nor a BERT.
    """
    text = getattr(model, "text", None)
    if text is None:
        return OpenClipText(model)
    if hasattr(text, "transformer") and hasattr(text.transformer, "encoder"):
        return BertText(text)
    raise WeightsError(
        f"This CLIP's text tower is a {type(text).__name__}; use one with a BERT or OpenAI's transformer."
    )
