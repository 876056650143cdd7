"""How a published version keeps what a model was taught.

Its weights and card are the committee's. The weights that the model had before it was taught anything lie in
the folder ``base`` beside them; without it, they are the preset's own. Knows folders and checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from wordmask.errors import WeightsError
from wordmask.models.base import Segmenter
from wordmask.models.taught.committee import Committee
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.weights.checkpoint import load_checkpoint, read_card

BASE_FOLDER = "base"
VECTORS = "vectors"  # name of the words' vectors among the tensors


def base_of(version: Path | None) -> Path | None:
    """The folder of the model's weights beneath a version; None: the preset's own.

    Args:
        version: folder of a version; None: the preset's own weights.

    Raises:
        WeightsError: the version has no card.
    """
    if version is None or read_card(version).committee is None:
        return version
    base = version / BASE_FOLDER
    return base if base.is_dir() else None


def load_taught(
    version: Path | None,
    load: Callable[[Path | None], Segmenter],
    load_to_teach: Callable[[Path | None], Segmenter],
) -> Segmenter:
    """Load a model, and the committee around it where the version has one.

    Args:
        version: folder of a version; None: the preset's own weights.
        load: loads the model with the weights of a folder.
        load_to_teach: likewise, for a model that only answers for what it is taught.

    Raises:
        WeightsError: weights are missing or damaged.
    """
    if version is None or read_card(version).committee is None:
        return load(version)
    return TaughtSegmenter(load_to_teach(base_of(version)), load_committee(version))


def load_committee(version: Path) -> Committee:
    """Load the committee of a version.

    Raises:
        WeightsError: weights are missing or damaged.
    """
    checkpoint = load_checkpoint(version)
    form, tensors = checkpoint.card.committee, checkpoint.tensors
    if form is None or VECTORS not in tensors or len(tensors[VECTORS]) != len(form.words):
        raise WeightsError(
            f"The weights {version.name!r} are damaged (their card and their words do not fit); "
            "go back to another version."
        )
    committee = Committee(form, tensors[VECTORS].float())
    checkpoint.apply(committee)
    return committee.float()


def committee_tensors(committee: Committee) -> dict[str, Tensor]:
    """What a version's file keeps, in half the precision."""
    return {name: tensor.half() for name, tensor in committee.state_dict().items()}
