"""Infer tasks: one per model. A request in, a result file and its JSON out.

InferTask and not BasicInferTask: the latter overwrites the answer's ``label_names`` with static labels after the writer has run.
Knows requests, volumes and the pipeline; not HTTP and not the datastore.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from wordmask.encoders.cache import FeatureCache
from wordmask.geometry import Plane
from wordmask.labels import LabelTable
from wordmask.pipeline import VolumeSegmenter
from wordmask.prompts import Prompt
from wordmask.result import Segmentation
from wordmask.segmenters.base import Segmenter, load_segmenter
from wordmask.volumes import Volume, read_volume, write_label_map, write_scalar_map
from wordmask_app.requests import InferRequest

logger = logging.getLogger(__name__)

PIXEL_TYPES = {"uint8": sitk.sitkUInt8, "uint16": sitk.sitkUInt16, "int16": sitk.sitkInt16, "int32": sitk.sitkInt32}


class Engine:
    """One loaded model with its feature cache. One request computes at a time: others would compete for the same cores."""

    def __init__(self, segmenter: Segmenter, *, cache_mb: int) -> None:
        self.segmenter = segmenter
        self._volumes = VolumeSegmenter(segmenter, cache=FeatureCache(cache_mb * 2**20))
        self._lock = threading.Lock()

    def segment(self, volume: Volume, asked: InferRequest) -> Segmentation:
        """Segment what was asked for; WordMaskError as the pipeline raises it."""
        with self._lock:
            return self._volumes.segment(
                volume,
                asked.prompts,
                plane=asked.plane,
                window=asked.window,
                threshold=asked.threshold,
                slices=asked.slices,
                keep=tuple(dict.fromkeys(("labels", asked.output_volume))),
            )


@functools.cache  # MONAI Label's /reload builds a second app object: it finds the loaded model here
def engine_for(model: str, *, preset: str, device: str, cache_mb: int) -> Engine:
    """The engine of a model, loaded at the first call; UnknownModelError, WeightsError."""
    started = time.perf_counter()
    engine = Engine(load_segmenter(model, preset=preset, device=device), cache_mb=cache_mb)
    logger.info("Loaded %s (%s) on %s in %.1f s", model, preset, engine.segmenter.device, time.perf_counter() - started)
    return engine


class WordMaskInfer(InferTask):  # type: ignore[misc]  # monailabel has no types
    """A text-prompted model as MONAI Label sees it. Keeps nothing of a request: two at the same time cannot mix."""

    def __init__(self, name: str, engine: Engine, default_words: Sequence[Prompt]) -> None:
        preset = engine.segmenter.preset
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=LabelTable.from_prompts(default_words).names(),
            dimension=3,
            description=f"{preset.title}: {preset.description}",
            # What MONAI Label's own plugin shows in its table of options; a list is a choice.
            config={"prompt": ", ".join(prompt.word for prompt in default_words), "plane": ["auto", *Plane]},
        )
        self.name = name
        self._engine = engine
        self._default_words = tuple(default_words)

    def is_valid(self) -> bool:
        """True: the model was loaded when the server started."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """request: its parameters, ``image`` a file. Returns the result file, for the caller to remove, and its JSON."""
        started = time.perf_counter()
        asked = InferRequest.from_params(request, default_words=self._default_words, model=self.name)
        segmentation = self._engine.segment(read_volume(request["image"]), asked)
        path = write_result(segmentation, asked)
        return str(path), {**segmentation.summary(), "seconds": round(time.perf_counter() - started, 3)}


def write_result(segmentation: Segmentation, asked: InferRequest) -> Path:
    """The volume that was asked for, in a new temporary file; nothing is left behind when writing fails."""
    handle, name = tempfile.mkstemp(prefix="wordmask-", suffix=asked.extension)
    os.close(handle)
    path = Path(name)
    try:
        if asked.output_volume == "labels":
            write_label_map(path, segmentation.labels, segmentation.geometry, compress=asked.compress)
            if asked.dtype is not None:
                image = sitk.Cast(sitk.ReadImage(path), PIXEL_TYPES[asked.dtype])
                sitk.WriteImage(image, path, useCompression=asked.compress)
        else:
            (values,) = segmentation.maps[asked.output_volume].values()  # one word: InferRequest sees to it
            write_scalar_map(path, values, segmentation.geometry, compress=asked.compress)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
