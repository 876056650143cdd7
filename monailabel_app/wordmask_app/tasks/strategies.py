"""Which case to label next: the library's choice among the scored cases.

Answers at once: missing and stale scores are made in the background and never waited for. Knows the datastore
and the scores; not HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from wordmask.data.volumes import read_volume
from wordmask.learning.active.scores import CaseScore
from wordmask.learning.active.strategies import STRATEGIES, Choice, choose, look_up_strategy
from wordmask.words.prompts import Prompt
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.images import find_image
from wordmask_app.jobs.requests import read_words
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.tasks.claims import Claims
from wordmask_app.tasks.scoring import (
    UNREADABLE,
    Entry,
    ScoreBook,
    is_refreshing,
    is_valid,
    stamp_of,
    start_refresh,
    words_for,
)

WITHOUT_SCORES = ("first", "random")


@dataclass(frozen=True)
class NextCase:
    """What was chosen, and from what.

    Attributes:
        case: its id; None when no case is left.
        score: None where there is none.
        skipped: id -> why it cannot be read.
        scored: how many of the ``unlabelled`` cases have a score.
        stale: a score is missing, or of another version, other words or another file.
        refreshing: new scores are being made.
        weight: what MONAI Label shows beside the case.
    """

    case: str | None
    strategy: str
    model: str
    version: str
    words: tuple[str, ...]
    reason: str
    score: CaseScore | None
    skipped: dict[str, str]
    unlabelled: int
    scored: int
    stale: bool
    refreshing: bool
    weight: float


@dataclass
class _Cases:
    """The cases of one question, and what is kept of them.

    Attributes:
        unread: id -> stamp, of the images that were never read.
    """

    scores: dict[str, CaseScore]
    labelled: list[CaseScore]
    problems: dict[str, str]
    unread: dict[str, str]
    stale: bool


class CaseChooser:
    """Chooses the next case; every method may be called from any thread."""

    def __init__(self, runtime: Runtime, default_words: Sequence[Prompt], claims: Claims) -> None:
        self._runtime, self._default_words, self._claims = runtime, tuple(default_words), claims
        self._books: dict[str, ScoreBook] = {}
        # (id, stamp) -> why it cannot be read, empty when it can.
        self._readable: dict[tuple[str, str], str] = {}

    def __call__(
        self,
        strategy: str,
        datastore: Datastore,
        *,
        model: object = "",
        words: object = "",
        skip: Collection[str] = (),
        who: str,
    ) -> NextCase:
        """Choose the case to label next.

        Args:
            strategy: its name.
            datastore: the cases.
            model: see `Runtime.find_model`.
            words: see `words_for`.
            skip: ids not to offer.

        Raises:
            RequestError: a parameter cannot be used.
            UnknownModelError: there is no such model.
            PromptError: the words cannot be used.
        """
        look_up_strategy(strategy)
        served = self._runtime.find_model(model)
        served.load()  # so that its version is the published one
        names = tuple(prompt.word for prompt in words_for(words, datastore, self._default_words))
        self._claims.release(skip, who)
        images = [image for image in datastore.get_unlabeled_images() if image not in skip]
        cases = self._look_up(served.name, served.version, names, images, datastore)
        if cases.stale and strategy not in WITHOUT_SCORES:
            start_refresh(served.name, names)
        choice = self._claim(strategy, images, cases, datastore, who)
        score = None if choice is None else cases.scores.get(choice.case)
        return NextCase(
            case=None if choice is None else choice.case,
            strategy=strategy,
            model=served.name,
            version=served.version,
            words=names,
            reason=self._explain_end(datastore, images, skip, who) if choice is None else choice.reason,
            score=score,
            skipped=dict(sorted(cases.problems.items())),
            unlabelled=len(images),
            scored=len(cases.scores),
            stale=cases.stale,
            refreshing=is_refreshing(),
            weight=1.0 if score is None else score.uncertainty,
        )

    def _look_up(
        self, model: str, version: str, words: tuple[str, ...], images: Sequence[str], datastore: Datastore
    ) -> _Cases:
        book = self._books.setdefault(model, ScoreBook(self._runtime.models[model].store))
        entries = book.read()[1]
        labelled = [entries[image].score for image in datastore.get_labeled_images() if image in entries]
        cases = _Cases({}, [score for score in labelled if score is not None], {}, {}, stale=False)
        for image in images:
            entry, stamp = entries.get(image), stamp_of(image, datastore)
            cases.stale |= not is_valid(entry, stamp, version, words, labelled=False)
            if entry is None or entry.stamp != stamp:
                cases.unread[image] = stamp
            else:
                _add_entry(image, entry, cases)
        return cases

    def _claim(
        self, strategy: str, images: Sequence[str], cases: _Cases, datastore: Datastore, who: str
    ) -> Choice | None:
        """Choose a case that nobody else has, and claim it, unless another person is quicker."""
        while True:
            taken = self._claims.taken_from(who)
            free = [image for image in images if image not in taken]
            choice = self._choose(strategy, free, cases, datastore)
            if choice is None or self._claims.take(choice.case, who):
                return choice

    def _explain_end(
        self, datastore: Datastore, images: Sequence[str], skip: Collection[str], who: str
    ) -> str:
        if not datastore.list_images():
            return _describe_empty(datastore)
        if not images:
            return f"Every case{' that is not skipped' if skip else ''} has its final label."
        if taken := self._claims.taken_from(who).intersection(images):
            return (
                f"Every case without a final label is with another person ({len(taken)}) or cannot be read; "
                "ask again when they have submitted or skipped theirs."
            )
        return "None of the cases without a final label can be read."

    def _choose(
        self, strategy: str, images: Sequence[str], cases: _Cases, datastore: Datastore
    ) -> Choice | None:
        """A case that can be read; those that cannot are added to the problems. None when no case is left."""
        left = [image for image in images if image not in cases.problems]
        while left:
            choice = _pick(strategy, left, cases, datastore)
            problem = self._problem(choice.case, cases.unread.get(choice.case), datastore)
            if not problem:
                return choice
            cases.problems[choice.case] = problem
            left.remove(choice.case)
        return None

    def _problem(self, image: str, stamp: str | None, datastore: Datastore) -> str:
        """Why an image cannot be read, empty when it can; each file is read once.

        Args:
            image: its id.
            stamp: of its file; None where a scoring has read it.
            datastore: the cases.
        """
        if stamp is None:
            return ""
        if (image, stamp) not in self._readable:
            try:
                read_volume(find_image(image, datastore), max_voxels=self._runtime.chosen.megavoxels * 10**6)
                self._readable[image, stamp] = ""
            except UNREADABLE as error:
                self._readable[image, stamp] = str(error)
        return self._readable[image, stamp]


class NextCaseStrategy(Strategy):  # type: ignore[misc]  # monailabel has no types
    """A strategy as MONAI Label lists and calls it: the same choice as `POST /wordmask/next`."""

    def __init__(self, name: str, chooser: CaseChooser) -> None:
        super().__init__(f"Next is {STRATEGIES[name]}")
        self._name, self._chooser = name, chooser

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose the case to label next, as MONAI Label asks for it.

        Args:
            request: ``model``, ``words`` and ``skip`` as of `CaseChooser`.
            datastore: the cases.

        Returns:
            ``id``, ``weight`` (its uncertainty, 1 where it is unknown), ``reason`` and ``skipped``; None when
                no case is left.
        """
        skip = request.get("skip")
        skip = [image for image in skip if isinstance(image, str)] if isinstance(skip, list) else []
        found = self._chooser(
            self._name,
            datastore,
            model=request.get("model"),
            words=read_words(request),
            skip=skip,
            who=str(request.get("client_id", "")),
        )
        if found.case is None:
            return None
        return {"id": found.case, "weight": found.weight, "reason": found.reason, "skipped": found.skipped}


def _add_entry(image: str, entry: Entry, cases: _Cases) -> None:
    if entry.problem:
        cases.problems[image] = entry.problem
    elif entry.score is not None and not entry.embedded:
        cases.scores[image] = entry.score


def _pick(strategy: str, images: Sequence[str], cases: _Cases, datastore: Datastore) -> Choice:
    if strategy == "random":
        return Choice(_draw_case(images, datastore), "Chosen by chance.")
    if strategy in WITHOUT_SCORES:
        return choose(strategy, [CaseScore.unscored(image) for image in images], [])
    scored = [cases.scores[image] for image in images if image in cases.scores]
    if not scored:
        return Choice(_draw_case(images, datastore), "Chosen by chance, because no case has been scored yet.")
    choice = choose(strategy, scored, cases.labelled)
    return Choice(choice.case, f"{choice.reason} The scores are not up to date.") if cases.stale else choice


def _draw_case(images: Sequence[str], datastore: Datastore) -> str:
    """Draw a case by chance; one that was offered lately is less likely."""
    now = int(time.time())
    weights = [max(1, now - _last_offer(datastore.get_image_info(image))) for image in images]
    (chosen,) = random.choices(images, weights=weights)
    return chosen


def _last_offer(info: Mapping[str, Any]) -> int:
    """When an image was last offered, in seconds since 1970; 0 when it was not."""
    times = [shown.get("ts") for shown in info.get("strategy", {}).values()]
    return max((shown for shown in times if type(shown) is int), default=0)


def _describe_empty(datastore: Datastore) -> str:
    left_out = len(datastore.left_out) if isinstance(datastore, GuardedDatastore) else 0
    also = f" {left_out} files or folders are left out; the server's log names them." if left_out else ""
    if left_out == 1:
        also = " 1 file or folder is left out; the server's log names it."
    return f"The studies folder has no image yet; copy images into it, or send them to the server.{also}"
