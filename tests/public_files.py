"""Files in the formats in which BiomedCLIP and SAM are published, with random numbers in them, and a
catalogue that takes them.

Nothing is downloaded: BERT's tokenizer is made of a few words and of letters, architectures come from
open_clip, timm, transformers and segment_anything. So the code that loads public weights can be run where
there are none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import pytest
import torch
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from segment_anything import sam_model_registry
from torch import Tensor, nn
from transformers import BertConfig, BertTokenizerFast

from wordmask.weights import catalogue
from wordmask.weights.transfer import import_weights

BIOMED_TEXT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTEXT = 256  # places for tokens, as BiomedCLIP's configuration says
TRUNK = "vit_base_patch16_224"


class Public(NamedTuple):
    """A model in the layout of a public one, where its files are, and the tokenizer that belongs to it."""

    model: Any
    path: Path
    tokenizer: Any


def biomed_config(trunk: str = TRUNK, size: int = 224, embed_dim: int = 512) -> dict[str, Any]:
    """As in BiomedCLIP's open_clip_config.json.

    trunk: timm's name of the vision tower, size: pixels along a side of its pictures.
    """
    vision = {
        "timm_model_name": trunk,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": size,
    }
    text = {
        "hf_model_name": BIOMED_TEXT,
        "hf_tokenizer_name": BIOMED_TEXT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": CONTEXT,
    }
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    return {
        "model_cfg": {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": pixels,
    }


def make_biomed_folder(
    folder: Path,
    texts: Sequence[str],
    config: dict[str, Any] | None = None,
    bert: BertConfig | None = None,
    *,
    ship_bert: bool = True,
) -> Public:
    """Write BiomedCLIP's files with weights from torch's current seed into ``folder``, which is made.

    Its size when nothing else is said.

    texts: whose words are tokens of their own, as those of clinicians are in PubMedBERT's vocabulary;
    ship_bert: with config.json.
    """
    config, bert = (
        config or biomed_config(),
        bert or BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    )
    folder.mkdir(parents=True)
    _write_tokenizer(folder, texts, bert.vocab_size)
    bert.save_pretrained(folder)
    built = deepcopy(config["model_cfg"])
    built["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
    model = CustomTextCLIP(**built).eval()
    if not ship_bert:
        (folder / "config.json").unlink()
    for name, weight in model.visual.trunk.blocks.named_parameters():
        if name.endswith("qkv.weight"):
            weight.data.mul_(
                3
            )  # timm starts at 0.02, where attention is nearly uniform and every patch matters the same
    # the published file is an older torch file in which BERT's position numbers still count as weights
    positions = {"text.transformer.embeddings.position_ids": torch.arange(bert.max_position_embeddings)[None]}
    torch.save({**model.state_dict(), **positions}, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Public(model, folder, HFTokenizer(str(folder), context_length=CONTEXT))


def _write_tokenizer(folder: Path, texts: Sequence[str], rows: int) -> None:
    """All the files that BiomedCLIP's page has of it.

    rows: of the table of tokens; other words are spelt, as far as letters fit in.
    """
    words = sorted({word for text in texts for word in text.lower().split()} - set(ascii_lowercase))
    letters = [start + letter for letter in ascii_lowercase for start in ("", "##")]
    vocabulary = [*SPECIAL, *words, *letters][:rows]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    special = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")


def write_sam(path: Path, kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Write a checkpoint of segment_anything's vit_b or vit_h with weights from torch's current seed, and
    return that model.

    Positions, which segment_anything starts at 0, are random, too. The published files are in float32.
    """
    sam = sam_model_registry[kind]()
    for name, weight in sam.image_encoder.named_parameters():
        if name == "pos_embed" or "rel_pos" in name:
            nn.init.normal_(weight, std=0.02)
    sam.to(dtype)
    torch.save(sam.state_dict(), path)
    return sam


@contextmanager
def registered(folder: Path, **files: Path) -> Iterator[None]:
    """`wordmask weights import NAME FILE` for each of ``files`` into ``folder``, which is WORDMASK_WEIGHTS as
    long as this lasts.

    The catalogue is the one that ships, but with size and digest of these files: of the published ones it
    would refuse them.
    """
    shipped = catalogue.catalogue()
    entries = dict(shipped)
    for name, path in files.items():
        ours = [_described(file, path / file.name if path.is_dir() else path) for file in shipped[name].files]
        entries[name] = shipped[name].model_copy(update={"files": tuple(ours)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "catalogue", lambda: entries)
        patch.setenv("WORDMASK_WEIGHTS", str(folder))
        for name, path in files.items():
            import_weights(name, path)
        yield


def _described(file: catalogue.WeightFile, path: Path) -> catalogue.WeightFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return file.model_copy(update={"size": path.stat().st_size, "sha256": digest})


def unpadded(tokens: Tensor) -> Tensor:
    """[1, n]: the n tokens of one text, start and end included, of its row [1, CONTEXT]."""
    return tokens[:, : int((tokens[0] != 0).sum())]
