"""The tokenizer of preset tiny: CLIP's own, with only the rows that the vocabulary needs.

All 49408 rows would be most of the preset's size. The few that are used are renumbered, and a token without a
row is "unknown", so that untrained words can be refused. Knows byte-pair ids; not the vocabulary, images or
weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

# Rows before those of the ids; after them come start of text and end of text.
PADDING, UNKNOWN, FIRST = 0, 1, 2


class TinyTokenizer:
    """Converts texts to rows of a table.

    The rows are padding, unknown, one per id in ascending order, start of text, and end of text. End of text
    is the largest row because open_clip takes the text's feature where the row is largest.

    Args:
        token_ids: byte-pair ids of CLIP's tokenizer that have a row, each once, in ascending order.
        context_length: rows per text, start and end included.

    Raises:
        ValueError: the ids do not ascend, or a text would have less than 3 rows.
    """

    def __init__(self, token_ids: Sequence[int], context_length: int) -> None:
        ids = list(token_ids)
        special = _byte_pairs().sot_token_id
        if (
            not ids
            or any(low >= high for low, high in zip(ids, [*ids[1:], special], strict=True))
            or ids[0] < 0
        ):
            raise ValueError(
                f"Token ids must ascend within 0..{special - 1}, each once; these {len(ids)} do not."
            )
        if context_length < 3:
            raise ValueError(f"A text needs at least 3 places (start, one token, end), got {context_length}.")
        self.token_ids, self.context_length = tuple(ids), context_length
        self._rows = {token: row for row, token in enumerate(ids, start=FIRST)}
        self._start, self._end = FIRST + len(ids), FIRST + len(ids) + 1

    @classmethod
    def for_texts(cls, texts: Iterable[str], context_length: int) -> TinyTokenizer:
        """The smallest table that knows every one of ``texts``."""
        return cls(sorted(token_ids_of(texts)), context_length)

    @property
    def rows(self) -> int:
        """Number of rows of the table, which the text tower's embedding must have, too."""
        return self._end + 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rows of the texts, [len(texts), context_length], int64.

        A text that is too long loses its last tokens, but never its end of text.
        """
        table = torch.full((len(texts), self.context_length), PADDING, dtype=torch.long)
        for line, text in zip(table, texts, strict=True):
            rows = [self._rows.get(token, UNKNOWN) for token in _byte_pairs().encode(text)][
                : self.context_length - 2
            ]
            line[: len(rows) + 2] = torch.tensor([self._start, *rows, self._end])
        return table

    def knows(self, text: str) -> bool:
        """Whether ``text`` has tokens, each of them has a row, and none is cut off.

        That does not mean that the weights were trained on it.
        """
        tokens = _byte_pairs().encode(text)
        return 0 < len(tokens) <= self.context_length - 2 and all(token in self._rows for token in tokens)


@cache
def _byte_pairs() -> Any:
    return SimpleTokenizer()


def token_ids_of(texts: Iterable[str]) -> set[int]:
    """The byte-pair ids of all tokens in ``texts``."""
    return {token for text in texts for token in _byte_pairs().encode(text)}


def table_for(table: Tensor, old_ids: Sequence[int], new_ids: Sequence[int]) -> Tensor:
    """Extend a table of embeddings to more token ids.

    A new id gets a random row from a seed of its own, so it always starts from the same row, whatever other
    ids are new.

    Args:
        table: [rows, D], for ``old_ids``.
        old_ids: ids that have a row.
        new_ids: ids that are to have a row, with all the old ones.

    Returns:
        [more rows, D], for ``new_ids``.
    """
    if tuple(old_ids) == tuple(new_ids):
        return table
    rows = {token: table[row] for row, token in enumerate(old_ids, start=FIRST)}
    spread = float(table[FIRST : FIRST + len(old_ids)].std())
    made = [
        rows[token]
        if token in rows
        else torch.randn(table.shape[1], generator=torch.Generator().manual_seed(token)) * spread
        for token in new_ids
    ]
    return torch.stack([table[PADDING], table[UNKNOWN], *made, *table[-2:]])
