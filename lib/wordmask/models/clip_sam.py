"""The common base of models with a frozen CLIP and SAM's image encoder: features, cosines, attribution maps.

CLIP's map reaches SAM's cells by one look-up in their common slice, without 8-bit rounding. Knows slices,
words, CLIP, SAM, and the frames between them; not volumes, nor how the mask is drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.sam import preprocess
from wordmask.encoders.tiny_tokenizer import table_for
from wordmask.models.base import PromptFeatures, Segmenter, SliceFeatures, SliceKey
from wordmask.models.bottleneck import fit_pairs
from wordmask.models.noise import KeyedNoise
from wordmask.models.presets import ClipSamPreset
from wordmask.models.word_scores import WordScores
from wordmask.weights.checkpoint import Checkpoint
from wordmask.words.prompts import Prompt

OTHER_SEEDS = (1, 2)  # added to the preset's
TABLE = "clip.model.token_embedding.weight"  # end of the name of the text table


class ClipSamSegmenter(Segmenter):
    """Base of models with a CLIP and a SAM; subclasses draw the mask."""

    preset: ClipSamPreset

    def __init__(
        self, preset: ClipSamPreset, clip: ClipEncoder, sam: Sam, *, trained_words: Sequence[str] = ()
    ) -> None:
        """Put the parts together.

        Args:
            preset: of the model.
            clip: the encoder of words and slices.
            sam: its image encoder is used.
            trained_words: the words that the weights were trained on; empty without such a list.
        """
        super().__init__(preset)
        self.clip, self.sam = clip, sam
        self.scores = WordScores()
        self.trained_words = frozenset(trained_words)
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of both image encoders; words and mask decoder do not change the features of a slice."""
        if self._fingerprint is None:
            parts = [
                self.clip.vision_fingerprint()[:32],
                fingerprint(self.sam.image_encoder)[:32],
                str(self.preset.bottleneck.layer),
            ]
            self._fingerprint = "-".join(parts)
        return self._fingerprint

    def weights_changed(self) -> None:
        """Discard the fingerprint; call it when the encoders have learned."""
        self._fingerprint = None

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute the features of slices.

        Args:
            slices: [N, 3, H, W] in 0..1.
            keys: one per slice.

        Returns:
            hidden [N, 1 + patches, D] (input of the bottleneck), tokens [N, 1 + patches, E] (unit length, row
            0 is the image) and sam [N, C, g, g].
        """
        original = (slices.shape[-2], slices.shape[-1])
        side, sam_side = self.clip.image_size, self.sam.image_encoder.img_size
        frames = {
            "clip": Letterbox.fit(original, (side, side), "center"),
            "sam": Letterbox.fit(original, (sam_side, sam_side), "top_left"),
        }
        layer = self.preset.bottleneck.layer
        hidden = self.clip.head(self.clip.normalise(frames["clip"].to_model(slices)), layer)
        tokens = F.normalize(self.clip.tail_tokens(hidden, layer), dim=-1)
        tensors = {"hidden": hidden, "tokens": tokens, "sam": self.encode_for_sam(slices, frames["sam"])}
        return SliceFeatures(tuple(keys), tensors, frames)

    def encode_for_sam(self, slices: Tensor, frame: Letterbox) -> Tensor:
        """SAM's embeddings of slices, [N, C, g, g].

        Args:
            slices: [N, 3, H, W] in 0..1.
            frame: where SAM's square lies in them.
        """
        features: Tensor = self.sam.image_encoder(
            preprocess(self.sam, frame.to_model(slices), frame.valid(slices.device))
        )
        return features

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Compute the features of words: text [K, E], see `encode_words`."""
        text = self.encode_words(prompts)
        known = torch.tensor([self._knows(prompt) for prompt in prompts], dtype=torch.bool)
        return PromptFeatures(tuple(prompts), {"text": text}, known)

    @property
    def word_width(self) -> int:
        """Length of CLIP's embeddings."""
        return self.clip.embed_dim

    def word_vector(self, prompt: Prompt) -> Tensor | None:
        """CLIP's embedding of the word, of unit length; None where its text encoder never met it."""
        return self.clip.encode_text([prompt.text])[0] if self.clip.knows(prompt.text) else None

    def encode_words(self, prompts: Sequence[Prompt]) -> Tensor:
        """Text embeddings of the bare words, [K, E], of unit length."""
        return self.clip.encode_text([prompt.text for prompt in prompts])

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor:
        """Presence logits [P]: the image-word cosine with its trained scale and bias."""
        return self.scores.presence(self.cosine(slices, prompts, pairs, tokens=slice(0, 1))[:, 0])

    def cosine(
        self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor, *, tokens: slice
    ) -> Tensor:
        """Cosines of image tokens and words, [P, tokens].

        They are summed row by row, so that no pair depends on the batch.
        """
        rows, words = pairs.to(self.device).unbind(1)
        image = slices.tensors["tokens"][rows, tokens].float()
        return (image * prompts.tensors["text"][words][:, None]).sum(-1)

    def bottleneck_maps(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor:
        """Information that M2IB lets pass for each pair, [P, patches, patches] on CLIP's grid, in nats."""
        settings = self.preset.bottleneck
        rows, words = pairs.to(self.device).unbind(1)
        hidden = slices.tensors["hidden"][rows].float()
        keys = [(slices.keys[row], prompts.prompts[word].word) for row, word in pairs.tolist()]
        return fit_pairs(
            self.clip,
            hidden,
            prompts.tensors["text"][words],
            pair_keys=keys,
            layer=settings.layer,
            beta=settings.beta,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            replicas=settings.replicas,
            noise=KeyedNoise(settings.seed, settings.replicas, hidden.shape[1], hidden.shape[2]),
        )

    def variants(self, prompt: Prompt) -> list[Segmenter]:
        """The same weights with other noise in the bottleneck."""
        return [self._with_other_noise(offset) for offset in OTHER_SEEDS]

    def _with_other_noise(self, offset: int) -> Self:
        bottleneck = self.preset.bottleneck
        reseeded = bottleneck.model_copy(update={"seed": bottleneck.seed + offset})
        other = copy.copy(self)
        other.preset = self.preset.model_copy(update={"bottleneck": reseeded})
        return other

    def _knows(self, prompt: Prompt) -> bool:
        trained = not self.trained_words or prompt.key in self.trained_words
        return trained and self.clip.knows(prompt.text)


def with_rows(checkpoint: Checkpoint, token_ids: Sequence[int]) -> Checkpoint:
    """Extend the text table of tiny's weights to ``token_ids``; other weights stay as they are."""
    table = next((name for name in checkpoint.tensors if name.endswith(TABLE)), None)
    if not token_ids or table is None:
        return checkpoint
    return replace(
        checkpoint,
        tensors={
            **checkpoint.tensors,
            table: table_for(checkpoint.tensors[table], checkpoint.token_ids, token_ids),
        },
    )
