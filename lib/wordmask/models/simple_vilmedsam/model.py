"""Simple-ViLMedSAM (CVPR 2026): a frozen CLIP locates the word, and a decoder draws it on SAM's features.

Written from the paper's equations (methods.md 1). Beyond the paper, by preset: the patch-text similarity
without normalisation as prior, a word token in the decoder, a presence logit. Differs from the released code:
CLIP's map reaches SAM's cells by one look-up in their common slice, without 8-bit rounding. Knows slices,
words, CLIP, SAM, and the frames between them; not volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.lora import add_lora, has_lora, load_lora_file, load_lora_state_dict, merge_lora
from wordmask.encoders.sam import load_sam
from wordmask.encoders.tensors import read_tensors
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.errors import WeightsError
from wordmask.models.base import (
    Capabilities,
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    all_pairs,
)
from wordmask.models.bottleneck import normalise_maps
from wordmask.models.clip_sam import ClipSamSegmenter, with_rows
from wordmask.models.simple_vilmedsam.decoder import PositionPromptDecoder
from wordmask.models.simple_vilmedsam.preset import SimpleViLMedSAMPreset
from wordmask.models.word_scores import word_token_input
from wordmask.weights.checkpoint import Checkpoint, load_checkpoint
from wordmask.words.prompts import Prompt

LORA = "lora."  # prefix, in a version's file, of the low-rank parts of SAM's encoder


@dataclass
class DecoderInputs:
    """The input of the decoder for P pairs.

    Attributes:
        sam: [P, C, g, g], SAM's features.
        priors: [P, priors, g, g], maps in 0..1.
        token: [P, E + 1], for the word token.
        presence: [P], logits.
    """

    sam: Tensor
    priors: Tensor
    token: Tensor
    presence: Tensor

    @classmethod
    def join(cls, parts: Sequence[DecoderInputs]) -> DecoderInputs:
        """Join the pairs of several inputs, which may come from slices of different sizes."""
        return cls(
            torch.cat([part.sam for part in parts]),
            torch.cat([part.priors for part in parts]),
            torch.cat([part.token for part in parts]),
            torch.cat([part.presence for part in parts]),
        )


class SimpleViLMedSAM(ClipSamSegmenter):
    """CLIP, SAM's image encoder and the position-prompt decoder.

    Attributes:
        has_decoder: whether the decoder was trained; otherwise every word is unknown.
    """

    name = "simple_vilmedsam"
    preset: SimpleViLMedSAMPreset
    capabilities = Capabilities(presence=True, attribution=True)

    def __init__(
        self, preset: SimpleViLMedSAMPreset, clip: ClipEncoder, sam: Sam, *, trained_words: Sequence[str] = ()
    ) -> None:
        """Put the parts together; the decoder is random.

        Args:
            preset: of this model.
            clip: the encoder of words and slices.
            sam: its image encoder is used.
            trained_words: the words that the weights were trained on; empty without such a list.
        """
        super().__init__(preset, clip, sam, trained_words=trained_words)
        text_width = clip.embed_dim + 1  # the embedding and the presence logit
        self.decoder = PositionPromptDecoder(preset.decoder, text_width)
        self.has_decoder = True
        # Learned from labels; the preset's limits of presence were not made for these words.
        self.learned_words: frozenset[str] = frozenset()

    @classmethod
    def from_preset(cls, preset: SimpleViLMedSAMPreset, weights: Path | None = None) -> Self:
        """Build the preset with its trained weights.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.

        Raises:
            WeightsError: weights are missing or damaged, or there is no trained decoder for the preset.
        """
        if preset.weights is None and weights is None:
            raise WeightsError(
                f"Preset {preset.name!r} of Simple-ViLMedSAM has public encoders but no trained decoder, "
                "because none has been published; "
                "train it on your own labels with `wordmask train`, use preset 'tiny' to try the workflow, "
                "or use the model medclip_samv2, "
                "which needs public weights alone (of a server: --conf models=medclip_samv2)."
            )
        model = cls.for_training(preset, weights)
        if has_lora(model.sam.image_encoder):
            merge_lora(model.sam.image_encoder)
        return model

    @classmethod
    def for_training(
        cls,
        preset: SimpleViLMedSAMPreset,
        weights: Path | None = None,
        texts: Sequence[str] = (),
        *,
        fresh: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build the model for a training: low-rank parts are not merged.

        The decoder is random where the preset has none.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.
            texts: for tiny, texts whose tokens get a row in the text table.
            fresh: changes of the decoder's form, for a random decoder instead of the trained one.

        Raises:
            WeightsError: weights are missing or damaged.
        """
        checkpoints = [
            load_checkpoint(location) for location in (preset.weights, weights) if location is not None
        ]
        learned = checkpoints[-1].card.decoder if checkpoints else {}
        if learned.get("refiner"):
            raise WeightsError(
                f"The weights {checkpoints[-1].name!r} have a refiner, which this WordMask does not know; "
                "train again on the same cases (cases.json beside the weights lists them)."
            )
        form = preset.decoder.model_copy(update=learned if fresh is None else fresh)
        if fresh is not None:
            checkpoints = [_without_decoder(checkpoint) for checkpoint in checkpoints]
        elif (form.ipp, form.bid) != (preset.decoder.ipp, preset.decoder.bid):
            checkpoints = [_without_decoder(checkpoint) for checkpoint in checkpoints[:-1]] + checkpoints[-1:]
        # Whether the first checkpoint has every part.
        whole = fresh is None and form == preset.decoder and preset.weights is not None
        preset = preset.model_copy(update={"decoder": form})
        known = checkpoints[-1].token_ids if checkpoints else ()
        wanted = tuple(sorted({*known, *token_ids_of(texts)})) if known else ()
        words = checkpoints[-1].words if checkpoints else ()
        model = cls(
            preset, load_clip(preset.clip, token_ids=wanted), load_sam(preset.sam), trained_words=words
        )
        model.learned_words = frozenset(checkpoints[-1].learned) if checkpoints else frozenset()
        for number, checkpoint in enumerate(checkpoints):
            checkpoint = with_rows(checkpoint, wanted)
            lora = {
                name.removeprefix(LORA): tensor
                for name, tensor in checkpoint.tensors.items()
                if name.startswith(LORA)
            }
            rest = replace(
                checkpoint,
                tensors={
                    name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(LORA)
                },
            )
            (rest.apply if whole and number == 0 else rest.overlay)(model)
            if lora:
                add_lora(model.sam.image_encoder, len(lora["blocks.0.q.A"]))
                load_lora_state_dict(model.sam.image_encoder, lora)
        return model

    @classmethod
    def to_teach(cls, preset: SimpleViLMedSAMPreset, weights: Path | None = None) -> Self:
        """The model that words are taught to; without a trained decoder it refuses all others."""
        if preset.weights is not None or weights is not None:
            return cls.from_preset(preset, weights)
        model = cls.untrained(preset.model_copy(update={"unknown_words": "refuse"}))
        model.has_decoder = False
        return model

    @classmethod
    def untrained(cls, preset: SimpleViLMedSAMPreset) -> Self:
        """Build the preset's public encoders with a random decoder, for a training or `load_reference`."""
        return cls(preset, load_clip(preset.clip), load_sam(preset.sam))

    def load_reference(self, decoder_checkpoint: Path, lora_file: Path | None = None) -> None:
        """Load files in the format of the published repository.

        Args:
            decoder_checkpoint: of the decoder.
            lora_file: LoRA of SAM's encoder, which is merged.

        Raises:
            WeightsError: a file is damaged or of another model; the model is then unchanged.
        """
        decoder = PositionPromptDecoder.from_reference(read_tensors(decoder_checkpoint), self.preset.decoder)
        if lora_file is not None:
            merge_lora(load_lora_file(self.sam.image_encoder, lora_file))
            self.weights_changed()
        self.decoder = decoder.to(self.device)

    def logits_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the pixels of the logits, four per cell of SAM's grid, lie in a slice of (height, width)."""
        side = 4 * self.decoder.preset.grid
        return Letterbox.fit(size, (side, side), "top_left")

    def _knows(self, prompt: Prompt) -> bool:
        return self.has_decoder and super()._knows(prompt)

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether the word was not learned from labels.

        A few labelled cases do not show how often CLIP's cosine is wrong.
        """
        return prompt.key not in self.learned_words

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment pairs, as `Segmenter.forward`: logits [P, 4g, 4g] in SAM's frame, padding included.

        Raises:
            RequestError: hints are given, which this model cannot use.
        """
        self.refuse_hints(hints)
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        inputs = self.decoder_inputs(slices, prompts, pairs)
        return SegmenterOutput(
            self.draw(inputs), slices.frames["sam"], presence=inputs.presence, attribution=inputs.priors[:, 0]
        )

    def variants(self, prompt: Prompt) -> list[Segmenter]:
        """The same weights with other noise; empty when the decoder does not use the bottleneck's map."""
        return [] if self.preset.decoder.prior == "similarity" else super().variants(prompt)

    def draw(self, inputs: DecoderInputs) -> Tensor:
        """Draw logits [P, 4g, 4g] from the result of `decoder_inputs`."""
        logits: Tensor = self.decoder(inputs.sam, inputs.priors, inputs.token)
        return logits[:, 0]

    def decoder_inputs(
        self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor, priors: Tensor | None = None
    ) -> DecoderInputs:
        """Put together the decoder's input for each pair.

        Args:
            slices: features of slices.
            prompts: features of words.
            pairs: [P, 2], (slice, word).
            priors: [P, priors, g, g], when they were computed before.
        """
        rows, words = pairs.to(self.device).unbind(1)
        presence = self.presence(slices, prompts, pairs)
        token = word_token_input(prompts.tensors["text"][words], presence)
        sam_features = slices.tensors["sam"][rows].float()
        if priors is None:
            size = (sam_features.shape[-2], sam_features.shape[-1])
            maps = self._prior_maps(slices, prompts, pairs)
            priors = torch.stack(
                [slices.frames["clip"].resample(m, slices.frames["sam"], size) for m in maps], 1
            )
        return DecoderInputs(sam_features, priors, token, presence)

    def _prior_maps(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> list[Tensor]:
        """The preset's priors, each [P, patches, patches] in 0..1, on CLIP's grid."""
        kind, maps = self.preset.decoder.prior, []
        if kind in ("m2ib", "both"):
            maps.append(normalise_maps(self.bottleneck_maps(slices, prompts, pairs)))
        if kind in ("similarity", "both"):
            cosine = self.cosine(slices, prompts, pairs, tokens=slice(1, None))
            maps.append(
                torch.sigmoid(self.scores.similarity(cosine)).unflatten(1, (self.clip.grid, self.clip.grid))
            )
        return maps


def _without_decoder(checkpoint: Checkpoint) -> Checkpoint:
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("decoder.")}
    return replace(checkpoint, tensors=kept)
