"""Pictures of results: what is drawn where, read back from the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume, write_label_map
from wordmask.errors import RequestError, VolumeError
from wordmask.inference import overlay
from wordmask.inference.overlay import choose_slices, overlay_labels, overlay_picture
from wordmask.inference.result import Segmentation, WordStatistics
from wordmask.words.prompts import parse_prompts

EYE = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def drawn(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == np.array(color, dtype=np.uint8)).all(axis=-1).sum())


@pytest.fixture
def a_volume() -> Volume:
    array = np.random.default_rng(0).normal(50, 10, (20, 40, 50)).astype(np.float32)
    return Volume(array, Geometry((50, 40, 20), (1.0, 1.0, 4.0), (0, 0, 0), EYE), "MR", "mr.nii.gz")


@pytest.fixture
def a_segmentation(a_volume) -> Segmentation:
    """The liver is largest on slice 6, the spleen on slice 15, there is no aorta."""
    labels = np.zeros(a_volume.array.shape, dtype=np.uint8)
    labels[5:8, 10:20, 10:20] = 1
    labels[6, 8:22, 8:22] = 1
    labels[15, 25:35, 30:42] = 2
    prompts = tuple(parse_prompts("liver, spleen, aorta"))
    names = {prompt.word: value for value, prompt in enumerate(prompts, start=1)}
    statistics = {
        word: WordStatistics(0.9 if n else 0.1, n, n * 0.004, None, None, None)
        for word, n in ((word, int((labels == value).sum())) for word, value in names.items())
    }
    heat = (labels == 1).astype(np.float32)
    maps = {name: dict.fromkeys(names, heat) for name in ("attribution", "uncertainty")}
    window = dict.fromkeys(names, "percentiles")
    return Segmentation(
        labels,
        names,
        statistics,
        ["aorta"],
        [],
        "m",
        "tiny",
        "1",
        window,
        "axial",
        a_volume.geometry,
        prompts,
        maps,
    )


def test_every_word_that_was_found_is_drawn_in_its_colour(a_volume, a_segmentation, tmp_path):
    overlay_picture(a_volume, a_segmentation, tmp_path / "overlay.png")
    picture = drawn(tmp_path / "overlay.png")
    slices = picture[:, : -overlay.LEGEND]
    for prompt in a_segmentation.prompts[:2]:
        assert count(slices, prompt.color) > 100  # contours are opaque
    assert count(slices, a_segmentation.prompts[2].color) == 0


def test_the_legend_lists_every_word_also_those_not_found(a_volume, a_segmentation, tmp_path, monkeypatch):
    written = []
    text = overlay.ImageDraw.ImageDraw.text

    def spy(pen, at, what, *arguments, **options):
        written.append(what)
        text(pen, at, what, *arguments, **options)

    monkeypatch.setattr(overlay.ImageDraw.ImageDraw, "text", spy)
    overlay_picture(a_volume, a_segmentation, tmp_path / "overlay.png")
    legend = drawn(tmp_path / "overlay.png")[:, -overlay.LEGEND :]
    for prompt in a_segmentation.prompts:
        assert prompt.word in written
        assert count(legend, prompt.color) > 200
    assert written[written.index("aorta") + 1] == "not found"
    assert written[written.index("liver") + 1] == f"{a_segmentation.statistics['liver'].millilitres:,.1f} ml"
    assert {"axial 6", "axial 15"} <= set(written)


def test_slices_are_chosen_where_each_thing_is_largest(a_volume, a_segmentation):
    assert choose_slices(a_segmentation.labels, a_segmentation.names) == [(6, "liver"), (15, "spleen")]


def test_one_slice_is_enough_for_words_that_it_shows_well():
    labels = np.zeros((9, 10, 10), dtype=np.uint8)
    labels[3:6, :4, :4] = 1
    labels[5:8, 6:, 6:] = 2
    assert [index for index, _ in choose_slices(labels, {"liver": 1, "spleen": 2})] == [5]


def test_many_scattered_words_get_four_slices_at_most():
    labels = np.zeros((40, 4, 4), dtype=np.uint8)
    names = {f"word {value}": value for value in range(1, 9)}
    for value in names.values():
        labels[4 * value, : 1 + value % 3] = value
    assert len(choose_slices(labels, names)) == 4


def test_without_any_mask_the_middle_slice_is_shown():
    assert choose_slices(np.zeros((9, 4, 4), dtype=np.uint8), {"liver": 1}) == [(4, "liver")]


def test_pixels_are_as_wide_and_high_as_they_are_in_the_patient(a_volume, a_segmentation, tmp_path):
    overlay_picture(a_volume, replace(a_segmentation, plane="coronal"), tmp_path / "coronal.png")
    picture = drawn(
        tmp_path / "coronal.png"
    )  # 20 rows of 4 mm, 50 columns of 1 mm: 80 mm high and 50 mm wide
    rows, _ = np.nonzero((picture[:, : -overlay.LEGEND] != np.array(overlay.PAPER)).any(axis=-1))
    assert np.ptp(rows) + 1 >= overlay.CELLS[2]
    liver = a_segmentation.prompts[0].color
    ys, xs = np.nonzero((picture[:, : -overlay.LEGEND] == np.array(liver)).all(axis=-1))
    scale = overlay.CELLS[2] / 80
    assert np.ptp(ys) + 1 == pytest.approx(3 * 4 * scale, abs=6)  # 3 slices of 4 mm
    assert np.ptp(xs) + 1 == pytest.approx(14 * scale, abs=6)  # 14 columns of 1 mm


def test_map_panels_are_rows_below_and_light_where_the_map_is_high(a_volume, a_segmentation, tmp_path):
    overlay_picture(a_volume, a_segmentation, tmp_path / "plain.png")
    overlay_picture(a_volume, a_segmentation, tmp_path / "panels.jpg", panels=("attribution", "uncertainty"))
    plain, panels = drawn(tmp_path / "plain.png"), drawn(tmp_path / "panels.jpg")
    row = round(overlay.CELLS[2] * 40 / 50) + overlay.LINE + overlay.MARGIN
    assert panels.shape[0] > plain.shape[0]
    assert panels.shape[0] >= 3 * row
    attribution = panels[overlay.MARGIN + row + overlay.LINE :, overlay.MARGIN :].astype(int).sum(axis=-1)
    scale = overlay.CELLS[2] / 50
    inside = attribution[round(15 * scale), round(15 * scale)]
    outside = attribution[round(32 * scale), round(35 * scale)]
    assert inside > outside + 200


def test_a_label_map_is_drawn_on_its_image_file_with_the_vocabularys_colours(
    a_volume, a_segmentation, tmp_path
):
    write_label_map(tmp_path / "image.nii.gz", (a_volume.array > 50).astype(np.uint8), a_volume.geometry)
    overlay_labels(
        tmp_path / "image.nii.gz", a_segmentation.labels, a_segmentation.names, tmp_path / "overlay.png"
    )
    slices = drawn(tmp_path / "overlay.png")[:, : -overlay.LEGEND]
    assert count(slices, a_segmentation.prompts[0].color) > 100


def test_a_picture_is_drawn_in_its_own_colours(tmp_path):
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "skin.png")
    labels = np.zeros((1, 60, 80), dtype=np.uint8)
    labels[0, 20:40, 20:40] = 1
    overlay_labels(tmp_path / "skin.png", labels, {"skin lesion": 1}, tmp_path / "overlay.png")
    assert count(drawn(tmp_path / "overlay.png"), (200, 0, 0)) > 10_000


def test_an_unknown_panel_or_a_map_that_was_not_kept_is_refused(a_volume, a_segmentation, tmp_path):
    with pytest.raises(RequestError, match="no panel 'heat'"):
        overlay_picture(a_volume, a_segmentation, tmp_path / "x.png", panels=("heat",))
    with pytest.raises(RequestError, match="attribution map was not kept"):
        overlay_picture(
            a_volume, replace(a_segmentation, maps={}), tmp_path / "x.png", panels=("attribution",)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(a_volume, a_segmentation, tmp_path):
    with pytest.raises(VolumeError, match="PNG or JPEG"):
        overlay_picture(a_volume, a_segmentation, tmp_path / "overlay.bmp")
    with pytest.raises(VolumeError, match=r"overlay\.png cannot be written"):
        overlay_picture(a_volume, a_segmentation, tmp_path / "missing" / "overlay.png")
    assert list(tmp_path.iterdir()) == []
