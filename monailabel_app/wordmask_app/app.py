"""The MONAI Label app: reads its configuration, loads the models, and turns requests into answers or into one sentence.

Knows MONAI Label and HTTP status codes; what is computed is the library's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask

from wordmask import __version__
from wordmask.errors import RequestError, UnknownModelError, WordMaskError
from wordmask.labels import LabelTable
from wordmask.self_check import require_sound_environment
from wordmask_app.images import IMAGE_PATTERNS, UnknownImageError, find_image, safe_tag, same_stem
from wordmask_app.infers import WordMaskInfer, engine_for
from wordmask_app.requests import switch
from wordmask_app.settings import AppSettings

logger = logging.getLogger(__name__)


class WordMaskApp(MONAILabelApp):  # type: ignore[misc]  # monailabel has no types
    """Type a word, get a mask: one infer task per configured model."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None) -> None:
        require_sound_environment()
        self.chosen = AppSettings.from_conf(conf or {})
        known = settings.MONAI_LABEL_DATASTORE_FILE_EXT  # read when the datastore is made, in the constructor below
        settings.MONAI_LABEL_DATASTORE_FILE_EXT = list(dict.fromkeys([*known, *IMAGE_PATTERNS]))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf or {}),
            name="WordMask",
            description="Type a word, get a mask: text-prompted segmentation of volumes and pictures",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """MONAI Label's datastore; a warning for images that hide each other."""
        if not self.studies.startswith(("http://", "https://")):
            for names in same_stem(Path(self.studies), settings.MONAI_LABEL_DATASTORE_FILE_EXT):
                logger.warning("%s have one id, so only one of them can be used; rename the others.", " and ".join(names))
        return super().init_datastore()

    def init_infers(self) -> dict[str, InferTask]:
        """One task per configured model, loaded now: the first request does not wait for it."""
        chosen = self.chosen
        engines = {name: engine_for(name, preset=chosen.preset, device=chosen.device, cache_mb=chosen.cache_mb) for name in chosen.models}
        return {name: WordMaskInfer(name, engine, chosen.default_words) for name, engine in engines.items()}

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answer one request; a user's error becomes a 4xx answer with its sentence.

        Replaces MONAI Label's own, which reads any path that the request names as image. ``image``: an id of the datastore;
        ``save_label``: keep the result as a label under ``label_tag``; the rest: `wordmask_app.requests`.
        """
        started = time.perf_counter()
        outcome = "failed"
        try:
            result = self._infer(request, datastore or self.datastore())
            outcome = f"not found: {result['params']['not_found']}" if result["params"]["not_found"] else "ok"
            return result
        except (UnknownImageError, UnknownModelError) as error:
            outcome = f"refused: {error}"
            raise HTTPException(status_code=404, detail=str(error)) from None
        except WordMaskError as error:
            outcome = f"refused: {error}"
            raise HTTPException(status_code=400, detail=str(error)) from None
        finally:
            logger.info(
                "infer model=%s image=%s prompt=%s seconds=%.2f %s",
                *(repr(request.get(name))[:300] for name in ("model", "image", "prompt")),
                time.perf_counter() - started,
                outcome,
            )

    def _infer(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        task = self._infers.get(request.get("model")) if isinstance(request.get("model"), str) else None
        if task is None:
            raise UnknownModelError(f"This server has no model {request.get('model')!r}. Models: {', '.join(self._infers)}.")
        tag = safe_tag(request.get("label_tag") or DefaultLabelTag.ORIGINAL.value)
        path = find_image(request, datastore, self.sessions())
        save = switch(request, "save_label", default=False)
        if save and request["image"] not in datastore.list_images():
            raise RequestError("save_label is for images of the server; this image came with the request.")
        file, params = task({**request, "image": str(path)})
        label = self._keep(datastore, request["image"], file, tag, params) if save else file
        return {"label": label, "tag": tag, "file": file, "params": params}

    def _keep(self, datastore: Datastore, image: str, file: str, tag: str, params: Mapping[str, Any]) -> str:
        """Save a result as a label of its image, with the names of its values as MONAI Label keeps them. Returns its id."""
        names = LabelTable.from_names(params["label_names"]).to_label_info()
        try:
            label: str = datastore.save_label(image, file, tag, {"model": params["model"], "params": params, "label_info": names})
        except BaseException:
            Path(file).unlink(missing_ok=True)
            raise
        return label
