"""Two models without training, one of each kind that the contract allows, with real convolutions and matrix
products.

Both mark pixels near the grey value that a word stands for, plus a little of a random network, so that the
numbers have last digits that a careless batch would change. `PromptFreeStub` encodes slices without the
words; `WordDependentStub` cannot: its network sees the word first, so it keeps raw slices and does the rest
in ``forward``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder, build_tiny_clip
from wordmask.encoders.configs import TinyClipArchitecture, TinySamArchitecture
from wordmask.encoders.sam import build_tiny_sam
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.models.base import (
    Capabilities,
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.clip_guided_sam.model import CLIPGuidedSAM
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.models.medclip_samv2_weak.model import MedCLIPSAMv2Weak
from wordmask.models.medclip_samv2_weak.network import Ensemble, NetworkPlan
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.presets import PresencePreset, Preset
from wordmask.models.registry import load_preset
from wordmask.models.simple_vilmedsam.model import SimpleViLMedSAM
from wordmask.words.prompts import Prompt

LEVELS = {
    "liver": 0.75,
    "spleen": 0.5,
    "aorta": 1.0,
    "kidney": 0.6,
    "polyp": 0.9,
}  # grey value, 0..1, that a word stands for
SIZE = 31  # side of a stub's frame: odd, so that vectorised loops have elements left over
WIDTH = 13


def stub_preset(**changes: Any) -> Preset:
    """A preset for a stub; everything can be changed."""
    values: dict[str, Any] = {
        "model": "stub",
        "name": "tiny",
        "title": "Stub",
        "description": "Marks grey values.",
        "presence": PresencePreset(slice_logit=0.0, volume_logit=0.0),
        "slice_batch": 4,
        "pair_batch": 4,
    }
    return Preset(**(values | changes))


class _Stub(Segmenter):
    """What both stubs share: random weights from a seed, a word's grey value, counters of the work."""

    def __init__(self, preset: Preset, *, seed: int = 0) -> None:
        super().__init__(preset)
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.read = nn.Linear(WIDTH, 1)
        self.slices_encoded = 0
        self.batches: list[tuple[str, int]] = []
        self.eval().requires_grad_(False)

    @classmethod
    def from_preset(cls, preset: Preset, weights: Path | None = None) -> Self:
        return cls(preset)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(type(self).__name__.encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        levels = torch.tensor([LEVELS.get(prompt.word, 0.3) for prompt in prompts], device=self.device)
        known = torch.tensor([prompt.word in LEVELS for prompt in prompts], device=self.device)
        return PromptFeatures(tuple(prompts), {"level": levels}, known)

    def _network(self, pixels: Tensor) -> Tensor:
        hidden = F.gelu(self.conv(pixels)).flatten(2).transpose(1, 2)
        return F.softplus(self.mix(hidden))

    def _logits(self, grey: Tensor, hidden: Tensor, level: Tensor) -> Tensor:
        near = 7 - 60 * (grey - level[:, None, None]).abs()
        # The last elements of a batch go through other instructions than the rest: as a "class token" they
        # reach every pixel of their row, so on a CPU the last row of a batch differs in its last bits from
        # the same row elsewhere. About -2.
        token = 16 * F.mish(0.01 * near.flatten(1)[:, :37]).mean(dim=1)
        return near + token[:, None, None] + self.read(hidden)[..., 0].view_as(grey)


class PromptFreeStub(_Stub):
    """Encodes each slice once for all words; has presence and attribution."""

    name = "prompt_free_stub"
    capabilities = Capabilities(presence=True, attribution=True)

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        self.slices_encoded += len(set(keys))
        self.batches.append(("slices", len(keys)))
        frame = Letterbox.fit((slices.shape[-2], slices.shape[-1]), (SIZE, SIZE), "center")
        pixels = frame.to_model(slices)
        tensors = {"grey": pixels.mean(dim=1), "hidden": self._network(pixels)}
        return SliceFeatures(tuple(keys), tensors, {"all": frame})

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor | None:
        self.batches.append(("presence", len(pairs)))
        grey, level = slices.tensors["grey"][pairs[:, 0]], prompts.tensors["level"][pairs[:, 1]]
        near = torch.sigmoid(200 * (0.05 - (grey - level[:, None, None]).abs()))
        return near.flatten(1).sum(dim=1) - 12  # a dozen pixels of the frame are enough

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        pairs = all_pairs(len(slices), len(prompts), self.device) if pairs is None else pairs
        self.batches.append(("pairs", len(pairs)))
        grey, hidden = slices.tensors["grey"][pairs[:, 0]], slices.tensors["hidden"][pairs[:, 0]]
        logits = self._logits(grey, hidden, prompts.tensors["level"][pairs[:, 1]])
        return SegmenterOutput(
            logits,
            slices.frames["all"],
            self.presence(slices, prompts, pairs),
            attribution=torch.sigmoid(logits / 9),
        )


class WordDependentStub(_Stub):
    """Its network sees the word before the first layer, as MedCLIPSeg's and CLIP-Guided SAM's encoders do.

    Has its own uncertainty.
    """

    name = "word_dependent_stub"
    capabilities = Capabilities()

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        self.slices_encoded += len(set(keys))
        self.batches.append(("slices", len(keys)))
        frame = Letterbox.fit((slices.shape[-2], slices.shape[-1]), (SIZE, SIZE), "stretch")
        return SliceFeatures(tuple(keys), {"slices": slices}, {"all": frame})

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        pairs = all_pairs(len(slices), len(prompts), self.device) if pairs is None else pairs
        self.batches.append(("pairs", len(pairs)))
        frame, level = slices.frames["all"], prompts.tensors["level"][pairs[:, 1]]
        pixels = frame.to_model(slices.tensors["slices"][pairs[:, 0]])
        logits = self._logits(pixels.mean(dim=1), self._network(pixels * level[:, None, None, None]), level)
        return SegmenterOutput(logits, frame, uncertainty=torch.sigmoid(-logits.abs()))


def random_tiny() -> SimpleViLMedSAM:
    """Simple-ViLMedSAM of the tiny preset's size with random weights, and with both priors, so that the
    bottleneck runs as well.
    """
    preset = load_preset("simple_vilmedsam", "tiny")
    decoder = preset.decoder.model_copy(update={"prior": "both"})
    preset = preset.model_copy(update={"decoder": decoder, "presence": None, "unknown_words": "segment"})
    return SimpleViLMedSAM(preset, *random_encoders(preset)).eval().requires_grad_(False)


def random_medclip_samv2(**zero_shot: Any) -> MedCLIPSAMv2:
    """MedCLIP-SAMv2 of the tiny preset's size with random weights.

    zero_shot: settings that differ from the preset's.
    """
    preset = load_preset("medclip_samv2", "tiny")
    settings = preset.zero_shot.model_copy(update=zero_shot)
    preset = preset.model_copy(update={"zero_shot": settings, "presence": None, "unknown_words": "segment"})
    return MedCLIPSAMv2(preset, *random_encoders(preset)).eval().requires_grad_(False)


def random_medclipseg(**adapters: Any) -> MedCLIPSeg:
    """MedCLIPSeg of the tiny preset's size with random weights, whose adapters exchange much.

    adapters: settings of the adapters that differ from the preset's.
    """
    preset = load_preset("medclipseg", "tiny")
    changes = {"presence": None, "unknown_words": "segment", "samples": 3}
    if adapters:
        changes["adapters"] = preset.adapters.model_copy(update=adapters)
    preset = preset.model_copy(update=changes)
    architecture = preset.clip.architecture or TinyClipArchitecture()
    texts = ["liver", "spleen", "left kidney"]
    token_ids = TinyTokenizer.for_texts(texts, architecture.context_length).token_ids
    torch.manual_seed(0)
    return MedCLIPSeg(preset, build_tiny_clip(architecture, token_ids)).eval().requires_grad_(False)


def random_clip_guided_sam(*, form: str = "paper", **adapters: Any) -> CLIPGuidedSAM:
    """CLIP-Guided SAM of the tiny preset's size with random weights, whose adapters change much.

    adapters: settings of the adapters that differ from the preset's.
    """
    preset = load_preset("clip_guided_sam", "tiny")
    settings = preset.adapters.model_copy(update=adapters)
    changes = {"presence": None, "unknown_words": "segment", "adapters": settings, "form": form}
    preset = preset.model_copy(update=changes)
    model = CLIPGuidedSAM(preset, *random_encoders(preset)).eval().requires_grad_(False)
    for adapter in (*model.network.regular, *model.network.semantic):
        torch.nn.init.normal_(adapter.up.weight, std=0.1)
        torch.nn.init.normal_(adapter.up.bias, std=0.1)
    return model


WEAK_WORDS = ("liver", "spleen")
WEAK_PLAN = NetworkPlan(
    network_class="dynamic_network_architectures.architectures.unet.PlainConvUNet",
    arguments={
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    imported=("conv_op", "norm_op", "dropout_op", "nonlin"),
    inputs=3,
    outputs=1 + len(WEAK_WORDS),
)


def random_medclip_samv2_weak() -> MedCLIPSAMv2Weak:
    """Three small networks with random weights, as nnU-Net plans them."""
    torch.manual_seed(3)
    return (
        MedCLIPSAMv2Weak(load_preset("medclip_samv2_weak", "tiny"), Ensemble(WEAK_PLAN, 3), WEAK_WORDS, 32)
        .eval()
        .requires_grad_(False)
    )


def random_encoders(preset: Preset) -> tuple[ClipEncoder, Sam]:
    """CLIP and SAM of a tiny preset's size."""
    architecture = preset.clip.architecture or TinyClipArchitecture()
    token_ids = TinyTokenizer.for_texts(
        ["liver", "spleen", "left kidney"], architecture.context_length
    ).token_ids
    torch.manual_seed(0)
    sam = build_tiny_sam(preset.sam.architecture or TinySamArchitecture())
    return build_tiny_clip(architecture, token_ids), sam
