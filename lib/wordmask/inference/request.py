"""Checks a request against its volume and model: plane, slices, words, windows, and warnings.

Everything that a user can get wrong is refused here, before anything is computed. Knows volumes, words and
presets; runs no model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Plane, Slicing, Triple, slicing_for
from wordmask.data.slices import body_slices, choose_plane, to_unit_range
from wordmask.data.volumes import Volume
from wordmask.data.windows import Window, find_window
from wordmask.errors import PromptError, RequestError
from wordmask.inference.region import Region
from wordmask.models.base import Capabilities
from wordmask.models.presets import Preset
from wordmask.resources import suggest
from wordmask.words.prompt_sets import load_prompt_sets
from wordmask.words.prompts import Prompt, parse_prompts
from wordmask.words.vocabulary import VocabularyEntry, load_vocabulary

OUTPUTS = ("labels", "probability", "uncertainty", "attribution")
DEFAULT_WINDOW = "soft_tissue"  # for CT and a word whose vocabulary entry names none
NO_WINDOW = "percentiles"  # grey values that are not Hounsfield units: between two percentiles of the volume
PICTURE_WINDOW = "as is"  # 8-bit pictures


@dataclass(frozen=True, eq=False)
class CutVolume:
    """A volume cut into slices along one plane.

    Attributes:
        volume: as read.
        plane: along which it is cut.
        slicing: how slices lie in the volume.
        stack: [n, h, w] (pictures [1, h, w, 3]), in display orientation.
        looked_at: indices of the slices to compute, ascending.
        region: outside of which nothing is marked; None: the whole image.
    """

    volume: Volume
    plane: Plane
    slicing: Slicing
    stack: NDArray[np.generic]
    looked_at: tuple[int, ...]
    region: Region | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, height, width)."""
        count, height, width = self.stack.shape[:3]
        return count, height, width

    def unit_range(self, indices: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """The slices at ``indices`` as models take them: [n, 3, h, w], 0..1."""
        return to_unit_range(self.volume, self.stack[list(indices)], window)

    def with_neighbours(self, indices: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """The slices at ``indices`` between their neighbours: [n, 3, h, w], 0..1.

        The channels are the slice before, itself, and the slice after; at the ends, itself again.
        """
        last = len(self.stack) - 1
        shifted = [[min(max(0, index + step), last) for index in indices] for step in (-1, 0, 1)]
        return np.stack([self.unit_range(places, window)[:, 0] for places in shifted], axis=1)


def cut_volume(
    volume: Volume,
    *,
    plane: str,
    slices: tuple[int, int] | None,
    skip_air: bool,
    roi: tuple[Triple, Triple] | None = None,
) -> CutVolume:
    """Cut a volume into slices.

    Args:
        volume: to cut.
        plane: auto, axial, coronal or sagittal.
        slices: first and last index along the slicing plane, both included; None for all.
        skip_air: whether slices of a CT that show only air are left out.
        roi: first and last voxel (i, j, k) of a region of interest, both included; None: the whole image.

    Raises:
        RequestError: an unknown plane, or slices or a region that the volume does not have.
    """
    chosen = choose_plane(volume, plane)
    slicing = slicing_for(volume.geometry, chosen)
    stack = slicing.cut(volume.array)
    wanted = np.zeros(len(stack), dtype=bool)
    first, last = (0, len(stack) - 1) if slices is None else check_slices(slices, len(stack))
    region = None if roi is None else Region.of(roi, slicing)
    if region is not None:
        first, last = region.narrow(None if slices is None else (first, last))
    wanted[first : last + 1] = True
    if skip_air and volume.modality == "CT":
        wanted &= body_slices(volume, slicing)
    return CutVolume(volume, chosen, slicing, stack, tuple(np.flatnonzero(wanted).tolist()), region)


def check_slices(slices: Sequence[int], count: int) -> tuple[int, int]:
    """Check a range of slices.

    Args:
        slices: first and last index, both included.
        count: of slices along the plane.

    Returns:
        (first, last).

    Raises:
        RequestError: it is not two integers in ascending order within 0..count - 1.
    """
    if len(slices) != 2 or not all(isinstance(index, int | np.integer) for index in slices):
        raise RequestError(f"slices takes two integers, the first and the last slice, got {list(slices)}.")
    first, last = int(slices[0]), int(slices[1])
    if not 0 <= first <= last < count:
        raise RequestError(
            f"There are no slices {first} to {last}; along this plane the image has slices 0 to {count - 1}."
        )
    return first, last


def check_threshold(threshold: float | None, preset: Preset) -> float:
    """The threshold to use, 0..1: the preset's when it is None; RequestError outside of this range."""
    if threshold is None:
        return preset.threshold
    # Written so that NaN fails, too.
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise RequestError(f"The threshold must be a probability between 0 and 1, got {threshold}.")
    return float(threshold)


def check_outputs(keep: Collection[str], capabilities: Capabilities, model: str) -> frozenset[str]:
    """The maps to keep besides the labels.

    Raises:
        RequestError: an output is unknown, or the model does not have it.
    """
    for name in keep:
        if name not in OUTPUTS:
            raise RequestError(
                f"There is no output {name!r}.{suggest(name, OUTPUTS)} Outputs: {', '.join(OUTPUTS)}."
            )
    if "attribution" in keep and not capabilities.attribution:
        raise RequestError(f"Model {model!r} has no attribution maps; ask for probability or uncertainty.")
    return frozenset(keep) - {"labels"}


def as_prompts(prompts: str | Sequence[str] | Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Prompts from typed text, words, or prompts that were parsed before.

    Raises:
        PromptError: there is no word, or a word comes twice.
    """
    if not isinstance(prompts, str) and any(isinstance(item, Prompt) for item in prompts):
        parsed = tuple(item for item in prompts if isinstance(item, Prompt))
        if len(parsed) != len(prompts):
            raise PromptError("The words are partly text and partly prompts; give one or the other.")
    else:
        parsed = tuple(parse_prompts(prompts))  # type: ignore[arg-type]
    seen: set[str] = set()
    for prompt in parsed:
        if prompt.word in seen:
            raise PromptError(f"The word {prompt.word!r} was given twice; give it once.")
        seen.add(prompt.word)
    return parsed


def check_prompt_sets(prompts: Sequence[Prompt], capabilities: Capabilities, model: str) -> None:
    """Check the prompt sets of a request.

    Raises:
        RequestError: one was chosen for a model that has none, or it does not exist.
    """
    for name in {prompt.prompt_set for prompt in prompts} - {None}:
        if not capabilities.prompt_sets:
            raise RequestError(
                f"Model {model!r} has no prompt sets, because its text encoder reads the bare word; leave "
                "the prompt set out."
            )
        load_prompt_sets().find(str(name))


def choose_window(
    prompt: Prompt, volume: Volume, requested: str | None, preset: Preset
) -> tuple[str, Window | None]:
    """Choose how grey values become 0..1 for one word.

    For CT it is the requested window, else the word's own, else soft tissue; a preset that was trained on
    other windows uses its first one instead, unless a window was requested.

    Args:
        prompt: the word.
        volume: the image.
        requested: name of a window, or None.
        preset: of the model.

    Returns:
        A name for the answer, and the CT window if the image is a CT.

    Raises:
        RequestError: the requested window is unknown, whatever the image is.
    """
    requested_window = None if requested is None else find_window(requested)
    if volume.modality != "CT":
        return (PICTURE_WINDOW if volume.is_picture else NO_WINDOW), None
    if requested is not None and requested_window is not None:
        return requested, requested_window
    name = prompt.window or DEFAULT_WINDOW
    if preset.windows and name not in preset.windows:
        name = preset.windows[0]
    return name, find_window(name)


def request_warnings(volume: Volume, window: str | None, preset: Preset, view: CutVolume) -> list[str]:
    """Warnings about the request as a whole, as sentences."""
    warnings = list(volume.warnings)
    if window is not None and volume.modality != "CT":
        warnings.append(
            f"The window {window!r} was not used: windows are for CT, and this image is {_name_kind(volume)}."
        )
    elif window is not None and preset.windows and window not in preset.windows:
        trained = ", ".join(preset.windows)
        warnings.append(
            f"The preset {preset.name!r} was not trained on the window {window!r} (but on {trained}), so "
            "masks may be worse."
        )
    if not view.looked_at:
        warnings.append(
            "The requested slices show only air, so nothing was marked; check the intensities, or do not "
            "skip air."
        )
    return warnings


def word_warnings(
    prompt: Prompt, volume: Volume, preset: Preset, *, known: bool, trained: Collection[str] = ()
) -> list[str]:
    """Warnings about one word, as sentences.

    Args:
        prompt: the word.
        volume: the image.
        preset: of the model.
        known: whether the model's text encoder and training met the word.
        trained: the words that the model was trained on, where they are a list.
    """
    if not known and preset.unknown_words == "refuse":
        sentence = f"The preset {preset.name!r} was not trained on {prompt.word!r}, so nothing was marked; "
        return [sentence + preset.advise_on_unknown_word(trained) + _hint_at_words(prompt)]
    warnings = []
    entry = load_vocabulary().lookup(prompt.key)
    if entry is None:
        near = load_vocabulary().suggest(prompt.word, limit=1)
        hint = f"did you mean {near[0].word!r}?" if near else "check the spelling and the mask."
        warnings.append(
            f"{prompt.word!r} is not in the vocabulary, so it has neither a code nor a window; {hint}"
        )
    if not known:
        warnings.append(
            f"The preset {preset.name!r} was not trained on {prompt.word!r}; look at its mask with care."
        )
    if entry is not None and not _may_show(volume, entry):
        warnings.append(
            f"{prompt.word!r} is usually looked for in {' or '.join(entry.modalities)}; this image is "
            f"{_name_kind(volume)}."
        )
    return warnings


def _hint_at_words(prompt: Prompt) -> str:
    """Help for a sentence, a misspelling or another language, with a space before it; else nothing."""
    vocabulary = load_vocabulary()
    if prompt.entry is not None:
        return ""
    named = vocabulary.find_in(prompt.word) or [
        found.word for found in vocabulary.suggest(prompt.word, limit=1)
    ]
    if named:
        return f" Did you mean {' or '.join(map(repr, named))}?"
    return " Words are English and name a structure, such as 'liver'; `wordmask words` lists them."


def _may_show(volume: Volume, entry: VocabularyEntry) -> bool:
    """Whether an image of this kind usually shows the structure.

    A picture may be of any kind, but is rarely a slice of CT or MR.
    """
    if volume.modality == "unknown":
        return True
    if volume.is_picture:
        return not set(entry.modalities) <= {"CT", "MR"}
    return volume.modality in entry.modalities


def _name_kind(volume: Volume) -> str:
    if volume.is_picture:
        return "a picture"
    return "of an unknown kind" if volume.modality == "unknown" else volume.modality
