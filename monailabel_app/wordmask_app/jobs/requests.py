"""What a client may ask for, checked before any work is done.

Parameters come from the wire as JSON: every value is suspect. Those of MONAI Label's own clients that mean
nothing here (``client_id``, ``device``, ``model_filename``...) are left alone; hints that no model would use
are refused, not ignored. Knows the names and types of parameters; not whether they fit a volume, which the
pipeline checks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from wordmask.data.geometry import Triple
from wordmask.errors import RequestError
from wordmask.inference.hints import VoxelHints
from wordmask.words.prompts import Prompt, parse_prompts

OutputVolume = Literal["labels", "probability", "uncertainty", "attribution"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
LABEL_TYPES = ("uint8", "uint16", "int16", "int32")
SCRIBBLES = ("scribbles", "label")  # "label" is where MONAI Label puts an uploaded scribble mask
MOST_POINTS = 1000
MOST_SPREAD = 10_000  # slices
MOST_PARAMS = 1_000_000  # characters of a form field with JSON


@dataclass(frozen=True)
class InferRequest:
    """One checked request; None means that the library chooses.

    Attributes:
        slices: first and last along the slicing plane, inclusive.
        dtype: of the label map, by numpy's name.
    """

    prompts: tuple[Prompt, ...]
    plane: str
    window: str | None
    threshold: float | None
    slices: tuple[int, int] | None
    hints: VoxelHints
    roi: tuple[Triple, Triple] | None
    output_volume: OutputVolume
    extension: str
    dtype: str | None
    compress: bool

    @classmethod
    def from_params(cls, params: Mapping[str, Any], *, default_words: Sequence[Prompt]) -> InferRequest:
        """Check the JSON of a request.

        Raises:
            PromptError: the words cannot be used.
            RequestError: another parameter cannot be used; the message names it, what was found and what is
                allowed.
        """
        _refuse_scribbles(params)
        output_volume = cast(
            OutputVolume, _choice(params, "output_volume", get_args(OutputVolume), default="labels")
        )
        typed = read_words(params)
        prompts = tuple(default_words if typed is None else parse_prompts(typed))
        if (prompt_set := _text(params, "prompt_set")) is not None:
            prompts = tuple(replace(prompt, prompt_set=prompt_set) for prompt in prompts)
        if output_volume != "labels" and switch(params, "save_label", default=False):
            raise RequestError(
                f"save_label keeps label maps only, and {output_volume} was asked for; leave one of them out."
            )
        if output_volume != "labels" and len(prompts) > 1:
            raise RequestError(
                f"output_volume {output_volume!r} is a volume of one "
                f"word; ask for the {len(prompts)} words one by one."
            )
        return cls(
            prompts=prompts,
            plane=_text(params, "plane") or "auto",
            window=_text(params, "window"),
            threshold=_share(params.get("threshold"), "threshold"),
            slices=_slices(params.get("slices")),
            hints=VoxelHints(_points(params.get("points")), _box(params, "box")),
            roi=_box(params, "roi"),
            output_volume=output_volume,
            extension=_choice(params, "result_extension", EXTENSIONS, default=".nii.gz"),
            dtype=_dtype(params, output_volume),
            compress=switch(params, "result_compress", default=True),
        )


@dataclass(frozen=True)
class RefineRequest:
    """One checked correction; None means that the library chooses.

    Attributes:
        word: of the structure, as typed.
        spread: slices to each side that follow, at most.
        locked: slices that never change.
        least_overlap: of the masks of two neighbours, 0..1.
    """

    word: str
    plane: str
    window: str | None
    threshold: float | None
    hints: VoxelHints
    spread: int
    locked: tuple[int, ...]
    least_overlap: float | None
    extension: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> RefineRequest:
        """Check the JSON of a request.

        Raises:
            PromptError: the word cannot be used.
            RequestError: another parameter cannot be used.
        """
        _refuse_scribbles(params)
        prompts = parse_prompts(read_words(params) or "")
        if len(prompts) > 1:
            raise RequestError(f"A correction is of one word, and words has {len(prompts)}; name one.")
        spread, locked = params.get("spread", 0), params.get("locked", [])
        if type(spread) is not int or not 0 <= spread <= MOST_SPREAD:
            raise RequestError(
                f"spread is a whole number of slices from 0 to {MOST_SPREAD}, not {_shorten(spread)}."
            )
        if not isinstance(locked, list) or not all(type(index) is int and index >= 0 for index in locked):
            raise RequestError(f"locked is a list of slices, counted from 0, not {_shorten(locked)}.")
        hints = VoxelHints(_points(params.get("points")), _box(params, "box"))
        if not hints.kinds():
            raise RequestError("A correction needs points or a box; give at least one.")
        return cls(
            word=prompts[0].word,
            plane=_text(params, "plane") or "auto",
            window=_text(params, "window"),
            threshold=_share(params.get("threshold"), "threshold"),
            hints=hints,
            spread=spread,
            locked=tuple(locked),
            least_overlap=_share(params.get("least_overlap"), "least_overlap"),
            extension=_choice(params, "result_extension", EXTENSIONS, default=".nii.gz"),
        )


def read_words(params: Mapping[str, Any]) -> Any:
    """The words of a request; None when it has none.

    ``words``, or its alias ``prompt``, which every route with a JSON body accepts.

    Raises:
        RequestError: both are given, and differ.
    """
    words, prompt = params.get("words"), params.get("prompt")
    if prompt is None or prompt == "":
        return prompt if words is None else words
    if words is None or words == "" or words == prompt:
        return prompt
    raise RequestError(
        f"words and prompt are the same, but words is {_shorten(words)} "
        f"and prompt is {_shorten(prompt)}; leave prompt out."
    )


def json_object(text: str) -> dict[str, Any]:
    """The object in a form field with JSON.

    Raises:
        RequestError: it is not an object, or too long.
    """
    if len(text) > MOST_PARAMS:
        raise RequestError(f"params has {len(text):,} characters, at most {MOST_PARAMS:,} are allowed.")
    try:
        params = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise RequestError('params is not valid JSON; for example: {"words": "liver, spleen"}.') from None
    if not isinstance(params, dict):
        raise RequestError('params must be a JSON object; for example: {"words": "liver, spleen"}.')
    return params


def switch(params: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """A parameter that is true or false, as JSON or as text.

    Raises:
        RequestError: it is anything else.
    """
    given = params.get(name)
    if given is None:
        return default
    if isinstance(given, bool):
        return given
    if str(given).lower() in ("true", "false"):  # option tables send text
        return str(given).lower() == "true"
    raise RequestError(f"{name} is true or false, not {_shorten(given)}.")


def _refuse_scribbles(params: Mapping[str, Any]) -> None:
    for name in SCRIBBLES:
        given = params.get(name)
        if given is not None and given != [] and given != "":
            raise RequestError(
                "No model here can use scribbles; leave them out. Some "
                "take points or a box: GET /wordmask/models lists which."
            )


def _points(given: object) -> tuple[tuple[float, float, float, bool], ...]:
    if given is None or given == "":
        return ()
    if not isinstance(given, list) or len(given) > MOST_POINTS:
        raise RequestError(
            f"points is a list of at most {MOST_POINTS} points [i, j, k], not {_shorten(given)}."
        )
    return tuple(_point(point) for point in given)


def _point(given: object) -> tuple[float, float, float, bool]:
    if isinstance(given, list) and len(given) in (3, 4) and all(_is_number(value) for value in given):
        sign = given[3] if len(given) == 4 else 1
        if sign in (0, 1):
            return float(given[0]), float(given[1]), float(given[2]), sign == 1
    raise RequestError(
        "A point is [i, j, k] in voxels, or [i, j, k, 0] for "
        f"one outside the structure, not {_shorten(given)}."
    )


def _box(params: Mapping[str, Any], name: str) -> tuple[Triple, Triple] | None:
    given = params.get(name)
    if given is None or given == "" or given == []:
        return None
    if (
        isinstance(given, list)
        and len(given) == 2
        and all(isinstance(corner, list) and len(corner) == 3 for corner in given)
    ):
        first, last = given
        if all(_is_number(value) for value in (*first, *last)) and all(
            a <= b for a, b in zip(first, last, strict=True)
        ):
            return (float(first[0]), float(first[1]), float(first[2])), (
                float(last[0]),
                float(last[1]),
                float(last[2]),
            )
    raise RequestError(
        f"{name} is [[i, j, k], [i, j, k]], its first and its last voxel, not {_shorten(given)}."
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _text(params: Mapping[str, Any], name: str) -> str | None:
    given = params.get(name)
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise RequestError(f"{name} is a name, not {_shorten(given)}.")
    return given


def _choice(params: Mapping[str, Any], name: str, allowed: Sequence[str], *, default: str) -> str:
    given = params.get(name)
    if given is None:
        return default
    if given not in allowed:
        raise RequestError(f"{name} is one of {', '.join(allowed)}, not {_shorten(given)}.")
    return str(given)


def _share(given: object, name: str) -> float | None:
    """A parameter from 0 to 1."""
    if given is None:
        return None
    try:
        value = math.nan if isinstance(given, bool) else float(cast(Any, given))
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value <= 1:  # written so that NaN fails too
        raise RequestError(f"{name} is a number from 0 to 1, not {_shorten(given)}.")
    return value


def _slices(given: object) -> tuple[int, int] | None:
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 2 and all(type(index) is int for index in given):
        return given[0], given[1]
    raise RequestError(f"slices is [first, last], two whole numbers, not {_shorten(given)}.")


def _dtype(params: Mapping[str, Any], output_volume: OutputVolume) -> str | None:
    if output_volume == "labels":
        return _choice(params, "result_dtype", LABEL_TYPES, default="") or None
    if params.get("result_dtype") not in (None, "float32"):
        raise RequestError(
            f"A {output_volume} volume is written as float32; result_dtype "
            f"{_shorten(params['result_dtype'])} would lose values."
        )
    return None


def _shorten(given: object) -> str:
    """A value from the wire, short enough to be part of a sentence."""
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."
