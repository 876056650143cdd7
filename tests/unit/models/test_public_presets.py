"""MedCLIP-SAMv2's published sizes, loaded as users load them, from files in the published formats that were
imported before.

SAM ViT-B has its full size; BiomedCLIP has its depth and its pictures, but is narrow. To be quick, masks are
drawn on a smaller frame after fewer steps of the bottleneck. What takes minutes is in
tests/integration/test_public_sizes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.public_files import biomed_config, make_biomed_folder, registered, write_sam
from tests.support.small_volumes import a_volume
from transformers import BertConfig

from wordmask.encoders.configs import SamConfig
from wordmask.errors import WeightsError
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.models.presets import Preset
from wordmask.models.registry import load_preset
from wordmask.words.prompts import parse_prompts

WORDS = ["liver", "a smooth round mass beside the left kidney"]
FRAME = 128  # pixels of SAM's square, in place of 1024


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both files are where `wordmask weights import` puts them."""
    folder: Path = tmp_path_factory.mktemp("public")
    torch.manual_seed(1)
    bert = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    clip = make_biomed_folder(
        folder / "biomedclip", WORDS, biomed_config("vit_tiny_patch16_224", 224, 24), bert
    ).path
    write_sam(folder / "sam.pth", "vit_b", torch.float16)
    with registered(folder / "weights", biomedclip=clip, sam_vit_b=folder / "sam.pth"):
        (folder / "sam.pth").unlink()
        yield
    (folder / "weights" / "sam_vit_b" / "sam_vit_b_01ec64.pth").unlink()


@pytest.fixture(scope="module")
def a_preset() -> Preset:
    published = load_preset("medclip_samv2", "biomedclip_vit_b")
    quick = published.bottleneck.model_copy(update={"steps": 3, "replicas": 2})
    return published.model_copy(
        update={"sam": SamConfig(kind="vit_b", image_size=FRAME), "bottleneck": quick}
    )


@pytest.fixture(scope="module")
def a_model(imported: None, a_preset: Preset) -> MedCLIPSAMv2:
    return MedCLIPSAMv2.from_preset(a_preset)


@pytest.fixture(scope="module")
def a_picture():
    blocks = np.random.default_rng(2).integers(0, 255, (1, 6, 8, 3))
    return a_volume(blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8), modality="picture")


def test_the_published_preset_finds_its_files_by_their_names(imported):
    model = load_segmenter("medclip_samv2", preset="biomedclip_vit_b", device="cpu")
    assert model.sam.image_encoder.img_size == 1024
    assert (model.clip.image_size, model.clip.grid, model.clip.depth) == (224, 14, 12)
    assert not any(weight.requires_grad or weight.dtype != torch.float32 for weight in model.parameters())


def test_weights_that_were_not_imported_are_named_with_the_command(imported):
    with pytest.raises(WeightsError, match=r"`wordmask weights fetch sam_vit_h`"):
        load_segmenter("medclip_samv2", preset="biomedclip_vit_h", device="cpu")


def test_a_sentence_is_marked_alone_as_beside_a_word(a_model):
    blocks = np.random.default_rng(3).integers(0, 500, (2, 6, 8)).repeat(8, axis=1).repeat(8, axis=2)
    volume = a_volume(blocks.astype(np.int16))
    both = VolumeSegmenter(a_model).segment(volume, WORDS, keep=("probability", "attribution"))
    assert both.labels.shape == (2, 48, 64)
    assert not np.array_equal(*both.maps["attribution"].values())
    alone = VolumeSegmenter(a_model).segment(volume, WORDS[1], keep=("probability", "attribution"))
    for name in ("probability", "attribution"):
        assert np.isfinite(alone.maps[name][WORDS[1]]).all()
        np.testing.assert_array_equal(alone.maps[name][WORDS[1]], both.maps[name][WORDS[1]])


def test_a_persons_box_and_point_change_the_mask(a_model, a_picture):
    pipeline = VolumeSegmenter(a_model)
    own, boxed, pointed = (
        pipeline.segment(a_picture, "liver", hints=hints, keep=("probability",)).maps["probability"]["liver"]
        for hints in (None, VoxelHints(box=((4, 6, 0), (30, 20, 0))), VoxelHints(points=((50, 40, 0, True),)))
    )
    assert np.abs(own - boxed).max() > 1e-3
    assert np.abs(own - pointed).max() > 1e-3
    assert np.abs(boxed - pointed).max() > 1e-3


def test_presence_is_not_judged_and_the_preset_says_so(a_model, a_preset):
    assert not any(a_model.judges_presence(prompt) for prompt in parse_prompts(WORDS))
    assert "cannot tell that a word is absent" in a_preset.description
