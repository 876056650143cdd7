"""Maps of where in a slice a word is: the multi-modal information bottleneck (M2IB) on a frozen CLIP.

Every (slice, word) pair is a fitting problem of its own; a batch only shares the matrix products. Knows
hidden states after one block, text embeddings, and how to restart the encoder there; not images, volumes,
files or the spelling of words.

Source: methods.md 0.5, the equations of M2IB (Wang, Rudner, Wilson, NeurIPS 2023). Differs from the published
code: the text is encoded once, only blocks after the bottleneck run, the capacity's gradient is in closed
form, noise is keyed per pair. Same mathematics.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from wordmask.models.noise import Noise

ALPHA_START = 5.0  # lambda = 0.9933: nearly everything passes at first
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
COSINE_EPS = 1e-6
# A map whose range is below this share of its largest value consists of rounding only (768 float32 terms).
CONSTANT = 1e-6


class RestartableClip(Protocol):
    """A CLIP image encoder as the bottleneck needs it, such as `wordmask.encoders.clip.ClipEncoder`."""

    grid: int
    depth: int

    def tail(self, hidden: Tensor, layer: int) -> Tensor:
        """Image embeddings [N, E], of any length.

        Args:
            hidden: [N, 1 + grid * grid, D], after block ``layer``.
            layer: counted from 0.
        """
        ...


def capacity(alpha: Tensor, hidden: Tensor) -> Tensor:
    """Information that passes each element: KL(N(lambda x, (1 - lambda)^2) || N(0, 1)).

    It equals -1/2 [1 + log (1 - lambda)^2 - (lambda x)^2 - (1 - lambda)^2], but avoids the logarithm of a
    number near 0.

    Args:
        alpha: any shape; lambda = sigmoid(alpha).
        hidden: x, of the same shape.

    Returns:
        Nats, of the same shape.
    """
    passed, blocked = torch.sigmoid(alpha) * hidden, torch.sigmoid(-alpha)
    return functional.softplus(alpha) + 0.5 * passed.square() + 0.5 * blocked.square() - 0.5


def fit_pairs(
    clip: RestartableClip,
    hidden: Tensor,
    text: Tensor,
    *,
    pair_keys: Sequence[Hashable],
    layer: int,
    beta: float,
    steps: int,
    learning_rate: float,
    replicas: int,
    noise: Noise,
) -> Tensor:
    """Fit one bottleneck per row and return the information that it lets pass.

    Computed in float32 (float64 for float64), also under `torch.no_grad` and `torch.inference_mode`. The
    weights get no gradients.

    Args:
        clip: the encoder.
        hidden: [P, 1 + g * g, D], after block ``layer``, of any float type.
        text: [P, E].
        pair_keys: P keys for the noise.
        layer: the block, counted from 0, after which noise is mixed in.
        beta: price of one nat, averaged over tokens and channels.
        steps: forward passes; the map is taken after ``steps - 1`` updates, as published.
        learning_rate: of Adam.
        replicas: noise samples per step, whose cosines are averaged.
        noise: where the noise comes from.

    Returns:
        Maps [P, g, g] in nats, summed over channels, without the class token.

    Raises:
        ValueError: the arguments do not fit each other.
    """
    _check(clip, hidden, text, pair_keys, layer=layer, steps=steps, replicas=replicas)
    # Per element the gradient is about 1e-6 and only its sign matters, so autocast must not round what leads
    # to it.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        # Copied, because tensors of inference mode cannot enter autograd.
        x, t = hidden.to(dtype, copy=True), text.to(dtype, copy=True)
        alpha, first, second = torch.full_like(x, ALPHA_START), torch.zeros_like(x), torch.zeros_like(x)
        for step in range(steps - 1):
            e = noise(pair_keys, step)
            if e.shape != (len(x), replicas, *x.shape[1:]):
                raise ValueError(
                    f"The noise must be {(len(x), replicas, *x.shape[1:])}, got {tuple(e.shape)}."
                )
            gradient = _gradient(clip, x, t, alpha, e.to(x), layer=layer, beta=beta)
            _adam_step(alpha, gradient, first, second, number=step + 1, learning_rate=learning_rate)
        return capacity(alpha, x)[:, 1:].sum(-1).unflatten(1, (clip.grid, clip.grid))


def attribution_maps(
    clip: RestartableClip,
    hidden: Tensor,
    text_features: Tensor,
    *,
    layer: int,
    beta: float,
    steps: int,
    learning_rate: float,
    replicas: int,
    noise: Noise,
    slice_keys: Sequence[Hashable] | None = None,
    words: Sequence[str] | None = None,
    pair_batch: int | None = None,
) -> Tensor:
    """Maps of every slice for every word; the other arguments are those of `fit_pairs`.

    Args:
        hidden: [N, 1 + g * g, D].
        text_features: [K, E].
        slice_keys: N keys for the noise; by default the numbers of the slices.
        words: K keys for the noise; by default the numbers of the words.
        pair_batch: how many pairs are fitted at a time, the last batch padded to the same shape; by default
            all at once.

    Returns:
        [N, K, g, g], in nats and not normalised (`normalise_maps`).
    """
    n, k = len(hidden), len(text_features)
    slices, names = range(n) if slice_keys is None else slice_keys, range(k) if words is None else words
    if (len(slices), len(names)) != (n, k):
        raise ValueError(f"{n} slices and {k} words need as many keys, got {len(slices)} and {len(names)}.")
    pairs = [(i, j) for i in range(n) for j in range(k)]
    size = pair_batch or max(len(pairs), 1)
    maps = []
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        padded = chunk + chunk[-1:] * (size - len(chunk))
        fitted = fit_pairs(
            clip,
            hidden[[i for i, _ in padded]],
            text_features[[j for _, j in padded]],
            pair_keys=[(slices[i], names[j]) for i, j in padded],
            layer=layer,
            beta=beta,
            steps=steps,
            learning_rate=learning_rate,
            replicas=replicas,
            noise=noise,
        )
        maps.append(fitted[: len(chunk)])
    return torch.cat(maps).unflatten(0, (n, k)) if maps else hidden.new_zeros(n, k, clip.grid, clip.grid)


def normalise_maps(maps: Tensor) -> Tensor:
    """Stretch each map [..., g, g] to 0..1 by its own smallest and largest value.

    A constant map becomes 0 everywhere. Stretching removes the scale: the map of an absent word has a peak of
    1, too, so never decide presence from it.
    """
    least, largest = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = largest - least
    constant = span <= CONSTANT * torch.maximum(largest.abs(), least.abs())
    return torch.where(constant, 0.0, (maps - least) / torch.where(constant, 1.0, span))


def _gradient(
    clip: RestartableClip, x: Tensor, text: Tensor, alpha: Tensor, e: Tensor, *, layer: int, beta: float
) -> Tensor:
    """The gradient d/d alpha of beta * mean(capacity) - mean over replicas of cos(text, tail(z)).

    It is summed over pairs, never averaged: a mean would shrink each gradient towards Adam's eps, by the size
    of the batch. Everything is [P, T, D], e is [P, R, T, D].
    """
    keep = torch.sigmoid(alpha)
    drop = torch.sigmoid(-alpha)  # not 1 - keep: in float32 that has lost 3 of its 7 digits at alpha = 9
    with torch.enable_grad():
        z = torch.addcmul((keep * x).unsqueeze(1), drop.unsqueeze(1), e).requires_grad_(True)
        image = clip.tail(z.flatten(0, 1), layer).unflatten(0, z.shape[:2])
        cosine = functional.cosine_similarity(image, text.unsqueeze(1), dim=-1, eps=COSINE_EPS)
        (to_z,) = torch.autograd.grad(cosine.mean(1).sum(), z)
    price = beta / x[0].numel() * keep * (1 - drop.square() + keep * drop * x.square())
    fit = (to_z * (x.unsqueeze(1) - e)).sum(1) * keep * drop
    return price - fit


def _adam_step(
    alpha: Tensor, gradient: Tensor, first: Tensor, second: Tensor, *, number: int, learning_rate: float
) -> None:
    """Take one step of Adam (Kingma and Ba, 2015) in place.

    It works element by element, so no pair can influence another.

    Args:
        alpha: the parameters.
        gradient: of the same shape.
        first: running mean of the gradient.
        second: running mean of its square.
        number: of the step, from 1.
        learning_rate: step size.
    """
    first.lerp_(gradient, 1 - ADAM_BETAS[0])
    second.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
    spread = (second / (1 - ADAM_BETAS[1] ** number)).sqrt_().add_(ADAM_EPS)
    alpha.addcdiv_(first, spread, value=-learning_rate / (1 - ADAM_BETAS[0] ** number))


def _check(
    clip: RestartableClip,
    hidden: Tensor,
    text: Tensor,
    pair_keys: Sequence[Hashable],
    *,
    layer: int,
    steps: int,
    replicas: int,
) -> None:
    tokens = 1 + clip.grid * clip.grid
    if hidden.ndim != 3 or hidden.shape[1] != tokens:
        raise ValueError(
            f"Hidden states must be [pairs, {tokens}, width] for this encoder, got {tuple(hidden.shape)}."
        )
    if not len(hidden) == len(text) == len(pair_keys):
        raise ValueError(
            f"Every pair needs a hidden state, a text and a key, got {len(hidden)}, {len(text)} and "
            f"{len(pair_keys)}."
        )
    if not 0 <= layer < clip.depth - 1:  # after the last block the class token no longer reads the patches
        raise ValueError(
            f"The bottleneck lies after block 0 to {clip.depth - 2} of this encoder, got {layer}."
        )
    if steps < 1 or replicas < 1:
        raise ValueError(f"A fit needs at least one step and one replica, got {steps} and {replicas}.")
