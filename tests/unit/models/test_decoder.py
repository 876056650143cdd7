"""The decoder of Simple-ViLMedSAM: counts, affinity, and the published checkpoint format."""

import pytest
import torch
from tests.support.published_decoder import random_checkpoint, under_published_names
from torch.nn import functional as F

from wordmask.errors import WeightsError
from wordmask.models.simple_vilmedsam.decoder import PositionPromptDecoder, refine_by_affinity
from wordmask.models.simple_vilmedsam.preset import DecoderPreset

SMALL = DecoderPreset(channels=16, grid=6, heads=2, mlp=24, widths=(4, 8), upsampler_widths=(8, 8, 4))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("bid", ["code", "paper"])
def test_the_full_size_decoder_has_exactly_the_published_number_of_parameters(bid):
    decoder = PositionPromptDecoder(DecoderPreset(bid=bid))
    assert count(decoder) == 3_267_522
    assert count(decoder.position_prompt) == 124_864 + 1_051_904
    assert count(decoder.upsample_first) == count(decoder.upsample_second) == 387_457


def test_the_full_size_decoder_turns_a_map_into_logits_of_four_times_the_grid():
    decoder = PositionPromptDecoder().eval()
    with torch.no_grad():
        assert decoder(torch.randn(1, 256, 64, 64), torch.rand(1, 1, 64, 64)).shape == (1, 1, 256, 256)


def naive_affinity(features, maps):
    """Row by row, from the definition, with the mean over the similarity matrix."""
    cells = F.normalize(features.flatten(1), dim=0)
    similarity = cells.T @ cells
    scores = 3.0 * (similarity - 1.2 * similarity.mean())
    scores[scores < 0] = -torch.inf
    return (scores.softmax(1) @ maps.flatten()).view(maps.shape)


def test_affinity_equals_its_definition_and_does_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    features, maps = torch.randn(3, 8, 5, 5, generator=generator), torch.rand(3, 1, 5, 5, generator=generator)
    together = refine_by_affinity(features, maps)
    for row in range(3):
        torch.testing.assert_close(
            together[row, 0], naive_affinity(features[row], maps[row, 0]), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            together[row], refine_by_affinity(features[row : row + 1], maps[row : row + 1])[0]
        )


def test_affinity_of_a_map_of_ones_is_ones_because_rows_sum_to_one():
    refined = refine_by_affinity(torch.randn(2, 8, 4, 4), torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(refined, torch.ones_like(refined))


@pytest.mark.parametrize(
    "features", [torch.ones(1, 8, 4, 4), torch.zeros(1, 8, 4, 4)], ids=["uniform", "zero"]
)
def test_affinity_of_a_uniform_image_is_finite(features):
    assert refine_by_affinity(features, torch.rand(1, 1, 4, 4)).isfinite().all()


def test_both_forms_of_the_interaction_decoder_differ():
    torch.manual_seed(0)
    code = PositionPromptDecoder(SMALL).eval()
    paper = PositionPromptDecoder(SMALL.model_copy(update={"bid": "paper"})).eval()
    paper.load_state_dict(code.state_dict())
    features, maps = torch.randn(1, 16, 6, 6), torch.rand(1, 1, 6, 6)
    assert not torch.allclose(code(features, maps), paper(features, maps))


def test_the_word_token_reaches_the_mask():
    torch.manual_seed(0)
    decoder = PositionPromptDecoder(SMALL.model_copy(update={"word_token": True}), text_width=5).eval()
    features, maps = torch.randn(1, 16, 6, 6), torch.rand(1, 1, 6, 6)
    assert not torch.allclose(
        decoder(features, maps, torch.ones(1, 5)), decoder(features, maps, -torch.ones(1, 5))
    )


PARTS = {  # ours -> as the public repository calls it
    "position_prompt.norm.weight": "norm_input.weight",
    "position_prompt.convolutions.0.weight": "proj.0.weight",
    "position_prompt.convolutions.6.weight": "proj.6.weight",
    "position_prompt.norm_in.weight": "norm1.weight",
    "position_prompt.mlp.0.weight": "mlp_map.lin1.weight",
    "position_prompt.mlp.2.weight": "mlp_map.lin2.weight",
    "position_prompt.norm_out.bias": "norm_map.bias",
    "image_to_prompt.q_proj.weight": "cross_attn1.q_proj.weight",
    "norm_first.weight": "norm2.weight",
    "mlp.0.weight": "mlp.lin1.weight",
    "mlp.2.weight": "mlp.lin2.weight",
    "norm_middle.weight": "norm3.weight",
    "prompt_to_image.out_proj.bias": "cross_attn2.out_proj.bias",
    "norm_second.bias": "norm4.bias",
    "upsample_first.5.weight": "output_upscaling1.5.weight",
    "upsample_second.10.bias": "output_upscaling2.10.bias",
}


def test_a_published_checkpoint_is_loaded_by_its_own_names():
    published = random_checkpoint()
    loaded = PositionPromptDecoder.from_reference(published, DecoderPreset()).state_dict()
    assert len(loaded) == len(published["model"])
    for ours, theirs in PARTS.items():
        assert torch.equal(loaded[ours], published["model"][theirs]), theirs


def test_weights_under_the_published_names_draw_the_same():
    torch.manual_seed(0)
    source = PositionPromptDecoder(SMALL).eval()
    loaded = PositionPromptDecoder.from_reference({"model": under_published_names(source)}, SMALL)
    features, maps = torch.randn(2, 16, 6, 6), torch.rand(2, 1, 6, 6)
    assert torch.equal(loaded(features, maps), source(features, maps))


def test_another_checkpoint_is_refused_with_a_sentence():
    with pytest.raises(WeightsError, match="not a checkpoint of the published"):
        PositionPromptDecoder.from_reference({"model": {"proj.0.weight": torch.zeros(1)}}, SMALL)


def test_an_ablated_decoder_has_fewer_parts_and_still_draws():
    sizes = {}
    for ipp in (True, False):
        for bid in ("code", "none"):
            decoder = PositionPromptDecoder(SMALL.model_copy(update={"ipp": ipp, "bid": bid})).eval()
            grid, channels = SMALL.grid, SMALL.channels
            assert decoder(torch.randn(2, channels, grid, grid), torch.rand(2, 1, grid, grid)).shape == (
                2,
                1,
                4 * grid,
                4 * grid,
            )
            sizes[ipp, bid] = count(decoder)
    assert sizes[True, "code"] > sizes[False, "code"] > sizes[False, "none"]
    assert sizes[True, "code"] > sizes[True, "none"] > sizes[False, "none"]
