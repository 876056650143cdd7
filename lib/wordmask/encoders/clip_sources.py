"""Loads public CLIP weights: from OpenAI, the Hugging Face hub, or a folder on a machine without internet.

Files of weights cannot run code here (tensors.py, torchscript.py). Every failure is a WeightsError. Knows
open_clip's configuration files and files of weights; not how the blocks of a CLIP are used (clip.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from wordmask.encoders.tensors import read_tensors
from wordmask.encoders.torchscript import is_torchscript, read_torchscript
from wordmask.errors import WeightsError
from wordmask.weights.verified_files import weights_path

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue in 0..1; BiomedCLIP uses them too
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # one of them is enough
# Parts of the names under which BiomedCLIP's text tower has been published.
BIOMED_BERT = ("BiomedBERT-base", "PubMedBERT-base")
NOT_WEIGHTS = ("position_ids", "input_resolution", "context_length", "vocab_size")
PIXELS = (("mean", OPENAI_MEAN), ("std", OPENAI_STD))
COPY_AGAIN = "Copy its files again."
# Entries of `wordmask weights` that are single files -> their architecture.
OPENAI_ENTRIES = {"openai_vit_b_16": "ViT-B-16", "pubmedclip": "ViT-B-32"}
# Vision towers of CLIPs with a BERT of base size, in open_clip's words.
UNIMED_VISION: dict[str, Any] = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
BIOMED_VISION: dict[str, Any] = {
    "image_size": 224,
    "timm_model_name": "vit_base_patch16_224",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
}
BERT_CONTEXT = 256
UNIMED_FILE = "unimed_clip_vit_b16.pt"
OFFLINE = (
    "`wordmask weights list` shows what can be fetched, or imported on a machine without internet; name it "
    "in the preset as weights:NAME or local-dir:FOLDER."
)


@dataclass(frozen=True)
class ClipParts:
    """The parts of a CLIP.

    Attributes:
        model: as open_clip builds it.
        tokenizer: texts -> token ids [K, context].
        mean: of red, green and blue in 0..1, for which the model was trained.
        std: likewise, the standard deviation.
    """

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD


def load_openai(name: str, checkpoint: str | None = None) -> ClipParts:
    """Load one of OpenAI's own models.

    Args:
        name: such as ``ViT-B-16``.
        checkpoint: OpenAI's own ViT-B-16.pt (a TorchScript archive), or the same weights as .safetensors or
            as a state dict; None lets open_clip download them.

    Raises:
        WeightsError: there is no such model, or its weights cannot be downloaded or read.
    """
    # OpenAI trained with this cheaper GELU; with the exact one the features are slightly wrong.
    architecture = f"{name}-quickgelu"
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise WeightsError(
            f"OpenAI has not published a CLIP {name!r} that open_clip knows; use ViT-B-16, which is tested."
        )
    if checkpoint is None:
        with _explain_errors(f"OpenAI's CLIP {name} could not be downloaded", OFFLINE):
            model = open_clip.create_model(architecture, pretrained="openai", require_pretrained=True)
    else:
        model = CLIP(**config)
        _load_weights(model, Path(checkpoint).expanduser())
    return ClipParts(model, open_clip.get_tokenizer(architecture))


def load_catalogued(name: str) -> ClipParts:
    """Load an entry of `wordmask weights` that was fetched or imported before.

    Raises:
        WeightsError: it is not on this machine (with the command to type), or it is not a CLIP.
    """
    path = weights_path(name)
    if path.is_dir():
        return load_unimedclip(path) if (path / UNIMED_FILE).is_file() else load_local_directory(str(path))
    if name not in OPENAI_ENTRIES:
        raise WeightsError(
            f"The weights {name!r} are not a CLIP; use biomedclip or {', '.join(OPENAI_ENTRIES)}."
        )
    return load_openai(OPENAI_ENTRIES[name], str(path))


def load_unimedclip(folder: Path) -> ClipParts:
    """Load UniMed-CLIP ViT-B/16 from a folder with its published file and the files of its tokenizer.

    Raises:
        WeightsError: a file is missing, damaged or of another model.
    """
    model = build_bert_clip(UNIMED_VISION, quick_gelu=True)
    _load_weights(model, folder / UNIMED_FILE, renamed=("text_encoder.", "text."))
    return ClipParts(model, _bert_tokenizer(folder))


def build_bert_clip(vision: dict[str, Any], *, quick_gelu: bool = False) -> nn.Module:
    """A CLIP with a BERT of base size as its text tower, with random weights.

    Args:
        vision: `UNIMED_VISION` or `BIOMED_VISION`.
        quick_gelu: whether open_clip's own blocks have OpenAI's cheaper GELU.
    """
    from transformers import BertConfig

    with tempfile.TemporaryDirectory() as scratch:
        BertConfig().save_pretrained(scratch)  # the defaults are BERT base, uncased
        text = {
            "hf_model_name": scratch,
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": BERT_CONTEXT,
        }
        return CustomTextCLIP(embed_dim=512, vision_cfg=dict(vision), text_cfg=text, quick_gelu=quick_gelu)


@cache
def biomed_tokenizer() -> Callable[[list[str]], Tensor]:
    """The tokenizer of BiomedBERT, which BiomedCLIP and UniMed-CLIP share.

    Raises:
        WeightsError: neither of them is on this machine (with the command to type).
    """
    for name in ("unimedclip", "biomedclip"):
        with suppress(WeightsError):
            return _bert_tokenizer(weights_path(name))
    raise WeightsError(
        "The tokenizer of BiomedBERT is not on this machine; type `wordmask weights fetch biomedclip`, whose "
        "files include it."
    )


def _bert_tokenizer(folder: Path) -> Callable[[list[str]], Tensor]:
    return _local_tokenizer(folder, {"hf_tokenizer_name": str(folder), "context_length": BERT_CONTEXT})


def load_named_hub(name: str) -> ClipParts:
    """Load a model of the Hugging Face hub (``OWNER/NAME``) in open_clip's layout.

    It is read from the hub's cache when it was downloaded before.

    Raises:
        WeightsError: it cannot be downloaded or read.
    """
    source = f"hf-hub:{name}"
    with _explain_errors(f"{name} could not be downloaded from the Hugging Face hub", OFFLINE):
        model = open_clip.create_model(source, require_pretrained=True, pretrained_text=False)
        tokenizer = _warm_up(open_clip.get_tokenizer(source))
        preprocess = open_clip.get_model_preprocess_cfg(model)
    return ClipParts(model, tokenizer, tuple(preprocess["mean"]), tuple(preprocess["std"]))


def load_local_directory(name: str) -> ClipParts:
    """Load a CLIP from a folder, without network.

    The folder holds open_clip_config.json, weights and, where the text tower is a BERT, its tokenizer files
    and its config.json. open_clip would ask the hub for the text tower's configuration and for the tokenizer,
    whose names are in the configuration file; here both names point into the folder, in memory, and the
    folder stays as it is. A plain copy of BiomedCLIP from the hub has no config.json; its text tower is known
    to be a BERT of base size, so none is needed.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"There is no folder {folder.name!r}; check the path after local-dir: in the preset."
        )
    config, preprocess = _read_config(folder)
    text: dict[str, Any] = config["text_cfg"]
    weights = _weights_file(folder)
    with tempfile.TemporaryDirectory() as scratch:
        if "hf_model_name" in text:
            text.update(
                hf_model_name=_text_tower(folder, Path(scratch), str(text["hf_model_name"])),
                hf_model_pretrained=False,
            )
        config["vision_cfg"]["timm_model_pretrained"] = False
        custom = config.pop("custom_text", False) or "hf_model_name" in text
        with _explain_errors(
            f"The CLIP that {CONFIG_FILE} in {folder.name!r} describes cannot be built", COPY_AGAIN
        ):
            model = (CustomTextCLIP if custom else CLIP)(**config)
    _load_weights(model, weights)
    return ClipParts(
        model,
        _local_tokenizer(folder, text),
        *(tuple(preprocess.get(key, fallback)) for key, fallback in PIXELS),
    )


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(
            f"The folder {folder.name!r} has no {CONFIG_FILE}; copy it from the model's page, beside the "
            "weights."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config = deepcopy(stored["model_cfg"])
        if not all(isinstance(config[key], dict) for key in ("vision_cfg", "text_cfg")):
            raise TypeError("vision_cfg or text_cfg is not a table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{CONFIG_FILE} in {folder.name!r} does not describe a CLIP ({type(error).__name__}). "
            f"{COPY_AGAIN}"
        ) from error
    return config, stored.get("preprocess_cfg", {})


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"The folder {folder.name!r} has no weights; copy one of {', '.join(WEIGHTS_FILES)} into it."
    )


def _text_tower(folder: Path, scratch: Path, hub_name: str) -> str:
    """The folder where transformers finds the configuration of the text tower.

    It is ``folder``, or ``scratch``, where the configuration of BiomedCLIP's text tower is written.
    """
    if (folder / "config.json").is_file():
        return str(folder)
    if any(part in hub_name for part in BIOMED_BERT):
        from transformers import BertConfig

        # The defaults are BERT base, uncased, 30522 words: exactly that text tower.
        BertConfig().save_pretrained(scratch)
        return str(scratch)
    raise WeightsError(
        f"The folder {folder.name!r} has no config.json, which describes the text tower; copy it from "
        f"{hub_name} on the hub."
    )


def _local_tokenizer(folder: Path, text: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    context = text.get("context_length", 77)
    if "hf_tokenizer_name" not in text:
        return SimpleTokenizer(context_length=context)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise WeightsError(
            f"The folder {folder.name!r} has no tokenizer; copy tokenizer.json and tokenizer_config.json "
            "into it."
        )
    with _explain_errors(f"The tokenizer in {folder.name!r} cannot be read", COPY_AGAIN):
        options = {"tokenizer_mode": text.get("tokenizer_mode"), **(text.get("tokenizer_kwargs") or {})}
        return _warm_up(HFTokenizer(str(folder), context_length=context, **options))


def _load_weights(model: nn.Module, path: Path, *, renamed: tuple[str, str] = ("", "")) -> None:
    """Read ``path`` into ``model``; every name and shape must fit.

    open_clip's own loader is not used, because it resamples positions without a warning.

    Args:
        renamed: a prefix of names in the file, and what it is in the model.
    """
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if path.is_file() and is_torchscript(path):
        tensors = {name: value for name, value in read_torchscript(path).items() if name in expected}
    else:
        # BERT's position numbers and OpenAI's sizes were once stored as if they were weights.
        theirs, ours = renamed
        tensors = {
            ours + name.removeprefix(theirs) if theirs and name.startswith(theirs) else name: value
            for name, value in read_tensors(path).items()
            if name.rpartition(".")[2] not in NOT_WEIGHTS
        }
    found = {name: value.shape for name, value in tensors.items()}
    odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if odd:
        raise WeightsError(
            f"{path.name} has another architecture than the preset asks for: {len(odd)} tensors are missing, "
            f"extra or of another shape, for example {odd[0]}; give the file of that model or choose another "
            "preset."
        )
    model.load_state_dict(tensors)


def _warm_up(tokenizer: Callable[[list[str]], Tensor]) -> Callable[[list[str]], Tensor]:
    """Call a tokenizer once and return it.

    The first call sets a fast tokenizer's padding; later calls only read it, so threads may share it.
    """
    tokenizer([""])
    return tokenizer


@contextmanager
def _explain_errors(what: str, hint: str) -> Iterator[None]:
    """Turn any error of open_clip, transformers, timm or the hub into a WeightsError.

    Their own messages may contain paths of this machine.

    Args:
        what: what failed, the beginning of the sentence.
        hint: what to do.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # connection, file, JSON, key, type and runtime errors among them
        raise WeightsError(f"{what} ({type(error).__name__}). {hint}") from error
