"""One training of our model as an experiment needs it: published whatever comes out, and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from wordmask.learning.cases import Case
from wordmask.learning.recipes import AnyRecipe
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter
from wordmask.weights.versions import ModelStore

MODEL, PRESET = "simple_vilmedsam", "tiny"


def publish(
    cases: Sequence[Case],
    recipe: AnyRecipe,
    store: ModelStore,
    *,
    start: int | None = 0,
    model: str = MODEL,
) -> tuple[Path, float]:
    """Train and publish.

    Args:
        cases: to learn from.
        recipe: how.
        store: where to publish.
        start: version to start from, 0 for the weights that ship; None: the version in use.
        model: which learns.

    Returns:
        The folder of the version, and the processor seconds of the whole training.
    """
    request = TrainingRequest(
        model=model, preset=PRESET, recipe=recipe, device="cpu", start=start, force=True
    )
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = find_training(model, recipe.name).run(cases, request, store, run_folder=Path(folder))
    assert report.version is not None  # it was forced
    return store.folder(report.version), time.process_time() - began


def load(version: Path | None = None, model: str = MODEL) -> Segmenter:
    """A version, or the weights that ship."""
    return load_segmenter(model, preset=PRESET, device="cpu", weights=version)
