"""What the person who starts the server may choose with ``wordmask serve --conf NAME=VALUE``.

Knows the names of models and words; not torch, not HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from wordmask.errors import RequestError
from wordmask.resources import suggest
from wordmask.words.prompts import Prompt, parse_prompts

MOST_DEFAULT_WORDS = 8  # MONAI Label's plugin makes an empty segment for each of them in every case

_TEXTS = {
    "models": "",
    "preset": "tiny",
    "words": "liver, spleen",
    "device": "auto",
    "cache_dir": "",
}
_NUMBERS = {  # name -> (default, least, most, unit)
    "cache_mb": (1024, 0, 10**7, "megabytes"),
    "cache_disk_mb": (10240, 1, 10**8, "megabytes"),
    "queue": (16, 1, 1000, "jobs"),
    "job_minutes": (30, 1, 10**4, "minutes"),
    "keep_minutes": (30, 1, 10**4, "minutes"),
    "claim_minutes": (240, 0, 10**5, "minutes"),
    "results_mb": (1024, 1, 10**7, "megabytes"),
    "upload_mb": (1024, 1, 10**7, "megabytes"),
    "megavoxels": (1000, 1, 10**5, "million voxels"),
}


@dataclass(frozen=True)
class AppSettings:
    """The server's configuration, checked.

    Attributes:
        models: names of infer tasks, in the order given; none: the usual ones that have the preset.
        preset: the same for all models.
        device: ``auto``, ``cpu`` or ``cuda:0``.
        default_words: what a request without ``words`` asks for.
        cache_dir: folder that also keeps image features; None: memory only.
        cache_mb: megabytes that the kept features may take in memory, per model.
        cache_disk_mb: megabytes that they may take in ``cache_dir``.
        queue: jobs that may wait.
        job_minutes: after which a running job is stopped.
        keep_minutes: how long results are kept for clients to fetch.
        claim_minutes: how long a case that was offered to a person is not offered to others.
        results_mb: megabytes of results that are kept.
        upload_mb: largest request, and half of what uploads that wait may take.
        megavoxels: largest volume, in millions of voxels.
    """

    models: tuple[str, ...]
    preset: str
    device: str
    default_words: tuple[Prompt, ...]
    cache_dir: Path | None
    cache_mb: int
    cache_disk_mb: int
    queue: int
    job_minutes: int
    keep_minutes: int
    claim_minutes: int
    results_mb: int
    upload_mb: int
    megavoxels: int

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> AppSettings:
        """Read the settings that MONAI Label hands over.

        Raises:
            RequestError: a setting cannot be used; the message names it.
            PromptError: the default words cannot be used.
        """
        _refuse_unknown(conf)
        text = {name: str(conf.get(name, default)) for name, default in _TEXTS.items()}
        models = tuple(dict.fromkeys(re.findall(r"[^\s,;]+", text["models"])))
        if "models" in conf and not models:
            raise RequestError("--conf models names no model; for example: --conf models=simple_vilmedsam.")
        words = tuple(parse_prompts(text["words"]))
        if len(words) > MOST_DEFAULT_WORDS:
            raise RequestError(
                f"--conf words has {len(words)} words, at most "
                f"{MOST_DEFAULT_WORDS} are allowed; requests may ask for others."
            )
        return cls(
            models=models,
            preset=text["preset"],
            device=text["device"],
            default_words=words,
            cache_dir=Path(text["cache_dir"]).expanduser() if text["cache_dir"] else None,
            **{name: _whole_number(name, conf) for name in _NUMBERS},
        )


def _refuse_unknown(conf: Mapping[str, str]) -> None:
    known = [*_TEXTS, *_NUMBERS]
    for name in conf:
        if name not in known:
            wrong = f"--conf {shorten(name, 40)} is not a setting of WordMask."
            raise RequestError(f"{wrong}{suggest(name, known)} Settings: {', '.join(known)}.")


def _whole_number(name: str, conf: Mapping[str, str]) -> int:
    default, least, most, unit = _NUMBERS[name]
    given = str(conf.get(name, default))
    if not re.fullmatch(r"[0-9]{1,9}", given) or not least <= int(given) <= most:
        raise RequestError(
            f"--conf {name} is a whole number of {unit} from {least} to {most}, not {given[:40]!r}."
        )
    return int(given)
