"""A model that was taught words: a committee answers for them, and the model itself for all others.

Knows the segmenter contract; not any particular model, nor how the committee learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.pixel_encoder import pool_slices
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
from wordmask.models.presets import PresencePreset
from wordmask.models.taught.committee import JUDGE, Committee
from wordmask.models.taught.parts import peak_of, standing_out
from wordmask.weights.card import TaughtWord
from wordmask.words.prompts import Prompt
from wordmask.words.vocabulary import opposite_word

BASE = "base."  # prefix of the frozen model's own tensors and frames
FRAME, POOLED, LINEAR = "pixels", "pooled", "linear"
SMALLEST = 1e-6  # probability
EDGE = 1e-3  # logit, so that a part that stands out is marked as a whole


class TaughtSegmenter(Segmenter):
    """A model and the words that it was taught.

    Args:
        base: the model, frozen.
        committee: what answers for the taught words.
        member: the only network that answers; None: all, and the linear member.
    """

    def __init__(self, base: Segmenter, committee: Committee, *, member: int | None = None) -> None:
        super().__init__(base.preset)
        self.base, self.committee, self.member = base, committee, member
        self.name, self.capabilities = base.name, base.capabilities
        self.trained_words = base.trained_words | set(committee.card.words)
        self._digest: str | None = None
        self._answering: dict[_Way, CommitteeSegmenter] = {}

    @classmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Not for this class: `load_segmenter` puts it together."""
        raise TypeError("A taught model is put together by load_segmenter.")

    @property
    def fingerprint(self) -> str:
        """That of the model, because the committee has its own."""
        return self.base.fingerprint

    def committee_digest(self) -> str:
        """Digest of the committee's weights."""
        if self._digest is None:
            self._digest = fingerprint(self.committee)
        return self._digest

    def answering(self, prompt: Prompt, *, picture: bool, hinted: bool) -> Segmenter:
        """The committee for a taught word without points or a box, else the model."""
        taught = self.committee.card.words.get(prompt.key)
        if taught is None or hinted:
            return self.base.answering(prompt, picture=picture, hinted=hinted)
        mirrors = picture and self.committee.card.mirror and opposite_word(prompt.word) is None
        way = _Way(picture, mirrors, taught.frozen, taught.presence is not None)
        if way not in self._answering:
            self._answering[way] = CommitteeSegmenter(self, way)
        return self._answering[way]

    def only(self, member: int) -> TaughtSegmenter:
        """The same model with one member of the committee alone."""
        return TaughtSegmenter(self.base, self.committee, member=member)

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        return self.base.encode_slices(slices, keys)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Features of the model; taught words count as known."""
        features = self.base.encode_prompts(prompts)
        taught = torch.tensor(
            [prompt.key in self.committee.card.words for prompt in prompts], dtype=torch.bool
        )
        return PromptFeatures(features.prompts, features.tensors, features.known.cpu() | taught)

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """What the model answers; `answering` has the committee."""
        output: SegmenterOutput = self.base(slices, prompts, pairs, hints)
        return output

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor | None:
        return self.base.presence(slices, prompts, pairs)

    def judges_presence(self, prompt: Prompt) -> bool:
        return self.base.judges_presence(prompt)

    def variants(self, prompt: Prompt) -> list[Segmenter]:
        """Each network of a taught word alone; for other words those of the model."""
        if prompt.key not in self.committee.card.words:
            return self.base.variants(prompt)
        return [self.only(member) for member in range(len(self.committee.networks))]


@dataclass(frozen=True)
class _Way:
    """How a word is answered.

    Attributes:
        picture: the slices are pictures, which have no neighbours.
        mirrors: they are also seen mirrored.
        frozen: the frozen model's answer takes part.
        limited: a limit decides about the word's presence.
    """

    picture: bool
    mirrors: bool
    frozen: bool
    limited: bool


class CommitteeSegmenter(Segmenter):
    """The committee as a segmenter of taught words.

    Args:
        owner: the model that was taught.
        way: how it answers.
    """

    def __init__(self, owner: TaughtSegmenter, way: _Way) -> None:
        limits = PresencePreset(slice_logit=float("-inf"), volume_logit=0.0) if way.limited else None
        super().__init__(owner.preset.model_copy(update={"presence": limits}))
        self.name, self.capabilities, self.way = owner.name, Capabilities(), way
        self.committee, self.member = owner.committee, owner.member
        self.base = owner.base if way.frozen else None
        self.sees_neighbours = not way.picture
        self.trained_words = frozenset(owner.committee.card.words)
        self._fingerprint = f"{owner.committee_digest()}-{way}"
        if way.frozen:
            self._fingerprint += f"-{owner.fingerprint}"

    @classmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Not for this class: `TaughtSegmenter.answering` makes it."""
        raise TypeError("TaughtSegmenter.answering makes a committee's segmenter.")

    @property
    def fingerprint(self) -> str:
        """Digest of the committee's weights and of what it sees."""
        return self._fingerprint

    def frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the networks' square lies in a slice of (height, width)."""
        side = self.committee.side_for(size)
        return Letterbox.fit(size, (side, side), "top_left")

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute features [N, members, channels, s, s], and the frozen model's where it takes part."""
        frame = self.frame((slices.shape[-2], slices.shape[-1]))
        columns = max(1, round(frame.original[1] * frame.scale[1])) if self.way.mirrors else 0
        pixels = frame.to_model(slices)
        tensors = {"features": self.committee.features(pixels, columns)}
        frames = {FRAME: frame}
        if self.way.picture:
            tensors[LINEAR] = self.committee.linear_features(pixels, columns)
        if self.way.picture and self.way.limited:
            tensors[POOLED] = pool_slices(slices)
        if self.base is not None:
            own = slices[:, 1:2].expand(-1, 3, -1, -1) if self.sees_neighbours else slices
            features = self.base.encode_slices(own, keys)
            tensors |= {BASE + name: tensor for name, tensor in features.tensors.items()}
            frames |= {BASE + name: frame for name, frame in features.frames.items()}
        return SliceFeatures(tuple(keys), tensors, frames)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Compute the row of each word among the vectors, and its features of the frozen model."""
        rows = torch.tensor([self.committee.rows[prompt.key] for prompt in prompts], device=self.device)
        tensors = {"row": rows}
        if self.base is not None:
            own = self.base.encode_prompts(prompts)
            tensors |= {BASE + name: tensor for name, tensor in own.tensors.items()}
        return PromptFeatures(tuple(prompts), tensors, torch.ones(len(prompts), dtype=torch.bool))

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment pairs: the weighted mean of the members' probabilities, as logits.

        Uncertainty is the entropy of that mean, high where members disagree.
        """
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        rows, words = pairs.to(self.device).unbind(1)
        frame = slices.frames[FRAME]
        frozen = self._frozen(slices, prompts, pairs, frame) if self.base is not None else None
        logits = self.committee.logits(
            slices.tensors["features"][rows].float(), prompts.tensors["row"][words], frozen
        )
        taught = [self.committee.card.words[prompts.prompts[word].key] for word in words.tolist()]
        shares = self._shares(taught).to(logits.device)
        more = [torch.zeros_like(logits[0]), torch.zeros_like(logits[0])]
        if self.way.picture:
            seen = slices.tensors[LINEAR][rows].float()
            more[0] = self.committee.linear.logits(seen, prompts.tensors["row"][words], frame.model[0])
        else:
            shares[-2] = 0
        if frozen is not None:
            more[1] = _unsquash(frozen[:, 0])
        votes = torch.cat([logits, torch.stack(more)]).sigmoid()
        shares = shares / shares.sum(0)
        pooled = slices.tensors[POOLED][rows].float() if POOLED in slices.tensors else None
        mean = (votes * shares[:, :, None, None]).sum(0).clamp(SMALLEST, 1 - SMALLEST)
        logits = mean.logit()
        if self.way.picture:
            logits = torch.stack([show_picture(*each) for each in zip(mean, logits, taught, strict=True)])
        return SegmenterOutput(
            logits,
            frame,
            presence=_presence(votes[JUDGE if self.member is None else self.member], taught, pooled),
            uncertainty=-(mean * mean.log() + (1 - mean) * (1 - mean).log()),
        )

    def _shares(self, taught: Sequence[TaughtWord]) -> Tensor:
        """Weights of networks, linear member and frozen model for each pair, [networks + 2, P].

        A network that answers alone has the votes of all but the frozen model.
        """
        shares = torch.tensor([word.weights for word in taught]).T
        if self.member is not None:
            shares[self.member] = shares[:-1].sum(0)
            others = [row for row in range(len(shares) - 1) if row != self.member]
            shares[others] = 0
        return shares

    def _frozen(
        self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor, frame: Letterbox
    ) -> Tensor:
        """Maps of the frozen model in the networks' square, [P, 2, s, s]."""
        assert self.base is not None
        own = SliceFeatures(slices.keys, _inner(slices.tensors), _inner(slices.frames))
        words = PromptFeatures(prompts.prompts, _inner(prompts.tensors), prompts.known)
        return frozen_maps(self.base(own, words, pairs), frame)


def frozen_maps(output: SegmenterOutput, frame: Letterbox) -> Tensor:
    """What the networks get of the frozen model's answer, [P, 2, s, s] in -1..1.

    The first map is its logits, squashed by tanh(logit / 4); the second its attribution, 0 without one.
    """
    size = frame.model
    logits = output.frame.resample(output.logits, frame, size)
    prior = torch.zeros_like(logits)
    if output.attribution is not None:
        prior = output.frame.resample(output.attribution, frame, size)
    return torch.stack([torch.tanh(logits / 4), prior], 1)


def _unsquash(maps: Tensor) -> Tensor:
    return torch.atanh(maps.clamp(-0.9999, 0.9999)) * 4


def _inner(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(BASE): value for name, value in tensors.items() if name.startswith(BASE)}


def show_picture(mean: Tensor, logits: Tensor, taught: TaughtWord) -> Tensor:
    """Logits of a picture, moved so that the structure is marked even where the networks are unsure of it.

    Whether it is there at all is another question, which presence answers. Of a structure that is always one
    piece, only the part that stands out stays above 0.
    """
    if not taught.single:
        return logits - torch.special.logit(_level(0.5 * peak_of(mean.cpu().numpy())))
    part = standing_out(mean.cpu().numpy())
    moved = logits - torch.special.logit(_level(part.level))
    chosen = torch.from_numpy(part.mask).to(logits.device)
    return torch.where(chosen, moved.clamp_min(EDGE), moved.clamp_max(-1.0))


def _level(value: float) -> Tensor:
    return torch.tensor(value).clamp(SMALLEST, 1 - SMALLEST)


def _presence(votes: Tensor, taught: Sequence[TaughtWord], pooled: Tensor | None) -> Tensor:
    """Presence logits [P]: of the peak of a map, or above 0 where a score exceeds the limit of the word."""
    values = []
    for row, word in enumerate(taught):
        probability = votes[row].cpu().numpy()
        if word.presence is None:
            values.append(float(torch.logit(_level(peak_of(probability)))))
            continue
        score = word.presence.contrast * standing_out(probability).contrast - word.presence.limit
        if word.presence.pooled and pooled is not None:
            score += float(pooled[row].double().cpu() @ torch.tensor(word.presence.pooled).double())
        values.append(score)
    return torch.tensor(values, device=votes.device)
