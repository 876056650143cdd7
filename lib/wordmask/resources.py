"""The files that ship with WordMask, and the names that a user may choose among.

Knows where configurations lie; not what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable

from wordmask.errors import WordMaskError

LONGEST_SHOWN = 60  # characters of a wrong name that are repeated to the user


def configs(*parts: str) -> Traversable:
    """A file or folder of the configurations, for example ``configs("models", "medclip_samv2")``."""
    found = files("wordmask.configs")
    for part in parts:
        found = found / part
    return found


def read_config(*parts: str) -> str:
    """The text of a configuration file."""
    return configs(*parts).read_text(encoding="utf-8")


def config_names(*parts: str) -> list[str]:
    """Names of the YAML files of a configuration folder; see `yaml_names`."""
    return yaml_names(configs(*parts))


def yaml_names(folder: Traversable) -> list[str]:
    """Names of the YAML files of a folder, without their ending, in alphabetical order.

    Empty when there is no such folder.
    """
    if not folder.is_dir():
        return []
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def suggest(name: object, known: Iterable[str]) -> str:
    """`` Did you mean 'liver'?`` with a space before it; empty when there is no similar name."""
    close = get_close_matches(str(name), list(map(str, known)), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def look_up(name: str, known: Iterable[str], kind: str, error: type[WordMaskError]) -> str:
    """The name itself when it is known.

    Args:
        name: what the user gave.
        known: the names that there are, in the order in which to list them.
        kind: what is named, in the singular, such as ``window``.
        error: raised when the name is not known.

    Raises:
        error: ``There is no window 'bonne'. Did you mean 'bone'? Windows: bone, lung.``
    """
    names = list(map(str, known))
    if name in names:
        return name
    shown = str(name)[:LONGEST_SHOWN]
    raise error(f"There is no {kind} {shown!r}.{suggest(shown, names)} {_plural(kind)}: {', '.join(names)}.")


def _plural(kind: str) -> str:
    return kind.capitalize().removesuffix("y") + "ies" if kind.endswith("y") else f"{kind.capitalize()}s"
