"""A volume with organs, for the tests of whole requests."""

from __future__ import annotations

import pytest
from tests.support.small_volumes import organs

from wordmask.data.volumes import Volume


@pytest.fixture(scope="module")
def a_volume_with_organs() -> Volume:
    """Liver, spleen and kidney in a small CT."""
    return organs()
