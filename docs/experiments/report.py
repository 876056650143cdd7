"""Tables and plots of docs/experiments from the result files: ``python -m docs.experiments.report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from docs.experiments.results import Results

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = Sequence[str]
WIDE = 20  # largest number of cases over the smallest, from which a logarithmic axis shows them better


def spread(values: Iterable[float]) -> str:
    """Mean, and the range over seeds where there are several."""
    found = list(values)
    if not found:
        return "–"
    mean = f"{np.mean(found):.3f}"
    return mean if len(found) == 1 else f"{mean} ({min(found):.3f}–{max(found):.3f})"


def table(heading: Row, rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def curve(records: list[dict[str, Any]], lines: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Mean Dice against the number of cases, one line per selection, with the range over seeds."""
    figure, axes = plt.subplots(figsize=(5.5, 3.8))
    for label, key in lines.items():
        own = [record for record in records if all(record.get(name) == value for name, value in key.items())]
        counts = sorted({record["cases"] for record in own if record["cases"]})
        values = [[record["dice"] for record in own if record["cases"] == count] for count in counts]
        if counts:
            (drawn,) = axes.plot(counts, [np.mean(found) for found in values], marker="o", label=label)
            axes.fill_between(
                counts,
                [min(v) for v in values],
                [max(v) for v in values],
                color=drawn.get_color(),
                alpha=0.15,
            )
    axes.set(xlabel="labelled cases", ylabel="mean Dice on the test cases", title=title)
    ticks = sorted({record["cases"] for record in records if record["cases"]})
    if ticks and ticks[-1] > WIDE * ticks[0]:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def few_shot(results: Results, pictures: Path) -> str:
    """A table per task and budget, with what the weights that ship give without any case."""
    parts = []
    for task in sorted({record["task"] for record in results.records}):
        tests = results.select(task=task)[0]["tests"]
        budgets = sorted({record["seconds"] for record in results.select(task=task)} - {0})
        untaught = spread(record["dice"] for record in results.select(task=task, cases=0))
        parts.append(f"**{task}**, {tests} test cases; untaught: {untaught}\n")
        lines = {}
        for seconds in budgets:
            own = results.select(task=task, seconds=seconds)
            rows = [_few_shot_row(own, count) for count in sorted({record["cases"] for record in own})]
            names = ["WordMask", "U-Net", "U-Net, part that stands out"]
            heading = ["cases", "seeds", *names, "points", "failed: WordMask", *names[1:]]
            parts.append(f"{seconds} processor seconds each\n\n{table(heading, rows)}")
            parts.append(_medclipseg_rows(own))
            for name, model in (("WordMask", "wordmask"), ("U-Net from scratch", "unet")):
                lines[f"{name}, {seconds} s"] = {"model": model, "seconds": seconds}
        curve(
            results.select(task=task), lines, pictures / f"few_shot_{task}.png", f"{task}: few labelled cases"
        )
    return "\n".join(parts)


def _medclipseg_rows(records: Sequence[dict[str, Any]]) -> str:
    """A table of MedCLIPSeg, its adapters trained and taught; empty without such runs."""
    models = {"medclipseg": "adapters", "medclipseg, taught": "taught"}
    own = [record for record in records if record["model"] in models]
    rows = []
    for count in sorted({record["cases"] for record in own}):
        for model, name in models.items():
            found = [record for record in own if (record["cases"], record["model"]) == (count, model)]
            if found:
                scores = (spread(record[key] for record in found) for key in ("dice", "failed"))
                rows.append([str(count), name, str(len(found)), *scores])
    return f"MedCLIPSeg\n\n{table(['cases', 'learns by', 'seeds', 'Dice', 'failed'], rows)}" if rows else ""


def _few_shot_row(records: Sequence[dict[str, Any]], count: int) -> list[str]:
    of = {
        model: [record for record in records if record["cases"] == count and record["model"] == model]
        for model in ("wordmask", "unet", "unet, part")
    }
    means = [np.mean([record["dice"] for record in own]) if own else np.nan for own in of.values()]
    return [
        str(count),
        str(max(len(own) for own in of.values())),
        *(spread(record["dice"] for record in own) for own in of.values()),
        "–" if np.isnan(means[:2]).any() else f"{100 * (means[0] - means[1]):+.1f}",
        *(spread(record["failed"] for record in own) for own in of.values()),
    ]


def active_learning(results: Results, pictures: Path) -> str:
    """One table per task: rows are numbers of labelled cases, columns strategies."""
    parts = []
    for task in sorted({record["task"] for record in results.records}):
        own = results.select(task=task)
        strategies = list(dict.fromkeys(record["strategy"] for record in own))
        rows = [
            [
                str(count),
                *(
                    spread(found["dice"] for found in results.select(task=task, strategy=name, cases=count))
                    for name in strategies
                ),
            ]
            for count in sorted({record["cases"] for record in own})
        ]
        parts.append(f"**{task}**\n\n{table(['labelled cases', *strategies], rows)}")
        parts.append(_cases_saved(own, strategies))
        lines = {name: {"strategy": name} for name in strategies}
        curve(own, lines, pictures / f"active_learning_{task}.png", f"{task}: which case to label next")
    return "\n".join(parts)


def _cases_saved(records: Sequence[dict[str, Any]], strategies: Sequence[str]) -> str:
    """How many labelled cases each strategy needs for what random choice reaches at the end."""
    rows = []
    last = max(record["cases"] for record in records)
    for name in strategies:
        needed = []
        for seed in sorted({record["seed"] for record in records}):
            own = [record for record in records if record["seed"] == seed]
            goal = [r["dice"] for r in own if r["strategy"] == "random" and r["cases"] == last]
            reached = [r["cases"] for r in own if r["strategy"] == name and goal and r["dice"] >= goal[0]]
            needed.append(str(min(reached)) if reached else f"over {last}")
        rows.append([name, ", ".join(needed)])
    return table(["strategy", f"cases for what random choice reaches at {last}, by seed"], rows)


def presence(results: Results, pictures: Path) -> str:
    """One row per way to decide."""
    columns = ("dice", "failed", "specificity")
    rows = []
    for how in dict.fromkeys(record["presence"] for record in results.records):
        own = results.select(presence=how)
        rows.append([how, str(len(own)), *(spread(record[name] for record in own) for name in columns)])
    return table(["presence", "runs", "Dice", "failed", "kept empty"], rows)


def ablation(results: Results, pictures: Path) -> str:
    """One row per variant."""
    rows = []
    for lora, ipp, bid in sorted({(r["lora"], r["ipp"], r["bid"]) for r in results.records}):
        own = results.select(lora=lora, ipp=ipp, bid=bid)
        name = (
            " + ".join(part for part, there in (("LoRA", lora), ("IPP", ipp), ("BID", bid)) if there)
            or "none of them"
        )
        specificity = spread(record["specificity"] for record in own if record["specificity"] is not None)
        rows.append([name, str(len(own)), spread(record["dice"] for record in own), specificity])
    return table(["parts", "runs", "Dice", "absent kept empty"], rows)


def forgetting(results: Results, pictures: Path) -> str:
    """One row per step of the sequence and share of repeated pairs."""
    columns = ["samples", "hippocampus", "breast"]
    keys = dict.fromkeys((record["after"], record["replay"]) for record in results.records)
    rows = []
    for after, replay in sorted(
        keys, key=lambda key: (["bundled", "hippocampus", "breast"].index(key[0]), key[1])
    ):
        own = results.select(after=after, replay=replay)
        rows.append(
            [
                after,
                f"{replay:g}",
                str(len(own)),
                *(spread(record[name] for record in own) for name in columns),
            ]
        )
    return table(
        [
            "after training on",
            "replay",
            "runs",
            "bundled words (sample studies)",
            "hippocampus",
            "breast tumor",
        ],
        rows,
    )


def tune_clip(results: Results, pictures: Path) -> str:
    """One row per loss, the first one of the weights before."""
    names = ("image_to_text_top1", "image_to_text_top2", "text_to_image_top1", "text_to_image_top2")
    rows = []
    for label, key, side in (
        ("before", {"loss": "dhn_nce"}, "before"),
        ("DHN-NCE", {"loss": "dhn_nce"}, "after"),
        ("InfoNCE", {"loss": "info_nce"}, "after"),
    ):
        own = results.select(**key)
        cells = [spread(record[side][name] for record in own) for name in names]
        rows.append([label, str(len(own)), *cells, spread(record["dice"][side] for record in own)])
    ways = ["caption of a picture, top 1", "top 2", "picture of a caption, top 1", "top 2"]
    return table(["CLIP", "runs", *ways, "Dice of sample lesions"], rows)


def weak_supervision(results: Results, pictures: Path) -> str:
    """Rows are words on one kind of test images, columns the teaching masks and their results."""
    rows = []
    for task, name, word in dict.fromkeys(
        (record["task"], record["set"], record["word"]) for record in results.records
    ):
        of = [results.select(task=task, set=name, word=word, model=model) for model in ("zero-shot", "weak")]
        dice = [spread(record["dice"] for record in found) for found in of]
        empty = [
            spread(record["specificity"] for record in found if record["specificity"] is not None)
            for found in of
        ]
        rows.append([task, name, str(of[0][0]["tests"]), word, *dice, *empty])
    return table(
        [
            "task",
            "test images",
            "number",
            "word",
            "zero-shot",
            "weak",
            "absent kept empty: zero-shot",
            "weak",
        ],
        rows,
    )


def bare_words(results: Results, pictures: Path) -> str:
    """One row per variant: Dice with the bare word and with a sentence, on both sets of drawings."""
    rows = []
    keys = ("pvl", "probabilistic", "bare", "share")
    for values in dict.fromkeys(tuple(record[key] for key in keys) for record in results.records):
        key = dict(zip(keys, values, strict=True))
        adapters = "none" if not key["pvl"] else "PVL" if key["probabilistic"] else "PVL, no draws"
        row = [adapters, f"{key['bare']:.0%}", f"{key['share']:.0%}"]
        for name in ("drawings", "another scanner"):
            own = results.select(**key, set=name)
            drop = 100 * np.mean([record["dice_original"] - record["dice_bare"] for record in own])
            row += [spread(record[style] for record in own) for style in ("dice_bare", "dice_original")]
            row.append(f"{drop:+.1f}")
        rows.append([*row[:3], str(len(own)), *row[3:]])
    columns = ["bare word", "sentence", "drop"]
    heading = ["adapters", "bare words in training", "drawings learned from", "seeds"]
    return table([*heading, *columns, *(f"another scanner: {name}" for name in columns)], rows)


def clicks(results: Results, pictures: Path) -> str:
    """One row per way to be prompted, columns are clicks; and a plot."""
    counts = sorted({record["clicks"] for record in results.records})
    figure, axes = plt.subplots(figsize=(5.5, 3.8))
    rows = []
    for way in dict.fromkeys(record["way"] for record in results.records):
        means = [np.mean([r["dice"] for r in results.select(way=way, clicks=count)]) for count in counts]
        structures = len(results.select(way=way, clicks=counts[0]))
        rows.append([way, str(structures), *(f"{mean:.3f}" for mean in means)])
        axes.plot(counts, means, marker="o", label=way)
    axes.set(xlabel="clicks", ylabel="mean Dice", title="Clicks on the pictures of the samples", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(pictures / "clicks.png", dpi=110)
    plt.close(figure)
    return table(["prompted", "structures", *(f"{count} clicks" for count in counts)], rows)


REPORTS: dict[str, Callable[[Results, Path], str]] = {
    "few_shot": few_shot,
    "active_learning": active_learning,
    "presence": presence,
    "ablation": ablation,
    "forgetting": forgetting,
    "tune_clip": tune_clip,
    "weak_supervision": weak_supervision,
    "bare_words": bare_words,
    "clicks": clicks,
}


def main() -> None:
    """Write what there are results for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--output", type=Path, default=Path("docs/experiments"))
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    for name, report in REPORTS.items():
        path = asked.results / f"{name}.jsonl"
        if path.exists():
            (asked.output / f"{name}.md").write_text(report(Results(path), asked.output), encoding="utf-8")
            (asked.output / f"{name}.jsonl").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
