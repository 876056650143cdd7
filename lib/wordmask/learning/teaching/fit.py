"""How one network of a committee learns: batches of slices, augmented at every step.

Knows samples, members and numbers of steps; not cases, files or the pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from wordmask.learning.losses import GRADIENT_LIMIT, mask_loss
from wordmask.learning.recipes import TeachingRecipe
from wordmask.learning.schedules import warm_up_share
from wordmask.learning.seeds import step_generator
from wordmask.learning.teaching.augmentation import STRENGTHS, augment
from wordmask.learning.teaching.samples import Kind, Samples
from wordmask.models.taught.networks import Member
from wordmask.progress import CancelToken

HEAD_RATE = 0.3  # of the other new parts': a vector of unit length makes its steps large
SEEDS_OF_MEMBERS = 7_919  # between the random numbers of two members


@dataclass
class Seconds:
    """Where the time of a training goes, in seconds of the wall clock."""

    views: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    steps: int = 0

    def as_dict(self) -> dict[str, float]:
        """By name, rounded, ready for a card."""
        return {
            "views": round(self.views, 1),
            "forward": round(self.forward, 1),
            "backward": round(self.backward, 1),
            "steps": self.steps,
        }


class Batches:
    """Batches of slices of one kind each.

    Kinds with a new word come in a share of ``1 - replay`` of the steps, each word as often as every other.
    Slices of volumes that do not show the drawn word make the recipe's share of a batch. Pictures without it
    make at most the share that they have among all, and none while there are only a few, from which a network
    learns to mark nothing rather than what is missing.

    Args:
        samples: what to learn from.
        new: words that this training is about.
        recipe: how.
    """

    def __init__(self, samples: Mapping[Kind, Samples], new: frozenset[str], recipe: TeachingRecipe) -> None:
        self.recipe, self.samples = recipe, samples
        self.kinds = [kind for kind, own in samples.items() if own.cases]
        about = [bool(new & set(kind.words)) for kind in self.kinds]
        weights = torch.tensor([float(len(kind.words)) for kind in self.kinds])
        self.weights = torch.zeros(len(self.kinds))
        for wanted, share in ((True, 1 - recipe.replay), (False, recipe.replay)):
            chosen = torch.tensor([one is wanted for one in about], dtype=torch.bool)
            if chosen.any():
                self.weights[chosen] = share * weights[chosen] / weights[chosen].sum()
        self._waiting: dict[tuple[int, int, bool], list[int]] = {}
        self._shows = [[own.shows(row) for row in range(len(kind.words))] for kind, own in self._items()]

    def draw(self, generator: Generator) -> tuple[Kind, list[int]]:
        """A kind and the rows of a batch among its samples."""
        number = int(torch.multinomial(self.weights, 1, generator=generator))
        kind = self.kinds[number]
        word = int(torch.randint(len(kind.words), (1,), generator=generator))
        negatives = self._negatives(kind, self._shows[number][word])
        rows = self._take(number, word, False, negatives, generator)
        return kind, rows + self._take(number, word, True, self.recipe.batch - negatives, generator)

    def _negatives(self, kind: Kind, shows: Tensor) -> int:
        """How many slices of a batch do not show the word."""
        present, absent = int(shows.sum()), int((~shows).sum())
        if not present or not absent:
            return 0 if present else self.recipe.batch
        if not kind.picture:
            return max(1, round(self.recipe.negatives * self.recipe.batch))
        if absent < self.recipe.fewest_negatives:
            return 0
        share = min(self.recipe.negatives, absent / (present + absent))
        return max(1, round(share * self.recipe.batch))

    def _take(self, kind: int, word: int, present: bool, count: int, generator: Generator) -> list[int]:
        """The next rows of a shuffled queue, which is filled again when it is empty."""
        queue = self._waiting.setdefault((kind, word, present), [])
        while len(queue) < count:
            rows = torch.nonzero(self._shows[kind][word] == present)[:, 0]
            queue += rows[torch.randperm(len(rows), generator=generator)].tolist()
        taken, queue[:] = queue[:count], queue[count:]
        return taken

    def _items(self) -> Sequence[tuple[Kind, Samples]]:
        return [(kind, self.samples[kind]) for kind in self.kinds]


@dataclass
class Fit:
    """The training of one member.

    Attributes:
        member: what learns; at the end it is in evaluation mode.
        number: of the member; each has its own random numbers.
        vectors: word -> its vector [width].
        recipe: how.
        steps: of this member.
        device: where to compute.
        seconds: where the time went.
    """

    member: Member
    number: int
    vectors: Mapping[str, Tensor]
    recipe: TeachingRecipe
    steps: int
    device: torch.device
    seconds: Seconds = field(default_factory=Seconds)

    def run(
        self,
        samples: Mapping[Kind, Samples],
        new: Collection[str],
        *,
        tell: Callable[[int, float], None] = lambda step, loss: None,
        cancel: CancelToken | None = None,
    ) -> None:
        """Learn.

        Args:
            samples: what to learn from.
            new: words that this training is about; the others are repeated.
            tell: called after each step with its number, from 1, and its loss.
            cancel: its ``cancel()`` ends the training with CancelledError between two steps.
        """
        member = self.member.to(self.device).train()
        batches = Batches(samples, frozenset(new), self.recipe)
        optimizer = torch.optim.AdamW(self._groups(), weight_decay=self.recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warm_up_share(step, steps=self.steps, warm_up=0.0)
        )
        for step in range(self.steps):
            if cancel is not None:
                cancel.check()
            generator = step_generator(self.recipe.seed + SEEDS_OF_MEMBERS * self.number, step)
            kind, rows = batches.draw(generator)
            loss = self._step(kind, samples[kind], rows, generator)
            began = time.perf_counter()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), GRADIENT_LIMIT)
            optimizer.step()
            schedule.step()
            self.seconds.backward += time.perf_counter() - began
            self.seconds.steps += 1
            tell(step + 1, float(loss.detach()))
        member.eval()

    def _step(self, kind: Kind, own: Samples, rows: Sequence[int], generator: Generator) -> Tensor:
        """The loss of one batch."""
        began = time.perf_counter()
        words = len(kind.words)
        pixels = torch.stack([own.pixels[row] for row in rows]).float() / 255
        maps = torch.stack([own.masks[row] for row in rows]).float() / 255
        if own.frozen:
            frozen_maps = torch.stack([own.frozen[row] for row in rows]).float()
            maps = torch.cat([maps, frozen_maps.flatten(1, 2)], 1)
        pixels, maps = augment(
            pixels.to(self.device),
            maps.to(self.device),
            STRENGTHS[self._views(kind)],
            generator,
            mirror=kind.mirror,
        )
        masks, frozen = maps[:, :words].flatten(0, 1), None
        if own.frozen:
            frozen = maps[:, words:].unflatten(1, (words, 2)).flatten(0, 1)
            # So that the networks also learn to do without the frozen model.
            kept = torch.rand(len(frozen), generator=generator) >= self.recipe.frozen_dropout
            frozen = frozen * kept.to(self.device)[:, None, None, None]
        self.seconds.views += time.perf_counter() - began
        began = time.perf_counter()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            features = self.member.features(pixels * 2 - 1)
        vectors = torch.stack([self.vectors[word] for word in kind.words]).to(self.device)
        logits = self.member.head(
            features.float().repeat_interleave(words, 0),
            vectors.repeat(len(rows), 1),
            frozen,
        )
        loss = mask_loss(logits, masks.clamp(0, 1))
        self.seconds.forward += time.perf_counter() - began
        return loss

    def _views(self, kind: Kind) -> str:
        if not kind.picture:
            return self.recipe.volume_views
        return self.recipe.lean_picture_views if self.member.kind == "lean" else self.recipe.picture_views

    def _groups(self) -> list[dict[str, object]]:
        """AdamW's parameter groups: what learned before at a lower rate."""
        rate = self.recipe.rate
        old = [p for part in self.member.network.learned_parts() for p in part.parameters()]
        known = {id(parameter) for parameter in old}
        new = [p for p in self.member.network.parameters() if id(p) not in known]
        return [
            {"params": old, "lr": rate * self.recipe.encoder_share},
            {"params": new, "lr": rate},
            {"params": list(self.member.head.parameters()), "lr": rate * HEAD_RATE},
        ]
