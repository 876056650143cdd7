"""The server in two forms: a real process with the bundled model, and MONAI Label's routes in this process
over a stub model.

The stub needs no weights, and its answer is known for every voxel.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import apps
from numpy.typing import NDArray
from tests.support.learning import BROKEN, LearningServer, pictures
from tests.support.servers import PATIENCE, REPOSITORY, RunningServer, copy_app, copy_studies, server_on
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.demo.client import parse_answer
from wordmask.models.base import (
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.presets import Preset
from wordmask.words.prompts import Prompt
from wordmask_app.app import WordMaskApp
from wordmask_app.http import guards, routes
from wordmask_app.jobs import served_model
from wordmask_app.jobs.runtime import runtime_for
from wordmask_app.tasks import scoring


@pytest.fixture(scope="session")
def a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`monailabel start_server` with the bundled tiny model on the CPU, as a user starts it.

    Stopped at the end of the run.
    """
    folder = tmp_path_factory.mktemp("server")
    copy_app(folder)
    (copy_studies(folder) / "broken.nii.gz").write_bytes(b"this is no volume")
    with server_on(folder, queue="8") as server:
        yield server


@pytest.fixture(scope="session")
def a_learning_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LearningServer]:
    """A server with three pictures and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("learning")
    copy_app(folder)
    (copy_studies(folder, *(case.image.name for case in pictures())) / f"{BROKEN}.nii.gz").write_bytes(
        b"this is no volume"
    )
    with server_on(folder) as server:
        yield LearningServer(server)


class BrightnessSegmenter(Segmenter):
    """Marks the bright half for words with an odd number of letters, the dark half for others, and nothing
    for "polyp".
    """

    name = "simple_vilmedsam"

    def __init__(self) -> None:
        super().__init__(
            Preset(
                model=self.name,
                name="stub",
                title="Stub",
                description="marks grey values, not anatomy",
                slice_batch=4,
                pair_batch=8,
            )
        )
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.busy, self.go_on = threading.Event(), threading.Event()  # a test may hold it between two batches
        self.go_on.set()

    @classmethod
    def from_preset(cls, preset: Preset, weights: Path | None = None) -> BrightnessSegmenter:
        return cls()

    @property
    def fingerprint(self) -> str:
        return "brightness"

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        size = (slices.shape[-2], slices.shape[-1])
        return SliceFeatures(
            tuple(keys), {"grey": slices.mean(1)}, {"sam": Letterbox(size, size, (1.0, 1.0), (0.0, 0.0))}
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        sign = [
            0.0 if prompt.word == "polyp" else 1.0 if len(prompt.word) % 2 else -1.0 for prompt in prompts
        ]
        return PromptFeatures(
            tuple(prompts), {"sign": torch.tensor(sign)}, torch.ones(len(prompts), dtype=torch.bool)
        )

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        self.busy.set()
        assert self.go_on.wait(PATIENCE)
        pairs = all_pairs(len(slices), len(prompts)) if pairs is None else pairs
        sign = prompts.tensors["sign"][pairs[:, 1]][:, None, None]
        logits = (slices.tensors["grey"][pairs[:, 0]] - 0.5) * 20 * sign - (sign == 0).float() * 20
        return SegmenterOutput(logits, slices.frames["sam"])


@dataclass(frozen=True)
class StubServer:
    """Routes over the stub model.

    voxels: [k, j, i] of image "ct", above 0 where bright; scratch: for temporary files.

    begun: what the scoring processes were asked for that a server would have started; here none is.
    """

    app: WordMaskApp
    http: TestClient
    studies: Path
    scratch: Path
    voxels: NDArray[np.int16]
    begun: list[dict[str, Any]]

    def post(
        self, image: str, params: Any, *, model: str = "simple_vilmedsam", **more: Any
    ) -> httpx.Response:
        """POST /infer; params: JSON text, or what becomes it."""
        query = {"image": image} | more.pop("query", {})
        return self.http.post(f"/infer/{model}", params=query, data={"params": params}, **more)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, the model stands still in the middle of its next batch."""
        model = cast(BrightnessSegmenter, self.app.runtime.models["simple_vilmedsam"].load())
        model.busy.clear()
        model.go_on.clear()
        try:
            yield
        finally:
            model.go_on.set()

    def wait_until_busy(self) -> None:
        """Until the model has begun a batch."""
        assert cast(BrightnessSegmenter, self.app.runtime.models["simple_vilmedsam"].load()).busy.wait(
            PATIENCE
        )

    def start(self, image: str, params: Any, **more: Any) -> httpx.Response:
        """POST /wordmask/jobs; params: JSON text, or what becomes it."""
        query = {"model": "simple_vilmedsam", "image": image} | more.pop("query", {})
        return self.http.post("/wordmask/jobs", params=query, data={"params": params}, **more)

    def finished(self, job_id: str) -> dict[str, Any]:
        """The status of a job once it is final."""
        self.app.runtime.queue.get(job_id).outcome.exception(timeout=PATIENCE)
        status: dict[str, Any] = self.http.get(f"/wordmask/jobs/{job_id}").json()
        return status

    def read(self, response: httpx.Response) -> tuple[dict[str, Any], sitk.Image]:
        """JSON and image of an answer that went well."""
        assert response.status_code == 200, response.text
        fields, file, name = parse_answer(response.headers, response.content)
        assert file is not None
        assert name is not None
        path = self.studies.parent / name
        path.write_bytes(file)
        return fields, sitk.ReadImage(path)


@pytest.fixture
def a_stub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    """The app as the server holds it, with its own temporary folder.

    Words of an odd number of letters mark the bright voxels.
    """
    scratch, studies, app_dir = tmp_path / "scratch", tmp_path / "studies", tmp_path / "app"
    scratch.mkdir()
    app_dir.mkdir()
    shutil.copy(REPOSITORY / "monailabel_app" / "main.py", app_dir)  # for /reload
    voxels = write_studies(studies)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for name, value in {
        "MONAI_LABEL_APP_DIR": str(app_dir),
        "MONAI_LABEL_STUDIES": str(studies),
        "MONAI_LABEL_APP_CONF": {"words": "liver, spleen"},
        "MONAI_LABEL_DATASTORE_AUTO_RELOAD": False,
        "MONAI_LABEL_SESSION_PATH": str(tmp_path / "sessions"),
        "MONAI_LABEL_DATASTORE_FILE_EXT": list(settings.MONAI_LABEL_DATASTORE_FILE_EXT),
    }.items():
        monkeypatch.setattr(settings, name, value)
    monkeypatch.setattr(served_model, "load_segmenter", lambda *_, **__: BrightnessSegmenter())
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(
        scoring,
        "AsyncTask",
        SimpleNamespace(run=lambda kind, request, params: begun.append({**request, **params})),
    )
    app = WordMaskApp(str(app_dir), str(studies), settings.MONAI_LABEL_APP_CONF)
    monkeypatch.setitem(apps, f"{app_dir}{studies}", app)
    from monailabel.app import app as http  # here: it reads the settings when it is imported

    routes.install(http)
    guards.install(http, upload_bytes=2**30)
    yield StubServer(app, TestClient(http, raise_server_exceptions=False), studies, scratch, voxels, begun)
    app.runtime.queue.close()
    runtime_for.cache_clear()


def write_studies(folder: Path) -> NDArray[np.int16]:
    """A CT-like oblique volume with a bright block in three formats, two pictures, a broken file.

    Returns the voxels.
    """
    folder.mkdir()
    voxels = np.full((6, 10, 12), -1000, dtype=np.int16)
    voxels[1:5, 2:8, :6] = 400
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 1.5, 4.0))
    image.SetOrigin((-20.0, 30.0, 12.5))
    image.SetDirection((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8))
    for name in ("ct.nii.gz", "scan.mha", "series.nrrd"):
        sitk.WriteImage(image, str(folder / name))
    picture = np.zeros((16, 20, 3), dtype=np.uint8)
    picture[4:9, 5:15] = 255
    for name in ("skin.png", "gut.jpeg"):
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(folder / name))
    (folder / "broken.nii.gz").write_bytes(b"this is no volume")
    return voxels
