"""Fields of JSON that came over the wire, one by one: of the type that was expected, or a ValueError with the
field's name.

Knows JSON; not what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mapping_in(found: Any) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def object_in(found: Any, name: str, *, required: bool = False) -> dict[str, Any]:
    """An inner object; an empty one where there is none or null."""
    value = mapping_in(found).get(name)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        raise ValueError(name)
    return value


def list_in(found: Any, name: str, *, required: bool = False) -> list[Any]:
    """A list; an empty one where there is none or null."""
    value = mapping_in(found).get(name)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise ValueError(name)
    return value


def rows_in(found: Any, name: str, *, required: bool = False) -> list[Mapping[str, Any]]:
    """A list of objects; an empty one where there is none or null."""
    return [mapping_in(row) for row in list_in(found, name, required=required)]


def texts_in(found: Any, name: str) -> tuple[str, ...]:
    """A list of texts; an empty one where there is none or null."""
    values = list_in(found, name)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(name)
    return tuple(values)


def text_in(found: Any, name: str, default: str | None = None) -> str:
    """A text; ``default`` where there is none or null."""
    value = mapping_in(found).get(name)
    value = default if value is None else value
    if not isinstance(value, str):
        raise ValueError(name)
    return value


def choice_in(found: Any, name: str, allowed: tuple[str, ...]) -> str:
    """One of some texts."""
    value = text_in(found, name)
    if value not in allowed:
        raise ValueError(name)
    return value


def int_in(found: Any, name: str, default: int | None = None) -> int:
    """A whole number; ``default`` where there is none or null."""
    value = mapping_in(found).get(name)
    value = default if value is None else value
    if type(value) is not int:
        raise ValueError(name)
    return value


def number_in(found: Any, name: str, default: float) -> float:
    """A number; ``default`` where there is none or null."""
    value = mapping_in(found).get(name)
    number = default if value is None else number_or_none(value)
    if number is None:
        raise ValueError(name)
    return number


def number_or_none(value: Any) -> float | None:
    """A number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's numbers have no bound
        return None


def numbers_in(found: Any) -> dict[str, float]:
    """Names with numbers; nothing where there is another thing."""
    numbers = (
        {name: number_or_none(value) for name, value in found.items()} if isinstance(found, dict) else {}
    )
    return {name: value for name, value in numbers.items() if value is not None}
