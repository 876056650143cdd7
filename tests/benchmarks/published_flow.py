"""M2IB as it was published, written plainly from methods.md 0.5 and 5.1.

What ours is compared with, in speed and in numbers.

One (slice, word) pair at a time. The bottleneck hangs in the encoder as a hook, so every step runs the whole
of it; autograd does the rest. Uses nothing of `wordmask`: an open_clip model is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

StepNoise = Callable[[int], Tensor]  # step, from 0 -> [replicas, tokens, width]


class Bottleneck:
    """A forward hook for one transformer block.

    Mixes noise into what the block returns, and remembers the nats that pass.
    """

    def __init__(self, noise: StepNoise) -> None:
        self.noise, self.step = noise, -1  # the first pass only looks at the hidden state
        self.alpha: nn.Parameter | None = None
        self.nats: Tensor | None = None

    def __call__(self, block: nn.Module, arguments: Any, hidden: Tensor) -> Tensor:
        if self.alpha is None:
            self.alpha = nn.Parameter(torch.full_like(hidden, 5.0))
            return hidden
        self.step += 1
        passed, blocked = self.alpha.sigmoid(), (-self.alpha).sigmoid()
        self.nats = -0.5 * (1 + 2 * functional.logsigmoid(-self.alpha) - (passed * hidden) ** 2 - blocked**2)
        return passed * hidden + blocked * self.noise(self.step).to(hidden)


def published_map(
    model: Any, blocks: nn.ModuleList, pixels: Tensor, text: Tensor, *,
    layer: int, beta: float, steps: int, noise: StepNoise, replicas: int = 1,
) -> Tensor:  # fmt: skip
    """Image and text forward at every step, gradients to every weight that asks for them (as published: all).

    [g * g], nats.

    model: an open_clip model; blocks: of its vision transformer; pixels: [1, 3, S, S], normalised; text:
    tokens [1, length];
    replicas: copies of both in the batch, of which each has noise of its own
    """
    tokens = text.expand(replicas, -1)
    return _fit(
        model,
        blocks[layer],
        pixels,
        lambda: functional.normalize(model.encode_text(tokens), dim=-1),
        beta,
        steps,
        noise,
        replicas,
    )


def published_map_text_once(
    model: Any, blocks: nn.ModuleList, pixels: Tensor, text: Tensor, *,
    layer: int, beta: float, steps: int, noise: StepNoise, replicas: int = 1,
) -> Tensor:  # fmt: skip
    """As `published_map`, for a text that is encoded already, [1, E].

    Freeze the weights to leave out their gradients.
    """
    return _fit(model, blocks[layer], pixels, lambda: text, beta, steps, noise, replicas)


def _fit(
    model: Any, block: nn.Module, pixels: Tensor, encode_text: Callable[[], Tensor],
    beta: float, steps: int, noise: StepNoise, replicas: int,
) -> Tensor:  # fmt: skip
    bottleneck = Bottleneck(noise)
    hook = block.register_forward_hook(bottleneck)
    try:
        with torch.no_grad():
            model.encode_image(pixels)
        batch = pixels.expand(replicas, -1, -1, -1)
        adam = torch.optim.Adam([bottleneck.alpha], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
        for _ in range(steps):
            adam.zero_grad()
            image = model.encode_image(batch)
            loss = (
                beta * bottleneck.nats.mean()
                - functional.cosine_similarity(image, encode_text(), eps=1e-6).mean()
            )
            loss.backward()
            adam.step()
        return bottleneck.nats.detach()[:, 1:].sum(-1).mean(0)
    finally:
        hook.remove()
