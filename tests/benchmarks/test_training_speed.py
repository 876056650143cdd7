"""What it saves that features of frozen encoders (lora_rank 0) are computed once for a training.

Seconds per epoch with and without.

On two sample studies, and on three real MR volumes where there are any; the ratio is asserted, seconds belong
to the machine.
"""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import mean

import pytest
import torch
from tests.support.servers import SAMPLES

from wordmask.demo.samples import load_samples
from wordmask.inference.cache import FeatureCache
from wordmask.learning.cases import Case
from wordmask.learning.finetuning.engine import run_epochs
from wordmask.learning.finetuning.pairs import TrainingPairs
from wordmask.learning.finetuning.simple_vilmedsam import SimpleViLMedSAMTrainee
from wordmask.learning.recipes import Recipe
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken

CACHE_BYTES = 4 << 30
EPOCHS = 2

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def seconds_per_epoch(cases: list[Case], cache: FeatureCache, *, before: bool) -> tuple[float, float, int]:
    """(seconds to compute features before the first epoch, seconds per epoch, pairs).

    before: whether that is done.
    """
    recipe = Recipe.load("decoder", epochs=EPOCHS, lora_rank=0)
    read = [case.read() for case in cases]
    torch.manual_seed(recipe.seed)
    trainee = SimpleViLMedSAMTrainee.start(
        load_preset("simple_vilmedsam", "tiny"), None, recipe, sorted(read[0].masks)
    )
    data = TrainingPairs(read, trainee.segmenter, recipe, cache, frame_of=trainee.target_frame)
    began = time.perf_counter()
    if before:
        data.encode(lambda done, total: None)
    marks = [time.perf_counter()]
    run_epochs(
        trainee, data, recipe, device=torch.device("cpu"), validate=None,
        tell=lambda epoch: marks.append(time.perf_counter()), cancel=CancelToken(),
    )  # fmt: skip
    return marks[0] - began, mean(later - earlier for earlier, later in pairwise(marks)), len(data.pairs)


def compare(name: str, cases: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    features, kept, pairs = seconds_per_epoch(cases, FeatureCache(CACHE_BYTES), before=True)
    _, again, _ = seconds_per_epoch(cases, FeatureCache(0), before=False)
    with capsys.disabled():
        print(
            f"\n{name}, {len(cases)} volumes, {pairs} pairs: {kept:.2f} s per epoch with kept features, "
            f"{again:.2f} s without:"
        )
        print(f"  {again / kept:.1f} times as fast, for {features:.1f} s of computing them before")
    assert again > 1.5 * kept


def test_kept_features_make_an_epoch_faster_on_sample_studies(capsys):
    found = [case for case in load_samples(SAMPLES) if case.modality == "CT"][:2]
    compare(
        "sample CT, liver",
        [
            Case(case.name, case.image, case.truth, {"liver": case.words["liver"]}, unnamed="background")
            for case in found
        ],
        capsys,
    )


@pytest.mark.real_data
def test_kept_features_make_an_epoch_faster_on_real_volumes(real_data, capsys):
    images = sorted((real_data / "mr_hippocampus").glob("*_image.nii.gz"))[:3]
    masks = [image.with_name(image.name.replace("_image", "_mask")) for image in images]
    cases = [
        Case(image.stem, image, mask, {"hippocampus": (1, 2)})
        for image, mask in zip(images, masks, strict=True)
    ]
    compare("MR, hippocampus", cases, capsys)
