"""Plane, windows and grey values, and the same steps inside a MONAI pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from wordmask.data.geometry import Geometry, Plane, slicing_for
from wordmask.data.slices import body_slices, choose_plane, to_unit_range
from wordmask.data.volumes import Volume
from wordmask.data.windows import Window, find_window, load_windows
from wordmask.errors import RequestError

IDENTITY = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)


def a_volume(array, spacing=(1.0, 1.0, 1.0), modality="unknown") -> Volume:
    return Volume(array, Geometry(array.shape[::-1], spacing, (0, 0, 0), IDENTITY), modality)


@pytest.fixture
def a_picture():
    pixels = np.random.default_rng(1).integers(0, 256, (1, 4, 5, 3)).astype(np.uint8)
    return Volume(pixels, Geometry.of_picture(5, 4), "picture", "skin.png")


# ---- plane


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((0.7, 0.7, 5.0), Plane.AXIAL),
        ((0.7, 5.0, 0.7), Plane.CORONAL),
        ((5.0, 0.7, 0.7), Plane.SAGITTAL),
        ((1.0, 1.0, 1.0), Plane.AXIAL),
        ((1.0, 1.0, 0.9999), Plane.AXIAL),  # isotropic but for rounding
        ((0.5, 1.0, 1.0), Plane.AXIAL),  # axial and coronal are equally fine
    ],
)
def test_auto_takes_the_plane_with_the_finest_pixels(spacing, plane):
    assert choose_plane(a_volume(np.zeros((4, 5, 6)), spacing)) is plane


def test_auto_takes_a_single_slice_as_it_is():
    assert choose_plane(a_volume(np.zeros((6, 5, 1)), (0.1, 1, 1))) is Plane.SAGITTAL
    assert choose_plane(a_volume(np.zeros((6, 1, 5)), (0.1, 1, 1))) is Plane.CORONAL


@pytest.mark.parametrize("plane", Plane)
def test_a_plane_may_be_asked_for(plane):
    assert choose_plane(a_volume(np.zeros((4, 5, 6))), plane) is plane
    assert choose_plane(a_volume(np.zeros((4, 5, 6))), f" {plane.upper()} ") is plane


def test_a_picture_has_one_plane(a_picture):
    assert {choose_plane(a_picture, plane) for plane in ("auto", *Plane)} == {Plane.AXIAL}


@pytest.mark.parametrize("name", ["transversal", "axal", "", 3, None])
def test_an_unknown_plane_is_refused_for_every_image(a_picture, name):
    for volume in (a_volume(np.zeros((4, 5, 6))), a_picture):
        with pytest.raises(
            RequestError, match=r"There is no plane .* Planes: auto, axial, coronal, sagittal"
        ):
            choose_plane(volume, name)
    if name == "axal":
        with pytest.raises(RequestError, match="Did you mean 'axial'"):
            choose_plane(a_picture, name)


# ---- grey values


def test_a_window_maps_its_ends_to_0_and_1_and_clips_the_rest():
    unit = Window(level=40, width=400)(np.array([[-2000, -160, 40], [140, 240, 3000]], dtype=np.int16))
    np.testing.assert_allclose(unit, [[0, 0, 0.5], [0.75, 1, 1]], atol=1e-6)
    assert unit.dtype == np.float32


@pytest.mark.parametrize(
    ("level", "width"), [(40, 0), (40, -1), (40, float("nan")), (float("nan"), 400), (40, float("inf"))]
)
def test_a_window_without_a_width_is_refused(level, width):
    with pytest.raises(RequestError, match="needs a level and a width above 0 HU"):
        Window(level, width)


def test_the_named_windows_are_those_of_the_workstations():
    assert list(load_windows()) == ["soft_tissue", "lung", "bone", "brain", "mediastinum"]
    assert find_window("soft_tissue") == Window(level=40, width=400)
    assert find_window("lung").high < find_window("bone").high
    with pytest.raises(
        RequestError,
        match=r"no window 'soft tissue'. Did you mean 'soft_tissue'\? Windows: soft_tissue, lung",
    ):
        find_window("soft tissue")


def test_every_window_of_the_vocabulary_exists():
    from wordmask.words.vocabulary import load_vocabulary

    assert {entry.window for entry in load_vocabulary().entries} - {None} <= set(load_windows())


def test_ct_is_seen_through_the_window():
    volume = a_volume(np.array([[[-1000, 40], [240, 140]]], dtype=np.int16), modality="CT")
    seen = to_unit_range(volume, volume.array, find_window("soft_tissue"))
    assert (seen.shape, seen.dtype, seen.flags.c_contiguous, seen.flags.writeable) == (
        (1, 3, 2, 2),
        np.float32,
        True,
        True,
    )
    for channel in range(3):
        np.testing.assert_allclose(seen[0, channel], [[0, 0.5], [1, 0.75]], atol=1e-6)


def test_other_images_are_stretched_between_percentiles_of_the_volume_not_of_the_slice():
    array = np.stack([np.full((50, 50), 100.0), np.linspace(0, 1000, 2500).reshape(50, 50)]).astype(
        np.float32
    )
    volume = a_volume(array)
    low, high = np.percentile(array, (0.5, 99.5))
    expected = np.clip((array - low) / (high - low), 0, 1)
    both, first = to_unit_range(volume, array), to_unit_range(volume, array[:1])
    np.testing.assert_allclose(both[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(both[:1], first)  # whatever is computed beside it


def test_a_volume_that_is_constant_or_nearly_gives_numbers():
    constant = a_volume(np.full((2, 3, 4), 7, np.int16))
    assert not to_unit_range(constant, constant.array).any()
    array = np.zeros((10, 20, 20), np.int16)
    array[5, 10, 10] = 900  # less than half a percent
    assert to_unit_range(a_volume(array), array)[5, 0, 10, 10] == 1


def test_pictures_are_shown_as_they_are(a_picture):
    seen = to_unit_range(a_picture, a_picture.array, find_window("bone"))
    np.testing.assert_array_equal(seen, a_picture.array.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert (seen.dtype, seen.flags.c_contiguous) == (np.float32, True)


def test_mirrored_slices_are_seen_like_any_other():
    array = np.random.default_rng(2).integers(0, 900, (3, 4, 5)).astype(np.int16)
    flipped = Volume(array, Geometry((5, 4, 3), (1, 1, 1), (0, 0, 0), (-1.0, 0, 0, 0, -1, 0, 0, 0, -1)))
    stack = slicing_for(flipped.geometry, Plane.CORONAL).cut(flipped.array)
    np.testing.assert_array_equal(to_unit_range(flipped, stack), to_unit_range(flipped, stack.copy()))


# ---- air


def test_slices_of_a_ct_without_the_body_are_air():
    array = np.random.default_rng(3).normal(-1000, 60, (9, 64, 64)).astype(np.float32)
    array[2:7, 20:40, 20:40] = 40
    array[4, 20:40, 20:40] = -850  # lung
    array[4, 19, 19:42] = 30  # and the wall around it
    volume = a_volume(array, modality="CT")
    axial = body_slices(volume, slicing_for(volume.geometry, Plane.AXIAL))
    np.testing.assert_array_equal(axial, [False, False, True, True, True, True, True, False, False])
    coronal = body_slices(volume, slicing_for(volume.geometry, Plane.CORONAL))
    assert np.flatnonzero(coronal).tolist() == list(range(19, 40))


def test_only_ct_has_air(a_picture):
    volume = a_volume(np.full((3, 4, 5), -1000, np.int16))
    assert body_slices(volume, slicing_for(volume.geometry, Plane.AXIAL)).all()
    assert body_slices(a_picture, slicing_for(a_picture.geometry, Plane.AXIAL)).tolist() == [True]


# ---- MONAI
