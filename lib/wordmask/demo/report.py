"""The tables of Dice and times that the demo prints at its end.

Knows numbers that were measured already; not the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean

from rich.console import Console
from rich.table import Table

MOST_FALSE = 10  # false alarms that are listed one by one
# a method without a model that comes this close to a word's Dice says that the word's phantoms are too easy
EASY = 0.25
BASELINES = {"threshold": "grey value", "atlas": "atlas"}


@dataclass(frozen=True)
class Timing:
    """Seconds from question to answer for two words on one volume that the server had not seen."""

    case: str
    words: tuple[str, str]
    seconds: tuple[float, float]


@dataclass
class Findings:
    """What the demo measured.

    Attributes:
        dice: (case, word) -> 0..1, where the structure is in the image.
        false_voxels: (case, word) -> count, where it is not.
    """

    dice: dict[tuple[str, str], float] = field(default_factory=dict)
    false_voxels: dict[tuple[str, str], int] = field(default_factory=dict)
    timing: Timing | None = None

    def dice_by_word(self) -> dict[str, list[float]]:
        """Word -> its Dice in every case that has it."""
        by_word: dict[str, list[float]] = {}
        for (_, word), value in self.dice.items():
            by_word.setdefault(word, []).append(value)
        return by_word

    def mean_dice(self) -> float:
        """Over all (case, word) pairs in which the word is there."""
        return mean(self.dice.values())

    def stayed_empty(self) -> float:
        """Share of (case, absent word) pairs without a single voxel, 0..1."""
        return mean(voxels == 0 for voxels in self.false_voxels.values())


def print_report(findings: Findings, baselines: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Print what was measured beside the baselines: word -> {"threshold": Dice, "atlas": Dice}."""
    console.print(_dice_table(findings, baselines))
    console.print(
        f"Mean Dice over {len(findings.dice)} (case, word) pairs: [bold]{findings.mean_dice():.3f}[/]"
    )
    ours = {word: mean(values) for word, values in findings.dice_by_word().items()}
    means = {
        called: [scores[name] for scores in baselines.values() if name in scores]
        for name, called in BASELINES.items()
    }
    theirs = [f", {called} {mean(values):.3f}" for called, values in means.items() if values]
    console.print(f"Mean Dice over words: ours {mean(ours.values()):.3f}{''.join(theirs)}")
    for word, name in too_easy(ours, baselines):
        console.print(
            f"  too easy: {word}, {BASELINES[name]} {baselines[word][name]:.3f} against our {ours[word]:.3f}"
        )
    false = sorted(
        ((voxels, word, case) for (case, word), voxels in findings.false_voxels.items() if voxels),
        reverse=True,
    )
    console.print(
        f"Questions for absent words: {len(findings.false_voxels)}, "
        f"not one voxel for [bold]{findings.stayed_empty():.1%}[/]"
    )
    for voxels, word, case in false[:MOST_FALSE]:
        console.print(f"  false: {word} in {case}, {voxels} voxels")
    if len(false) > MOST_FALSE:
        console.print(f"  and {len(false) - MOST_FALSE} smaller ones")
    if findings.timing is not None:
        first, following = findings.timing.seconds
        console.print(
            f"On {findings.timing.case}: first word ({findings.timing.words[0]}) {first:.2f} s, next "
            f"word ({findings.timing.words[1]}) {following:.2f} s, {first / following:.1f} times as fast"
        )


def too_easy(
    ours: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, str]]:
    """(word, baseline) wherever a baseline's Dice is less than `EASY` below ours."""
    pairs = ((word, name, value) for word, scores in baselines.items() for name, value in scores.items())
    return [(word, name) for word, name, value in pairs if word in ours and value > ours[word] - EASY]


def _dice_table(findings: Findings, baselines: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(
        title="Dice against the shipped labels, and what two methods without a model reach",
        title_justify="left",
    )
    table.add_column("word")
    for heading in ("cases", "Dice", "lowest", *BASELINES.values()):
        table.add_column(heading, justify="right")
    for word, values in sorted(findings.dice_by_word().items(), key=lambda item: -mean(item[1])):
        others = baselines.get(word, {})
        cells = [f"{others[name]:.3f}" if name in others else "" for name in BASELINES]
        table.add_row(word, str(len(values)), f"{mean(values):.3f}", f"{min(values):.3f}", *cells)
    return table
