"""Low-rank adaptation (LoRA) of SAM's image encoder: q and v of every block, as in SAMed, with peft.

For inference it is merged into the weights. Knows segment_anything's encoder and the LoRA files of SAMed and
Simple-ViLMedSAM; not SAM's decoder, training or presets.

Source: methods.md 0.4. For each block q += B_q A_q x and v += B_v A_v x, k stays. A: width -> rank,
Kaiming-uniform (a = sqrt 5); B: rank -> width, zero at first; no bias, no dropout, scale 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError

ADAPTER = "default"  # peft's name for the only adapter
PARTS = ("q", "v")  # in the order of the published files; k is not adapted


class SplitQKV(nn.Module):
    """SAM's fused qkv layer as three layers with the same input and output.

    q and v then have names, so that peft can find them.
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        weights = fused.weight.detach().chunk(3)
        biases = (None,) * 3 if fused.bias is None else fused.bias.detach().chunk(3)
        self.q, self.k, self.v = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., 3 D]: q, then k, then v."""
        return torch.cat([self.q(tokens), self.k(tokens), self.v(tokens)], dim=-1)


def add_lora(image_encoder: ImageEncoderViT, rank: int = 4) -> ImageEncoderViT:
    """Give q and v of every block a low-rank part that changes nothing yet, and freeze all other weights.

    Adds 4 * width * rank parameters per block, in place.

    Returns:
        The encoder.

    Raises:
        ValueError: the encoder already has low-rank parts.
    """
    if has_lora(image_encoder):
        raise ValueError("This encoder has LoRA already; merge it before adding another.")
    for block in image_encoder.blocks:
        block.attn.qkv = SplitQKV(block.attn.qkv)
    # Full-match pattern: peft on the fused qkv would give the same number of parameters, but share A and
    # change k.
    pattern = r"blocks\.\d+\.attn\.qkv\.[qv]"
    config = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", init_lora_weights=True, target_modules=pattern
    )
    inject_adapter_in_model(config, image_encoder, adapter_name=ADAPTER)  # peft also does the freezing
    return image_encoder


@torch.no_grad()
def merge_lora(image_encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Merge W_q + B_q A_q and W_v + B_v A_v into a fused qkv, in place.

    The encoder is a plain one of segment_anything again, without extra cost. The rows of k are copied, so
    they do not change by a single bit. The merged weights are frozen.

    Returns:
        The encoder.

    Raises:
        ValueError: the encoder has no low-rank parts.
    """
    _require_lora(image_encoder)
    for block in image_encoder.blocks:
        split = block.attn.qkv
        for part in PARTS:
            getattr(split, part).merge(safe_merge=True)
        parts = [split.q.base_layer, split.k, split.v.base_layer]
        bias = None if split.k.bias is None else torch.cat([part.bias for part in parts])
        block.attn.qkv = _linear(torch.cat([part.weight for part in parts]), bias).requires_grad_(False)
    # peft's mark on the module; if it stayed, a later add_lora would count as a second adapter.
    del image_encoder.peft_config
    return image_encoder


def has_lora(image_encoder: ImageEncoderViT) -> bool:
    """Whether `add_lora` was called and not yet `merge_lora`."""
    return isinstance(image_encoder.blocks[0].attn.qkv, SplitQKV)


def lora_layers(image_encoder: ImageEncoderViT) -> Iterator[tuple[str, nn.Linear, nn.Linear]]:
    """Every low-rank part in the order of the blocks, q before v.

    Yields:
        (name, A, B), the name like ``blocks.0.q``.
    """
    _require_lora(image_encoder)
    for index, block in enumerate(image_encoder.blocks):
        for part in PARTS:
            layer = getattr(block.attn.qkv, part)
            yield f"blocks.{index}.{part}", layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]


def lora_state_dict(image_encoder: ImageEncoderViT) -> dict[str, Tensor]:
    """Copies of the low-rank parts alone: ``blocks.0.q.A`` [rank, D], ``blocks.0.q.B`` [D, rank], ..."""
    state = {}
    for name, a, b in lora_layers(image_encoder):
        state[f"{name}.A"] = a.weight.detach().clone()
        state[f"{name}.B"] = b.weight.detach().clone()
    return state


@torch.no_grad()
def load_lora_state_dict(image_encoder: ImageEncoderViT, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of `lora_state_dict`, all or none of them.

    Raises:
        WeightsError: blocks, width or rank differ.
    """
    layers = {
        f"{name}.{letter}": layer
        for name, a, b in lora_layers(image_encoder)
        for letter, layer in (("A", a), ("B", b))
    }
    _check_fits(image_encoder, layers["blocks.0.q.A"].out_features, state)
    for name, layer in layers.items():
        layer.weight.copy_(state[name])


def lora_from_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the LoRA file of SAMed and of Simple-ViLMedSAM to the names of `lora_state_dict`.

    In the file ``w_a_000``, ``w_b_000`` are A and B of q in block 0, ``w_a_001``, ``w_b_001`` those of v, and
    so on. It also contains SAM's prompt encoder and mask decoder, which are left out because Simple-ViLMedSAM
    does not use them.

    Raises:
        WeightsError: there is no ``w_a_000``.
    """
    if "w_a_000" not in tensors:
        raise WeightsError(
            "This file has no LoRA weights (blocks.0.q.A or w_a_000); give the one that was saved for LoRA."
        )
    state = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"w_([ab])_(\d+)", name)
        if found:
            block, part = divmod(int(found[2]), len(PARTS))
            state[f"blocks.{block}.{PARTS[part]}.{found[1].upper()}"] = tensor
    return state


def load_lora_file(image_encoder: ImageEncoderViT, path: Path) -> ImageEncoderViT:
    """Load LoRA in place, and add it first, with the file's rank, where there is none.

    Args:
        image_encoder: of SAM.
        path: a torch or safetensors file with our own names or the published ones.

    Returns:
        The encoder.

    Raises:
        WeightsError: the file is damaged or for another encoder; the encoder is then unchanged.
    """
    tensors = read_tensors(path)
    state = tensors if "blocks.0.q.A" in tensors else lora_from_reference(tensors)
    if not has_lora(image_encoder):
        rank = len(state["blocks.0.q.A"])
        _check_fits(image_encoder, rank, state)  # before anything is changed
        add_lora(image_encoder, rank)
    load_lora_state_dict(image_encoder, state)
    return image_encoder


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with these weights, on their device (meta included)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _require_lora(image_encoder: ImageEncoderViT) -> None:
    if not has_lora(image_encoder):
        raise ValueError("This encoder has no LoRA; call add_lora first.")


def _check_fits(image_encoder: ImageEncoderViT, rank: int, state: Mapping[str, Tensor]) -> None:
    depth, width = len(image_encoder.blocks), image_encoder.patch_embed.proj.out_channels
    shapes = {"A": (rank, width), "B": (width, rank)}
    ours = {
        f"blocks.{index}.{part}.{letter}": shapes[letter]
        for index in range(depth)
        for part in PARTS
        for letter in shapes
    }
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if theirs != ours:
        raise WeightsError(
            f"These LoRA weights are for an encoder with {_describe(theirs)}, this one has "
            f"{_describe(ours)}; "
            "choose the SAM and the rank they were trained with."
        )


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    blocks = {name.rsplit(".", 2)[0] for name in shapes}
    return f"{len(blocks)} blocks and A of {' x '.join(map(str, shapes.get('blocks.0.q.A', ())))}"
