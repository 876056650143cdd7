"""What a client may ask about: the vocabulary, models with their versions, and the state of the server.

Knows vocabulary, models and jobs; not HTTP.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from wordmask import __version__
from wordmask.learning.training import find_training, recipe_names
from wordmask.models.loading import segmenter_class
from wordmask.models.presets import Preset
from wordmask.models.registry import find_model
from wordmask.words.prompt_sets import load_prompt_sets
from wordmask.words.vocabulary import Code, VocabularyEntry, load_vocabulary
from wordmask_app.jobs.queue import JobState
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.jobs.served_model import ServedModel


def vocabulary(served: ServedModel, query: str, limit: int) -> dict[str, Any]:
    """Suggestions for the beginning of a word or a misspelt one; without a query, the first words.

    ``trained`` tells whether this model's weights were trained on the word; null when they are not limited to
    a list.
    """
    words = load_vocabulary()
    model = served.load_if_trained()
    trained = frozenset() if model is None else model.trained_words
    if not query.strip():
        ordered = sorted(words.entries, key=lambda entry: entry.word not in trained)  # what works comes first
        found = [(entry, entry.word, "prefix") for entry in ordered[:limit]]
    else:
        suggestions = words.suggest(query, limit=limit)
        found = [
            (entry, s.matched, s.kind) for s in suggestions if (entry := words.lookup(s.word)) is not None
        ]
    return {
        "model": served.name,
        "query": query,
        "words": [
            _entry(entry, trained) | {"matched": matched, "kind": kind} for entry, matched, kind in found
        ],
    }


def _entry(entry: VocabularyEntry, trained: frozenset[str]) -> dict[str, Any]:
    return {
        "word": entry.word,
        "synonyms": list(entry.synonyms),
        "trained": entry.word in trained if trained else None,
        "modalities": list(entry.modalities),
        "color": list(entry.color),
        "window": entry.window,
        "category": _code(entry.category_code),
        "code": _code(entry.code),
        "modifier": _code(entry.modifier),
        "region": _code(entry.region),
    }


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}


def models(runtime: Runtime) -> dict[str, Any]:
    """Every model of the server: its preset, its capabilities, the version in use and the other versions."""
    return {"models": [_model(served) for served in runtime.models.values()]}


def _model(served: ServedModel) -> dict[str, Any]:
    preset: Preset = served.preset
    segmenter, capabilities = served.load_if_trained(), segmenter_class(served.name).capabilities
    trained = find_model(served.name).trainings
    prompt_sets = {name: chosen.title for name, chosen in load_prompt_sets().sets.items()}
    maps = ["labels", "probability", "uncertainty", *(["attribution"] if capabilities.attribution else [])]
    return {
        "name": served.name,
        "preset": preset.name,
        "title": preset.title,
        "description": preset.description,
        "device": served.device,
        "hints": sorted(capabilities.hints),
        "prompt_sets": prompt_sets if capabilities.prompt_sets else {},
        "output_volumes": maps,
        "windows": list(preset.windows),
        "ready": segmenter is not None,
        "trained_words": [] if segmenter is None else sorted(segmenter.trained_words),
        "training": {
            "recipes": recipe_names(served.name, preset.name),
            "words": find_training(served.name).takes_words,
        }
        if trained
        else None,
        "unknown_words": preset.unknown_words,
        "version": served.version,
        "versions": [
            {"number": version.number, "served": version.served, "card": version.card.as_json()}
            for version in served.store.versions()
        ],
    }


def health(runtime: Runtime) -> dict[str, Any]:
    """Figures for monitoring: versions, device, queue, caches, room on the disk; in bytes and seconds."""
    jobs = runtime.queue.all()
    return {
        "status": "ok",
        "wordmask": __version__,
        "uptime": round(time.time() - runtime.began, 1),
        "queue": {
            "waiting": runtime.queue.waiting(),
            "limit": runtime.queue.limit,
            "running": sum(job.state is JobState.RUNNING for job in jobs),
            "known": len(jobs),
            "results_bytes": runtime.queue.kept_bytes(),
            "results_limit": runtime.queue.keep_bytes,
        },
        "disk_free": shutil.disk_usage(runtime.spool.folder).free,
        "models": [
            {
                "name": served.name,
                "preset": served.preset.name,
                "version": served.version,
                "device": served.device,
            }
            | {"cache": served.cache.statistics()}
            for served in runtime.models.values()
        ],
    }
