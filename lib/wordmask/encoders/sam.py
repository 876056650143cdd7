"""SAM's image encoder, prompt encoder and mask decoder, from segment_anything: built, loaded, run on batches.

Knows segment_anything, checkpoint files, SAM's own square frame (image at the top left, padding at the bottom
right), and the name of its weights in the catalogue; not words, volumes, original pixels or presets' folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from wordmask.encoders.configs import SamConfig, TinySamArchitecture
from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError
from wordmask.weights.verified_files import weights_path

if TYPE_CHECKING:
    from wordmask.encoders.clip import ClipEncoder

# Of red, green, blue in 0..255, as every published SAM was trained (methods.md 0.3).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # channels of a token tell the published encoders apart


def build_tiny_sam(architecture: TinySamArchitecture) -> Sam:
    """Build a tiny SAM with random weights from torch's global generator, in evaluation mode.

    Relative positions start at 0.
    """
    # LayerNorm's eps stays at 1e-5, the value of open_clip, so that a warm start is exact.
    encoder = ImageEncoderViT(
        img_size=architecture.image_size,
        patch_size=architecture.patch_size,
        embed_dim=architecture.width,
        depth=architecture.depth,
        num_heads=architecture.heads,
        mlp_ratio=architecture.mlp_ratio,
        out_chans=architecture.out_channels,
        use_rel_pos=True,
        window_size=0,
        global_attn_indexes=tuple(range(architecture.depth)),
    )
    grid, channels = architecture.grid, architecture.out_channels
    prompts = PromptEncoder(
        embed_dim=channels,
        image_embedding_size=(grid, grid),
        input_image_size=(architecture.image_size, architecture.image_size),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        transformer_dim=channels,
        transformer=TwoWayTransformer(
            depth=2,
            embedding_dim=channels,
            mlp_dim=architecture.decoder_mlp,
            num_heads=architecture.decoder_heads,
        ),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=architecture.decoder_mlp,
    )
    return Sam(encoder, prompts, decoder, pixel_mean=list(PIXEL_MEAN), pixel_std=list(PIXEL_STD)).eval()


def load_sam(config: SamConfig) -> Sam:
    """Load a SAM for inference: evaluation mode, float32, no gradients.

    A public kind takes its weights from ``config.checkpoint``, or from where `wordmask weights` keeps them;
    the tiny one keeps its random weights without a checkpoint, because the trained ones come with the preset.
    In a frame of another size than 1024 px the positions are resampled as in SAMed.

    Raises:
        WeightsError: the file is missing (with the command to type), damaged, or of another architecture.
    """
    if config.kind == "tiny":
        sam = build_tiny_sam(config.architecture)
        checkpoint = config.checkpoint
    else:
        checkpoint = config.checkpoint or weights_path(f"sam_{config.kind}")
        # On "meta" no random numbers are drawn, which the checkpoint would replace (ViT-H: 2.6 GB).
        with torch.device("meta"):
            sam = sam_model_registry[config.kind]()
    if checkpoint is not None:
        _load_checkpoint(sam, checkpoint, config.kind)
    sam.float()  # before positions are resampled: the file may be in half precision
    if config.image_size is not None and config.image_size != sam.image_encoder.img_size:
        _resize_frame(sam, config.image_size)
    return sam.eval().requires_grad_(False)


def _load_checkpoint(sam: Sam, path: Path, kind: str) -> None:
    tensors = read_tensors(path)
    ours, theirs = (
        {name: tensor.shape for name, tensor in state.items()} for state in (sam.state_dict(), tensors)
    )
    if ours != theirs:
        found = _describe(tensors)
        if found == f"SAM {kind}":
            odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            found = (
                f"a changed {found} ({len(odd)} tensors missing, extra or of another shape, such as {odd[0]})"
            )
        raise WeightsError(
            f"{path.name} contains {found}, but the preset asks for SAM {kind}; give the file of that model "
            "or choose another preset."
        )
    sam.load_state_dict(tensors, assign=True)


def _describe(tensors: Mapping[str, Tensor]) -> str:
    """A name for a file of weights, by the width of its tokens."""
    positions = tensors.get("image_encoder.pos_embed")
    if positions is None:
        return "no SAM"
    width = positions.shape[-1]
    return f"SAM {WIDTHS[width]}" if width in WIDTHS else f"a SAM of width {width}"


def _resize_frame(sam: Sam, image_size: int) -> None:
    """Make ``sam`` take squares of ``image_size`` pixels.

    Positions are resampled, but not inside windows (as in SAMed).
    """
    encoder, prompts = sam.image_encoder, sam.prompt_encoder
    grid = image_size // encoder.patch_embed.proj.kernel_size[0]
    positions = F.interpolate(
        encoder.pos_embed.permute(0, 3, 1, 2), size=(grid, grid), mode="bilinear", align_corners=False
    )
    encoder.pos_embed = nn.Parameter(positions.permute(0, 2, 3, 1).contiguous())
    encoder.img_size = image_size
    for block in encoder.blocks:
        if block.window_size == 0:
            for name in ("rel_pos_h", "rel_pos_w"):
                relative = getattr(block.attn, name).T[None]  # [1, head width, 2 * old grid - 1]
                relative = F.interpolate(relative, size=2 * grid - 1, mode="linear", align_corners=False)
                setattr(block.attn, name, nn.Parameter(relative[0].T.contiguous()))
    prompts.image_embedding_size = (grid, grid)
    prompts.input_image_size = (image_size, image_size)
    prompts.mask_input_size = (4 * grid, 4 * grid)


def preprocess(sam: Sam, pixels: Tensor, valid: Tensor) -> Tensor:
    """Normalise pixels, then make the padding exactly 0.

    This is the published order (methods.md 0.3); the other way round padding would be -2.

    Args:
        sam: the model.
        pixels: [N, 3, S, S] in 0..1, in SAM's frame.
        valid: bool [S, S] or [N, S, S], true where the slice is.

    Returns:
        [N, 3, S, S], of unit variance on natural pictures, the input of ``sam.image_encoder``.
    """
    normalised = (pixels * 255 - sam.pixel_mean) / sam.pixel_std
    mask = valid if valid.dim() == 2 else valid[:, None]
    return normalised * mask.to(normalised)


def decode_prompts(
    sam: Sam,
    embeddings: Tensor,
    *,
    boxes: Tensor | None = None,
    points: tuple[Tensor, Tensor] | None = None,
    masks: Tensor | None = None,
    multimask: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run SAM's prompt encoder and mask decoder on P rows, each an image with its own prompts.

    Row p of the output depends on row p of the input alone.

    Args:
        sam: the model.
        embeddings: [P, C, g, g], from ``sam.image_encoder``; repeat an image's embedding for its second set
            of prompts.
        boxes: [P, 4], (x0, y0, x1, y1) in pixels of SAM's frame, pixel i centred at i (SAM adds 0.5).
        points: coordinates [P, n, 2], (x, y) likewise, and labels [P, n]: 1 inside, 0 outside, -1 no point.
        masks: [P, 1, 4g, 4g], logits of an earlier round.
        multimask: whether to draw three masks for an ambiguous prompt instead of one.

    Returns:
        Logits [P, M, 4g, 4g] in SAM's frame and predicted IoU [P, M]; M is 1 or 3.
    """
    rows = embeddings.shape[0]
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
    # SAM's decoder takes one image and adds it to each row's dense prompt. Images differ between our rows, so
    # the image goes in with the dense prompt and the place of "the one image" is zero: the same sum, bit for
    # bit, in SAM's own code.
    logits, iou = sam.mask_decoder(
        image_embeddings=torch.zeros_like(embeddings[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse.expand(rows, -1, -1),
        dense_prompt_embeddings=embeddings + dense,
        multimask_output=multimask,
    )
    return logits, iou


@torch.no_grad()
def warm_start_from_clip(image_encoder: ImageEncoderViT, clip: ClipEncoder) -> None:
    """Start SAM's encoder from the vision tower of an open_clip CLIP without ``ln_pre``.

    Both are pre-norm ViTs, so blocks are copied as they are. The patch kernel is resampled (bicubic, sum
    kept) when the patch size differs, and absorbs the change from CLIP's to SAM's pixel mean and deviation,
    so that the same picture gives the same patch tokens. Positions are resampled (bicubic) to SAM's grid;
    CLIP's class token is left out; relative positions become 0.

    Raises:
        WeightsError: depth, width or heads differ.
    """
    visual: Any = clip.model.visual  # open_clip's modules are not typed
    blocks = visual.transformer.resblocks
    width = visual.conv1.out_channels
    ours = (
        len(image_encoder.blocks),
        image_encoder.patch_embed.proj.out_channels,
        image_encoder.blocks[0].attn.num_heads,
    )
    theirs = (len(blocks), width, blocks[0].attn.num_heads)
    if ours != theirs:
        raise WeightsError(
            f"A SAM encoder of {ours[0]} blocks, width {ours[1]} and {ours[2]} heads cannot start from a "
            f"CLIP of {theirs[0]} blocks, width {theirs[1]} and {theirs[2]} heads; give both the same sizes."
        )
    _copy_patch_kernel(image_encoder, clip)
    grid_size = visual.grid_size
    positions = visual.positional_embedding[1:].reshape(1, *grid_size, width).permute(0, 3, 1, 2)
    size = image_encoder.pos_embed.shape[1:3]
    image_encoder.pos_embed.copy_(
        F.interpolate(positions, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    )
    for ours_block, block in zip(image_encoder.blocks, blocks, strict=True):
        ours_block.norm1.load_state_dict(block.ln_1.state_dict())
        ours_block.norm2.load_state_dict(block.ln_2.state_dict())
        ours_block.attn.qkv.weight.copy_(block.attn.in_proj_weight)
        ours_block.attn.qkv.bias.copy_(block.attn.in_proj_bias)
        ours_block.attn.proj.load_state_dict(block.attn.out_proj.state_dict())
        ours_block.mlp.lin1.load_state_dict(block.mlp.c_fc.state_dict())
        ours_block.mlp.lin2.load_state_dict(block.mlp.c_proj.state_dict())
        ours_block.attn.rel_pos_h.zero_()
        ours_block.attn.rel_pos_w.zero_()


def _copy_patch_kernel(image_encoder: ImageEncoderViT, clip: ClipEncoder) -> None:
    """Copy CLIP's patch kernel, and convert it to SAM's normalisation of pixels.

    CLIP gets (p - m) / s of a pixel p in 0..1, SAM (255 p - M) / S: the kernel absorbs S / (255 s), the bias
    the rest.
    """
    visual: Any = clip.model.visual  # open_clip's modules are not typed
    source, target = visual.conv1, image_encoder.patch_embed.proj
    kernel = source.weight
    if kernel.shape[-2:] != target.weight.shape[-2:]:
        ratio = kernel[0, 0].numel() / target.weight[0, 0].numel()
        kernel = (
            F.interpolate(kernel, size=target.weight.shape[-2:], mode="bicubic", align_corners=False) * ratio
        )
    mean, std = (torch.as_tensor(value).to(kernel).reshape(3) for value in (clip.mean, clip.std))
    sam_mean, sam_std = kernel.new_tensor(PIXEL_MEAN) / 255, kernel.new_tensor(PIXEL_STD) / 255
    target.weight.copy_(kernel * (sam_std / std).reshape(1, 3, 1, 1))
    offset = (kernel.sum(dim=(2, 3)) * ((sam_mean - mean) / std)).sum(dim=1)
    target.bias.copy_(offset if source.bias is None else offset + source.bias)
