"""CLIP cut open: against open_clip's own forward pass, for its own and for timm's transformer.

From random weights made here.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.public_files import Public
from tests.support.small_clips import ENCODERS, SMALL, WORDS, pictures
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder, build_tiny_clip, load_clip
from wordmask.encoders.configs import ClipConfig
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.tiny_tokenizer import TinyTokenizer


def visual(encoder: ClipEncoder) -> Any:
    return encoder.model.visual


# --- images


@pytest.mark.parametrize("kind", ENCODERS)
def test_stopping_after_any_block_and_going_on_is_the_whole_encoder(
    encoders: dict[str, ClipEncoder], kind: str
) -> None:
    clip = encoders[kind]
    pixels = pictures(clip)
    with torch.no_grad():
        whole = visual(clip)(pixels)
        for layer in range(clip.depth):
            hidden = clip.head(pixels, layer)
            assert hidden.shape == (3, 1 + clip.grid**2, clip.width)
            torch.testing.assert_close(clip.tail(hidden, layer), whole, atol=1e-5, rtol=0)
            tokens = clip.tail_tokens(hidden, layer)
            assert tokens.shape == (3, 1 + clip.grid**2, clip.embed_dim)
            torch.testing.assert_close(tokens[:, 0], whole, atol=1e-5, rtol=0)
    assert whole.std() > 0.01  # different pictures, different embeddings


def test_public_weights_give_the_embeddings_of_the_model_that_was_saved(
    encoders: dict[str, ClipEncoder], an_openai_file: Public, a_biomedclip_folder: Public
) -> None:
    for kind, public in (("openai", an_openai_file), ("biomedclip", a_biomedclip_folder)):
        clip, pixels = encoders[kind], pictures(encoders[kind])
        with torch.no_grad():
            expected = public.model.encode_image(pixels)
            torch.testing.assert_close(clip.tail(clip.head(pixels, 1), 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_last_block_of_the_tail_computes_the_class_token_only(
    encoders: dict[str, ClipEncoder], kind: str
) -> None:
    clip = encoders[kind]
    seen: list[int] = []
    first = {"tiny": "c_fc", "openai": "c_fc", "biomedclip": "fc1"}[kind]
    layers = [module for name, module in visual(clip).named_modules() if name.endswith(f".mlp.{first}")]
    hooks = [
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1])) for layer in layers
    ]
    with torch.no_grad():
        clip.tail(torch.zeros(1, 1 + clip.grid**2, clip.width), clip.depth - 3)
    for hook in hooks:
        hook.remove()
    assert seen == [1 + clip.grid**2, 1]


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_tail_has_the_gradient_of_the_whole_encoder(encoders: dict[str, ClipEncoder], kind: str) -> None:
    clip = encoders[kind]
    layer, weight = clip.depth - 2, torch.randn(clip.embed_dim)
    gradients = []
    for run in (lambda x: clip.tail(x, layer), lambda x: clip.tail_tokens(x, layer)[:, 0]):
        hidden = clip.head(pictures(clip), layer).detach().requires_grad_(True)
        gradients.append(torch.autograd.grad((run(hidden) @ weight).sum(), hidden)[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert gradients[0][:, 1:].abs().max() > 0


def test_a_layer_or_a_picture_that_does_not_fit_is_refused(a_tiny_clip: ClipEncoder) -> None:
    with pytest.raises(ValueError, match=r"blocks 0 to 3, got 4"):
        a_tiny_clip.head(pictures(a_tiny_clip), 4)
    with pytest.raises(ValueError, match=r"blocks 0 to 3, got -1"):
        a_tiny_clip.tail(torch.zeros(1, 17, 64), -1)
    with pytest.raises(ValueError, match=r"\[N, 3, 32, 32\], got \(1, 3, 32, 40\)"):
        a_tiny_clip.normalise(torch.zeros(1, 3, 32, 40))


def test_pixels_are_normalised_by_the_numbers_in_the_folder(encoders: dict[str, ClipEncoder]) -> None:
    pixels = encoders["biomedclip"].normalise(torch.ones(1, 3, 160, 160))
    torch.testing.assert_close(pixels[0, :, 7, 9], torch.tensor([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.3]))


# --- words


def test_text_features_are_those_of_the_model_that_was_saved(
    encoders: dict[str, ClipEncoder], an_openai_file: Public, a_biomedclip_folder: Public
) -> None:
    for kind, public in (("openai", an_openai_file), ("biomedclip", a_biomedclip_folder)):
        with torch.no_grad():
            expected = public.model.encode_text(public.tokenizer(WORDS), normalize=True)
            found = encoders[kind].encode_text(WORDS)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
        assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_batch_of_padded_words_is_each_word_alone(encoders: dict[str, ClipEncoder], kind: str) -> None:
    clip = encoders[kind]
    with torch.no_grad():
        alone = torch.cat([clip.encode_text([word]) for word in WORDS])
        assert torch.equal(
            clip.encode_text(WORDS), alone
        )  # to the last bit: a mask must not depend on the words beside it
        clip.train()
        try:
            together = clip.encode_text(WORDS)
        finally:
            clip.eval()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_no_words_give_no_rows(a_tiny_clip: ClipEncoder) -> None:
    assert a_tiny_clip.encode_text([]).shape == (0, 24)


def test_tiny_knows_the_words_whose_every_token_has_a_row(a_tiny_clip: ClipEncoder) -> None:
    known = {
        word: a_tiny_clip.knows(word)
        for word in ("liver", "Left  KIDNEY", "right liver", "gallbladder", "liver gallbladder", "", " ")
    }
    assert [word for word, yes in known.items() if yes] == ["liver", "Left  KIDNEY", "right liver"]


def test_tiny_does_not_know_a_text_that_would_be_cut(a_tiny_clip: ClipEncoder) -> None:
    assert a_tiny_clip.knows(" ".join(["liver"] * 10))
    assert not a_tiny_clip.knows(" ".join(["liver"] * 11))


def test_public_weights_know_every_word(encoders: dict[str, ClipEncoder]) -> None:
    assert encoders["openai"].knows("gallbladder")
    assert encoders["biomedclip"].knows("gallbladder")


def test_a_row_of_the_tiny_table_ends_with_its_largest_number() -> None:
    tokenizer = TinyTokenizer.for_texts(["left kidney", "liver"], 6)
    rows = tokenizer(["liver", "left kidney", "gallbladder", "liver liver liver liver liver"])
    start, end = tokenizer.rows - 2, tokenizer.rows - 1
    assert rows.shape == (4, 6)
    assert rows[0].tolist()[:1] + rows[0].tolist()[2:] == [start, end, 0, 0, 0]
    assert rows[1].tolist()[3:] == [end, 0, 0]
    assert set(rows[2].tolist()) <= {start, 1, end, 0}
    assert rows[3].tolist() == [start, *[rows[0, 1].item()] * 4, end]
    assert rows.max(1).values.tolist() == [end] * 4
    assert TinyTokenizer(tokenizer.token_ids, 6)(["left kidney"]).tolist() == rows[1:2].tolist()


@pytest.mark.parametrize("ids", [(), (5, 5), (7, 6), (-1, 2), (3, 49406)])
def test_a_token_list_that_is_not_one_is_refused(ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        TinyTokenizer(ids, 12)


# --- training and freezing


def test_everything_in_a_new_tiny_clip_learns() -> None:
    clip = build_tiny_clip(SMALL, TinyTokenizer.for_texts(["liver", "spleen"], 12).token_ids)
    image = clip.tail(clip.head(pictures(clip), 2), 2)
    (clip.logit_scale.exp() * image @ clip.encode_text(["liver", "spleen"]).T).square().sum().backward()
    assert clip.training
    assert [name for name, weight in clip.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("kind", ["openai", "biomedclip", "loaded tiny"])
def test_what_is_loaded_is_frozen_in_evaluation_mode_and_in_float32(
    encoders: dict[str, ClipEncoder], kind: str
) -> None:
    clip = (
        load_clip(ClipConfig(source="tiny"), token_ids=(320, 533))
        if kind == "loaded tiny"
        else encoders[kind]
    )
    assert not clip.training
    assert not any(weight.requires_grad for weight in clip.parameters())
    assert {weight.dtype for weight in clip.parameters()} == {torch.float32}


def test_the_default_tiny_clip_fits_the_tiny_sam_and_the_size_of_the_repository() -> None:
    clip = load_clip(ClipConfig(source="tiny"), token_ids=(320, 533))
    assert (clip.image_size, clip.grid, clip.width, clip.embed_dim, clip.depth) == (112, 14, 128, 128, 6)
    assert isinstance(visual(clip).ln_pre, nn.Identity)
    assert sum(weight.numel() for weight in clip.parameters()) < 2_000_000


def test_a_copy_of_an_encoder_is_independent_of_it(a_tiny_clip: ClipEncoder) -> None:
    copy, pixels = deepcopy(a_tiny_clip), pictures(a_tiny_clip)
    with torch.no_grad():
        before = a_tiny_clip.head(pixels, 1)
        for weight in copy.parameters():
            weight.zero_()
        assert torch.equal(a_tiny_clip.head(pixels, 1), before)
        assert copy.head(pixels, 1).abs().max() == 0


# --- fingerprints


def test_a_fingerprint_changes_with_one_weight_and_back(a_tiny_clip: ClipEncoder) -> None:
    clip = deepcopy(a_tiny_clip)
    original = clip.fingerprint()
    assert original == a_tiny_clip.fingerprint()
    weight = visual(clip).transformer.resblocks[1].mlp.c_fc.weight.data
    value = weight[3, 4].item()
    weight[3, 4] = value + 1e-6
    changed = clip.fingerprint()
    weight[3, 4] = value
    assert changed != original == clip.fingerprint()


def test_a_fingerprint_changes_with_what_the_weights_do_not_show() -> None:
    def made(ids: tuple[int, ...], **sizes: int) -> str:
        torch.manual_seed(5)
        return build_tiny_clip(SMALL.model_copy(update=sizes), ids).fingerprint()

    assert len({made((320, 533)), made((320, 534)), made((320, 533), head_width=16)}) == 3


def test_a_fingerprint_tells_a_shape_and_a_type_apart() -> None:
    class Holder(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.register_buffer("value", value)

    values = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(6, dtype=torch.int32),
        torch.zeros(12, dtype=torch.bfloat16),
    ]
    assert len({fingerprint(Holder(value)) for value in values}) == len(values)
