"""Fields of JSON that a server sent: of the expected type, or a ValueError with the field's name.

Knows JSON; not what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mapping_in(found: Any) -> Mapping[str, Any]:
    """Return ``found`` if it is an object."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def object_in(found: Any, name: str, *, required: bool = False) -> dict[str, Any]:
    """Return an inner object; an empty one if it is missing or null."""
    value = mapping_in(found).get(name)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        raise ValueError(name)
    return value


def list_in(found: Any, name: str, *, required: bool = False) -> list[Any]:
    """Return a list; an empty one if it is missing or null."""
    value = mapping_in(found).get(name)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise ValueError(name)
    return value


def rows_in(found: Any, name: str, *, required: bool = False) -> list[Mapping[str, Any]]:
    """Return a list of objects; an empty one if it is missing or null."""
    return [mapping_in(row) for row in list_in(found, name, required=required)]


def texts_in(found: Any, name: str) -> tuple[str, ...]:
    """Return a list of texts; an empty one if it is missing or null."""
    values = list_in(found, name)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(name)
    return tuple(values)


def indices_in(found: Any, name: str) -> tuple[int, ...]:
    """Return a list of numbers from 0; an empty one if it is missing or null."""
    values = list_in(found, name)
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(name)
    return tuple(values)


def text_in(found: Any, name: str, default: str | None = None) -> str:
    """Return a text; ``default`` if it is missing or null."""
    value = mapping_in(found).get(name)
    value = default if value is None else value
    if not isinstance(value, str):
        raise ValueError(name)
    return value


def choice_in(found: Any, name: str, allowed: tuple[str, ...]) -> str:
    """Return a text that must be one of ``allowed``."""
    value = text_in(found, name)
    if value not in allowed:
        raise ValueError(name)
    return value


def int_in(found: Any, name: str, default: int | None = None) -> int:
    """Return a whole number; ``default`` if it is missing or null."""
    value = mapping_in(found).get(name)
    value = default if value is None else value
    if type(value) is not int:
        raise ValueError(name)
    return value


def number_in(found: Any, name: str, default: float) -> float:
    """Return a number; ``default`` if it is missing or null."""
    value = mapping_in(found).get(name)
    number = default if value is None else number_or_none(value)
    if number is None:
        raise ValueError(name)
    return number


def number_or_none(value: Any) -> float | None:
    """Return a number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's numbers have no bound
        return None


def numbers_in(found: Any) -> dict[str, float]:
    """Return those entries of an object that are numbers; an empty one for anything else."""
    numbers = (
        {name: number_or_none(value) for name, value in found.items()} if isinstance(found, dict) else {}
    )
    return {name: value for name, value in numbers.items() if value is not None}
