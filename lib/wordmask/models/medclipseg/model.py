"""MedCLIPSeg (CVPR 2026): several masks of a word are drawn inside CLIP; their mean is the answer.

Written from the paper's equations (methods.md 3). Differs from the released code, unless the preset
asks for its quirks: padding tokens are not read, and random numbers are keyed by slice and word. Beyond the
paper: a presence logit. Knows slices, words, CLIP and the frames between them; not volumes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.errors import WeightsError
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
from wordmask.models.clip_sam import with_rows
from wordmask.models.medclipseg.network import FreeNoise, Joint, JointNetwork, Noise, PairNoise
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.medclipseg.published import read_published, refuse_misfits
from wordmask.models.presets import PresencePreset
from wordmask.models.registry import load_preset
from wordmask.models.word_scores import WordScores
from wordmask.weights.checkpoint import load_checkpoint
from wordmask.words.prompts import Prompt

FRAME = "clip"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST = 1e-6  # probability
OTHER_SEEDS = (1, 2)  # added to the preset's
NEVER = -1e9  # a logit that no slice is below
PEAK = 0.05  # share of the patches whose cosines judge presence


class MedCLIPSeg(Segmenter):
    """CLIP with adapters and a mask head.

    Attributes:
        clip: the encoder of words and slices, frozen.
        network: both towers, the adapters and the mask head.
        has_adapters: whether the adapters were trained; otherwise every word is unknown.
    """

    name = "medclipseg"
    preset: MedCLIPSegPreset
    capabilities = Capabilities(presence=True)

    def __init__(
        self, preset: MedCLIPSegPreset, clip: ClipEncoder, *, trained_words: Sequence[str] = ()
    ) -> None:
        """Put the parts together; adapters and mask head are random.

        Args:
            preset: of this model.
            clip: the encoder of words and slices.
            trained_words: the words that the weights were trained on; empty without such a list.
        """
        super().__init__(preset)
        self.network, self.scores = JointNetwork(clip, preset), WordScores()
        self.trained_words = frozenset(trained_words)
        self.has_adapters = True
        # Learned from labels; the preset's limits of presence were not made for these words.
        self.learned_words: frozenset[str] = frozenset()
        self._limits: dict[str, float] = {}
        self._own_presence = preset.presence
        self._fingerprint: str | None = None

    @property
    def clip(self) -> ClipEncoder:
        """The encoder of words and slices."""
        return self.network.clip

    @classmethod
    def from_preset(cls, preset: MedCLIPSegPreset, weights: Path | None = None) -> Self:
        """Build the preset with its trained weights.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.

        Raises:
            WeightsError: weights are missing or damaged, or there are no trained adapters for the preset.
        """
        if preset.weights is None and weights is None:
            raise WeightsError(
                f"Preset {preset.name!r} of MedCLIPSeg has a public CLIP but no trained adapters; train them "
                "on your own labels with `wordmask train --model medclipseg`, or use preset 'tiny' to try "
                "the workflow."
            )
        return cls.for_training(preset, weights)

    @classmethod
    def for_training(
        cls, preset: MedCLIPSegPreset, weights: Path | None = None, texts: Sequence[str] = ()
    ) -> Self:
        """Build the model for a training; the adapters are random where the preset has none.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.
            texts: for tiny, texts whose tokens get a row in the text table.

        Raises:
            WeightsError: weights are missing or damaged.
        """
        checkpoints = [
            load_checkpoint(location) for location in (preset.weights, weights) if location is not None
        ]
        known = checkpoints[-1].token_ids if checkpoints else ()
        wanted = tuple(sorted({*known, *token_ids_of(texts)})) if known else ()
        words = checkpoints[-1].words if checkpoints else ()
        model = cls(preset, load_clip(preset.clip, token_ids=wanted), trained_words=words)
        if checkpoints:
            model.learned_words = frozenset(checkpoints[-1].learned)
            model.limit_presence({word: one.limit for word, one in checkpoints[-1].card.limits.items()})
        for number, checkpoint in enumerate(checkpoints):
            checkpoint = with_rows(checkpoint, wanted)
            whole = number == 0 and preset.weights is not None
            (checkpoint.apply if whole else checkpoint.overlay)(model)
        return model

    @classmethod
    def to_teach(cls, preset: MedCLIPSegPreset, weights: Path | None = None) -> Self:
        """The model that words are taught to; without trained adapters it refuses all others."""
        if preset.weights is not None or weights is not None:
            return cls.from_preset(preset, weights)
        model = cls.untrained(preset.model_copy(update={"unknown_words": "refuse"}))
        model.has_adapters = False
        return model

    @classmethod
    def untrained(cls, preset: MedCLIPSegPreset) -> Self:
        """Build the preset's public CLIP with random adapters, for a training."""
        return cls(preset, load_clip(preset.clip))

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

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether the presence logit was calibrated for the word."""
        own = self._own_presence is not None and prompt.key not in self.learned_words
        return own or prompt.key in self._limits

    def limit_presence(self, limits: Mapping[str, float]) -> None:
        """Judge the presence of learned words as well.

        Args:
            limits: word -> presence logit of a volume below which it counts as absent; replaces earlier ones.
        """
        self._limits = dict(limits)
        own = self._own_presence or PresencePreset(slice_logit=NEVER, volume_logit=NEVER)
        presence = own.model_copy(update={"words": {**own.words, **limits}})
        self.preset = self.preset.model_copy(update={"presence": presence if limits else self._own_presence})

    @property
    def word_width(self) -> int:
        """Length of CLIP's embeddings."""
        return self.clip.embed_dim

    def word_vector(self, prompt: Prompt) -> Tensor | None:
        """CLIP's embedding of the word, of unit length; None where its text encoder never met it."""
        return self.clip.encode_text([prompt.text])[0] if self.clip.knows(prompt.text) else None

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

    def _knows(self, prompt: Prompt) -> bool:
        trained = not self.trained_words or prompt.key in self.trained_words
        return self.has_adapters and trained and self.clip.knows(prompt.text)


def published_preset() -> MedCLIPSegPreset:
    """The preset with the quirks of the released code."""
    preset = load_preset("medclipseg", "published")
    assert isinstance(preset, MedCLIPSegPreset)
    return preset
