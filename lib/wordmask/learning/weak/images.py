"""Images to learn from, few or none of them labelled: which words, and which of them judge.

Knows studies, words and the store of versions; not what learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from wordmask.errors import RequestError
from wordmask.learning.cases import Case, Study, cases_from_json, studies_in
from wordmask.learning.recipes import AnyRecipe
from wordmask.learning.splitting import split_cases
from wordmask.learning.training import Training, TrainingRequest
from wordmask.models.base import Segmenter
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import read_card
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import Prompt, parse_prompts

R = TypeVar("R", bound=AnyRecipe)
UNCHECKED = " No labelled case was held out: look at its masks before you rely on them."


class StudyTraining(Training[R]):
    """A training on images, few or none of them labelled."""

    takes_words = True
    takes_labels = True

    def read_data(
        self, path: Path, request: TrainingRequest[R], *, word: str | None, labels: Path | None
    ) -> list[Study]:
        """Read a folder of images, with the labels of a list of cases."""
        return studies_with_labels(path, labels)

    def choose_data(self, studies: Sequence[Study], request: TrainingRequest[R]) -> list[Study]:
        """All studies, labelled or not."""
        return list(studies)


def studies_with_labels(folder: Path, labels: Path | None) -> list[Study]:
    """Read a folder of images, with the labels of a list of cases.

    Raises:
        VolumeError, LabelError: a file cannot be used.
        RequestError: a case of the list is not in the folder.
    """
    studies = {study.path.resolve(): study for study in studies_in(folder)}
    for case in cases_from_json(labels) if labels else []:
        image = case.image.resolve()
        if image not in studies:
            raise RequestError(
                f"The list of labels names {case.image.name}, which is not in the folder "
                f"{folder.name}; add the image to the folder, or remove it from the list."
            )
        studies[image] = replace(studies[image], group=case.group, case=case)
    return list(studies.values())


def choose_words(asked: Sequence[Prompt], images: Sequence[Study]) -> list[Prompt]:
    """What to learn: the words that were asked for, else those of the labels.

    Raises:
        RequestError: there are none.
    """
    labelled = {word for image in images if image.case for word in image.case.words}
    words = list(asked) or (parse_prompts(sorted(labelled)) if labelled else [])
    if not words:
        raise RequestError(
            'There are no words to learn: name some, such as "liver, spleen", or submit named labels.'
        )
    return words


def split_studies(images: Sequence[Study], share: float, store: ModelStore) -> tuple[list[Study], list[Case]]:
    """The images to learn from, and the labelled cases that judge.

    Images of a judging case's patient are not learned from.

    Args:
        images: all of them.
        share: of the labelled cases that judge.
        store: cases of its version in use keep their side.

    Raises:
        RequestError: there is no image.
    """
    if not images:
        raise RequestError("There is no image to learn from; add some first.")
    served = store.served()
    card = Card() if served is None else read_card(store.folder(served))
    cases = [replace(image.case, name=image.name, group=image.patient) for image in images if image.case]
    _, judging = split_cases(cases, share, learned=card.training_cases, judging=card.validation_cases)
    held = {case.group for case in judging}
    return [image for image in images if image.patient not in held], judging


def refuse_unknown(teacher: Segmenter, words: Sequence[Prompt], images: Sequence[Study]) -> None:
    """Check that the teacher knows every word, or that a person has labelled it.

    Raises:
        RequestError: the teacher refuses a word without labels.
    """
    drawn = {word for image in images if image.case for word in image.case.words}
    known = teacher.encode_prompts(words).known.tolist()
    strange = [word for word, knows in zip(words, known, strict=True) if not knows and word.key not in drawn]
    if strange and teacher.preset.unknown_words == "refuse":
        raise RequestError(
            f"{teacher.name} with the preset {teacher.preset.name!r} cannot draw "
            f"masks of {join_words(strange)}, which it was not trained on; leave "
            "that out, label some cases of it, or use a preset with public weights."
        )


def join_words(words: Sequence[Prompt]) -> str:
    """Words for people, each in quotes."""
    return ", ".join(repr(prompt.word) for prompt in words)
