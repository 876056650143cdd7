"""Which public pretrained weights there are, and where they are published (configs/weights.yaml).

Knows names, addresses, sizes and digests; not whether a file is on this machine (verified_files.py).
"""

from __future__ import annotations

from functools import cache
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, model_validator

from wordmask.errors import WeightsError
from wordmask.resources import read_config, suggest


class WeightFile(BaseModel):
    """One file, as it is published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    name: str = Field(
        default="", pattern=r"^[\w.-]*$", description="in the cache; left out: the last part of the address"
    )
    size: PositiveInt | None = Field(default=None, description="bytes")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="None: a person accepts what came"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_from_url(cls, values: dict[str, object]) -> dict[str, object]:
        return {"name": str(values.get("url", "")).rpartition("/")[2], **values}


class WeightEntry(BaseModel):
    """One entry of the catalogue: one file, or a folder of files that belong together.

    Attributes:
        title: for people.
        licence: of the weights.
        restriction: what the licence does not allow, as the end of "these weights ..."; empty: nothing that
            a hospital needs.
        source: the publisher's page.
        kind: whether models read one file or a folder.
        files: as published.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    licence: str
    restriction: str = ""
    source: str = Field(description="the publisher's page, for people")
    kind: Literal["file", "folder"]
    files: tuple[WeightFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_file_is_one(self) -> Self:
        if self.kind == "file" and len(self.files) != 1:
            raise ValueError("an entry of kind file has exactly one file")
        return self

    @property
    def size(self) -> int | None:
        """Bytes in all, when every file's size is known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size)


@cache
def catalogue() -> dict[str, WeightEntry]:
    """Name -> entry, as in configs/weights.yaml, in that order."""
    text = read_config("weights.yaml")
    return TypeAdapter(dict[str, WeightEntry]).validate_python(yaml.safe_load(text))


def find_entry(name: str) -> WeightEntry:
    """The entry of that name; WeightsError names the nearest right one."""
    entries = catalogue()
    if name not in entries:
        raise WeightsError(
            f"There are no weights named {name!r}.{suggest(name, entries)} Names: {', '.join(entries)}."
        )
    return entries[name]
