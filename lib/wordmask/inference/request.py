"""What a request means for this volume and this model: plane, slices, words, windows, and what to warn about.

Everything that a user can get wrong is refused here, before anything is computed. Knows volumes, words and
presets; runs no model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Plane, Slicing, slicing_for
from wordmask.data.slices import body_slices, choose_plane, to_unit_range
from wordmask.data.volumes import Volume
from wordmask.data.windows import Window, find_window
from wordmask.errors import PromptError, RequestError
from wordmask.models.base import Capabilities
from wordmask.models.presets import Preset
from wordmask.resources import suggest
from wordmask.words.prompt_sets import load_prompt_sets
from wordmask.words.prompts import Prompt, parse_prompts
from wordmask.words.vocabulary import VocabularyEntry, load_vocabulary

OUTPUTS = ("labels", "probability", "uncertainty", "attribution")
DEFAULT_WINDOW = "soft_tissue"  # for CT and a word whose vocabulary entry names none
NO_WINDOW = "percentiles"  # grey values that are no Hounsfield units: between two percentiles of the volume
PICTURE_WINDOW = "as is"  # 8-bit pictures


@dataclass(frozen=True, eq=False)
class CutVolume:
    """A volume cut into slices along one plane.

    stack: [n, h, w] (pictures [1, h, w, 3]), in display orientation; looked_at: which slices to compute,
    ascending.
    """

    volume: Volume
    plane: Plane
    slicing: Slicing
    stack: NDArray[np.generic]
    looked_at: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, height, width)."""
        count, height, width = self.stack.shape[:3]
        return count, height, width

    def unit_range(self, indices: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """The slices at ``indices`` as a model sees them: [n, 3, h, w], 0..1."""
        return to_unit_range(self.volume, self.stack[list(indices)], window)


def cut_volume(volume: Volume, *, plane: str, slices: tuple[int, int] | None, skip_air: bool) -> CutVolume:
    """Cut a volume; RequestError for an unknown plane or a range of slices that it does not have.

    slices: first and last index along the slicing plane, both included; skip_air: leave out slices of a CT
    that show only air.
    """
    chosen = choose_plane(volume, plane)
    slicing = slicing_for(volume.geometry, chosen)
    stack = slicing.cut(volume.array)
    wanted = np.zeros(len(stack), dtype=bool)
    first, last = (0, len(stack) - 1) if slices is None else check_slices(slices, len(stack))
    wanted[first : last + 1] = True
    if skip_air and volume.modality == "CT":
        wanted &= body_slices(volume, slicing)
    return CutVolume(volume, chosen, slicing, stack, tuple(np.flatnonzero(wanted).tolist()))


def check_slices(slices: Sequence[int], count: int) -> tuple[int, int]:
    """(first, last), both included; RequestError when they are not two whole numbers within 0..count - 1 in
    rising order.
    """
    if len(slices) != 2 or not all(isinstance(index, int | np.integer) for index in slices):
        raise RequestError(
            f"slices takes two whole numbers, the first and the last slice, got {list(slices)}."
        )
    first, last = int(slices[0]), int(slices[1])
    if not 0 <= first <= last < count:
        raise RequestError(
            f"Slices {first} to {last} were asked for; along this plane the image has slices 0 to "
            f"{count - 1}."
        )
    return first, last


def check_threshold(threshold: float | None, preset: Preset) -> float:
    """The threshold to use, 0..1; RequestError outside."""
    if threshold is None:
        return preset.threshold
    if (
        isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1
    ):  # NaN fails too
        raise RequestError(f"The threshold is a probability between 0 and 1, got {threshold}.")
    return float(threshold)


def check_outputs(keep: Collection[str], capabilities: Capabilities, model: str) -> frozenset[str]:
    """Which maps to keep besides the labels.

    RequestError for an unknown one, or one that the model does not give.
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
    """Typed text, words, or prompts that were made before.

    PromptError when there is none or a word comes twice.
    """
    if not isinstance(prompts, str) and any(isinstance(item, Prompt) for item in prompts):
        made = tuple(item for item in prompts if isinstance(item, Prompt))
        if len(made) != len(prompts):
            raise PromptError("Words came partly as text and partly as prompts; give one or the other.")
    else:
        made = tuple(parse_prompts(prompts))  # type: ignore[arg-type]
    seen: set[str] = set()
    for prompt in made:
        if prompt.word in seen:
            raise PromptError(f"The word {prompt.word!r} was given twice; give it once.")
        seen.add(prompt.word)
    return made


def check_prompt_sets(prompts: Sequence[Prompt], capabilities: Capabilities, model: str) -> None:
    """RequestError: a prompt set was chosen, and the model has none, or there is no such set."""
    for name in {prompt.prompt_set for prompt in prompts} - {None}:
        if not capabilities.prompt_sets:
            raise RequestError(
                f"Model {model!r} gives its text encoder the bare word; leave the prompt set out."
            )
        load_prompt_sets().find(str(name))


def choose_window(
    prompt: Prompt, volume: Volume, requested: str | None, preset: Preset
) -> tuple[str, Window | None]:
    """How grey values become 0..1 for one word: the name of it, and the CT window if it is one.

    CT: the window that was asked for, else the word's own, else soft tissue; a preset that was trained on
    other windows uses its first one instead, unless a window was asked for. RequestError for an unknown
    window, whatever the image is.
    """
    asked = None if requested is None else find_window(requested)
    if volume.modality != "CT":
        return (PICTURE_WINDOW if volume.is_picture else NO_WINDOW), None
    if requested is not None and asked is not None:
        return requested, asked
    name = prompt.window or DEFAULT_WINDOW
    if preset.windows and name not in preset.windows:
        name = preset.windows[0]
    return name, find_window(name)


def request_warnings(volume: Volume, window: str | None, preset: Preset, view: CutVolume) -> list[str]:
    """Sentences about the request as a whole."""
    found = list(volume.warnings)
    if window is not None and volume.modality != "CT":
        found.append(
            f"The window {window!r} was not used: windows are for CT, and this image is {_name_kind(volume)}."
        )
    elif window is not None and preset.windows and window not in preset.windows:
        trained = ", ".join(preset.windows)
        found.append(
            f"The preset {preset.name!r} was not trained on the window {window!r} (but on {trained}), so "
            "masks may be worse."
        )
    if not view.looked_at:
        found.append(
            "The slices that were asked for show only air, so nothing was marked; check the intensities, or "
            "do not skip air."
        )
    return found


def word_warnings(
    prompt: Prompt, volume: Volume, preset: Preset, *, known: bool, trained: Collection[str] = ()
) -> list[str]:
    """Sentences about one word.

    known: whether the model's text encoder and training met it; trained: on what, where it is known.
    """
    if not known and preset.unknown_words == "refuse":
        sentence = f"The preset {preset.name!r} was not trained on {prompt.word!r}, so nothing was marked; "
        return [sentence + preset.advise_on_unknown_word(trained)]
    found = []
    entry = load_vocabulary().lookup(prompt.key)
    if entry is None:
        near = load_vocabulary().suggest(prompt.word, limit=1)
        hint = f"did you mean {near[0].word!r}?" if near else "check the spelling and the mask."
        found.append(
            f"{prompt.word!r} is not in the vocabulary, so it has no code and no window of its own; {hint}"
        )
    if not known:
        found.append(
            f"The preset {preset.name!r} was not trained on {prompt.word!r}; look at its mask with care."
        )
    if entry is not None and not _may_show(volume, entry):
        found.append(
            f"{prompt.word!r} is usually looked for in {' or '.join(entry.modalities)}; this image is "
            f"{_name_kind(volume)}."
        )
    return found


def _may_show(volume: Volume, entry: VocabularyEntry) -> bool:
    """Whether an image of this kind usually shows the thing.

    A picture may be of any kind, but is seldom a slice of CT or MR.
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
