"""What the person who starts the server may choose with ``--conf NAME VALUE``.

Knows the names of models and words; not torch, not HTTP.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from wordmask.errors import RequestError
from wordmask.prompts import Prompt, parse_prompts

logger = logging.getLogger(__name__)

MOST_DEFAULT_WORDS = 8  # MONAI Label's plugin makes an empty segment for each of them in every case

_DEFAULTS = {"models": "simple_vilmedsam", "preset": "tiny", "words": "liver, spleen", "device": "auto", "cache_mb": "1024"}


@dataclass(frozen=True)
class AppSettings:
    """The server's configuration, checked.

    models: names of infer tasks, in the order given; preset: the same for all; device: ``auto``, ``cpu``, ``cuda:0``;
    default_words: what a request without ``prompt`` asks for; cache_mb: megabytes that the kept features may take per model.
    """

    models: tuple[str, ...]
    preset: str
    device: str
    default_words: tuple[Prompt, ...]
    cache_mb: int

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> AppSettings:
        """conf: as MONAI Label hands it over. RequestError, PromptError: a sentence about the setting that is wrong."""
        for name in conf:
            if close := get_close_matches(name, _DEFAULTS, n=1, cutoff=0.75) if name not in _DEFAULTS else []:
                logger.warning("--conf %s is not a setting of WordMask and is not used; did you mean %s?", name, close[0])
        chosen = {name: str(conf.get(name, default)) for name, default in _DEFAULTS.items()}
        models = tuple(dict.fromkeys(re.findall(r"[^\s,;]+", chosen["models"])))
        if not models:
            raise RequestError("--conf models names no model; for example: --conf models simple_vilmedsam.")
        words = tuple(parse_prompts(chosen["words"]))
        if len(words) > MOST_DEFAULT_WORDS:
            raise RequestError(
                f"--conf words has {len(words)} words, at most {MOST_DEFAULT_WORDS} are allowed; requests may ask for others."
            )
        if not re.fullmatch(r"[0-9]{1,7}", chosen["cache_mb"]):
            raise RequestError(f"--conf cache_mb is a whole number of megabytes, not {chosen['cache_mb']!r}.")
        return cls(models, chosen["preset"], chosen["device"], words, int(chosen["cache_mb"]))
