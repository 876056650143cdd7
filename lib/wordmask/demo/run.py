"""``make demo``: ask a real server for words on a copy of the sample studies, measure, and draw.

Asks over HTTP as any client would and judges with the shipped labels. Knows HTTP, files and tables; the model
runs in the server alone.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from wordmask.data.label_maps import read_label_map
from wordmask.demo.baselines import baseline_dice
from wordmask.demo.client import AppClient, ServerAnswer, running_server
from wordmask.demo.report import Findings, Timing, print_report
from wordmask.demo.samples import SampleCase, load_samples, source_folder, true_mask
from wordmask.errors import WordMaskError
from wordmask.inference.overlay import overlay_labels
from wordmask.learning.evaluation.contact_sheet import write_contact_sheet
from wordmask.learning.evaluation.metrics import dice
from wordmask.words.prompts import parse_prompts

MODEL = "simple_vilmedsam"


def labels_of(answer: ServerAnswer, folder: Path, stem: str) -> NDArray[np.integer]:
    """Write the answer's label map to ``folder`` and return its voxels [k, j, i]."""
    path = folder / f"{stem}.nii.gz"
    path.write_bytes(answer.file or b"")
    return read_label_map(path).array


def two_words(case: SampleCase) -> tuple[str, str] | None:
    """Two words of a case with the same CT window, so that the second can use what the first computed."""
    windows = [(word, parse_prompts(word)[0].window) for word in case.groups()[0]]
    pairs = (
        (a, b) for i, (a, first) in enumerate(windows) for b, second in windows[i + 1 :] if first == second
    )
    return next(pairs, None)


def time_words(client: AppClient, cases: Sequence[SampleCase]) -> Timing | None:
    """Ask for one word and then for another, on the first volume that has two of one window."""
    for case in cases:
        if case.modality == "CT" and (words := two_words(case)) is not None:
            first, following = (client.infer(MODEL, case.name, {"words": word}).seconds for word in words)
            return Timing(case.name, words, (first, following))
    return None


def ask_present(client: AppClient, case: SampleCase, output: Path, findings: Findings) -> None:
    """Ask for the words that are there, those that share no voxel together.

    Keep label maps, Dice and one overlay picture.
    """
    truth = case.true_labels()
    for number, words in enumerate(case.groups(), start=1):
        answer = client.infer(MODEL, case.name, {"words": words})
        stem = f"{case.name}_labels" + (f"_{number}" if number > 1 else "")
        labels, values = labels_of(answer, output, stem), answer.fields["label_names"]
        for word in words:
            findings.dice[case.name, word] = dice(labels == values[word], true_mask(truth, case.words[word]))
        if number == 1:
            overlay_labels(case.image, labels, values, output / f"{case.name}.png")


def ask_absent(client: AppClient, case: SampleCase, scratch: Path, findings: Findings) -> None:
    """Ask for each word that is not there, by itself: no other word can take its false voxels."""
    for word in case.absent:
        answer = client.infer(MODEL, case.name, {"words": word})
        findings.false_voxels[case.name, word] = int(np.count_nonzero(labels_of(answer, scratch, "absent")))


def ask_everything(
    client: AppClient, cases: Sequence[SampleCase], output: Path, scratch: Path, console: Console
) -> Findings:
    """Ask all questions of the demo.

    Pictures come first, so that the timed volume does not pay for the server's first computation.
    """
    findings = Findings()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Asking for words", total=len(cases))
        for case in sorted(cases, key=lambda case: case.modality == "CT"):
            if case.modality == "CT" and findings.timing is None:
                findings.timing = time_words(client, cases)
            progress.update(task, description=f"Asking for words in {case.name}")
            ask_present(client, case, output, findings)
            ask_absent(client, case, scratch, findings)
            progress.advance(task)
    return findings


def examples(cases: Sequence[SampleCase]) -> list[SampleCase]:
    """The first two cases of every kind, in the order given."""
    seen: Counter[str] = Counter()
    chosen = []
    for case in cases:
        seen[case.modality] += 1
        if seen[case.modality] <= 2:
            chosen.append(case)
    return chosen


def run(samples: Path, app: Path, output: Path, conf: dict[str, str], console: Console) -> None:
    """The whole demo; the server is stopped in every case.

    Raises:
        WordMaskError: the server does not come up or refuses a question.
    """
    cases = load_samples(samples)
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wordmask-demo-")))
        # A copy, because the server writes beside the images.
        studies = Path(shutil.copytree(samples / "studies", scratch / "studies"))
        with console.status("Starting a MONAI Label server (the first start takes longest)"):
            url = stack.enter_context(running_server(app, studies, log=scratch / "server.log", conf=conf)).url
        console.print(f"A MONAI Label server with {len(cases)} sample studies is at {url}.")
        findings = ask_everything(AppClient(url), cases, output, scratch, console)
    write_contact_sheet(
        [output / f"{case.name}.png" for case in examples(cases)], output / "contact_sheet.png"
    )
    print_report(findings, baseline_dice(cases), console)
    console.print(
        f"Label maps and pictures are in {output.name}/, some of "
        f"them on one sheet in {output.name}/contact_sheet.png"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; 0 when it went through, 1 and the reason when not."""
    parser = argparse.ArgumentParser(
        prog="python -m wordmask.demo.run", description="Ask a real server for words in the sample studies."
    )
    parser.add_argument(
        "--samples", type=Path, help="folder with index.json, studies/ and truth/; else sample_data/"
    )
    parser.add_argument("--app", type=Path, help="the MONAI Label app; else monailabel_app/")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="where label maps and pictures go"
    )
    parser.add_argument("--preset", default="tiny", help="which weights the server loads")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    chosen = parser.parse_args(arguments)
    conf = {"preset": chosen.preset, "device": chosen.device}

    def demo(console: Console) -> None:
        samples = chosen.samples or source_folder("sample_data")
        app = chosen.app or source_folder("monailabel_app")
        run(samples, app, chosen.output, conf, console)

    return exit_status(demo)


def exit_status(demo: Callable[[Console], object]) -> int:
    """Run a demo and return its exit status.

    0 when it succeeded; 1 when it returns False or fails, with the reason printed; 130 when it was
    interrupted.
    """
    console = Console(soft_wrap=True)
    # An exception, so that the server is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return 1 if demo(console) is False else 0
    except WordMaskError as error:
        console.print("[bold red]The demo stopped.[/]", end=" ")
        console.print(str(error), markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("The demo was interrupted; its server is stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
