"""CLIP cut open: against open_clip's own forward pass, for its own and for timm's transformer; from random weights made here."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from pydantic import ValidationError
from safetensors.torch import save_file
from tests.public_files import Public, biomed_config, make_biomed_folder
from torch import Tensor, nn
from transformers import BertConfig

from wordmask.encoders.clip import ClipConfig, ClipEncoder, TinyClipArchitecture, build_tiny_clip, load_clip
from wordmask.encoders.fingerprint import fingerprint
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.errors import WeightsError

WORDS = ["liver", "left kidney", "a very much longer description of the right kidney"]
SMALL = TinyClipArchitecture(image_size=32, width=64, layers=4, embed_dim=24, text_width=32, text_heads=2)
ENCODERS = ["tiny", "openai", "biomedclip"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a test asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def a_biomedclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Public:
    bert = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    folder = tmp_path_factory.mktemp("biomed") / "biomedclip"
    torch.manual_seed(1)
    return make_biomed_folder(folder, WORDS, biomed_config("test_vit", 160, 24), bert)


@pytest.fixture(scope="module")
def an_openai_file(tmp_path_factory: pytest.TempPathFactory) -> Public:
    folder = tmp_path_factory.mktemp("openai")
    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 128, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (folder / "Small-8-quickgelu.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder)
    torch.manual_seed(2)
    model = CLIP(**config).eval()
    save_file({name: value.half() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    model.half().float()
    return Public(model, folder / "open_clip_model.safetensors", SimpleTokenizer(context_length=77))


@pytest.fixture(scope="module")
def a_tiny_clip() -> ClipEncoder:
    torch.manual_seed(3)
    tokens = TinyTokenizer.for_texts(["liver", "left kidney", "right kidney"], 12).token_ids
    return build_tiny_clip(SMALL, tokens).eval()


@pytest.fixture(scope="module")
def encoders(a_tiny_clip: ClipEncoder, an_openai_file: Public, a_biomedclip_folder: Public) -> dict[str, ClipEncoder]:
    return {
        "tiny": a_tiny_clip,
        "openai": load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(an_openai_file.path))),
        "biomedclip": load_clip(ClipConfig(source=f"local-dir:{a_biomedclip_folder.path}")),
    }


def pictures(encoder: ClipEncoder, count: int = 3) -> Tensor:
    size = encoder.image_size
    return encoder.normalise(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(4)))


def visual(encoder: ClipEncoder) -> Any:
    return encoder.model.visual


# --- images


@pytest.mark.parametrize("kind", ENCODERS)
def test_stopping_after_any_block_and_going_on_is_the_whole_encoder(encoders: dict[str, ClipEncoder], kind: str) -> None:
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
def test_the_last_block_of_the_tail_computes_the_class_token_only(encoders: dict[str, ClipEncoder], kind: str) -> None:
    clip = encoders[kind]
    seen: list[int] = []
    first = {"tiny": "c_fc", "openai": "c_fc", "biomedclip": "fc1"}[kind]
    layers = [module for name, module in visual(clip).named_modules() if name.endswith(f".mlp.{first}")]
    hooks = [layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1])) for layer in layers]
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
        assert torch.equal(clip.encode_text(WORDS), alone)  # to the last bit: a mask must not depend on the words beside it
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
    with pytest.raises(ValueError, match="must rise"):
        TinyTokenizer(ids, 12)


# --- training and freezing


def test_everything_in_a_new_tiny_clip_learns() -> None:
    clip = build_tiny_clip(SMALL, TinyTokenizer.for_texts(["liver", "spleen"], 12).token_ids)
    image = clip.tail(clip.head(pictures(clip), 2), 2)
    (clip.logit_scale.exp() * image @ clip.encode_text(["liver", "spleen"]).T).square().sum().backward()
    assert clip.training
    assert [name for name, weight in clip.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("kind", ["openai", "biomedclip", "loaded tiny"])
def test_what_is_loaded_is_frozen_in_evaluation_mode_and_in_float32(encoders: dict[str, ClipEncoder], kind: str) -> None:
    clip = load_clip(ClipConfig(source="tiny"), token_ids=(320, 533)) if kind == "loaded tiny" else encoders[kind]
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


# --- files


def folder_digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def a_copy(a_biomedclip_folder: Public, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in a_biomedclip_folder.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load_folder(folder: Path) -> ClipEncoder:
    return load_clip(ClipConfig(source=f"local-dir:{folder}"))


def test_a_folder_is_read_without_network_and_stays_as_it_was(a_copy: Path) -> None:
    before = folder_digest(a_copy)
    load_folder(a_copy)
    assert folder_digest(a_copy) == before


def test_safetensors_are_preferred_to_an_older_file(a_copy: Path, encoders: dict[str, ClipEncoder]) -> None:
    state = {name: value.clone() for name, value in encoders["biomedclip"].model.state_dict().items()}
    state["logit_scale"] += 1
    save_file(state, a_copy / "open_clip_model.safetensors")
    assert load_folder(a_copy).logit_scale == encoders["biomedclip"].logit_scale + 1


def test_a_folder_of_openais_kind_is_read_too(an_openai_file: Public, tmp_path: Path, encoders: dict[str, ClipEncoder]) -> None:
    config = open_clip.get_model_config("Small-8-quickgelu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    (tmp_path / "open_clip_model.safetensors").write_bytes(an_openai_file.path.read_bytes())
    assert load_folder(tmp_path).fingerprint() == encoders["openai"].fingerprint()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openais_own_archive_is_read_without_running_its_code(
    an_openai_file: Public, tmp_path: Path, encoders: dict[str, ClipEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deepcopy(an_openai_file.model).half()  # as OpenAI stored most of it
    for name, size in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    example = (torch.rand(1, 3, 32, 32).half(), an_openai_file.tokenizer(["liver"]))
    torch.jit.trace(model, example, check_trace=False).save(str(tmp_path / "ViT-B-16.pt"))
    monkeypatch.setattr(torch.jit, "load", None)
    clip = load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "ViT-B-16.pt")))
    assert clip.fingerprint() == encoders["openai"].fingerprint()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("open_clip_config.json", "'copy' has no open_clip_config.json"),
        ("open_clip_pytorch_model.bin", "'copy' has no weights"),
        ("tokenizer.json", "'copy' has no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_name(a_copy: Path, missing: str, sentence: str) -> None:
    (a_copy / missing).unlink()
    if missing == "tokenizer.json":
        (a_copy / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=sentence) as refused:
        load_folder(a_copy)
    assert str(a_copy.parent) not in str(refused.value)


def test_an_unknown_text_tower_needs_its_configuration(a_copy: Path) -> None:
    (a_copy / "config.json").unlink()
    config = json.loads((a_copy / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "somebody/some-bert"
    (a_copy / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"lacks config.json.*somebody/some-bert"):
        load_folder(a_copy)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_cfg": {}}', '{"model_cfg": {"vision_cfg": 1, "text_cfg": 2}}', "\udcff"])
def test_a_damaged_configuration_is_refused(a_copy: Path, content: str) -> None:
    (a_copy / "open_clip_config.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(WeightsError, match="does not describe a CLIP"):
        load_folder(a_copy)


def test_a_configuration_that_cannot_be_built_is_refused(a_copy: Path) -> None:
    config = biomed_config("a_trunk_of_tomorrow", 160, 24)
    (a_copy / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be built"):
        load_folder(a_copy)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise"])
def test_damaged_weights_are_refused(a_copy: Path, encoders: dict[str, ClipEncoder], name: str, damage: str) -> None:
    path = a_copy / name
    if name.endswith("safetensors"):
        save_file(encoders["biomedclip"].model.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "noise": bytes(range(256)) * 40}[damage])
    with pytest.raises(WeightsError, match=name) as refused:
        load_folder(a_copy)
    assert str(a_copy.parent) not in str(refused.value)


def test_a_truncated_archive_of_torchscript_is_refused(an_openai_file: Public, tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    torch.jit.trace(layer, torch.zeros(1, 3)).save(str(tmp_path / "other.pt"))
    with pytest.raises(WeightsError, match=r"other.pt holds another architecture"):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "other.pt")))
    data = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"half.pt"):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "half.pt")))


@pytest.mark.parametrize("change", ["missing", "extra", "another shape"])
def test_weights_of_another_architecture_are_refused(an_openai_file: Public, tmp_path: Path, change: str) -> None:
    state = {name: value.clone() for name, value in an_openai_file.model.state_dict().items()}
    if change == "missing":
        del state["visual.proj"]
    elif change == "extra":
        state["visual.proj2"] = torch.zeros(1)
    else:
        state["visual.positional_embedding"] = torch.zeros(26, 128)  # open_clip would resample these in silence
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other.safetensors holds another architecture.*1 tensors.*visual.p"):
        load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(tmp_path / "other.safetensors")))


def test_a_file_of_weights_cannot_run_code(a_copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (trace,))

    torch.save({"model": Attack()}, a_copy / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model.bin"):
        load_folder(a_copy)
    (a_copy / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model.bin"):
        load_folder(a_copy)
    assert not trace.exists()


def test_a_clip_that_sees_in_another_way_is_refused() -> None:
    text = CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    residual = CLIP(16, CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32), text)
    averaged = CLIP(16, CLIPVisionCfg(layers=1, width=64, patch_size=8, image_size=32, pool_type="avg"), text)
    convolved = CLIP(16, CLIPVisionCfg(timm_model_name="test_convnext", timm_pool="avg", image_size=160), text)
    for model, sentence in ((residual, "ModifiedResNet"), (averaged, "class token"), (convolved, "timm trunk")):
        with pytest.raises(WeightsError, match=sentence):
            ClipEncoder(model, SimpleTokenizer(context_length=8))


@pytest.mark.parametrize("source", ["openai:ViT-B-16", "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"])
def test_without_network_and_files_the_sentence_says_what_to_do(source: str) -> None:
    with pytest.raises(WeightsError, match=r"could not be had from the .*wordmask weights list"):
        load_clip(ClipConfig(source=source))


def test_a_hub_name_reads_the_files_of_the_hub(
    a_biomedclip_folder: Public, encoders: dict[str, ClipEncoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = a_biomedclip_folder.path
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(hf_model_name=str(folder), hf_tokenizer_name=str(folder))  # as if the hub answered
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")

    def download(_: str, filename: str | None = None, **__: object) -> str:
        return str((tmp_path if filename else folder) / (filename or "open_clip_pytorch_model.bin"))

    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", download)
    clip = load_clip(ClipConfig(source="hf-hub:somebody/biomedclip"))
    assert clip.fingerprint() == encoders["biomedclip"].fingerprint()
    assert torch.equal(clip.encode_text(WORDS), encoders["biomedclip"].encode_text(WORDS))


def test_tiny_without_its_token_ids_is_refused() -> None:
    with pytest.raises(WeightsError, match="token ids"):
        load_clip(ClipConfig(source="tiny"))


@pytest.mark.parametrize(
    "values",
    [
        {"source": "tinny"},
        {"source": "hf-hub:"},
        {"source": "tiny", "checkpoint": "a.pt"},
        {"source": "openai:ViT-B-16", "architecture": {}},
        {"source": "tiny", "architecture": {"patch_size": 9}},
        {"source": "tiny", "architecture": {"widht": 96}},
        {"source": "tiny", "layer": 3},
    ],
)
def test_a_configuration_with_a_slip_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClipConfig(**values)


@pytest.mark.slow
def test_a_plain_copy_of_the_hub_at_full_size_needs_no_configuration_of_its_text_tower(tmp_path: Path) -> None:
    torch.manual_seed(6)
    public = make_biomed_folder(tmp_path / "full", WORDS, ship_bert=False)
    clip = load_folder(public.path)
    assert (clip.image_size, clip.grid, clip.width, clip.embed_dim, clip.depth) == (224, 14, 768, 512, 12)
    pixels = pictures(clip, 1)
    with torch.no_grad():
        whole = public.model.encode_image(pixels)
        for layer in (7, 10):
            torch.testing.assert_close(clip.tail(clip.head(pixels, layer), layer), whole, atol=1e-5, rtol=0)
        expected = public.model.encode_text(public.tokenizer(WORDS), normalize=True)
        torch.testing.assert_close(clip.encode_text(WORDS), expected, atol=1e-5, rtol=0)


def test_weights_that_were_fetched_are_found_by_their_name(a_biomedclip_folder: Public, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordmask.encoders.clip_sources.weights_path", {"biomedclip": Path(a_biomedclip_folder.path)}.__getitem__)
    direct = load_clip(ClipConfig(source=f"local-dir:{a_biomedclip_folder.path}"))
    assert load_clip(ClipConfig(source="weights:biomedclip")).fingerprint() == direct.fingerprint()


@pytest.mark.parametrize("name", ["biomedclip", "openai_vit_b_16"])
def test_weights_that_are_missing_are_answered_with_the_command_to_type(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=f"wordmask weights fetch {name}"):
        load_clip(ClipConfig(source=f"weights:{name}"))


def test_weights_that_are_no_clip_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordmask.encoders.clip_sources.weights_path", lambda _: tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="'sam_vit_b' are no CLIP"):
        load_clip(ClipConfig(source="weights:sam_vit_b"))
