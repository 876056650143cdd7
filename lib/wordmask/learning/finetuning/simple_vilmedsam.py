"""How Simple-ViLMedSAM learns from labelled slices (methods.md 1.6).

The decoder learns, and LoRA of SAM's encoder if the recipe asks for it. Beyond the paper: tiny's text tower
learns words that it never met, while the embeddings of the words it knows are held in place; and the presence
logit learns with the mask. Public text towers stay frozen, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.lora import add_lora, has_lora, load_lora_state_dict, lora_layers, lora_state_dict
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.inference.batching import join_slices
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.finetuning.run import FineTuning
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.losses import mask_loss, presence_loss
from wordmask.learning.recipes import Recipe
from wordmask.models.base import PromptFeatures, SliceFeatures
from wordmask.models.simple_vilmedsam.model import LORA, DecoderInputs, SimpleViLMedSAM
from wordmask.models.simple_vilmedsam.preset import SimpleViLMedSAMPreset
from wordmask.words.prompts import parse_prompts
from wordmask.words.vocabulary import synonyms_of

ANCHORS = 12  # words per step whose embedding is held


class SimpleViLMedSAMTrainee(Trainee):
    """A Simple-ViLMedSAM whose decoder learns, with tiny's text tower and LoRA where there are such."""

    def __init__(self, model: SimpleViLMedSAM, recipe: Recipe, words: Sequence[str]) -> None:
        super().__init__()
        self.segmenter = self.model = model
        self.recipe, self.words = recipe, tuple(words)
        if recipe.lora_rank and not has_lora(model.sam.image_encoder):
            add_lora(model.sam.image_encoder, recipe.lora_rank)
        self.frozen = recipe.lora_rank == 0
        self.learns_text = isinstance(model.clip.tokenizer, TinyTokenizer)
        self.anchors = sorted(model.trained_words - set(words)) if self.learns_text else []
        self.decoder_rate = recipe.known_decoder_rate if self._knows_all() else recipe.decoder_rate
        model.requires_grad_(False).eval()
        with torch.no_grad():
            held = model.clip.encode_text(self.anchors)
        self.held: Tensor = held
        self._priors: dict[tuple[Any, str], Tensor] = {}
        for parameter in (parameter for group in self.parameter_groups() for parameter in group["params"]):
            parameter.requires_grad_(True)

    @classmethod
    def start(
        cls, preset: SimpleViLMedSAMPreset, weights: Path | None, recipe: Recipe, words: Sequence[str]
    ) -> Self:
        texts = [text for word in words for text in (word, *synonyms_of(word))]
        fresh = (
            {"ipp": recipe.ipp, "bid": preset.decoder.bid if recipe.bid else "none"}
            if recipe.fresh_decoder
            else None
        )
        return cls(
            SimpleViLMedSAM.for_training(preset, weights, texts, fresh=fresh),
            recipe,
            words,
        )

    def _knows_all(self) -> bool:
        """Whether a trained decoder has learned all of the words before.

        Weights without a list of words have learned nothing yet.
        """
        return not self.recipe.fresh_decoder and set(self.words) <= self.model.trained_words

    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        return self.model.logits_frame(size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Decoder, and where the model or recipe has them: scores with tiny's text tower, LoRA."""
        groups = [{"params": list(self.model.decoder.parameters()), "lr": self.decoder_rate}]
        if self.learns_text:
            groups.append(
                {
                    "params": [*self._text().values(), *self.model.scores.parameters()],
                    "lr": self.recipe.text_rate,
                }
            )
        if not self.frozen:
            layers = [layer for _, *pair in lora_layers(self.model.sam.image_encoder) for layer in pair]
            groups.append(
                {"params": [p for layer in layers for p in layer.parameters()], "lr": self.recipe.lora_rate}
            )
        return groups

    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Losses of one step.

        Returns:
            ``mask``: BCE + Dice; ``presence``: BCE; ``anchor``: squared distance that held embeddings moved;
                ``loss``: their weighted sum.
        """
        self.model.decoder.train()
        generator = torch.Generator().manual_seed(seed)
        words, text = self._texts(rows, generator)
        inputs, order = self._inputs(rows, words, text)
        targets = torch.stack([rows[place].target for place in order]).to(self.model.device)
        logits = self.model.draw(inputs).float()
        losses = {"mask": mask_loss(logits, targets)}
        total = losses["mask"]
        if self.learns_text and self.recipe.presence_weight:
            losses["presence"] = presence_loss(inputs.presence, targets)
            total = total + self.recipe.presence_weight * losses["presence"]
        if self.learns_text and self.anchors and self.recipe.anchor_weight:
            chosen = torch.randperm(len(self.anchors), generator=generator)[:ANCHORS]
            now = self.model.clip.encode_text([self.anchors[i] for i in chosen])
            losses["anchor"] = (now - self.held.to(now.device)[chosen]).square().sum(1).mean()
            total = total + self.recipe.anchor_weight * losses["anchor"]
        return {"loss": total, **losses}

    def ready(self) -> SimpleViLMedSAM:
        if not self.frozen:
            self.model.weights_changed()
        self.model.trained_words = self.model.trained_words | set(self.words)
        self.model.learned_words = self.model.learned_words | set(self.words)
        self.model.eval()
        return self.model

    def state(self) -> dict[str, Tensor]:
        """Decoder with its running statistics, scores, and the text tower and LoRA if they learn."""
        parts = {"decoder": self.model.decoder, "scores": self.model.scores}
        tensors = {
            f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()
        }
        if self.learns_text:
            tensors |= {f"clip.model.{name}": tensor for name, tensor in self._text().items()}
        if has_lora(self.model.sam.image_encoder):
            tensors |= {
                f"{LORA}{name}": tensor
                for name, tensor in lora_state_dict(self.model.sam.image_encoder).items()
            }
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        rest = {name: tensor for name, tensor in state.items() if not name.startswith(LORA)}
        self.model.load_state_dict(rest, strict=False)
        lora = {name.removeprefix(LORA): tensor for name, tensor in state.items() if name.startswith(LORA)}
        if lora:
            load_lora_state_dict(self.model.sam.image_encoder, lora)

    def card(self) -> dict[str, Any]:
        """Words, the decoder's form and, for tiny, token_ids."""
        form = self.model.preset.decoder
        learned = sorted(self.model.trained_words | set(self.words))
        card: dict[str, Any] = {
            "words": learned,
            "decoder": {"ipp": form.ipp, "bid": form.bid},
        }
        if isinstance(self.model.clip.tokenizer, TinyTokenizer):
            card["token_ids"] = list(self.model.clip.tokenizer.token_ids)
        return card

    def _text(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for name, parameter in self.model.clip.model.named_parameters()
            if not name.startswith("visual.") and name != "logit_scale"
        }

    def _texts(self, rows: Sequence[PairRow], generator: torch.Generator) -> tuple[dict[str, int], Tensor]:
        """Word -> row of the embeddings [K, E], each of the word or now and then of a synonym."""
        words = {word: number for number, word in enumerate(sorted({row.word for row in rows}))}
        shown = []
        for word in words:
            others = synonyms_of(word) if self.learns_text else []
            draw = torch.rand(2, generator=generator)
            shown.append(
                others[int(draw[1] * len(others))] if others and draw[0] < self.recipe.synonyms else word
            )
        with torch.set_grad_enabled(self.learns_text):
            return words, self.model.clip.encode_text(shown)

    def _inputs(
        self, rows: Sequence[PairRow], words: dict[str, int], text: Tensor
    ) -> tuple[DecoderInputs, list[int]]:
        """What the decoder gets, slices of one size at a time, and the place of each pair in ``rows``."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            sizes.setdefault(tuple(row.pixels.shape), []).append(place)
        prompts = tuple(parse_prompts([word])[0] for word in words)
        features = PromptFeatures(prompts, {"text": text}, torch.ones(len(words), dtype=torch.bool))
        parts = []
        for places in sizes.values():
            own = [rows[place] for place in places]
            slices = self._slices(own)
            pairs = torch.tensor([[number, words[row.word]] for number, row in enumerate(own)])
            parts.append(
                self.model.decoder_inputs(
                    slices, features, pairs, self._recall_priors(own, slices, features, pairs)
                )
            )
        return DecoderInputs.join(parts), [place for places in sizes.values() for place in places]

    def _slices(self, rows: Sequence[PairRow]) -> SliceFeatures:
        slices = join_slices([row.features for row in rows], [row.key for row in rows], self.model.device)
        if not self.frozen:
            pixels = torch.stack([row.pixels for row in rows]).to(self.model.device)
            slices.tensors["sam"] = self.model.encode_for_sam(pixels, slices.frames["sam"])
        return slices

    def _recall_priors(
        self, rows: Sequence[PairRow], slices: SliceFeatures, features: PromptFeatures, pairs: Tensor
    ) -> Tensor | None:
        """Priors of a frozen text tower; None where it learns.

        They are computed once per view and word, because fitting a bottleneck costs more than all the rest.
        """
        if self.learns_text:
            return None
        missing = [number for number, row in enumerate(rows) if (row.key, row.word) not in self._priors]
        if missing:
            made = self.model.decoder_inputs(slices, features, pairs[missing]).priors.detach().half().cpu()
            self._priors |= {
                (rows[number].key, rows[number].word): made[place] for place, number in enumerate(missing)
            }
        return torch.stack([self._priors[row.key, row.word] for row in rows]).float().to(self.model.device)


TRAINING = FineTuning(SimpleViLMedSAMTrainee)
