"""Fixtures that several unit tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wordmask.learning.finetuning import replay


@pytest.fixture(scope="module")
def few_phantoms() -> Iterator[None]:
    """Eight slices and a picture of each kind.

    The usual number takes most of the time of a small training.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "CT_SLICES", 8)
        patch.setattr(replay, "PICTURES", 1)
        yield
