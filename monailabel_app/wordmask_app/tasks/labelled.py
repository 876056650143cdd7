"""Labelled cases out of MONAI Label's datastore: final labels with the names that were submitted with them.

Knows the datastore; not trainings. Values are taken from ``label_info`` by name, never by position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from wordmask.errors import WordMaskError
from wordmask.learning.cases import Case, Study, words_of
from wordmask.words.labels import LabelError

FINAL = DefaultLabelTag.FINAL.value


def labelled_cases(datastore: Datastore) -> tuple[list[Case], list[str]]:
    """Cases with a final label, by id, and a sentence for each whose labels have no names."""
    cases, problems = [], []
    for image in sorted(datastore.get_labeled_images()):
        path, label = datastore.get_image_uri(image), datastore.get_label_uri(image, FINAL)
        try:
            case = make_case(image, Path(path), Path(label), datastore.get_label_info(image, FINAL))
        except WordMaskError as error:
            problems.append(f"{image}: {error}")
            continue
        cases.append(replace(case, group=str(datastore.get_image_info(image).get("group", ""))))
    return cases, problems


def make_case(image: str, path: Path, label: Path, info: Mapping[str, Any]) -> Case:
    """The case of an image and its label map, as a training reads it.

    Args:
        image: its id.
        path: the image.
        label: the label map.
        info: what was said of the label map, with its names.

    Raises:
        LabelError, PromptError: the names cannot be learned.
    """
    if not (names := _names(info)):
        raise LabelError(
            f"The label map of {image} came without names, so nothing can be learned from it; submit it "
            'again with them, such as label_info = [{"name": "liver", "idx": 1}].'
        )
    return Case(image, path, label, words_of(names, f"the label of {image}"))


def studies_of(datastore: Datastore) -> tuple[list[Study], list[str]]:
    """Every image of the datastore, by id, with its final label if it has one.

    The problems that `labelled_cases` found come second.
    """
    cases, problems = labelled_cases(datastore)
    labelled = {case.name: case for case in cases}
    studies = [
        Study(
            name,
            Path(datastore.get_image_uri(name)),
            str(datastore.get_image_info(name).get("group", "")),
            labelled.get(name),
        )
        for name in sorted(datastore.list_images())
    ]
    return studies, problems


def _names(info: Mapping[str, Any]) -> Any:
    params = info.get("params")
    return info.get("label_info") or (params.get("label_names") if isinstance(params, dict) else None) or []
