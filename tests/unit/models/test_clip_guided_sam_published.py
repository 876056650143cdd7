"""Checkpoints of the published CLIP-Guided SAM load and run as the text says; damaged ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from tests.support.published_clip_guided_sam import (
    CLIP,
    HEADS,
    SAM,
    Tables,
    narrow_encoders,
    random_tables,
    save,
    shapes,
)
from torch import Tensor

from wordmask.errors import WeightsError
from wordmask.models.clip_guided_sam import model as model_module
from wordmask.models.clip_guided_sam.model import EMPTY_SENTENCES, CLIPGuidedSAM
from wordmask.models.clip_guided_sam.network import GuidedNetwork
from wordmask.models.clip_guided_sam.published import (
    CLIP_NAMES,
    SAM_NAMES,
    build_encoders,
    our_names,
)
from wordmask.models.registry import load_preset

NAME = "supervised_best_IoU__v1_split_1_16.pth"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return random_tables(narrow=True)


@pytest.fixture
def narrow(monkeypatch) -> None:
    monkeypatch.setattr(model_module, "build_encoders", narrow_encoders)


@pytest.fixture
def a_model(narrow, tables, tmp_path) -> CLIPGuidedSAM:
    save(tmp_path / NAME, tables)
    return CLIPGuidedSAM.load_reference(str(tmp_path / NAME))


def inputs(model: CLIPGuidedSAM) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    coarse = torch.randn(1, 3, 16, 16)
    image = F.interpolate(coarse, size=(1024, 1024), mode="bicubic")
    tokenizer = model.clip.tokenizer
    return image, tokenizer(["liver"]), tokenizer(list(EMPTY_SENTENCES))


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        network = GuidedNetwork(*build_encoders(), load_preset("clip_guided_sam", "published"))
    wanted = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    published = shapes(narrow=False)
    theirs = our_names(published[SAM], SAM_NAMES) | our_names(published[CLIP], CLIP_NAMES)
    assert theirs == wanted
    assert len(theirs) == sum(map(len, published.values())) - 4  # what the surgery leaves behind


@torch.no_grad()
def test_a_published_file_runs_as_the_text_says(a_model, tables):
    image, word, empty = inputs(a_model)
    drawn = torch.tensor([[0, 7, 100, 7, 31]])
    got = a_model.text_only_forward(image, word, empty, drawn=drawn)
    expected = by_the_text(a_model, tables, image, word, empty, drawn)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-5)
    assert got["logits"].std() > 0.01
    assert 0 < (got["dense_prompt"] == 255).float().mean() < 1


@torch.no_grad()
def by_the_text(
    model: CLIPGuidedSAM, tables: Tables, image: Tensor, word: Tensor, empty: Tensor, drawn: Tensor
) -> dict[str, Tensor]:
    """Methods.md 4.1 to 4.3 from the file's own tensors; SAM's attention and decoder are SAM's own code."""
    clip, sam = tables[CLIP], tables[SAM]
    no_word = F.normalize(read(clip, empty), dim=-1).mean(0)
    text = F.normalize(read(clip, word)[0] - no_word / no_word.norm(), dim=0)
    features = look(clip, F.interpolate(image, size=(512, 512), mode="bilinear"))
    features = features / features.norm(dim=1, keepdim=True)
    similarity = features @ text
    fused = features + similarity[..., None]
    patches = fused[:, 1:].reshape(1, 32, 32, -1)

    encoder = model.sam.image_encoder
    x = F.conv2d(image, sam["image_encoder.patch_embed.proj.weight"], stride=16)
    x = (x + sam["image_encoder.patch_embed.proj.bias"][:, None, None]).permute(0, 2, 3, 1)
    x = x + sam["image_encoder.pos_embed"]
    for number in range(12):
        part = {
            name.removeprefix(f"image_encoder.blocks.{number}."): tensor
            for name, tensor in sam.items()
            if name.startswith(f"image_encoder.blocks.{number}.")
        }
        window = 0 if number in (2, 5, 8, 11) else 14
        y, padded = window_partition(x, window) if window else (x, None)
        y = encoder.blocks[number].attn(norm(part, "norm1", y, 1e-6))
        y = y + 0.5 * (y + line(part, "Space_Adapter.D_fc2", F.gelu(line(part, "Space_Adapter.D_fc1", y))))
        x = x + (window_unpartition(y, window, padded, (64, 64)) if window else y)
        n = norm(part, "norm2", x, 1e-6)
        seen = line(part, "MLP_Adapter.vis_projection", patches).permute(0, 3, 1, 2)
        seen = F.interpolate(seen, size=(64, 64), mode="bilinear").permute(0, 2, 3, 1)
        h = n + F.gelu(line(part, "MLP_Adapter.text_projection", text)) + seen
        mlp = line(part, "mlp.lin2", F.gelu(line(part, "mlp.lin1", n)))
        x = x + mlp + 0.5 * line(part, "MLP_Adapter.D_fc2", F.gelu(line(part, "MLP_Adapter.D_fc1", h)))
    embedding = encoder.neck(x.permute(0, 3, 1, 2))

    maps = similarity[:, 1:]
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    maps = F.interpolate(maps.reshape(1, 1, 32, 32), size=(1024, 1024), mode="bilinear")
    rows, columns = (maps[0, 0] > 0.8).nonzero(as_tuple=True)
    points = torch.stack([columns[drawn[0]], rows[drawn[0]]], dim=1)[None].float()
    dense = (F.interpolate(maps, size=(256, 256), mode="bilinear") > 0.8).float() * 255
    sparse, dense_embedding = model.sam.prompt_encoder(
        points=(points, torch.ones(1, 5)), boxes=None, masks=dense
    )
    logits, _ = model.sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense_embedding,
        multimask_output=False,
    )
    return {
        "text": text[None], "fused": fused, "embedding": embedding, "points": points, "dense_prompt": dense,
        "logits": logits,
    }  # fmt: skip


def line(part: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ part[f"{name}.weight"].T + part[f"{name}.bias"]


def norm(part: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], eps)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def heads(x: Tensor) -> list[Tensor]:
    """[N, T, 3 D] as query, key and value, each [N, heads, T, D / heads]."""
    return list(x.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    score = query @ key.mT / query.shape[-1] ** 0.5 + mask
    return (score.softmax(-1) @ value).transpose(1, 2).flatten(2)


def look(clip: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """CLIP-Surgery's tokens [1, 1025, E]."""
    x = F.conv2d(pixels, clip["visual.conv1.weight"], stride=16).flatten(2).mT
    x = torch.cat([clip["visual.class_embedding"].expand(1, 1, -1), x], 1)
    x = norm(clip, "visual.ln_pre", x + clip["visual.positional_embedding"], 1e-5)
    second = x
    for number in range(12):
        part = f"visual.transformer.resblocks.{number}"
        n = norm(clip, f"{part}.ln_1", x, 1e-5)
        if number < 6:
            mixed = n @ clip[f"{part}.attn.in_proj_weight"].T + clip[f"{part}.attn.in_proj_bias"]
            x = second = x + line(clip, f"{part}.attn.out_proj", attention(*heads(mixed)))
        else:
            query, key, value = heads(line(clip, f"{part}.attn.qkv", n))
            x = x + line(clip, f"{part}.attn.proj", attention(query, key, value))
            second = second + line(clip, f"{part}.attn.proj", attention(value, value, value))
        inner = quick_gelu(line(clip, f"{part}.mlp.c_fc", norm(clip, f"{part}.ln_2", x, 1e-5)))
        x = x + line(clip, f"{part}.mlp.c_proj", inner)
        if number < 6:
            second = x
    joined = torch.cat([x[:, :1], second[:, 1:]], 1)
    return norm(clip, "visual.ln_post", joined, 1e-5) @ clip["visual.proj"]


def read(clip: dict[str, Tensor], ids: Tensor) -> Tensor:
    """CLIP's text embeddings [K, E], not normalised."""
    x = clip["token_embedding.weight"][ids] + clip["positional_embedding"]
    mask = torch.full((77, 77), float("-inf")).triu(1)
    for number in range(12):
        part = f"transformer.resblocks.{number}"
        n = norm(clip, f"{part}.ln_1", x, 1e-5)
        mixed = n @ clip[f"{part}.attn.in_proj_weight"].T + clip[f"{part}.attn.in_proj_bias"]
        x = x + line(clip, f"{part}.attn.out_proj", attention(*heads(mixed), mask))
        inner = quick_gelu(line(clip, f"{part}.mlp.c_fc", norm(clip, f"{part}.ln_2", x, 1e-5)))
        x = x + line(clip, f"{part}.mlp.c_proj", inner)
    x = norm(clip, "ln_final", x, 1e-5)
    return x[torch.arange(len(ids)), ids.argmax(1)] @ clip["text_projection"]


@torch.no_grad()
def test_without_a_lot_the_points_are_chosen_and_always_the_same(a_model):
    first, second = (a_model.text_only_forward(*inputs(a_model)) for _ in range(2))
    assert torch.equal(first["points"], second["points"])
    assert torch.equal(first["logits"], second["logits"])
    inside = first["dense_prompt"][0, 0] == 255
    x, y = (first["points"][0] / 4).long().unbind(1)
    assert inside[y, x].float().mean() > 0.5  # the others lie on its border
    assert len(first["points"][0].unique(dim=0)) == 5


def test_a_file_from_several_gpus_is_read_likewise(narrow, tables, tmp_path, a_model):
    parallel = {table: {f"module.{name}": t for name, t in named.items()} for table, named in tables.items()}
    save(tmp_path / "parallel.pth", parallel)
    other = CLIPGuidedSAM.load_reference(tmp_path / "parallel.pth")
    for name, tensor in a_model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[SAM].pop("image_encoder.blocks.4.MLP_Adapter.vis_projection.bias"),
            r"1 tensors .*semantic.4.vision.bias is missing; give a checkpoint",
        ),
        (
            lambda t: t[CLIP].update({"positional_embedding": torch.zeros(76, 16)}),
            r"clip.model.positional_embedding is \[76, 16\] instead of \[77, 16\]",
        ),
        (
            lambda t: t[CLIP].update({"visual.positional_embedding": torch.zeros(197, 24)}),
            r"visual.positional_embedding is \[197, 24\] instead of \[1025, 24\]",
        ),
        (
            lambda t: t[SAM].update({"image_encoder.extra": torch.zeros(1)}),
            r"sam.image_encoder.extra is extra",
        ),
        (lambda t: t[CLIP].clear(), r"has no table of tensors 'clip_model'; give a checkpoint"),
        (lambda t: t[SAM].update({"epoch": 7}), r"has no table of tensors 'model_state_dict'"),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(narrow, tables, tmp_path, change, message):
    damaged = {table: dict(named) for table, named in tables.items()}
    change(damaged)
    save(tmp_path / NAME, damaged)
    with pytest.raises(WeightsError, match=message) as caught:
        CLIPGuidedSAM.load_reference(tmp_path / NAME)
    assert str(caught.value).startswith(NAME)


def test_other_files_are_refused_with_a_sentence(tmp_path, tables):
    with pytest.raises(WeightsError, match="There is no file of weights"):
        CLIPGuidedSAM.load_reference(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(WeightsError, match="damaged, cut short, or another kind of file"):
        CLIPGuidedSAM.load_reference(tmp_path / NAME)
    torch.save([1, 2], tmp_path / NAME)
    with pytest.raises(WeightsError, match="has no table of tensors 'model_state_dict'"):
        CLIPGuidedSAM.load_reference(tmp_path / NAME)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path, tables):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({**tables, "scheduler_state_dict": Code()}, tmp_path / NAME)
    with pytest.raises(WeightsError):
        CLIPGuidedSAM.load_reference(tmp_path / NAME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@torch.no_grad()
def test_a_file_of_the_published_size_loads_and_runs(tmp_path):
    save(tmp_path / NAME, random_tables(narrow=False))
    model = CLIPGuidedSAM.load_reference(tmp_path / NAME)
    found = model.text_only_forward(*inputs(model))
    assert found["text"].shape == (1, 512)
    assert found["fused"].shape == (1, 1025, 512)
    assert found["embedding"].shape == (1, 256, 64, 64)
    assert found["logits"].shape == (1, 1, 256, 256)
    assert all(tensor.isfinite().all() for tensor in found.values())
