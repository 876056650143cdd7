"""``wordmask train``: trains a model and publishes the result if it is better."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.options import Computation, Data, Settings, read_settings
from wordmask.cli.versions import APP_HELP, store_of
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError

if TYPE_CHECKING:
    from wordmask.learning.training import TrainingProgress, TrainingReport


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="labelled cases; medclip_samv2 also takes captions, medclip_samv2_weak a folder of images",
            show_default=False,
        ),
    ],
    model: Annotated[
        str, typer.Option(help="model to train", rich_help_panel=Computation)
    ] = "simple_vilmedsam",
    preset: Annotated[
        str, typer.Option(help="preset of the model: its size and weights", rich_help_panel=Computation)
    ] = "tiny",
    word: Annotated[
        str | None,
        typer.Option(help="word that the label maps of a folder show, such as polyp", rich_help_panel=Data),
    ] = None,
    words: Annotated[
        str,
        typer.Option(
            help='words to learn from unlabelled images, such as "liver, spleen"', rich_help_panel=Data
        ),
    ] = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="labelled cases among the unlabelled images; some are kept for validation",
            rich_help_panel=Data,
        ),
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP, rich_help_panel=Data)] = None,
    start: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="version to start from, 0 for the preset's own weights; default: the version in use",
            rich_help_panel=Data,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="few_shot or quick for labelled cases; simple_vilmedsam: also decoder or zero_shot; "
            "medclipseg: also adapters or small; clip_guided_sam: also paper or small; "
            "medclip_samv2: paper, tiny or zero_shot_masks; medclip_samv2_weak: small, paper or smoke; "
            "default: chosen by model and preset",
            rich_help_panel=Computation,
        ),
    ] = None,
    change: Settings = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="folder where medclip_samv2 continues an interrupted training; default: runs/MODEL",
            rich_help_panel=Computation,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="publish even if validation shows no improvement or there are no validation cases",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Train a model and publish the result if it is better.

    A new version is used at once, even by a running server. The model in use stays unchanged until training
    has finished, so you can stop the training at any time.

    Labelled cases are a JSON list of {"image", "label", "names"}, or a folder with images/ and labels/
    together with [bold]--word[/]. Some of them are validation cases, by which the result is judged. A case
    keeps this part in later versions.

    simple_vilmedsam, medclipseg and clip_guided_sam learn from labelled cases, and so does medclip_samv2
    with [bold]--recipe few_shot[/].
    medclip_samv2 tunes its CLIP on captions: a CSV file with the columns image and caption, a JSON list of
    {"image", "caption"}, or labelled cases, for which captions are written. medclip_samv2_weak learns
    [bold]--words[/] from a folder of images: medclip_samv2 makes masks of them, and nnU-Net is trained on
    these masks ([bold]pip install "wordmask\\[nnunet]"[/]). With [bold]--recipe zero_shot_masks[/],
    medclip_samv2 itself learns them, without nnU-Net.

    [bold]Examples[/]

      wordmask train cases.json
      wordmask train kvasir/ --word polyp --set steps=600
      wordmask train pairs.csv --model medclip_samv2 --preset biomedclip_vit_b
      wordmask train images/ --model medclip_samv2_weak --words "liver, spleen" --labels cases.json
      wordmask models list
    """
    require_sound_environment()
    from wordmask.learning.training import TrainingOptions, find_training

    training = find_training(model, recipe)
    if labels is not None and not training.takes_labels:
        raise RequestError(f"The training of {model} takes its labels from DATA; leave --labels out.")
    if run is not None and not training.resumes:
        raise RequestError(f"An interrupted training of {model} cannot be continued; leave --run out.")
    if word is not None and (training.takes_words or not data.is_dir()):
        raise RequestError(
            f"--word says what the label maps of a folder of cases show, but {data.name} is not one; leave "
            f"it out{', or use --words' if training.takes_words else ''}."
        )
    options = TrainingOptions(
        recipe=recipe,
        settings=read_settings(change),
        words=words,
        device=device,
        start=start,
        force=force,
    )
    request = training.make_request(model, preset, options)
    found = training.read_data(data, request, word=word, labels=labels)
    kept = (run or Path("runs") / model) if training.resumes else None
    with _run_folder(kept) as folder, progress_bar() as show:
        report = training.run(
            found,
            request,
            store_of(app, model),
            run_folder=folder,
            report=lambda progress: show(_describe(progress), progress.done, progress.total),
        )
    _print_report(report)


@contextmanager
def _run_folder(kept: Path | None) -> Iterator[Path]:
    """The folder to keep, or an empty one that is removed however the training ends."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="wordmask-train-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _print_report(report: TrainingReport) -> None:
    """Print what was left out, the figures before and after, and the result."""
    for problem in report.skipped:
        messages().print(f"[yellow]Left out:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if comparison := report.comparison():
        table = Table(title=comparison.title, title_justify="left")
        for heading in (comparison.heading, "before", "after"):
            table.add_column(heading, justify="left" if heading == comparison.heading else "right")
        for name, before, after in comparison.rows:
            table.add_row(escape(name), f"{before:.3f}", f"{after:.3f}")
        answers().print(table)
    typer.echo(report.message)


def _describe(progress: TrainingProgress) -> str:
    """The progress of a training in a few words."""
    if progress.dice is not None:
        return f"{progress.stage}, Dice {progress.dice:.3f}"
    return progress.stage if progress.loss is None else f"{progress.stage}, loss {progress.loss:.4f}"
