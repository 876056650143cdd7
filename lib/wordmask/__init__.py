"""WordMask: type a word, get a mask.

Importing the package is quick: what needs torch is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wordmask.data.volumes import read_volume
    from wordmask.errors import WordMaskError
    from wordmask.inference.pipeline import VolumeSegmenter
    from wordmask.inference.result import Segmentation, write_labels
    from wordmask.models.loading import load_segmenter
    from wordmask.words.prompts import parse_prompts

_HOMES = {
    "Segmentation": "wordmask.inference.result",
    "VolumeSegmenter": "wordmask.inference.pipeline",
    "WordMaskError": "wordmask.errors",
    "load_segmenter": "wordmask.models.loading",
    "parse_prompts": "wordmask.words.prompts",
    "read_volume": "wordmask.data.volumes",
    "write_labels": "wordmask.inference.result",
}

__all__ = [
    "Segmentation",
    "VolumeSegmenter",
    "WordMaskError",
    "__version__",
    "load_segmenter",
    "parse_prompts",
    "read_volume",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wordmask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
