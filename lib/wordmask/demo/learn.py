"""``make learn-demo``: teach a real server a word from two labelled studies, and measure on the others.

Labels, trains, asks and rolls back over HTTP, as any client would. Knows HTTP, files and tables; the model
learns in the server alone, which runs on copies of the app and of the sample studies.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from wordmask.demo.client import AppClient, ServerError, running_server
from wordmask.demo.run import MODEL, exit_status, labels_of
from wordmask.demo.samples import SampleCase, load_samples, source_folder, true_mask
from wordmask.errors import RequestError
from wordmask.inference.overlay import overlay_labels
from wordmask.learning.evaluation.metrics import dice

WORD = "solid organs"  # as surgeons say; no weights have met it, and no table of labels has it as one value
PARTS = ("liver", "spleen", "kidney")
LABELLED = 2  # one is learned from, the other judges
TRAINING = {"recipe": "quick"}
MADE_BY_SERVERS = ("logs", "model", "bin", "lib", "__pycache__")
LOOK = 0.5  # seconds between looks at the training
WIDTH, HEADING = 640, 28  # pixels of one picture of three, and of the line above it


@dataclass(frozen=True)
class VersionScores:
    """What the server answered before the training, after it, or after the rollback.

    Attributes:
        version: the version that answered.
        dice: (case, word) -> 0..1.
        marked: case -> where `WORD` was marked, [k, j, i].
    """

    version: str
    dice: Mapping[tuple[str, str], float]
    marked: Mapping[str, NDArray[np.bool_]]

    def of_word(self) -> float:
        """Mean Dice of `WORD`."""
        return mean(value for (_, word), value in self.dice.items() if word == WORD)

    def of_others(self) -> float:
        """Mean Dice of the words that were known before."""
        return mean(value for (_, word), value in self.dice.items() if word != WORD)

    def same(self, other: VersionScores) -> bool:
        """Whether another one answered with the same voxels and figures."""
        return self.dice == other.dice and all(
            np.array_equal(mask, other.marked[case]) for case, mask in self.marked.items()
        )


def choose_cases(cases: Sequence[SampleCase]) -> tuple[list[SampleCase], list[SampleCase]]:
    """Divide the studies that show every part into the first two by name, to label, and the rest.

    Raises:
        RequestError: there are too few.
    """
    showing = sorted(
        (case for case in cases if all(part in case.words for part in PARTS)), key=lambda case: case.name
    )
    if len(showing) <= LABELLED:
        raise RequestError(
            f"{LABELLED + 1} studies that show {', '.join(PARTS)} are needed, and there are {len(showing)}."
        )
    return showing[:LABELLED], showing[LABELLED:]


def truth_of(case: SampleCase) -> NDArray[np.bool_]:
    """Where `WORD` truly is, [k, j, i]."""
    return true_mask(case.true_labels(), sorted({value for part in PARTS for value in case.words[part]}))


def submit(client: AppClient, case: SampleCase, scratch: Path) -> None:
    """Draw `WORD` as a person would, in a label map of its own, and submit it as final."""
    label = sitk.GetImageFromArray(truth_of(case).astype(np.uint8))
    label.CopyInformation(sitk.ReadImage(case.image))
    path = scratch / f"{case.name}_drawn.nii.gz"
    sitk.WriteImage(label, path)
    client.submit_label(case.name, path, {WORD: 1})


def ask(client: AppClient, cases: Sequence[SampleCase], scratch: Path) -> VersionScores:
    """Ask every case for `WORD` and for the words that it shows, and judge the answers."""
    scores, marked, version = {}, {}, ""
    for case in cases:
        truth = case.true_labels()
        answer = client.infer(MODEL, case.name, {"words": WORD})
        version, marked[case.name] = answer.fields["version"], labels_of(answer, scratch, "answer") == 1
        scores[case.name, WORD] = dice(marked[case.name], truth_of(case))
        for words in case.groups():
            answer = client.infer(MODEL, case.name, {"words": words})
            labels, values = labels_of(answer, scratch, "answer"), answer.fields["label_names"]
            scores |= {
                (case.name, word): dice(labels == values[word], true_mask(truth, case.words[word]))
                for word in words
            }
    return VersionScores(version, scores, marked)


def train(client: AppClient, settings: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Start a training, wait for its end, and return its report.

    Raises:
        ServerError: nothing was published.
    """
    client.start_training(MODEL, settings)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        while (state := client.training(MODEL))["state"] == "running":
            score = "" if state.get("dice") is None else f", Dice {state['dice']:.3f}"
            progress.update(
                task,
                description=f"{state['stage']}{score}",
                completed=state["done"],
                total=state["total"] or None,
            )
            time.sleep(LOOK)
    if state["state"] != "done" or state["version"] is None:
        raise ServerError(f"The training did not publish a version: {state.get('message', state['state'])}")
    return state


def draw(case: SampleCase, before: VersionScores, after: VersionScores, output: Path) -> None:
    """Draw one case: what was marked before and after, and the truth, side by side.

    The slices are those that show most of the truth.
    """
    truth = truth_of(case)
    columns = {
        f"before: Dice {before.dice[case.name, WORD]:.3f}": before.marked[case.name],
        f"after two labelled cases: Dice {after.dice[case.name, WORD]:.3f}": after.marked[case.name],
        "truth": truth,
    }
    path = output / f"{case.name}.png"
    pictures: list[Image.Image] = []
    for mask in columns.values():
        overlay_labels(case.image, mask.astype(np.uint8), {WORD: 1}, path, like=truth.astype(np.uint8))
        with Image.open(path) as picture:
            pictures.append(
                picture.resize(
                    (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
                )
            )
    page = Image.new("RGB", (WIDTH * len(pictures), HEADING + pictures[0].height), "white")
    for number, (title, column) in enumerate(zip(columns, pictures, strict=True)):
        ImageDraw.Draw(page).text((WIDTH * number + 8, 4), title, "black", font=ImageFont.load_default(18))
        page.paste(column, (WIDTH * number, HEADING))
    page.save(path)


def table_of(before: VersionScores, after: VersionScores, undone: VersionScores) -> Table:
    """Dice of `WORD` in every untouched case, and the means."""
    table = Table(title=f"Dice of {WORD!r} in unlabelled cases", title_justify="left")
    table.add_column("case")
    for heading in ("before", "after", "rolled back"):
        table.add_column(heading, justify="right")
    for case in before.marked:
        table.add_row(case, *(f"{found.dice[case, WORD]:.3f}" for found in (before, after, undone)))
    table.add_section()
    table.add_row("mean", *(f"{found.of_word():.3f}" for found in (before, after, undone)))
    known = f"{len(before.dice) - len(before.marked)} words known before"
    table.add_row(known, *(f"{found.of_others():.3f}" for found in (before, after, undone)))
    return table


def run(samples: Path, app: Path, output: Path, settings: Mapping[str, Any], console: Console) -> bool:
    """The whole demo.

    Returns:
        Whether the training helped in every untouched case, and the rollback restored the old answers.

    Raises:
        WordMaskError: the demo could not finish.
    """
    to_label, untouched = choose_cases(load_samples(samples))
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wordmask-learn-")))
        studies = Path(shutil.copytree(samples / "studies", scratch / "studies"))
        # A copy, because the server publishes there.
        own = Path(shutil.copytree(app, scratch / "app", ignore=shutil.ignore_patterns(*MADE_BY_SERVERS)))
        with console.status("Starting a MONAI Label server (the first start takes longest)"):
            client = AppClient(
                stack.enter_context(running_server(own, studies, log=scratch / "server.log")).url
            )
        with console.status(f"Asking for {WORD!r} before"):
            before = ask(client, untouched, scratch)
        for case in to_label:
            submit(client, case, scratch)
        console.print(
            f"Labelled {WORD!r} ({', '.join(PARTS)}) in {' and '.join(case.name for case in to_label)}."
        )
        report = train(client, settings, console)
        console.print(f"{report['message']} It took {report['seconds']:.0f} s.")
        with console.status(f"Asking for {WORD!r} after, and when rolled back"):
            after = ask(client, untouched, scratch)
            client.rollback(MODEL)
            undone = ask(client, untouched, scratch)
    for case in untouched:
        draw(case, before, after, output)
    console.print(table_of(before, after, undone))
    console.print(f"Pictures are in {output}/")
    return judge(before, after, undone, console)


def judge(before: VersionScores, after: VersionScores, undone: VersionScores, console: Console) -> bool:
    """Print the result."""
    helped = all(after.dice[case, WORD] > before.dice[case, WORD] for case in before.marked)
    back = undone.same(before) and undone.version == before.version
    console.print("The training helped." if helped else "[bold red]The training did not help.[/]")
    answers = "every voxel is as it was before" if back else "[bold red]the answers differ from before[/]"
    console.print(f"Rolled back from version {after.version} to {undone.version}: {answers}.")
    return helped and back


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; 0 when the training helped and could be undone, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="python -m wordmask.demo.learn", description="Teach a word to a real server with two labels."
    )
    parser.add_argument(
        "--samples", type=Path, help="folder with index.json, studies/ and truth/; else sample_data/"
    )
    parser.add_argument(
        "--app", type=Path, help="the MONAI Label app, of which a copy is used; else monailabel_app/"
    )
    parser.add_argument("--output", type=Path, default=Path("demo_output/learning"), help="where pictures go")
    chosen = parser.parse_args(arguments)

    def demo(console: Console) -> bool:
        samples = chosen.samples or source_folder("sample_data")
        app = chosen.app or source_folder("monailabel_app")
        return run(samples, app, chosen.output, TRAINING, console)

    return exit_status(demo)


if __name__ == "__main__":
    sys.exit(main())
