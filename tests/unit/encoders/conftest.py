"""Small CLIPs of every kind with random weights, in files as they are published, and no network."""

from __future__ import annotations

import json
import socket

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from tests.public_files import Public, biomed_config, make_biomed_folder
from tests.support.small_clips import SMALL, WORDS
from transformers import BertConfig

from wordmask.encoders.clip import ClipEncoder, build_tiny_clip, load_clip
from wordmask.encoders.configs import ClipConfig
from wordmask.encoders.tiny_tokenizer import TinyTokenizer


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
    save_file(
        {name: value.half() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    model.half().float()
    return Public(model, folder / "open_clip_model.safetensors", SimpleTokenizer(context_length=77))


@pytest.fixture(scope="module")
def a_tiny_clip() -> ClipEncoder:
    torch.manual_seed(3)
    tokens = TinyTokenizer.for_texts(["liver", "left kidney", "right kidney"], 12).token_ids
    return build_tiny_clip(SMALL, tokens).eval()


@pytest.fixture(scope="module")
def encoders(
    a_tiny_clip: ClipEncoder, an_openai_file: Public, a_biomedclip_folder: Public
) -> dict[str, ClipEncoder]:
    return {
        "tiny": a_tiny_clip,
        "openai": load_clip(ClipConfig(source="openai:Small-8", checkpoint=str(an_openai_file.path))),
        "biomedclip": load_clip(ClipConfig(source=f"local-dir:{a_biomedclip_folder.path}")),
    }
