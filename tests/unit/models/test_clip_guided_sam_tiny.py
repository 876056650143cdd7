"""The bundled tiny weights of CLIP-Guided SAM: words and clicks on samples that trained nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wordmask.data.volumes import Volume, read_volume
from wordmask.demo.samples import load_samples
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.clicks import next_click
from wordmask.learning.evaluation.metrics import dice
from wordmask.models.loading import load_segmenter
from wordmask.phantoms.words import WORDS, label_values
from wordmask.words.prompts import parse_prompts

SAMPLES = Path(__file__).resolve().parents[3] / "sample_data"


@pytest.fixture(scope="module")
def pipeline() -> VolumeSegmenter:
    return VolumeSegmenter(load_segmenter("clip_guided_sam", device="cpu"))


def picture(name: str, word: str) -> tuple[Volume, np.ndarray]:
    """A picture of the samples, and where a word is in it [h, w]."""
    case = next(case for case in load_samples(SAMPLES) if case.name == name)
    return read_volume(case.image), np.isin(case.true_labels()[0], label_values(word))


def marked(
    pipeline: VolumeSegmenter, volume: Volume, word: str, *points: tuple[int, int, bool]
) -> np.ndarray:
    hints = VoxelHints(points=tuple((float(x), float(y), 0.0, inside) for x, y, inside in points))
    return pipeline.segment(volume, word, hints=hints).mask(word)[0]


def test_all_words_of_the_drawings_are_known_and_judged(pipeline):
    model = pipeline.segmenter
    prompts = [parse_prompts(word)[0] for word in WORDS]
    assert bool(model.encode_prompts(prompts).known.all())
    assert all(model.judges_presence(prompt) for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "word"), [("endoscopy_1", "polyp"), ("xray_1", "heart"), ("ultrasound_1", "breast tumor")]
)
def test_a_word_is_marked_and_corrections_do_no_harm(pipeline, name, word):
    volume, truth = picture(name, word)
    alone = mask = marked(pipeline, volume, word)
    assert dice(alone, truth) > 0.6
    clicks: list[tuple[int, int, bool]] = []
    for _ in range(3):
        click = next_click(mask, truth)
        assert click is not None
        clicks.append(click)
        mask = marked(pipeline, volume, word, *clicks)
    assert (mask != alone).any()
    assert dice(mask, truth) > dice(alone, truth) - 0.05


def test_a_word_that_is_absent_stays_empty(pipeline):
    volume, _ = picture("endoscopy_1", "polyp")
    assert not marked(pipeline, volume, "heart").any()
