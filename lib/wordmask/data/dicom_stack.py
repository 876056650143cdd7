"""Decides whether DICOM images are the slices of one straight volume, and in which order.

The images are files of a series or frames of one file. Knows positions and geometry; not files or pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Geometry
from wordmask.errors import VolumeError

SAME_PLACE = 1e-3  # mm between slices: closer ones are at the same position
UNEVEN = 0.05  # of the usual distance between slices: more is a missing slice, less is rounding
TILT = 0.01  # sideways shift per distance between slices: more is a tilted gantry
DRIFT = (
    0.1  # of the distance between slices, or of a pixel: no slice may lie further from where the grid has it
)
SAME_DIRECTION = 1e-3  # between direction cosines, and between pixel spacings as a share: rounding in files
_LISTED = 4  # values that a sentence lists


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a series or of a file.

    Attributes:
        size: (columns, rows).
        position: LPS of the centre of the first pixel, mm; None: the header does not say.
        axes: [2, 3], LPS: unit vectors along a row (i) and along a column (j).
        spacing: mm from pixel to pixel along a row and along a column.
        traits: what else tells apart the volumes of one file, such as {"echo time": "4.6"}.
    """

    size: tuple[int, int]
    position: NDArray[np.float64] | None
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    traits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What the images belong to, for sentences.

    Attributes:
        name: how a sentence begins, such as ``ct.dcm``.
        images: what they are, in the plural: ``images`` or ``frames``.
        remedy: what to do with several volumes, as the end of a sentence.
    """

    name: str
    images: str
    remedy: str


def stack_frames(frames: Sequence[Frame], source: Source) -> tuple[list[int], Geometry]:
    """Sort frames along their normal and check that they are the evenly spaced slices of one straight volume.

    Args:
        frames: two or more.
        source: what they belong to.

    Returns:
        The order of the frames, and the grid of the volume.

    Raises:
        VolumeError: they are not one straight volume; the sentence says what they are instead.
    """
    positions = [frame.position for frame in frames if frame.position is not None]
    if len(positions) < len(frames) or not np.isfinite(positions).all():
        raise VolumeError(
            f"{source.name} does not say where its {len(frames)} {source.images} lie in the patient, so they "
            "cannot be put in order; export it with positions, or as NIfTI or NRRD."
        )
    first = frames[0]
    if not all(_lie_in_parallel(frame, first) for frame in frames):
        raise VolumeError(
            f"{source.name} mixes {source.images} of different size or direction (a localiser?); "
            f"{source.remedy}."
        )
    normal = np.cross(*first.axes)
    normal /= np.linalg.norm(normal)
    along = np.array(positions) @ normal
    order = np.argsort(along, kind="stable").tolist()
    steps = np.diff(np.array(positions)[order], axis=0)
    distances = steps @ normal
    _refuse_several(frames, order, distances, np.linalg.norm(steps, axis=1), source)
    shifts = steps - np.outer(distances, normal)
    if (np.linalg.norm(shifts, axis=1) > TILT * distances).any():
        raise VolumeError(
            f"{source.name} was taken with a tilted gantry: its slices are shifted sideways; resample it to "
            "a straight grid."
        )
    spacing = float(distances.mean())
    usual = float(np.median(distances))
    drifts = np.abs(np.cumsum(distances - spacing))
    if (abs(distances - usual) > UNEVEN * usual).any() or (drifts > DRIFT * spacing).any():
        raise VolumeError(
            f"{source.name} has uneven distances between its {source.images} ({distances.min():.4g} to "
            f"{distances.max():.4g} mm): some are missing. Export it again, or resample it to even slices."
        )
    if (np.linalg.norm(np.cumsum(shifts, axis=0), axis=1) > max(first.spacing)).any():
        raise VolumeError(
            f"{source.name} is sheared: its last slice is shifted sideways by more than a pixel; resample it "
            "to a straight grid."
        )
    return order, grid_of(frames[order[0]], spacing, len(frames), source.name)


def grid_of(first: Frame, distance: float, count: int, name: str) -> Geometry:
    """Make the grid of a stack of frames.

    Args:
        first: the frame at its beginning.
        distance: mm from frame to frame, along the normal.
        count: how many frames there are.
        name: of the file, for sentences.

    Raises:
        VolumeError: the numbers make no grid.
    """
    normal = np.cross(*first.axes)
    direction = np.column_stack([*first.axes, normal / np.linalg.norm(normal)])
    position = np.zeros(3) if first.position is None else first.position
    try:
        return Geometry(
            (*first.size, count), (*first.spacing, distance), tuple(position), tuple(direction.ravel())
        )
    except VolumeError as error:
        reason = str(error)
        raise VolumeError(f"{name} cannot be used: {reason[0].lower()}{reason[1:]}") from error


def _lie_in_parallel(one: Frame, other: Frame) -> bool:
    return (
        one.size == other.size
        and bool(np.allclose(one.axes, other.axes, rtol=0, atol=SAME_DIRECTION))
        and bool(np.allclose(one.spacing, other.spacing, rtol=SAME_DIRECTION, atol=0))
    )


def _refuse_several(
    frames: Sequence[Frame],
    order: Sequence[int],
    distances: NDArray[np.float64],
    steps: NDArray[np.float64],
    source: Source,
) -> None:
    """Refuse frames of several volumes: they share positions, or their traits differ."""
    differences = _list_differences([frames[index].traits for index in order])
    alone = distances >= SAME_PLACE
    if alone.all():
        if differences:
            raise VolumeError(
                f"{source.name} holds several volumes: its {source.images} differ in {differences}; "
                f"{source.remedy}."
            )
        return
    if (steps[~alone] >= SAME_PLACE).any():
        raise VolumeError(f"{source.name} has {source.images} that lie side by side; {source.remedy}.")
    places = 1 + int(alone.sum())
    what = f"they differ in {differences}" if differences else "several time points or echoes, or copies"
    raise VolumeError(
        f"{source.name} holds several volumes: {len(frames)} {source.images} at {places} "
        f"{'position' if places == 1 else 'positions'} ({what}); {source.remedy}."
    )


def _list_differences(traits: Sequence[Mapping[str, str]]) -> str:
    """Say in which traits frames differ, and their values: "echo time (4.6, 9.2)"."""
    found = []
    for name in dict.fromkeys(name for trait in traits for name in trait):
        values = list(dict.fromkeys(trait.get(name, "none") for trait in traits))
        if len(values) > 1:
            more = ", ..." if len(values) > _LISTED else ""
            found.append(f"{name} ({', '.join(values[:_LISTED])}{more})")
    return " and ".join(found)
