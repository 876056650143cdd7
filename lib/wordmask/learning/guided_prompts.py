"""How the trainings of CLIP-Guided SAM prompt it: as it will be prompted, in stated shares.

A pair of slice and word is shown with the word alone; or with clicks, the first in the middle of the
structure; or with clicks that correct what the word alone had marked. Knows the model and simulated clicks;
not where slices come from, not losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wordmask.learning.clicks import NO_CLICK, corrective_clicks
from wordmask.models.base import PromptFeatures
from wordmask.models.clip_guided_sam.guided_pairs import GuidedPairs
from wordmask.models.clip_guided_sam.model import CLIPGuidedSAM
from wordmask.words.prompts import parse_prompts


@dataclass(frozen=True)
class PromptShares:
    """How often a pair is prompted in which way.

    Attributes:
        word: share of pairs with the word alone, 0..1.
        clicks: share of pairs with clicks on an empty mask; the rest gets clicks on the mask of the word.
        most: clicks of a pair; it gets 1 to so many, each number as often.
    """

    word: float = 0.4
    clicks: float = 0.2
    most: int = 3


class KnownTexts:
    """Features of texts for a training whose CLIP is frozen: each text is read once.

    Args:
        model: learns; only what its adapters make of a text is computed in every step.
    """

    def __init__(self, model: CLIPGuidedSAM) -> None:
        self.model = model
        self._read: dict[str, dict[str, Tensor]] = {}

    def __call__(self, texts: list[str]) -> PromptFeatures:
        """As `CLIPGuidedSAM.encode_prompts`, with gradients of the adapters."""
        prompts = [parse_prompts(text)[0] for text in texts]
        for text, prompt in zip(texts, prompts, strict=True):
            if text not in self._read:
                with torch.no_grad():
                    self._read[text] = self.model.encode_prompts([prompt]).tensors
        tensors = {
            name: torch.cat([self._read[text][name] for text in texts]).to(self.model.device)
            for name in ("word", "text")
        }
        tensors["inside"] = self.model.network.text_parts(tensors["text"])
        return PromptFeatures(tuple(prompts), tensors, torch.ones(len(texts), dtype=torch.bool))


def draw_prompted(
    model: CLIPGuidedSAM,
    guided: GuidedPairs,
    targets: Tensor,
    shares: PromptShares,
    generator: torch.Generator,
    overruled: Tensor | None = None,
) -> Tensor:
    """Prompt each pair in a random way, and draw its mask.

    The clicks themselves carry no gradient.

    Args:
        model: draws.
        guided: P pairs.
        targets: [P, 4g, 4g], 0 or 1.
        shares: of the ways to prompt.
        generator: of everything random.
        overruled: bool [P], pairs whose target is not what their word says, so that only clicks can tell:
            they get clicks on an empty mask. None: all words are right.

    Returns:
        Logits [P, 4g, 4g].
    """
    way = torch.rand(len(targets), generator=generator)
    counts = torch.randint(1, shares.most + 1, (len(targets),), generator=generator)
    if overruled is None:
        overruled = torch.zeros(len(targets), dtype=torch.bool)
    counts[(way < shares.word) & ~overruled] = 0
    with torch.no_grad():
        frozen = guided.detach()
        masks = (model.draw(frozen) > 0).cpu()
        masks[((way >= shares.word) & (way < shares.word + shares.clicks)) | overruled] = False
        places, labels = corrective_clicks(
            lambda places, labels: draw_clicked(model, frozen, places, labels) > 0,
            masks,
            targets > 0.5,
            counts,
        )
    return draw_clicked(model, guided, places, labels)


def draw_clicked(model: CLIPGuidedSAM, guided: GuidedPairs, places: Tensor, labels: Tensor) -> Tensor:
    """Draw masks with the clicks of each pair; one without clicks gets the points of its similarity map.

    Pairs with equally many clicks are drawn together, because SAM's decoder attends to missing points, too.

    Args:
        model: draws.
        guided: P pairs.
        places: [P, n, 2], (x, y) in pixels of the logits.
        labels: [P, n]; those of clicks come first in each row.

    Returns:
        Logits [P, 4g, 4g].
    """
    counts = (labels != NO_CLICK).sum(1)
    rows, drawn = [], []
    for count in counts.unique().tolist():
        own = (counts == count).nonzero()[:, 0]
        part = guided.only(own.to(guided.maps.device))
        rows.append(own)
        drawn.append(
            model.draw_points(part, places[own, :count], labels[own, :count]) if count else model.draw(part)
        )
    return torch.cat(drawn)[torch.cat(rows).argsort().to(guided.maps.device)]
