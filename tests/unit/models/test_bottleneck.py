"""The bottleneck: against the written formula, against autograd and torch's Adam on the whole encoder, alone
and in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pytest
import torch
from tests.benchmarks.published_flow import published_map
from torch import Tensor, nn
from torch.nn import functional

from wordmask.encoders.clip import build_tiny_clip
from wordmask.encoders.configs import TinyClipArchitecture
from wordmask.models.bottleneck import attribution_maps, capacity, fit_pairs, normalise_maps
from wordmask.models.noise import KeyedNoise

GRID, WIDTH, LAYER, STEPS = 3, 16, 1, 10
FIT = {"layer": LAYER, "beta": 0.1, "steps": STEPS, "learning_rate": 1.0}


class SmallViT(nn.Module):
    """A transformer of 4 blocks with random weights, which can be restarted after each."""

    grid, depth = GRID, 4

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(12, WIDTH)
        self.places = nn.Parameter(torch.randn(1 + GRID * GRID, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 2, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.depth)
        )
        self.project = nn.Linear(WIDTH, 8, bias=False)

    def head(self, pixels: Tensor, layer: int) -> Tensor:
        hidden = (
            torch.cat([torch.zeros(len(pixels), 1, WIDTH, dtype=pixels.dtype), self.patches(pixels)], 1)
            + self.places
        )
        for block in self.blocks[: layer + 1]:
            hidden = block(hidden)
        return hidden

    def tail(self, hidden: Tensor, layer: int) -> Tensor:
        for block in self.blocks[layer + 1 :]:
            hidden = block(hidden)
        return self.project(functional.layer_norm(hidden[:, 0], (WIDTH,)))


@pytest.fixture(scope="module")
def a_clip() -> SmallViT:
    torch.manual_seed(0)
    return SmallViT().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, GRID * GRID, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts() -> Tensor:
    return functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(2)), dim=-1)


def noise_for(replicas: int = 1):
    return KeyedNoise(7, replicas, 1 + GRID * GRID, WIDTH)


def naive_map(clip: SmallViT, image: Tensor, text: Tensor, noises: list[Tensor], beta: float) -> Tensor:
    """One pair, the whole encoder at every step, the written formula, autograd for everything, torch's own
    Adam.
    """
    alpha = nn.Parameter(torch.full((1, 1 + GRID * GRID, WIDTH), 5.0, dtype=image.dtype))
    adam = torch.optim.Adam([alpha], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for noise in noises:
        x = clip.head(image[None], LAYER)
        kept, dropped = alpha.sigmoid(), (-alpha).sigmoid()
        nats = -0.5 * (1 + 2 * dropped.log() - (kept * x) ** 2 - dropped**2)
        image_embedding = clip.tail(kept * x + dropped * noise.to(x), LAYER)
        loss = beta * nats.mean() - functional.cosine_similarity(image_embedding, text[None], eps=1e-6).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return nats.detach()[0, 1:].sum(-1).reshape(GRID, GRID)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_batched_and_restarted_fit_agrees_with_the_naive_one(
    a_clip, pixels, texts, dtype, tolerance, replicas, beta
):
    clip = SmallViT().eval().requires_grad_(False)
    clip.load_state_dict(a_clip.state_dict())
    clip, images, words, noise = clip.to(dtype), pixels.to(dtype), texts.to(dtype), noise_for(replicas)
    maps = attribution_maps(
        clip, clip.head(images, LAYER), words, replicas=replicas, noise=noise, **FIT | {"beta": beta}
    )
    for i in range(3):
        for k in range(2):
            noises = [noise([(i, k)], step)[0] for step in range(STEPS)]
            expected = naive_map(clip, images[i], words[k], noises, beta)
            torch.testing.assert_close(maps[i, k], expected, rtol=tolerance, atol=tolerance)


def test_capacity_equals_the_formula_with_the_logarithm():
    alpha = torch.linspace(-12, 12, 97, dtype=torch.float64)[:, None]
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    kept = alpha.sigmoid()
    written = -0.5 * (1 + torch.log((1 - kept) ** 2) - (kept * x) ** 2 - (1 - kept) ** 2)
    torch.testing.assert_close(capacity(alpha, x), written, rtol=1e-9, atol=1e-9)


def test_capacity_stays_finite_where_nothing_or_everything_passes():
    nats = capacity(torch.tensor([-200.0, 200.0]), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(nats, torch.tensor([0.0, 200.0 + 4.5 - 0.5]))


def test_a_pair_does_not_depend_on_the_other_pairs_or_on_their_order(a_clip, pixels, texts):
    hidden, noise = a_clip.head(pixels, LAYER), noise_for()
    keys = [("ct-3", "liver"), ("ct-4", "spleen"), ("ct-5", "liver")]
    text = texts[[0, 1, 0]]
    together = fit_pairs(a_clip, hidden, text, pair_keys=keys, replicas=1, noise=noise, **FIT)
    turned = fit_pairs(
        a_clip, hidden.flip(0), text.flip(0), pair_keys=keys[::-1], replicas=1, noise=noise, **FIT
    ).flip(0)
    torch.testing.assert_close(together, turned, rtol=1e-5, atol=1e-5)
    for row, key in enumerate(keys):
        alone = fit_pairs(a_clip, hidden[[row]], text[[row]], pair_keys=[key], replicas=1, noise=noise, **FIT)
        torch.testing.assert_close(together[[row]], alone, rtol=1e-5, atol=1e-5)


def test_maps_in_padded_batches_of_one_shape_equal_maps_fitted_at_once(a_clip, pixels, texts):
    hidden, noise = a_clip.head(pixels, LAYER), noise_for()
    names = {"slice_keys": ["a", "b", "c"], "words": ["liver", "spleen"]}
    at_once = attribution_maps(a_clip, hidden, texts, replicas=1, noise=noise, **names, **FIT)
    in_fours = attribution_maps(a_clip, hidden, texts, replicas=1, noise=noise, pair_batch=4, **names, **FIT)
    assert at_once.shape == (3, 2, GRID, GRID)
    torch.testing.assert_close(at_once, in_fours, rtol=1e-5, atol=1e-5)


def test_the_word_and_the_noise_both_change_the_map(a_clip, pixels, texts):
    hidden = a_clip.head(pixels[:1], LAYER)
    maps = attribution_maps(
        a_clip, hidden, texts, replicas=1, noise=noise_for(), words=["same", "same"], **FIT
    )
    other = attribution_maps(a_clip, hidden, texts[:1], replicas=1, noise=noise_for(), words=["other"], **FIT)
    assert (maps[0, 0] - maps[0, 1]).abs().max() > 0.1
    assert (maps[0, 0] - other[0, 0]).abs().max() > 1e-3


def test_a_first_step_alone_passes_what_the_start_lets_pass(a_clip, pixels, texts):
    hidden = a_clip.head(pixels, LAYER)
    maps = attribution_maps(a_clip, hidden, texts, replicas=1, noise=noise_for(), **FIT | {"steps": 1})
    expected = capacity(torch.tensor(5.0), hidden)[:, 1:].sum(-1).reshape(3, GRID, GRID)
    torch.testing.assert_close(maps[:, 0], expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_fits_for_callers_that_switched_gradients_off_and_leaves_weights_without_any(
    a_clip, pixels, texts, mode
):
    arguments = {"pair_keys": ["a", "b"], "replicas": 1, "noise": noise_for(), **FIT}
    expected = fit_pairs(a_clip, a_clip.head(pixels[:2], LAYER), texts, **arguments)
    a_clip.requires_grad_(True)
    try:
        with mode():
            hidden = a_clip.head(pixels[:2], LAYER)
            fitted = fit_pairs(a_clip, hidden, texts.clone(), **arguments)
        assert all(weight.grad is None for weight in a_clip.parameters())
    finally:
        a_clip.requires_grad_(False)
    assert not fitted.requires_grad
    torch.testing.assert_close(fitted, expected)


def test_hidden_states_of_float16_are_fitted_in_float32(a_clip, pixels, texts):
    half = a_clip.head(pixels[:2], LAYER).half()
    arguments = {"pair_keys": ["a", "b"], "replicas": 1, "noise": noise_for(), **FIT}
    fitted = fit_pairs(a_clip, half, texts, **arguments)
    assert fitted.dtype == torch.float32
    assert torch.equal(fitted, fit_pairs(a_clip, half.float(), texts, **arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 3}, "after block 0 to 2"),
        ({"layer": -1}, "after block 0 to 2"),
        ({"steps": 0}, "at least one step"),
        ({"pair_keys": ["a"]}, "Every pair needs"),
        ({"replicas": 2}, "The noise must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(a_clip, pixels, texts, change, message):
    arguments = {"pair_keys": ["a", "b"], "replicas": 1, "noise": noise_for(), **FIT} | change
    with pytest.raises(ValueError, match=message):
        fit_pairs(a_clip, a_clip.head(pixels[:2], LAYER), texts, **arguments)


def test_hidden_states_of_another_grid_are_refused(a_clip, texts):
    with pytest.raises(ValueError, match=r"must be \[pairs, 10, width\]"):
        fit_pairs(
            a_clip,
            torch.zeros(2, 5, WIDTH),
            texts,
            pair_keys=["a", "b"],
            replicas=1,
            noise=noise_for(),
            **FIT,
        )


def test_normalised_maps_reach_from_0_to_1_each_for_itself():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 6.0]], [[-1.0, 0.0], [1.0, 3.0]]])
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.25], [0.5, 1.0]]])
    torch.testing.assert_close(normalise_maps(maps), expected)


@pytest.mark.parametrize("value", [0.0, 731.4, -3.0])
def test_a_constant_map_becomes_zero_not_nan(value):
    rounding = torch.full((1, 4, 4), value) * (1 + 1e-7 * torch.rand(1, 4, 4))
    assert torch.equal(normalise_maps(rounding), torch.zeros(1, 4, 4))


def test_noise_of_a_pair_is_the_same_in_any_batch_and_new_for_every_key_and_step():
    noise = KeyedNoise(42, 1, 5, 8)
    pair = ("ct-3", "liver")
    alone = noise([pair], 2)[0]
    assert torch.equal(noise([("ct-4", "liver"), pair], 2)[1], alone)
    others = [
        noise([("ct-4", "liver")], 2),
        noise([("ct-3", "spleen")], 2),
        noise([pair], 3),
        KeyedNoise(43, 1, 5, 8)([pair], 2),
    ]
    assert all((other[0] - alone).abs().max() > 0.1 for other in others)


def test_more_replicas_keep_the_first_ones():
    few, many = KeyedNoise(42, 1, 5, 8)(["a"], 0), KeyedNoise(42, 4, 5, 8)(["a"], 0)
    assert torch.equal(many[:, :1], few)


def test_noise_is_standard_normal_and_differs_between_tokens():
    sample = KeyedNoise(1, 2, 101, 300)(["a", "b"], 0)
    assert sample.dtype == torch.float32
    assert sample.shape == (2, 2, 101, 300)
    assert abs(sample.mean().item()) < 0.01
    assert abs(sample.std().item() - 1) < 0.01
    assert abs((sample**4).mean().item() - 3) < 0.1
    assert abs(torch.corrcoef(sample.flatten(0, 1).flatten(1))[0, 1].item()) < 0.02


def test_noise_does_not_change_from_one_release_to_the_next():
    """Masks could change silently with numpy's generator.

    These numbers are those of Philox 4x64 with numpy 1.26.
    """
    drawn = KeyedNoise(42, 1, 1, 4)([("ct-3", "liver")], 1).flatten()
    torch.testing.assert_close(
        drawn, torch.tensor([1.5203701, 0.4106456, -0.6484699, -2.3376098]), rtol=0, atol=1e-6
    )


def test_equal_keys_have_equal_noise_however_they_are_written():
    class Plane(StrEnum):
        AXIAL = "axial"

    @dataclass(frozen=True)
    class Key:
        digest: str
        plane: str
        index: int

    noise = KeyedNoise(42, 1, 2, 2)
    assert torch.equal(
        noise([(Key("d", Plane.AXIAL, 3), "liver")], 0), noise([(Key("d", "axial", 3), "liver")], 0)
    )
    assert not torch.equal(noise([("ab", "c")], 0), noise([("a", "bc")], 0))
    assert not torch.equal(noise([("1", "c")], 0), noise([(1, "c")], 0))


def test_a_key_whose_text_could_change_between_runs_is_refused():
    with pytest.raises(TypeError, match="got object"):
        KeyedNoise(42, 1, 2, 2)([object()], 0)


def test_maps_of_the_tiny_clip_equal_those_of_the_published_flow():
    torch.manual_seed(3)
    architecture = TinyClipArchitecture(
        image_size=32, width=32, head_width=16, layers=3, embed_dim=16, text_width=24, text_layers=1
    )
    clip = build_tiny_clip(architecture, [320, 533, 1000]).eval().requires_grad_(False)
    pixels, words = clip.normalise(torch.rand(2, 3, 32, 32)), ["liver", "spleen"]
    noise = KeyedNoise(5, 2, 17, 32)
    maps = attribution_maps(
        clip, clip.head(pixels, 1), clip.encode_text(words), replicas=2, noise=noise, words=words, **FIT
    )
    blocks = clip.model.visual.transformer.resblocks
    for i in range(2):
        for k, word in enumerate(words):

            def step_noise(step: int, key: tuple[int, str] = (i, word)) -> Tensor:
                return noise([key], step)[0]

            tokens = clip.tokenizer([word])
            flat = published_map(
                clip.model, blocks, pixels[[i]], tokens, layer=1, beta=0.1, steps=STEPS, noise=step_noise
            )
            torch.testing.assert_close(maps[i, k].flatten(), flat, rtol=1e-4, atol=1e-4)
