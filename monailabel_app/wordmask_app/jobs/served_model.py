"""One loaded model with its feature cache: the published version answers.

Knows models, versions and the pipeline; not requests on the wire, not jobs, not HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from wordmask.data.volumes import Volume
from wordmask.errors import UntrainedError, WeightsError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.refining import LEAST_OVERLAP, Refinement, Refiner
from wordmask.inference.result import Segmentation
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter, segmenter_class
from wordmask.models.presets import Preset
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken, Progress
from wordmask.weights.versions import ModelStore
from wordmask_app.jobs.requests import InferRequest, RefineRequest
from wordmask_app.settings import AppSettings

logger = logging.getLogger(__name__)

BUNDLED = "bundled"  # the version of a model whose own weights serve


class ServedModel:
    """A model of the server.

    One request computes at a time, because others would compete for the same cores. The version that is
    published when a request begins answers it. The weights are loaded by `load` or by the first request.

    Args:
        name: of the model.
        chosen: settings of the app.
        store: its published versions.

    Raises:
        UnknownModelError: there is no such model or preset.
    """

    def __init__(self, name: str, chosen: AppSettings, store: ModelStore) -> None:
        segmenter_class(name)
        self.name, self.store = name, store
        self.preset: Preset = load_preset(name, chosen.preset)
        self.cache = FeatureCache(chosen.cache_mb * 2**20, chosen.cache_dir, chosen.cache_disk_mb * 2**20)
        self._device = chosen.device
        self._computing = threading.Lock()
        # A lock of its own, so that a question about the model does not wait for a computation.
        self._loading = threading.Lock()
        self._version: int | None = None
        self._volumes: VolumeSegmenter | None = None

    @property
    def version(self) -> str:
        """The version in use: the number of a published version, or ``bundled``."""
        return BUNDLED if self._version is None else str(self._version)

    @property
    def device(self) -> str:
        """Where it computes; what the configuration says while nothing is loaded."""
        return self._device if self._volumes is None else str(self._volumes.segmenter.device)

    def load(self) -> Segmenter:
        """The model in its published version.

        Raises:
            WeightsError: no version can be loaded.
        """
        return self._current().segmenter

    def load_if_trained(self) -> Segmenter | None:
        """The model in its published version; None if it needs a training first and has not had one."""
        try:
            return self.load()
        except UntrainedError:
            return None

    def segment(
        self,
        volume: Volume,
        request: InferRequest,
        *,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Segmentation:
        """Do what a request asks for.

        Raises:
            WordMaskError: as `VolumeSegmenter.segment`.
        """
        with self._computing:
            return self._current().segment(
                volume,
                request.prompts,
                plane=request.plane,
                window=request.window,
                threshold=request.threshold,
                slices=request.slices,
                hints=request.hints,
                roi=request.roi,
                keep=tuple(dict.fromkeys(("labels", request.output_volume))),
                progress=progress,
                cancel=cancel,
            )

    def refine(
        self,
        volume: Volume,
        request: RefineRequest,
        *,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Refinement:
        """Draw slices again as a person corrected them.

        Args:
            volume: that is corrected.
            request: the corrections.
            progress: called after every slice.
            cancel: its ``cancel()`` ends the work with CancelledError.

        Raises:
            WordMaskError: as `Refiner.refine`.
        """
        with self._computing:
            refiner = Refiner(
                self._current(),
                volume,
                request.word,
                plane=request.plane,
                window=request.window,
                threshold=request.threshold,
                progress=progress,
                cancel=cancel,
            )
            return refiner.refine(
                request.hints,
                spread=request.spread,
                locked=request.locked,
                least_overlap=LEAST_OVERLAP if request.least_overlap is None else request.least_overlap,
            )

    def _current(self) -> VolumeSegmenter:
        """The published version, loaded if it is not yet.

        A version that cannot be built is tried once; then the version before it is used.
        """
        with self._loading:
            while self._volumes is None or self.store.served() != self._version:
                self._change_to(self.store.served())
            return self._volumes

    def _change_to(self, wanted: int | None) -> None:
        try:
            self._volumes = self._load_version(wanted)
            self._version = wanted
        except WeightsError as error:
            if wanted is None:
                raise
            self.store.reject(wanted, str(error))

    def _load_version(self, number: int | None) -> VolumeSegmenter:
        started = time.perf_counter()
        folder = None if number is None else self.store.folder(number)
        segmenter = load_segmenter(self.name, preset=self.preset.name, device=self._device, weights=folder)
        version = BUNDLED if number is None else str(number)
        seconds = time.perf_counter() - started
        logger.info(
            "Loaded %s (%s, version %s) on %s in %.1f s",
            self.name,
            self.preset.name,
            version,
            segmenter.device,
            seconds,
        )
        return VolumeSegmenter(segmenter, cache=self.cache, version=version)
