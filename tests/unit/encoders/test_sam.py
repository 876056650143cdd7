"""SAM: the tiny one, the published ones from a file, its frame, prompts row by row, and a start from CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder, build_tiny_clip
from wordmask.encoders.configs import SamConfig, TinyClipArchitecture, TinySamArchitecture
from wordmask.encoders.sam import build_tiny_sam, decode_prompts, load_sam, preprocess, warm_start_from_clip
from wordmask.errors import WeightsError

ROWS, GRID, SIZE = 4, 8, 64
SMALL = TinySamArchitecture(
    image_size=SIZE, patch_size=8, width=32, depth=2, heads=2, out_channels=32, decoder_mlp=64
)


@pytest.fixture(scope="module")
def a_tiny_sam() -> Sam:
    torch.manual_seed(1)
    return build_tiny_sam(SMALL).requires_grad_(False)


@pytest.fixture(scope="module")
def a_tiny_clip() -> ClipEncoder:
    torch.manual_seed(2)
    architecture = TinyClipArchitecture(
        image_size=32,
        patch_size=8,
        width=32,
        layers=2,
        head_width=16,
        embed_dim=16,
        text_width=16,
        text_layers=1,
        text_heads=2,
    )
    clip = build_tiny_clip(architecture, token_ids=range(10)).eval().requires_grad_(False)
    with torch.no_grad():
        for (
            parameter
        ) in clip.parameters():  # biases and norms start at 0 and 1, where a forgotten copy would not show
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(ROWS, 32, GRID, GRID, generator=torch.Generator().manual_seed(3))


def some_prompts(*kinds: str) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    """One set of prompts per row, all different."""
    generator = torch.Generator().manual_seed(4)
    corners = torch.rand(ROWS, 2, generator=generator) * SIZE / 2
    every = {
        "boxes": torch.cat([corners, corners + 20], dim=1),
        "points": (
            torch.rand(ROWS, 3, 2, generator=generator) * SIZE,
            torch.tensor([[1, 0, -1], [1, 1, 1], [0, 0, 1], [1, -1, -1]]),
        ),
        "masks": 5 * torch.randn(ROWS, 1, 4 * GRID, 4 * GRID, generator=generator),
    }
    return {kind: every[kind] for kind in kinds}


def one_row(
    prompts: dict[str, Tensor | tuple[Tensor, Tensor]], row: int
) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    keep = slice(row, row + 1)
    return {
        kind: tuple(part[keep] for part in value) if isinstance(value, tuple) else value[keep]
        for kind, value in prompts.items()
    }


KINDS = [(), ("boxes",), ("points",), ("masks",), ("boxes", "points"), ("boxes", "points", "masks")]


def test_the_default_tiny_sam_has_the_sizes_of_its_design() -> None:
    sam = build_tiny_sam(TinySamArchitecture())
    with torch.no_grad():
        embedding = sam.image_encoder(torch.zeros(1, 3, 160, 160))
        logits, iou = decode_prompts(sam, embedding, boxes=torch.tensor([[10.0, 10.0, 60.0, 60.0]]))
    assert embedding.shape == (1, 64, 20, 20)
    assert logits.shape == (1, 1, 80, 80)
    assert iou.shape == (1, 1)
    assert sum(parameter.numel() for parameter in sam.parameters()) < 2_000_000
    assert [block.window_size for block in sam.image_encoder.blocks] == [0] * 6


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("multimask", [False, True])
def test_each_row_is_what_segment_anything_itself_predicts(
    a_tiny_sam: Sam, embeddings: Tensor, kinds: tuple[str, ...], multimask: bool
) -> None:
    prompts = some_prompts(*kinds)
    logits, iou = decode_prompts(a_tiny_sam, embeddings, **prompts, multimask=multimask)
    assert logits.shape == (ROWS, 3 if multimask else 1, 4 * GRID, 4 * GRID)
    predictor = SamPredictor(a_tiny_sam)
    predictor.is_image_set, predictor.input_size, predictor.original_size = True, (SIZE, SIZE), (SIZE, SIZE)
    for row in range(ROWS):
        predictor.features = embeddings[row : row + 1]
        mine = one_row(prompts, row)
        coordinates, labels = mine.get("points", (None, None))
        _, expected_iou, expected = predictor.predict_torch(
            coordinates,
            labels,
            boxes=mine.get("boxes"),
            mask_input=mine.get("masks"),
            multimask_output=multimask,
        )
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(iou[row : row + 1], expected_iou, atol=1e-6, rtol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3  # the rows had something to mix up


@pytest.mark.parametrize("kinds", KINDS)
def test_a_row_does_not_depend_on_the_other_rows(
    a_tiny_sam: Sam, embeddings: Tensor, kinds: tuple[str, ...]
) -> None:
    prompts = some_prompts(*kinds)
    before, iou = decode_prompts(a_tiny_sam, embeddings, **prompts)
    others = embeddings.clone()
    others[[0, 1, 3]] = 10 * torch.randn(3, *embeddings.shape[1:])
    if "boxes" in prompts:
        prompts["boxes"][[0, 1, 3]] += 5
    after, iou_after = decode_prompts(a_tiny_sam, others, **prompts)
    assert torch.equal(after[2], before[2])
    assert torch.equal(iou_after[2], iou[2])
    assert not torch.equal(after[0], before[0])


def test_gradients_reach_embedding_prompts_and_decoder(embeddings: Tensor) -> None:
    sam = build_tiny_sam(SMALL)
    embeddings.requires_grad_(True)
    logits, _ = decode_prompts(sam, embeddings, **some_prompts("boxes", "points"))
    logits.square().mean().backward()
    for learned in (
        embeddings,
        sam.mask_decoder.mask_tokens.weight,
        *(item.weight for item in sam.prompt_encoder.point_embeddings),
    ):
        assert learned.grad is not None
        assert learned.grad.abs().sum() > 0


def test_pixels_are_normalised_first_and_padded_after(a_tiny_sam: Sam) -> None:
    picture = torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(5))
    padded = F.pad(picture, (0, 0, 0, 24))[None]
    valid = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    valid[:40] = True
    expected = a_tiny_sam.preprocess(picture * 255)[
        None
    ]  # segment_anything's own, which pads at the bottom right
    for mask in (valid, valid[None]):
        torch.testing.assert_close(preprocess(a_tiny_sam, padded, mask), expected, atol=1e-6, rtol=1e-5)
    assert not preprocess(a_tiny_sam, padded, valid)[:, :, 40:].any()


def test_a_warm_start_copies_every_block_exactly(a_tiny_clip: ClipEncoder) -> None:
    encoder = build_tiny_sam(SMALL).image_encoder
    for block in encoder.blocks:
        block.attn.rel_pos_h.data.normal_()
        block.attn.rel_pos_w.data.normal_()
    warm_start_from_clip(encoder, a_tiny_clip)
    tokens = torch.randn(2, GRID, GRID, 32, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        for ours, theirs in zip(encoder.blocks, a_tiny_clip.model.visual.transformer.resblocks, strict=True):
            expected = theirs(tokens.flatten(1, 2)).view_as(tokens)  # 64 tokens, none of them a class token
            torch.testing.assert_close(ours(tokens), expected, atol=1e-5, rtol=1e-5)


def test_after_a_warm_start_a_picture_gives_the_patch_tokens_that_clip_sees(a_tiny_clip: ClipEncoder) -> None:
    sam = build_tiny_sam(SMALL.model_copy(update={"image_size": 32}))
    warm_start_from_clip(sam.image_encoder, a_tiny_clip)
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    visual = a_tiny_clip.model.visual
    with torch.no_grad():
        seen = preprocess(sam, picture, torch.ones(32, 32, dtype=torch.bool))
        tokens = sam.image_encoder.patch_embed(seen) + sam.image_encoder.pos_embed
        patches = visual.conv1(a_tiny_clip.normalise(picture)).flatten(2).transpose(1, 2)
        expected = (patches + visual.positional_embedding[1:]).view_as(tokens)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [4, 12])
def test_another_patch_size_keeps_the_answer_to_an_even_picture(a_tiny_clip: ClipEncoder, patch: int) -> None:
    sam = build_tiny_sam(SMALL.model_copy(update={"image_size": 4 * patch, "patch_size": patch}))
    warm_start_from_clip(sam.image_encoder, a_tiny_clip)
    grey = torch.tensor([0.2, 0.5, 0.7])[None, :, None, None]
    whole = torch.ones(4 * patch, 4 * patch, dtype=torch.bool)
    with torch.no_grad():
        tokens = sam.image_encoder.patch_embed(
            preprocess(sam, grey.expand(1, 3, 4 * patch, 4 * patch), whole)
        )
        expected = a_tiny_clip.model.visual.conv1(a_tiny_clip.normalise(grey.expand(1, 3, 32, 32)))[
            :, :, 0, 0
        ]
    assert (
        F.cosine_similarity(tokens[0, 0, 0], expected[0], dim=0) > 0.95
    )  # bicubic keeps a kernel's sum only nearly
    assert tokens[0, 0, 0].norm().item() == pytest.approx(expected[0].norm().item(), rel=0.15)


def test_positions_are_resampled_to_sams_grid(a_tiny_clip: ClipEncoder) -> None:
    encoder = build_tiny_sam(SMALL).image_encoder
    warm_start_from_clip(encoder, a_tiny_clip)
    positions = a_tiny_clip.model.visual.positional_embedding[1:].view(1, 4, 4, 32)
    expected = F.interpolate(
        positions.permute(0, 3, 1, 2), size=(GRID, GRID), mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(encoder.pos_embed.detach(), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("other", [{"depth": 3}, {"width": 64}, {"heads": 4}])
def test_a_warm_start_needs_the_same_sizes(a_tiny_clip: ClipEncoder, other: dict[str, int]) -> None:
    encoder = build_tiny_sam(SMALL.model_copy(update=other)).image_encoder
    with pytest.raises(WeightsError, match="cannot start from a CLIP of 2 blocks, width 32 and 2 heads"):
        warm_start_from_clip(encoder, a_tiny_clip)


@pytest.fixture(scope="module")
def a_vit_b_state() -> dict[str, Tensor]:
    """Random weights of a published size, in half precision to keep the file at 190 MB."""
    generator = torch.Generator().manual_seed(8)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in sam_model_registry["vit_b"]().state_dict().items()}
    return {
        name: torch.empty(shape).normal_(std=0.02, generator=generator).half()
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def a_vit_b_file(
    a_vit_b_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"
    torch.save(a_vit_b_state, path)
    yield path
    path.unlink()


def test_a_published_sam_is_loaded_as_it_is(a_vit_b_file: Path, a_vit_b_state: dict[str, Tensor]) -> None:
    sam = load_sam(SamConfig(kind="vit_b", checkpoint=a_vit_b_file))
    loaded = sam.state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in a_vit_b_state.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in (*sam.parameters(), *sam.buffers()))
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    assert not sam.training
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_a_smaller_frame_resamples_positions_as_samed_does(
    a_vit_b_file: Path, a_vit_b_state: dict[str, Tensor]
) -> None:
    sam = load_sam(SamConfig(kind="vit_b", checkpoint=a_vit_b_file, image_size=128))
    encoder = sam.image_encoder
    positions = a_vit_b_state["image_encoder.pos_embed"].float().permute(0, 3, 1, 2)
    expected = F.interpolate(positions, (8, 8), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    torch.testing.assert_close(encoder.pos_embed.detach(), expected)
    for index, block in enumerate(encoder.blocks):
        stored = a_vit_b_state[f"image_encoder.blocks.{index}.attn.rel_pos_w"].float()
        if index in (
            2,
            5,
            8,
            11,
        ):  # global attention; the others look into windows of 14 x 14, whatever the frame
            stored = F.interpolate(stored[None, None], (15, 64), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(block.attn.rel_pos_w.detach(), stored)
    with torch.no_grad():
        embedding = encoder(torch.zeros(1, 3, 128, 128))
        logits, _ = decode_prompts(
            sam, embedding, boxes=torch.tensor([[10.0, 10.0, 60.0, 90.0]]), masks=torch.zeros(1, 1, 32, 32)
        )
        point = torch.tensor(
            [[[16 * 2.5 - 0.5, 16 * 5.5 - 0.5]]]
        )  # the centre of cell (x 2, y 5), in SAM's pixels
        sparse, _ = sam.prompt_encoder(points=(point, torch.ones(1, 1)), boxes=None, masks=None)
        where = sparse[0, 0] - sam.prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(where, sam.prompt_encoder.get_dense_pe()[0, :, 5, 2], atol=1e-5, rtol=1e-5)
    assert embedding.shape == (1, 256, 8, 8)
    assert sam.preprocess(torch.zeros(3, 100, 128)).shape == (3, 128, 128)
    assert logits.shape == (1, 1, 32, 32)
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_weights_of_another_size_are_named(tmp_path: Path, kind: str) -> None:
    other, width = ("vit_l", 1024) if kind != "vit_l" else ("vit_h", 1280)
    save_file({"image_encoder.pos_embed": torch.zeros(1, 64, 64, width)}, tmp_path / "other.safetensors")
    with pytest.raises(
        WeightsError, match=f"^other.safetensors contains SAM {other}, but the preset asks for SAM {kind};"
    ):
        load_sam(SamConfig(kind=kind, checkpoint=tmp_path / "other.safetensors"))


def test_weights_of_the_right_width_with_something_missing_are_refused(tmp_path: Path) -> None:
    save_file({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, tmp_path / "part.safetensors")
    with pytest.raises(
        WeightsError, match=r"contains a changed SAM vit_b \(\d+ tensors missing, extra or of another shape"
    ):
        load_sam(SamConfig(kind="vit_b", checkpoint=tmp_path / "part.safetensors"))


def test_weights_of_another_kind_of_model_are_refused(a_tiny_clip: ClipEncoder, tmp_path: Path) -> None:
    torch.save(a_tiny_clip.state_dict(), tmp_path / "clip.pth")
    with pytest.raises(WeightsError, match="contains no SAM, but the preset asks for SAM tiny"):
        load_sam(SamConfig(kind="tiny", checkpoint=tmp_path / "clip.pth", architecture=SMALL))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_tiny_sam_comes_back_from_either_kind_of_file(
    a_tiny_sam: Sam, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"tiny{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(a_tiny_sam.state_dict(), path)
    loaded = load_sam(SamConfig(kind="tiny", checkpoint=path, architecture=SMALL)).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in a_tiny_sam.state_dict().items())


def test_missing_weights_come_with_the_command_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="`wordmask weights fetch sam_vit_h`"):
        load_sam(SamConfig(kind="vit_h"))


@pytest.mark.parametrize(
    "wrong", [{"kind": "vit_x"}, {"kind": "vit_b", "image_size": 500}, {"kind": "tiny", "image_size": 512}]
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamConfig.model_validate(wrong)
