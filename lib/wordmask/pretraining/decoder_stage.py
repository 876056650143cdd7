"""Stage 3 of the tiny weights: the position-prompt decoder on frozen features, then jointly with SAM.

Everything that does not learn is computed once: SAM embeddings, CLIP's scores, and the maps of both priors.
The variants (which prior, with or without the word token) are trained on the same pairs for the same steps
and compared on slices of another seed. In the joint phase SAM's encoder learns, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.files import replace_file
from wordmask.learning.losses import mask_loss
from wordmask.models.bottleneck import fit_pairs, normalise_maps
from wordmask.models.noise import KeyedNoise
from wordmask.models.presets import BottleneckPreset
from wordmask.models.simple_vilmedsam.decoder import PositionPromptDecoder
from wordmask.models.simple_vilmedsam.preset import DecoderPreset
from wordmask.models.word_scores import ClipWithScores, word_token_input
from wordmask.phantoms.words import LABELS, WORDS, word_table
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices, word_masks
from wordmask.pretraining.sam_stage import embed

logger = logging.getLogger(__name__)

ENCODE_BATCH, FIT_BATCH = 32, 64
# Of each of the two upsamplers' outputs, which are summed: about 5 % of a frame is inside a word.
LOG_PRIOR = -1.5
PRESENT_WORDS, ABSENT_WORDS = 4, 2
PAIRS_PER_STEP = 24
DECODER_RATE, JOINT_ENCODER_RATE, JOINT_DECODER_RATE = 2e-3, 2e-4, 1e-3
JOINT_SLICES, JOINT_WORDS = 6, 5


@dataclass
class PairData:
    """Frozen features of N slices and the maps of P (slice, word) pairs on SAM's grid.

    images [N, 3, S, S] uint8, labels [N, S, S]; text [words, E]; pairs [P, 2]; bottleneck and similarity maps
    [P, g, g] in 0..1; presence [P] logits; shares [P], of the slice that the word covers.
    """

    images: Tensor
    labels: Tensor
    text: Tensor
    pairs: Tensor
    bottleneck: Tensor
    similarity: Tensor
    presence: Tensor
    shares: Tensor

    def save(self, path: Path) -> None:
        """Keep for a resumed run."""
        with replace_file(path) as part:
            save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, part)

    @classmethod
    def load(cls, path: Path) -> PairData:
        """What `save` wrote."""
        return cls(**load_file(path))

    def prior(self, kind: str, rows: Tensor) -> Tensor:
        """[R, priors, g, g], as the decoder of that kind wants it."""
        chosen = {
            "m2ib": [self.bottleneck],
            "similarity": [self.similarity],
            "both": [self.bottleneck, self.similarity],
        }[kind]
        return torch.stack([maps[rows] for maps in chosen], 1)

    def word(self, rows: Tensor) -> Tensor:
        """[R, E + 1]: the word token's input, text embedding and presence logit."""
        return word_token_input(self.text[self.pairs[rows, 1]], self.presence[rows])


@torch.no_grad()
def prepare_pairs(
    clip: ClipWithScores,
    sam_frame_size: int,
    grid: int,
    data: PhantomSlices,
    *,
    bottleneck: BottleneckPreset,
    seed: int,
    every_word: bool = False,
) -> PairData:
    """Scores, maps and chosen pairs of all slices.

    Args:
        clip: trained in stage 1.
        sam_frame_size: pixels of a side of SAM's square.
        grid: cells of a side of SAM's embedding.
        data: the slices.
        bottleneck: how attribution maps are made.
        seed: of everything random.
        every_word: take all pairs (for tests); else present words, and hard and random absent ones.
    """
    size = clip.clip.image_size
    original = (data.images.shape[-2], data.images.shape[-1])
    clip_frame = Letterbox.fit(original, (size, size), "center")
    sam_frame = Letterbox.fit(original, (sam_frame_size, sam_frame_size), "top_left")
    text = F.normalize(clip.clip.encode_text(list(WORDS)), dim=-1)
    hidden, cosines = [], []
    for start in range(0, len(data), ENCODE_BATCH):
        pictures = data.images[start : start + ENCODE_BATCH].float() / 255
        state = clip.clip.head(clip.clip.normalise(clip_frame.to_model(pictures)), bottleneck.layer)
        tokens = F.normalize(clip.clip.tail_tokens(state, bottleneck.layer), dim=-1)
        hidden.append(state)
        cosines.append(tokens @ text.T)
    cosine = torch.cat(cosines)  # [N, 1 + patches, words]
    presence = clip.scores.presence(cosine[:, 0])
    shares = word_shares(data.labels)
    pairs = choose_pairs(
        shares > SMALLEST_PRESENT, presence, torch.Generator().manual_seed(seed), every_word=every_word
    )
    maps = bottleneck_maps(clip, torch.cat(hidden), text, pairs, bottleneck, seed)
    similarity = torch.sigmoid(clip.scores.similarity(cosine[pairs[:, 0], 1:, pairs[:, 1]])).view(
        -1, clip.clip.grid, clip.clip.grid
    )
    placed = [clip_frame.resample(m, sam_frame, (grid, grid)) for m in (maps, similarity)]
    rows = (pairs[:, 0], pairs[:, 1])
    return PairData(data.images, data.labels, text, pairs, placed[0], placed[1], presence[rows], shares[rows])


def bottleneck_maps(
    clip: ClipWithScores, hidden: Tensor, text: Tensor, pairs: Tensor, preset: BottleneckPreset, seed: int
) -> Tensor:
    """Min-max normalised M2IB maps [P, g, g] of CLIP's patches."""
    noise = KeyedNoise(preset.seed, preset.replicas, hidden.shape[1], hidden.shape[2])
    maps = []
    for start in range(0, len(pairs), FIT_BATCH):
        chunk = pairs[start : start + FIT_BATCH]
        keys = [(seed, int(row), WORDS[int(word)]) for row, word in chunk]
        fitted = fit_pairs(
            clip.clip,
            hidden[chunk[:, 0]],
            text[chunk[:, 1]],
            pair_keys=keys,
            layer=preset.layer,
            beta=preset.beta,
            steps=preset.steps,
            learning_rate=preset.learning_rate,
            replicas=preset.replicas,
            noise=noise,
        )
        maps.append(normalise_maps(fitted))
    return torch.cat(maps)


def word_shares(labels: Tensor) -> Tensor:
    """Labels [N, S, S] -> [N, words]: the share of the slice that each word covers."""
    counts = torch.stack(
        [torch.bincount(picture.flatten().long(), minlength=len(LABELS)) for picture in labels]
    ).float()
    return counts @ word_table().T / labels[0].numel()


def choose_pairs(
    present: Tensor, presence: Tensor, generator: torch.Generator, *, every_word: bool
) -> Tensor:
    """Choose pairs [P, 2] of (slice, word).

    Of each slice up to 4 present words, the absent word that CLIP finds most likely, and a random absent one.
    """
    if every_word:
        return torch.cartesian_prod(torch.arange(len(present)), torch.arange(present.shape[1]))
    pairs = []
    for row in range(len(present)):
        there, missing = present[row].nonzero()[:, 0], (~present[row]).nonzero()[:, 0]
        there = there[torch.randperm(len(there), generator=generator)][:PRESENT_WORDS]
        likely = missing[presence[row, missing].argmax()]
        other = missing[torch.randint(len(missing), (ABSENT_WORDS - 1,), generator=generator)]
        pairs += [(row, int(word)) for word in dict.fromkeys([*there.tolist(), int(likely), *other.tolist()])]
    return torch.tensor(pairs)


def new_decoder(preset: DecoderPreset, text_width: int) -> PositionPromptDecoder:
    """A fresh decoder whose output starts at the log prior of a mask and not at 0.5."""
    decoder = PositionPromptDecoder(preset, text_width)
    for upsampler in (decoder.upsample_first, decoder.upsample_second):
        upsampler[-1].state_dict()["bias"].fill_(LOG_PRIOR)
    return decoder


@torch.no_grad()
def sam_embeddings(sam: Sam, images: Tensor) -> Tensor:
    """SAM's embeddings [N, C, g, g] of pictures [N, 3, S, S] uint8."""
    return torch.cat(
        [
            embed(sam, images[i : i + ENCODE_BATCH].float() / 255)[0]
            for i in range(0, len(images), ENCODE_BATCH)
        ]
    )


def train_decoder(
    decoder: PositionPromptDecoder,
    embeddings: Tensor,
    data: PairData,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
) -> None:
    """The decoder alone, on frozen embeddings [N, C, g, g]."""

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data.pairs), (PAIRS_PER_STEP,), generator=generator)
        return {"loss": pair_loss(decoder, embeddings[data.pairs[rows, 0]], data, rows)}

    groups: list[dict[str, object]] = [{"params": list(decoder.parameters()), "lr": DECODER_RATE}]
    train(decoder, groups, loss, steps=steps, seed=seed, checkpoint=checkpoint, weight_decay=1e-4)


def pair_loss(decoder: PositionPromptDecoder, embeddings: Tensor, data: PairData, rows: Tensor) -> Tensor:
    """BCE + Dice of the named pairs at the decoder's own resolution.

    Slices fill SAM's frame (square phantoms).
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = decoder(
            embeddings,
            data.prior(decoder.preset.prior, rows),
            data.word(rows) if decoder.word_token else None,
        )[:, 0].float()
    target = word_masks(
        sample_labels(data.labels[data.pairs[rows, 0]], logits.shape[-1]), data.pairs[rows, 1]
    )
    return mask_loss(logits, target)


def sample_labels(labels: Tensor, size: int) -> Tensor:
    """Labels [B, S, S] -> [B, size, size] at the cells' centres."""
    index = ((torch.arange(size) + 0.5) * labels.shape[-1] / size).long()
    return labels[:, index][:, :, index]


class EncoderAndDecoder(nn.Module):
    """What the joint phase trains."""

    def __init__(self, sam: Sam, decoder: PositionPromptDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = sam.image_encoder, decoder


def train_jointly(
    sam: Sam, decoder: PositionPromptDecoder, data: PairData, *, steps: int, seed: int, checkpoint: Path
) -> None:
    """Train encoder and decoder together on whole slices, each with some of its words.

    Slices with rare words are drawn more often.
    """
    of_slice: list[list[int]] = [[] for _ in range(len(data.images))]
    for number, row in enumerate(data.pairs[:, 0].tolist()):
        of_slice[row].append(number)
    model = EncoderAndDecoder(sam, decoder)
    weights = rarity(data)

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        slices = torch.multinomial(weights, JOINT_SLICES, generator=generator).tolist()
        gain = 1 + 0.1 * (torch.rand(JOINT_SLICES, 1, 1, 1, generator=generator) * 2 - 1)
        embeddings, _ = embed(sam, (data.images[slices].float() / 255 * gain).clamp(0, 1))
        chosen = [(place, pair) for place, row in enumerate(slices) for pair in of_slice[row][:JOINT_WORDS]]
        places, rows = torch.tensor(chosen).unbind(1)
        return {"loss": pair_loss(decoder, embeddings[places], data, rows)}

    groups: list[dict[str, object]] = [
        {"params": list(model.encoder.parameters()), "lr": JOINT_ENCODER_RATE},
        {"params": list(decoder.parameters()), "lr": JOINT_DECODER_RATE},
    ]
    train(model, groups, loss, steps=steps, seed=seed, checkpoint=checkpoint, weight_decay=1e-4)


def rarity(data: PairData) -> Tensor:
    """How often to draw each slice, [N].

    One over the root of how often its rarest present word comes in the pairs.
    """
    present = data.shares > SMALLEST_PRESENT
    counts = torch.bincount(data.pairs[present, 1], minlength=len(WORDS)).clamp(min=1)
    weights = torch.full((len(data.images),), float(counts.max()) ** -0.5)
    return weights.scatter_reduce(
        0, data.pairs[present, 0], counts[data.pairs[present, 1]].float() ** -0.5, "amax"
    )


@dataclass(frozen=True)
class Score:
    """How well a variant segments.

    Dice of present words (area above twice the smallest), its mean over words, and the share of absent words
    that got a mark.
    """

    dice: float
    words: dict[str, float]
    false_alarms: float


@torch.no_grad()
def evaluate(decoder: PositionPromptDecoder, embeddings: Tensor, data: PairData, *, batch: int = 64) -> Score:
    """Measure a decoder on pairs of slices that trained nothing.

    The threshold is 0.5 at the decoder's resolution; presence does not hide a mask.
    """
    dices, areas = [], []
    for rows in torch.arange(len(data.pairs)).split(batch):
        logits = decoder(
            embeddings[data.pairs[rows, 0]],
            data.prior(decoder.preset.prior, rows),
            data.word(rows) if decoder.word_token else None,
        )
        mask = (logits[:, 0] > 0).float()
        target = word_masks(
            sample_labels(data.labels[data.pairs[rows, 0]], mask.shape[-1]), data.pairs[rows, 1]
        )
        overlap = (mask * target).sum((1, 2))
        dices.append(2 * overlap / (mask.sum((1, 2)) + target.sum((1, 2))).clamp(min=1))
        areas.append(mask.mean((1, 2)))
    dice, area = torch.cat(dices), torch.cat(areas)
    present, absent = data.shares > 2 * SMALLEST_PRESENT, data.shares == 0
    words = {}
    for number, word in enumerate(WORDS):
        chosen = present & (data.pairs[:, 1] == number)
        if chosen.any():
            words[word] = float(dice[chosen].mean())
    return Score(
        dice=sum(words.values()) / len(words),
        words=words,
        false_alarms=float((area[absent] > 0.002).float().mean()),
    )


def log_scores(name: str, score: Score, names: Sequence[str] = WORDS) -> None:
    """Write one line of scores to the log."""
    text = " ".join(f"{word} {score.words[word]:.2f}" for word in names if word in score.words)
    logger.info("%s: Dice %.3f, false alarms %.4f; %s", name, score.dice, score.false_alarms, text)
