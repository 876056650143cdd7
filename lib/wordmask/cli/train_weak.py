"""``wordmask train-weak``: nnU-Net learns words from images that nobody has labelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordmask.cli.consoles import progress_bar
from wordmask.cli.train import Computation, Data, described, print_report, run_folder, setting
from wordmask.cli.versions import APP_HELP, store_of
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError

if TYPE_CHECKING:
    from wordmask.learning.weak.pseudo_labels import WeakImage


def train_weak(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="a folder of images, labelled or not", show_default=False)
    ],
    words: Annotated[
        str,
        typer.Option("--words", help='what to learn, such as "polyp" or "liver, spleen"', show_default=False),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            help='a JSON list of {"image", "label", "names"}: they replace masks; some are held out',
            rich_help_panel=Data,
        ),
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP, rich_help_panel=Data)] = None,
    recipe: Annotated[str, typer.Option(help="small, paper or smoke", rich_help_panel=Computation)] = "small",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="a number of the recipe, such as epochs=30",
            rich_help_panel=Computation,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="publish also when the check shows no gain")] = False,
    preset: Annotated[
        str,
        typer.Option(
            help="which size and weights of medclip_samv2 draw the masks", rich_help_panel=Computation
        ),
    ] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Learn words from images without labels.

    medclip_samv2 draws masks of them, and nnU-Net learns from these.

    What was learned is published as medclip_samv2_weak and serves at once, also in a server that runs. It
    needs nnU-Net: [bold]pip install "wordmask\\[nnunet]"[/]. Labels that a person has drawn count more than
    masks; of several, some are held out, and the result has to beat the zero-shot masks on them.

    [bold]Examples[/]

      wordmask train-weak images/ --words polyp
      wordmask train-weak images/ --words "liver, spleen" --labels cases.json --preset biomedclip_vit_h
      wordmask segment picture.png polyp --model medclip_samv2_weak
    """
    require_sound_environment()
    from wordmask.learning.weak.recipe import load_weak_recipe
    from wordmask.learning.weak.run import MODEL, WeakRequest, train_weakly

    chosen = load_weak_recipe(recipe, **dict(setting(text) for text in change or []))
    found = read_images(images, labels)
    with run_folder() as folder, progress_bar() as show:
        report = train_weakly(
            found,
            WeakRequest(words, preset, chosen, device, force),
            store_of(app, MODEL),
            run_folder=folder,
            report=lambda progress: show(described(progress), progress.done, progress.total),
        )
    print_report(report)


def read_images(folder: Path, labels: Path | None) -> list[WeakImage]:
    """The images of a folder with the labels of a list.

    VolumeError, LabelError, RequestError: a label is of no image there.
    """
    from dataclasses import replace

    from wordmask.learning.cases import cases_from_json
    from wordmask.learning.weak.pseudo_labels import images_in

    images = {image.path.resolve(): image for image in images_in(folder)}
    for case in cases_from_json(labels) if labels else []:
        path = case.image.resolve()
        if path not in images:
            raise RequestError(
                f"The labels are of {case.image.name}, too, which is not in the folder {folder.name}; add "
                "it, or leave it out."
            )
        images[path] = replace(images[path], group=case.group, case=case)
    return list(images.values())
