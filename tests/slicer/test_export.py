"""What leaves the scene: volumes as files, segments as label maps that training reads; judged by SimpleITK
and by the library itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from PIL import Image
from tests.slicer.scenes import (
    SHAPE,
    add_segmentation,
    add_transform,
    add_volume,
    affine,
    box,
    file_matrix,
    paint,
    scene_state,
    write_file,
)
from WordMaskLib.client.answers import Code
from WordMaskLib.scene.export import OverlapError, check_volume, export_labels, export_volume
from WordMaskLib.scene.segments import GeometryError, SegmentsError, Word, import_labels, own_segment

from wordmask.data.volumes import read_volume
from wordmask.learning.cases import Case, words_of

BIG, SMALL, APART = (
    box(SHAPE, (0, 4), (1, 6), (1, 7)),
    box(SHAPE, (1, 3), (2, 4), (2, 4)),
    box(SHAPE, (5, 6), (0, 2), (0, 2)),
)
PICTURE_MATRIX = np.diag([-1.0, -1.0, 1.0, 1.0])  # as Slicer loads a PNG


def _ids(node: Any) -> list[str]:
    return list(node.GetSegmentation().GetSegmentIDs())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compress", [False, True])
def test_a_volume_is_written_voxel_for_voxel_on_its_own_grid(
    dtype: type, compress: bool, tmp_path: Path
) -> None:
    values = (np.random.default_rng(1).random(SHAPE) * 200).astype(dtype)
    sent = export_volume(add_volume(values, affine()), tmp_path, compress=compress)
    image = sitk.ReadImage(str(sent.path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    np.testing.assert_allclose(file_matrix(sent.path), affine(), atol=1e-9)
    assert (sent.picture, sent.bytes) == (False, sent.path.stat().st_size)
    assert sent.path.name == "volume.nrrd", "the name of a node may be a patient's"


def test_a_transform_is_not_part_of_the_file(an_oblique_ct: Any, tmp_path: Path) -> None:
    before = export_volume(an_oblique_ct, tmp_path).path.read_bytes()
    an_oblique_ct.SetAndObserveTransformNodeID(add_transform(affine((30, 9), (1, 1, 1))).GetID())
    assert export_volume(an_oblique_ct, tmp_path).path.read_bytes() == before


def test_the_server_reads_what_was_exported(an_oblique_ct: Any, tmp_path: Path) -> None:
    volume = read_volume(export_volume(an_oblique_ct, tmp_path).path)
    np.testing.assert_array_equal(volume.array, slicer.util.arrayFromVolume(an_oblique_ct))
    np.testing.assert_allclose(volume.geometry.affine_ras, affine(), atol=1e-9)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_is_a_png_with_its_first_row_at_the_top(channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (1, 9, 11, channels)).astype(np.uint8)
    node = add_volume(pixels, PICTURE_MATRIX, "photo", "vtkMRMLVectorVolumeNode")
    sent = export_volume(node, tmp_path)
    assert (sent.picture, sent.path.name) == (True, "picture.png")
    np.testing.assert_array_equal(np.asarray(Image.open(sent.path)), pixels[0])
    np.testing.assert_array_equal(read_volume(sent.path).array, pixels[..., :3])


def test_a_mask_of_a_picture_lies_on_the_same_pixels_wherever_the_node_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (1, 9, 11, 3)).astype(np.uint8)
    node = add_volume(pixels, affine(), "photo", "vtkMRMLVectorVolumeNode")
    mask = np.zeros((1, 9, 11), np.uint8)
    mask[0, 2:4, 5:9] = 1
    path = write_file(tmp_path / "labels.nii.gz", mask, PICTURE_MATRIX)
    done = import_labels(path, [Word("polyp", 1)], node)
    labels = export_labels(done.segmentation, [done.ids["polyp"]], node, tmp_path / "submit.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(labels.path))), mask)
    case = Case(
        "photo", export_volume(node, tmp_path).path, labels.path, words_of(labels.label_info, "photo")
    )
    np.testing.assert_array_equal(case.read().masks["polyp"], mask > 0)


def test_a_grey_slice_that_came_from_a_picture_file_is_a_picture(tmp_path: Path) -> None:
    node = add_volume(np.arange(20, dtype=np.uint8).reshape(1, 4, 5), PICTURE_MATRIX, "x-ray")
    assert not export_volume(node, tmp_path).picture
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName("chest.PNG")
    node.SetAndObserveStorageNodeID(storage.GetID())
    sent = export_volume(node, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(sent.path)), np.arange(20).reshape(4, 5))


def _sequence_proxy() -> Any:
    frames = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    for time in range(2):
        frame = slicer.vtkMRMLScalarVolumeNode()
        image = vtk.vtkImageData()
        image.SetDimensions(2, 2, 2)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        frame.SetAndObserveImageData(image)
        frames.SetDataNodeAtValue(frame, str(time))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNode(frames)
    proxy = add_volume(np.zeros((2, 2, 2), np.int16), np.eye(4), "4-D")
    browser.AddProxyNode(proxy, frames, False)
    return proxy


def _empty() -> Any:
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")


def _tensor() -> Any:
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "tensor")


def _sheared() -> Any:
    matrix = np.eye(4)
    matrix[1, 2] = 0.2
    return add_volume(np.zeros(SHAPE, np.int16), matrix, "tilted")


REFUSED = {
    "nothing": (lambda: None, "no volume; load one"),
    "sequence": (
        lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames"),
        "'frames' is a sequence",
    ),
    "time point": (_sequence_proxy, "'4-D' is a sequence, but only one volume can be segmented at a time"),
    "empty": (_empty, "'empty' does not contain an image"),
    "tensor": (_tensor, "'tensor' is not an image of grey values"),
    "diffusion": (
        lambda: add_volume(
            np.zeros((*SHAPE, 7), np.int16), np.eye(4), "dwi", "vtkMRMLDiffusionWeightedVolumeNode"
        ),
        "'dwi' is",
    ),
    "colours in 3-D": (
        lambda: add_volume(np.zeros((*SHAPE, 3), np.uint8), np.eye(4), "rgb", "vtkMRMLVectorVolumeNode"),
        "3 values per voxel",
    ),
    "vectors": (
        lambda: add_volume(np.zeros((1, 4, 4, 3), np.float32), np.eye(4), "flow", "vtkMRMLVectorVolumeNode"),
        "3 values per voxel",
    ),
    "label map": (
        lambda: add_volume(np.zeros(SHAPE, np.int16), np.eye(4), "labels", "vtkMRMLLabelMapVolumeNode"),
        "'labels' is a label map",
    ),
    "sheared": (_sheared, "'tilted' has a sheared grid"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_segmented_is_refused_with_a_sentence(kind: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    volume = make()
    for refuse in (lambda: check_volume(volume), lambda: export_volume(volume, tmp_path)):
        with pytest.raises(SegmentsError, match=sentence):
            refuse()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_a_sentence(an_oblique_ct: Any, tmp_path: Path) -> None:
    node = add_segmentation(an_oblique_ct, {"liver": BIG})
    with pytest.raises(SegmentsError, match="cannot be written to the temporary folder"):
        export_volume(an_oblique_ct, tmp_path / "none")
    with pytest.raises(SegmentsError, match="cannot be written to the temporary folder"):
        export_labels(node, _ids(node), an_oblique_ct, tmp_path / "none" / "labels.nrrd")


def test_submitted_segments_are_what_training_reads(an_oblique_ct: Any, tmp_path: Path) -> None:
    node = add_segmentation(an_oblique_ct, {"liver": BIG, "lien": APART}, shared=True)
    before = scene_state(an_oblique_ct)
    sent = export_labels(
        node, _ids(node)[::-1], an_oblique_ct, tmp_path / "labels.nii.gz", absent=["left kidney"]
    )
    assert [(row["name"], row["idx"]) for row in sent.label_info] == [
        ("lien", 1),
        ("liver", 2),
        ("left kidney", 3),
    ]
    assert sent.voxels == {"lien": 4, "liver": int(BIG.sum()), "left kidney": 0}
    image = sitk.ReadImage(str(sent.path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), 2 * BIG.astype(int) + APART)
    np.testing.assert_allclose(file_matrix(sent.path), affine(), atol=1e-5)
    case = Case("ct", export_volume(an_oblique_ct, tmp_path).path, sent.path, words_of(sent.label_info, "ct"))
    masks = case.read().masks
    np.testing.assert_array_equal(masks["liver"], BIG)
    np.testing.assert_array_equal(masks["spleen"], APART)  # "lien" is a synonym
    assert not masks["left kidney"].any()
    assert scene_state(an_oblique_ct) == before


def test_a_result_is_submitted_under_its_word_and_a_renamed_one_under_its_name(
    an_oblique_ct: Any, tmp_path: Path
) -> None:
    mine = add_segmentation(an_oblique_ct, {"liver": APART})
    labels = BIG.astype(np.uint8)
    path = write_file(tmp_path / "labels.nrrd", labels, affine())
    word = Word("liver", 1, (221, 130, 101), Code("SCT", "10200004", "Liver"), Code("SCT", "7771000", "Left"))
    own = import_labels(path, [word], an_oblique_ct, mine).ids["liver"]
    assert mine.GetSegmentation().GetSegment(own).GetName() == "liver (2)"
    (row,) = export_labels(mine, [own], an_oblique_ct, tmp_path / "a.nrrd").label_info
    assert row == {
        "name": "liver",
        "idx": 1,
        "color": [221, 130, 101],
        "code": {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
        "modifier": {"scheme": "SCT", "value": "7771000", "meaning": "Left"},
    }
    with pytest.raises(SegmentsError, match="'liver' was chosen twice"):
        export_labels(mine, _ids(mine), an_oblique_ct, tmp_path / "b.nrrd")
    mine.GetSegmentation().GetSegment(own).SetName("liver metastasis")
    assert [
        row["name"]
        for row in export_labels(
            mine, _ids(mine), an_oblique_ct, tmp_path / "c.nrrd", overlaps="smaller"
        ).label_info
    ] == [
        "liver",
        "liver metastasis",
    ]


def test_overlapping_segments_are_refused_or_the_smaller_one_is_on_top(
    an_oblique_ct: Any, tmp_path: Path
) -> None:
    node = add_segmentation(an_oblique_ct, {"lesion": SMALL, "liver": BIG})
    with pytest.raises(OverlapError, match="'lesion' and 'liver' share 8 voxels") as caught:
        export_labels(node, _ids(node), an_oblique_ct, tmp_path / "labels.nrrd")
    assert caught.value.shared == (("lesion", "liver", 8),)
    for order in (_ids(node), _ids(node)[::-1]):
        sent = export_labels(node, order, an_oblique_ct, tmp_path / "labels.nrrd", overlaps="smaller")
        assert sent.voxels == {"lesion": 8, "liver": int(BIG.sum()) - 8}
    same = add_segmentation(an_oblique_ct, {"one": SMALL, "two": SMALL})
    with pytest.raises(SegmentsError, match="'two' lies entirely within smaller segments"):
        export_labels(same, _ids(same), an_oblique_ct, tmp_path / "labels.nrrd", overlaps="smaller")


@pytest.mark.parametrize(
    ("masks", "absent", "sentence"),
    [
        ({}, [], "nothing to submit"),
        ({"liver": np.zeros(SHAPE, bool)}, [], "'liver' has no voxel"),
        ({"liver": BIG}, ["Liver"], "'liver' was chosen twice"),
        ({"": BIG}, [], "has no name"),
    ],
)
def test_what_cannot_be_submitted_is_a_sentence(
    masks: dict[str, np.ndarray], absent: list[str], sentence: str, an_oblique_ct: Any, tmp_path: Path
) -> None:
    node = add_segmentation(an_oblique_ct, masks)
    for segment_id in _ids(node):
        node.GetSegmentation().GetSegment(segment_id).SetName(next(iter(masks)))
    with pytest.raises(SegmentsError, match=sentence):
        export_labels(node, _ids(node), an_oblique_ct, tmp_path / "labels.nrrd", absent=absent)
    assert list(tmp_path.iterdir()) == []


def test_only_absent_words_can_be_submitted(an_oblique_ct: Any, tmp_path: Path) -> None:
    node = add_segmentation(an_oblique_ct, {})
    sent = export_labels(node, [], an_oblique_ct, tmp_path / "labels.nrrd", absent=["bladder"])
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(sent.path))).any()
    assert sent.label_info == [{"name": "bladder", "idx": 1}]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii"])
@pytest.mark.parametrize("left", [False, True])
def test_labels_of_a_volume_from_the_server_lie_on_the_servers_file(
    left: bool, suffix: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)
    file = write_file(tmp_path / f"case{suffix}", values, affine(left=left))
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(file), "case")
    node = add_segmentation(volume, {"dense": slicer.util.arrayFromVolume(volume) > 500})
    sent = export_labels(node, _ids(node), volume, tmp_path / "labels.nii.gz", like=file)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(sent.path))), values > 500)
    case = Case("case", file, sent.path, words_of(sent.label_info, "case"))
    np.testing.assert_array_equal(case.read().masks["dense"], values > 500)
    elsewhere = write_file(tmp_path / f"elsewhere{suffix}", values, affine(origin=(0, 0, 0)))
    with pytest.raises(GeometryError, match="does not lie on the server's image"):
        export_labels(node, _ids(node), volume, tmp_path / "again.nii.gz", like=elsewhere)


def test_a_segment_on_another_grid_is_brought_onto_the_volume(an_oblique_ct: Any, tmp_path: Path) -> None:
    fine = add_volume(np.zeros((12, 14, 16), np.int16), affine() @ np.diag([0.5, 0.5, 0.5, 1]), "fine")
    node = add_segmentation(fine, {"liver": np.repeat(np.repeat(np.repeat(BIG, 2, 0), 2, 1), 2, 2)})
    sent = export_labels(node, _ids(node), an_oblique_ct, tmp_path / "labels.nrrd")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(sent.path))) > 0
    np.testing.assert_array_equal(found, BIG)
    transform = add_transform(np.eye(4) + np.eye(4, k=3) * 4000)
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(SegmentsError, match="has no voxel on 'CT'"):
        export_labels(node, _ids(node), an_oblique_ct, tmp_path / "labels.nrrd")


def test_a_corrected_result_is_submitted_as_corrected(an_oblique_ct: Any, tmp_path: Path) -> None:
    path = write_file(tmp_path / "labels.nrrd", BIG.astype(np.uint8), affine())
    done = import_labels(path, [Word("liver", 1)], an_oblique_ct)
    paint(done.segmentation, own_segment(done.segmentation, "liver"), SMALL, an_oblique_ct)
    sent = export_labels(done.segmentation, [done.ids["liver"]], an_oblique_ct, tmp_path / "submit.nrrd")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(sent.path))), SMALL)
