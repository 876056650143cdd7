"""``wordmask tune-clip``: tune the CLIP of MedCLIP-SAMv2 on pictures with captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.train import Computation, Data, read_cases, setting
from wordmask.cli.versions import APP_HELP, store_of
from wordmask.environment.packages import require_sound_environment

if TYPE_CHECKING:
    from wordmask.learning.captions import CaptionList
    from wordmask.learning.clip_tuning.recipe import TuneRecipe
    from wordmask.learning.clip_tuning.run import TuneReport
    from wordmask.learning.training import TrainingProgress

RUNS = Path("runs/tune_clip")


def tune_clip(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help='a CSV of image and caption, a JSON list of {"image", "caption"}, or labelled cases',
            show_default=False,
        ),
    ],
    word: Annotated[
        str | None,
        typer.Option(help="what the label maps of a folder show, such as polyp", rich_help_panel=Data),
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP, rich_help_panel=Data)] = None,
    start: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="version to go on from, 0: the preset's own; else the one that serves",
            rich_help_panel=Data,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper or tiny; else tiny for the preset tiny, paper for others", rich_help_panel=Computation
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="a setting of the recipe: epochs=20, loss=info_nce",
            rich_help_panel=Computation,
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="which size and weights of medclip_samv2", rich_help_panel=Computation)
    ] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
    run: Annotated[
        Path, typer.Option(help="folder of what an interrupted run goes on from", rich_help_panel=Computation)
    ] = RUNS,
    force: Annotated[
        bool, typer.Option("--force", help="publish also when the check shows no gain, or without one")
    ] = False,
) -> None:
    """Tune the CLIP of medclip_samv2 on pictures with captions; a better one is published and serves at once.

    A share of the pairs is held out; what counts is how often the right caption of a picture, and the right
    picture of a caption, is found among 50 of them. Of labelled cases captions are written: "CT slice showing
    liver and spleen". Interrupt it when you like: the same command goes on after the last whole epoch.

    [bold]Examples[/]

      wordmask tune-clip pairs.csv --preset biomedclip_vit_b
      wordmask tune-clip cases.json --set epochs=5
      wordmask models rollback --model medclip_samv2
    """
    require_sound_environment()
    from wordmask.learning.clip_tuning.recipe import load_tune_recipe
    from wordmask.learning.clip_tuning.run import MODEL, TuneRequest
    from wordmask.learning.clip_tuning.run import tune_clip as tuned

    name = recipe or ("tiny" if preset == "tiny" else "paper")
    chosen = load_tune_recipe(name, **dict(setting(text) for text in change or []))
    found = _read(pairs, word, chosen)
    with progress_bar() as show:
        report = tuned(
            found,
            TuneRequest(preset, chosen, device, start, force),
            store_of(app, MODEL),
            run_folder=run,
            report=lambda progress: show(_described(progress), progress.done, progress.total),
        )
    _tell(report, chosen)


def _read(path: Path, word: str | None, recipe: TuneRecipe) -> CaptionList:
    """What is in the list decides; VolumeError, LabelError, RequestError."""
    from wordmask.learning.captions import captions_of_cases, names_cases, read_caption_list

    if names_cases(path):
        return captions_of_cases(
            read_cases(path, word), slices=recipe.slices_per_case, words=recipe.caption_words
        )
    return read_caption_list(path, least_characters=recipe.least_characters)


def _tell(report: TuneReport, recipe: TuneRecipe) -> None:
    said = messages()
    if report.short:
        said.print(
            f"[yellow]Left out:[/] {report.short} captions of fewer than {recipe.least_characters} "
            "characters.",
            soft_wrap=True,
        )
    if report.cut:
        said.print(
            f"[yellow]Cut:[/] {report.cut} captions fill all that the text tower reads; it sees nothing "
            "beyond.",
            soft_wrap=True,
        )
    if report.before is not None and report.after is not None:
        table = Table(
            title=f"Retrieval on {report.after.pairs} held-out pairs, in batches of 50", title_justify="left"
        )
        for heading in ("found", "before", "after"):
            table.add_column(heading, justify="left" if heading == "found" else "right")
        before, after = report.before.summary(), report.after.summary()
        for name, heading in _ROWS.items():
            table.add_row(heading, f"{before[name]:.3f}", f"{after[name]:.3f}")
        answers().print(table)
    if report.presence is not None:
        fit = report.presence
        consequence = (
            "this goes on"
            if fit.holds
            else "too little: this version does not judge it, and every word is marked somewhere"
        )
        typer.echo(
            f"Whether a word is in a slice was fitted anew, on {fit.pictures} held-out pictures and all "
            "trained words: it agrees with "
            f"before in {fit.agreement:.1%} ({consequence})."
        )
    typer.echo(report.message)


_ROWS = {
    "image_to_text_top1": "caption of a picture, first",
    "image_to_text_top2": "caption of a picture, among the first two",
    "text_to_image_top1": "picture of a caption, first",
    "text_to_image_top2": "picture of a caption, among the first two",
}


def _described(progress: TrainingProgress) -> str:
    return progress.stage if progress.loss is None else f"{progress.stage}, loss {progress.loss:.4f}"
