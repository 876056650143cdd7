"""Scores of the cases of a datastore.

Made in a process of their own, kept beside a model's versions, made again when they are stale.

One file per model holds the last score of every case with all that it depends on: the image's file, the
version and the words. It is replaced whole after every case, so a scoring that is killed continues where it
was. Knows MONAI Label's tasks and datastore, and models; not HTTP. What a score is, is the library's
business; which case comes next, strategies.py decides.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.async_tasks.task import AsyncTask, tasks
from pydantic import BaseModel, ValidationError

from wordmask.data.volumes import read_volume
from wordmask.errors import TooLargeError, VolumeError, WordMaskError
from wordmask.files import replace_text
from wordmask.learning.active.embedding import WIDTH, embed_image
from wordmask.learning.active.scores import CaseScore, score_case
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import MOST_WORDS, Prompt, parse_prompts
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.images import find_image
from wordmask_app.jobs.requests import read_words
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.jobs.served_model import BUNDLED, ServedModel
from wordmask_app.tasks.labelled import labelled_cases

logger = logging.getLogger(__name__)

METHOD = "active_learning"
SCORES = "scores.json"
LOOK = 2.0  # seconds between looks whether another version is in use
POLITE = 10  # added to the process's niceness: requests of people come first

UNREADABLE = (VolumeError, TooLargeError)


class Entry(BaseModel):
    """The score of one case, and what it depends on.

    Attributes:
        stamp: of the image's file.
        score: None where there is none.
        embedded: only the embedding counts, because the case had a label.
        problem: why the image cannot be read, empty otherwise.
    """

    stamp: str
    version: str
    words: tuple[str, ...]
    score: CaseScore | None = None
    embedded: bool = False
    problem: str = ""


class _Content(BaseModel):
    words: tuple[str, ...] = ()  # of the last scoring
    cases: dict[str, Entry] = {}


class ScoreBook:
    """The scores of one model, in one file; one process writes, any number read."""

    def __init__(self, store: ModelStore) -> None:
        self._path = store.path / SCORES
        # When the file was changed, in nanoseconds, and what it says.
        self._read: tuple[int, _Content] | None = None

    def read(self) -> tuple[tuple[str, ...], dict[str, Entry]]:
        """The words of the last scoring, and the entries by image; empty without a readable file."""
        try:
            changed = self._path.stat().st_mtime_ns
            if self._read is None or self._read[0] != changed:
                self._read = (changed, _Content.model_validate_json(self._path.read_bytes()))
        except OSError:
            return (), {}
        except ValidationError:
            logger.warning(
                "%s of the model %s is damaged; the cases will be scored again.",
                SCORES,
                self._path.parent.name,
            )
            return (), {}
        return self._read[1].words, dict(self._read[1].cases)

    def write(self, words: tuple[str, ...], cases: Mapping[str, Entry]) -> None:
        """Replace the file as a whole; raises OSError when the disk is full."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, _Content(words=words, cases=dict(cases)).model_dump_json())


def stamp_of(image: str, datastore: Datastore) -> str:
    """Differs when the file of an image may have changed; empty when it is gone.

    Images of a DICOMweb server have ids that never come to mean another image, and looking at their files
    would fetch them all.
    """
    if not isinstance(datastore, GuardedDatastore):
        return "by id"
    try:
        path = Path(datastore.get_image_uri(image))
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except (OSError, VolumeError):  # gone, or outside the folder
        return ""
    size, changed = sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
    return f"{size}-{changed}"


def words_for(given: object, datastore: Datastore, default: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The words of a request (text or a list), else those of the submitted labels, else the configured ones.

    Raises:
        PromptError: the words cannot be used.
    """
    if given:
        return tuple(parse_prompts(given))  # type: ignore[arg-type]  # from the wire; it checks the type
    cases, _ = labelled_cases(datastore)
    words = sorted({word for case in cases for word in case.words})
    return tuple(parse_prompts(words[:MOST_WORDS])) if words else tuple(default)


class CaseScoring(ScoringMethod):  # type: ignore[misc]  # monailabel has no types
    """`POST /scoring/active_learning`: scores the images without a final label, and embeds the others."""

    def __init__(self, runtime: Runtime, default_words: Sequence[Prompt]) -> None:
        super().__init__(
            "How sure the model is of every case without a final label; "
            "for the strategies uncertainty, diversity and hybrid"
        )
        self._runtime, self._default_words = runtime, tuple(default_words)

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """Score the cases of the datastore.

        MONAI Label runs this in a process of its own. An error that a person can fix ends the process with
        its sentence as the last line, because `GET /scoring/` shows the last lines.

        Args:
            request: ``model``, the first one when left out; ``words``, see `words_for`.
            datastore: the cases.
        """
        os.nice(POLITE)
        try:
            served = self._runtime.find_model(request.get("model"))
            words = words_for(read_words(request), datastore, self._default_words)
            return score_datastore(
                served, datastore, words, max_voxels=self._runtime.chosen.megavoxels * 10**6
            )
        except WordMaskError as error:
            raise SystemExit(str(error)) from None


def score_datastore(
    served: ServedModel, datastore: Datastore, words: Sequence[Prompt], *, max_voxels: int
) -> dict[str, int]:
    """Score every case that has no valid score yet, with the version in use.

    Scores are written after every case; those of removed cases are dropped.

    Returns:
        How many cases were scored, kept, and unreadable.

    Raises:
        WeightsError: the model cannot be loaded.
    """
    served.load()
    version, names, book = served.version, tuple(prompt.word for prompt in words), ScoreBook(served.store)
    labelled = set(datastore.get_labeled_images())
    # Labelled ones first, because embeddings are quick.
    images = sorted(datastore.list_images(), key=lambda image: (image not in labelled, image))
    cases = {image: entry for image, entry in book.read()[1].items() if image in set(images)}
    done = {"scored": 0, "kept": 0, "unreadable": 0}
    book.write(names, cases)
    for image in images:
        stamp = stamp_of(image, datastore)
        if is_valid(cases.get(image), stamp, version, names, labelled=image in labelled):
            done["kept"] += 1
            continue
        empty = Entry(stamp=stamp, version=version, words=names, embedded=image in labelled)
        cases[image] = entry = _score_case(empty, image, datastore, served, words, max_voxels)
        book.write(names, cases)
        done["unreadable" if entry.problem else "scored"] += 1
        logger.info(
            "Scored %s with version %s of %s: %s",
            image,
            version,
            served.name,
            entry.problem or _describe(entry),
        )
    return done


def is_valid(
    entry: Entry | None, stamp: str, version: str, words: tuple[str, ...], *, labelled: bool
) -> bool:
    """Whether the entry of a case is still valid.

    Of a labelled case only the embedding counts, whatever the words.
    """
    if entry is None or (entry.stamp, entry.version) != (stamp, version):
        return False
    if entry.score and len(entry.score.embedding) not in (0, WIDTH):  # of other features
        return False
    return labelled or (entry.words == words and not entry.embedded)


def _score_case(
    entry: Entry,
    image: str,
    datastore: Datastore,
    served: ServedModel,
    words: Sequence[Prompt],
    max_voxels: int,
) -> Entry:
    """The entry with the case's score, or with the reason why the image cannot be read.

    It has neither when the scoring itself fails.
    """
    try:
        volume = read_volume(find_image(image, datastore), max_voxels=max_voxels)
    except UNREADABLE as error:
        return entry.model_copy(update={"problem": str(error)})
    try:
        segmenter = served.load()
        if entry.embedded:
            score = CaseScore.unscored(image, embed_image(volume, words[0], segmenter.preset))
        else:
            score = score_case(segmenter, volume, words, name=image, cache=served.cache)
    except Exception:  # one case must not end the scoring of the others
        logger.exception("%s could not be scored", image)
        return entry
    return entry.model_copy(update={"score": score})


def _describe(entry: Entry) -> str:
    return "no score" if entry.score is None else f"{entry.score.uncertainty:.3f}, {entry.score.reason}"


def is_refreshing() -> bool:
    """Whether a scoring runs or waits."""
    return any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("scoring"))


def start_refresh(model: str, words: Sequence[str]) -> None:
    """Score in the background, unless that is going on already; returns at once."""
    if not is_refreshing():
        AsyncTask.run("scoring", request={"method": METHOD}, params={"model": model, "words": list(words)})


class ScoreWatch:
    """Refreshes scores when the version in use is not the one that made them.

    That happens after a publication and after a rollback. Nothing is done while no scores were asked for.
    Each version is tried once; if the scoring fails, the next request for scores starts it again.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._books = {name: (served.store, ScoreBook(served.store)) for name, served in models.items()}
        self._tried: dict[str, str] = {}

    def start(self) -> None:
        """Look from a thread that ends with the process."""
        threading.Thread(target=self._run, name="wordmask-scores", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK):
            for name in self._books:
                try:
                    self.look(name)
                except Exception:  # the next look may go better: without this thread scores would stay stale
                    logger.exception("Could not check whether the scores of %s are stale", name)

    def look(self, name: str) -> None:
        """Start a refresh of one model's scores if another version made them than the one in use."""
        store, book = self._books[name]
        words, cases = book.read()
        served = store.served()
        version = BUNDLED if served is None else str(served)
        stale = any(entry.version != version for entry in cases.values())
        if stale and self._tried.get(name) != version and not is_refreshing():
            self._tried[name] = version
            logger.info("Version %s of %s is in use now; its cases are scored again.", version, name)
            start_refresh(name, words)
        elif not stale:
            self._tried.pop(name, None)
