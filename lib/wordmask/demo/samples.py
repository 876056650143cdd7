"""The sample studies that ship with the repository, and what is truly in them.

Knows sample_data/index.json. Truth is a label map; a word stands for one or several of its values, because
words overlap: "kidney" is both kidneys, "liver" includes its tumour.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordmask.data.label_maps import read_label_map
from wordmask.errors import RequestError, VolumeError

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class SampleCase:
    """One image.

    Attributes:
        words: word -> its values in the truth.
        absent: words whose structure is not in the image.
    """

    image: Path
    truth: Path
    modality: str
    words: dict[str, tuple[int, ...]]
    absent: tuple[str, ...]

    @property
    def name(self) -> str:
        """The id of the image in a datastore: its file name without the ending."""
        return self.image.name.split(".")[0]

    def true_labels(self) -> NDArray[np.integer]:
        """Labels of the truth, [k, j, i]; those of a picture as [1, h, w]."""
        return read_label_map(self.truth).array

    def groups(self) -> list[list[str]]:
        """The words in as few groups as their order allows, none of which holds two words that share a voxel.

        A label map gives a voxel to one word: asked together, "kidney" and "left kidney" would take voxels
        from each other.
        """
        groups: list[list[str]] = []
        for word, values in self.words.items():
            free = (
                group for group in groups if not any(set(values) & set(self.words[other]) for other in group)
            )
            if (group := next(free, None)) is None:
                groups.append([word])
            else:
                group.append(word)
        return groups


def source_folder(name: str) -> Path:
    """A folder of the source tree, which an installed wheel lacks.

    Raises:
        RequestError: there is no source tree.
    """
    if not (REPOSITORY / "sample_data" / "index.json").is_file():
        raise RequestError(
            "The demos use the sample studies of WordMask's source tree, and this "
            "WordMask was installed without it; clone the repository and type "
            "`make demo` there, or name your copies with --samples and --app."
        )
    return REPOSITORY / name


def load_samples(folder: Path) -> list[SampleCase]:
    """The sample studies of a folder with index.json, studies/ and truth/.

    Raises:
        VolumeError: it is not such a folder.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VolumeError(
            f"{folder.name} does not contain a readable index.json, so it is not a folder of sample studies."
        ) from error
    return [
        SampleCase(
            image=folder / case["image"],
            truth=folder / case["truth"],
            modality=case["modality"],
            words={word: tuple(values) for word, values in case["words"].items()},
            absent=tuple(case["absent"]),
        )
        for case in index["cases"]
    ]


def true_mask(labels: NDArray[np.integer], values: Sequence[int]) -> NDArray[np.bool_]:
    """Where ``labels`` has one of a word's values; the same shape."""
    return np.isin(labels, values)
