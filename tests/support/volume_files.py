"""Image files on a grid of their own, also damaged ones, and the sentence with which they are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import read_volume
from wordmask.errors import VolumeError

GRID = Geometry((6, 5, 4), (0.5, 0.75, 2.5), (-10.0, 20.0, 30.0), (0, 1, 0, 1, 0, 0, 0, 0, -1))
PLAIN = Geometry((6, 5, 4), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def save(path, array, geometry=GRID, compress=False):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), compress)
    return path


def break_header(path: Path, offset: int, values) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + values.nbytes] = values.tobytes()
    path.write_bytes(data)
    return path


def cut_off(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message, "the folder is nobody's business"
    assert path.name in message
    return message


def plain(array) -> Geometry:
    return replace(PLAIN, size=array.shape[::-1])


def write_mha(path: Path, **changes: str) -> Path:
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": "2 2 2",
        "ElementType": "MET_SHORT",
    } | changes
    lines = [f"{key} = {value}" for key, value in header.items()]
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL\n"]).encode() + bytes(16))
    return path
