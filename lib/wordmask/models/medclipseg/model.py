"""MedCLIPSeg (CVPR 2026): several masks of a word are drawn inside CLIP; their mean is the answer.

Written from the paper's equations (methods.md 3). Differs from the released code, unless the preset
asks for its quirks: padding tokens are not read, and random numbers are keyed by slice and word. Beyond the
paper: a presence logit. Knows slices, words, CLIP and the frames between them; not volumes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.models.adapted_clip import AdaptedClipSegmenter
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
from wordmask.models.medclipseg.network import FreeNoise, Joint, JointNetwork, Noise, PairNoise
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.medclipseg.published import read_published, refuse_misfits
from wordmask.models.registry import load_preset
from wordmask.words.prompts import Prompt

FRAME = "clip"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST = 1e-6  # probability
OTHER_SEEDS = (1, 2)  # added to the preset's
PEAK = 0.05  # share of the patches whose cosines judge presence


class MedCLIPSeg(AdaptedClipSegmenter):
    """CLIP with adapters and a mask head.

    Attributes:
        network: both towers, the adapters and the mask head; CLIP is frozen.
    """

    name = "medclipseg"
    preset: MedCLIPSegPreset
    network: JointNetwork
    capabilities = Capabilities(presence=True)
    without_adapters = (
        "Preset {preset} of MedCLIPSeg has a public CLIP but no trained adapters; train them on your own "
        "labels with `wordmask train --model medclipseg`, or use preset 'tiny' to try the workflow."
    )

    def __init__(
        self, preset: MedCLIPSegPreset, clip: ClipEncoder, *, trained_words: Sequence[str] = ()
    ) -> None:
        """Put the parts together; adapters and mask head are random.

        Args:
            preset: of this model.
            clip: the encoder of words and slices.
            trained_words: the words that the weights were trained on; empty without such a list.
        """
        super().__init__(preset, JointNetwork(clip, preset), trained_words)

    @classmethod
    def untrained(
        cls, preset: MedCLIPSegPreset, *, token_ids: Sequence[int] = (), words: Sequence[str] = ()
    ) -> Self:
        """Build the preset's public CLIP with random adapters, as `AdaptedClipSegmenter.untrained`."""
        return cls(preset, load_clip(preset.clip, token_ids=token_ids), trained_words=words)

    @classmethod
    def load_reference(cls, path: str | Path, preset: MedCLIPSegPreset | None = None) -> Self:
        """Load a checkpoint in the format of the published repository, which holds the whole network.

        Args:
            path: such as MedCLIPSeg_unimedclip_ViT-B-16_latest.pth.
            preset: settings other than those of the preset ``published``, such as the number of samples.

        Raises:
            WeightsError: the file is damaged, lacks a tensor, or is of another network.
        """
        path = Path(path)
        clip, tensors = read_published(path)
        model = cls(preset or published_preset(), clip)
        refuse_misfits(path, model.network.state_dict(), tensors)
        model.network.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """Digest of CLIP's vision tower and of how pixels reach it."""
        if self._fingerprint is None:
            parts = [self.clip.vision_fingerprint()[:32], str(self.network.alone)]
            self._fingerprint = "-".join([*parts, self.preset.frame, self.preset.pixels])
        return self._fingerprint

    def slice_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where CLIP's square lies in a slice of (height, width)."""
        side = self.clip.image_size
        return Letterbox.fit(size, (side, side), self.preset.frame)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] in 0..1 as CLIP's square wants them."""
        if self.preset.pixels == "clip":
            return self.clip.normalise(pixels)
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels.flip(1) - mean) / std

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute the image tokens before the first adapter, [N, 1 + g * g, D]."""
        frame = self.slice_frame((slices.shape[-2], slices.shape[-1]))
        image = self.network.start_image(self.normalise(frame.to_model(slices)))
        return SliceFeatures(tuple(keys), {"image": image}, {FRAME: frame})

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Compute the text tokens before the first adapter, [K, T, D'], word by word."""
        ids, texts = [], []
        for prompt in prompts:
            tokens = self.clip.tokenizer([prompt.text]).to(self.device)
            read = tokens[:, : self._length(tokens)]
            ids.append(tokens)
            texts.append(F.pad(self.network.start_text(read), (0, 0, 0, tokens.shape[1] - read.shape[1])))
        known = torch.tensor([self._knows(prompt) for prompt in prompts], dtype=torch.bool)
        tensors = {"tokens": torch.cat(ids), "text": torch.cat(texts)}
        return PromptFeatures(tuple(prompts), tensors, known)

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment pairs, as `Segmenter.forward`: logits [P, S, S] of the mean of the samples.

        Every pair is computed by itself, all its samples at once, so that no batch changes it and no padding
        is computed. Uncertainty is the entropy of the mean.

        Raises:
            RequestError: hints are given, which this model cannot use.
        """
        self.refuse_hints(hints)
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        means = []
        for row, word in pairs.tolist():
            found = self._join(slices, prompts, row, word)
            means.append(self.draw(found).sigmoid().mean(0)[0])
        mean = torch.stack(means).clamp(SMALLEST, 1 - SMALLEST)
        return SegmenterOutput(
            mean.logit(),
            slices.frames[FRAME],
            uncertainty=-(mean * mean.log() + (1 - mean) * (1 - mean).log()),
        )

    def joint_forward(
        self, images: Tensor, token_ids: Tensor, *, samples: int, noise: Noise | None = None
    ) -> Tensor:
        """Logits of pictures with one text each, [samples, B, S, S].

        Args:
            images: [B, 3, S, S], normalised.
            token_ids: [B, T].
            samples: how many are drawn.
            noise: replaces what is drawn; called as noise(sample, block, direction), where the direction
                "image" is that of the image tokens, which read text, [B, T, C], and "text" that of the text
                tokens, which read the image, [B, 1 + g * g, C]. Zeros give the mean values.
        """
        image, text = self.network.start_image(images), self.network.start_text(token_ids)
        if noise is None:
            shapes = self.network.noise_shapes(text.shape[1])
            noise = FreeNoise(shapes, len(images), device=image.device)
        return self.draw(self.network(image, text, token_ids, samples, noise))

    def draw(self, joint: Joint) -> Tensor:
        """Logits [S, B, S', S'] on the pixels of CLIP's square."""
        size = self.clip.image_size
        return F.interpolate(self.network.draw(joint), size=size, mode="bilinear", align_corners=False)

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor:
        """Presence logits [P], from one pass with the mean values and without a mask."""
        found = [self._join(slices, prompts, row, word, drawn=False) for row, word in pairs.tolist()]
        return torch.cat([self.presence_logit(one) for one in found])

    def presence_logit(self, found: Joint) -> Tensor:
        """Presence logits [B]: the mean cosine of the text with the patches that fit it best."""
        cosine = (found.patches * F.normalize(found.text, dim=-1)[:, :, None]).sum(-1)
        count = max(1, round(PEAK * cosine.shape[-1]))
        return self.scores.presence(cosine.topk(count, dim=-1).values.mean(-1).mean(0))

    def variants(self, prompt: Prompt) -> list[Segmenter]:
        """The same weights with other draws."""
        if not self.preset.adapters.probabilistic:
            return []
        found: list[Segmenter] = []
        for offset in OTHER_SEEDS:
            other = copy.copy(self)
            other.preset = self.preset.model_copy(update={"seed": self.preset.seed + offset})
            found.append(other)
        return found

    def _join(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        row: int,
        word: int,
        *,
        drawn: bool = True,
    ) -> Joint:
        """Both towers for one pair: all samples, or once with the mean values."""
        tokens = prompts.tensors["tokens"][word : word + 1]
        length = self._length(tokens)
        noise = PairNoise(
            self.network.noise_shapes(length),
            self.preset.seed,
            (slices.keys[row], prompts.prompts[word].word),
            self.device,
        )
        found: Joint = self.network(
            slices.tensors["image"][row : row + 1].float(),
            prompts.tensors["text"][word : word + 1, :length].float(),
            tokens[:, :length],
            self.preset.samples if drawn else 1,
            noise if drawn and self.preset.adapters.probabilistic else noise.mean,
        )
        return found

    def _length(self, tokens: Tensor) -> int:
        """How many of the tokens [1, T] are computed."""
        if self.preset.adapters.see_padding:
            return tokens.shape[1]
        return int(self.clip.text.real(tokens).sum())


def published_preset() -> MedCLIPSegPreset:
    """The preset with the quirks of the released code."""
    preset = load_preset("medclipseg", "published")
    assert isinstance(preset, MedCLIPSegPreset)
    return preset
