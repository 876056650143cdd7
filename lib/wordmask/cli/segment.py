"""``wordmask segment``: takes an image and words, and writes a label map and, on request, a picture."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.versions import AnApp, AVersion, chosen_version
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError, VolumeError

if TYPE_CHECKING:
    from wordmask.data.geometry import Triple
    from wordmask.data.volumes import Volume
    from wordmask.inference.hints import VoxelHints
    from wordmask.inference.result import Segmentation

PICTURES = (".png", ".jpg", ".jpeg")
LISTED = 8  # slices to check of a word
Request, Computation, Pictures = "What to segment", "How to compute", "What to write"


def segment(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="NIfTI, NRRD, MHA, a DICOM file or folder, PNG, JPEG, TIFF or BMP",
            show_default=False,
        ),
    ],
    words: Annotated[
        str,
        typer.Argument(metavar="WORDS", help='what to segment, such as "liver, spleen"', show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="label map to write, such as labels.nii.gz",
            show_default=False,
            rich_help_panel=Pictures,
        ),
    ],
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="also draw a PNG or JPEG: contours and legend, on the slice where each structure is largest",
            rich_help_panel=Pictures,
        ),
    ] = None,
    attribution: Annotated[
        bool,
        typer.Option(
            "--attribution",
            help="show in the picture which regions the model related to each word",
            rich_help_panel=Pictures,
        ),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="show in the picture how uncertain the model is at each pixel",
            rich_help_panel=Pictures,
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="print the statistics as JSON instead of a table", rich_help_panel=Pictures
        ),
    ] = False,
    plane: Annotated[
        str, typer.Option(help="auto, axial, coronal or sagittal", rich_help_panel=Request)
    ] = "auto",
    slices: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="segment only slices A to B along the plane, both included, counted from 0",
            rich_help_panel=Request,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="CT window for all words, such as lung; default: the window of each word",
            rich_help_panel=Request,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="mark pixels with at least this probability, 0..1; default: the preset's",
            rich_help_panel=Request,
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I,J,K",
            help="a voxel on the structure, for models that take points; may be repeated",
            rich_help_panel=Request,
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,K:I,J,K",
            help="first and last voxel of a box around the structure, for models that take a box",
            rich_help_panel=Request,
        ),
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,K:I,J,K",
            help="first and last voxel of a region of interest, outside of which nothing is marked",
            rich_help_panel=Request,
        ),
    ] = None,
    prompt_set: Annotated[
        str | None,
        typer.Option(
            help="P0 to P5: how to describe a word to the text encoder, for models with prompt sets",
            rich_help_panel=Request,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="model to use", rich_help_panel=Computation)
    ] = "simple_vilmedsam",
    preset: Annotated[
        str, typer.Option(help="preset of the model: its size and weights", rich_help_panel=Computation)
    ] = "tiny",
    app: AnApp = None,
    version: AVersion = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Segment what the words name, and write a label map on the voxel grid of the image.

    Separate words with commas or semicolons. The first word gets label 1, the second label 2, and so on. If
    a word is not found in the image, its label stays empty and the table says so. This is not an error.

    [bold]Examples[/]

      wordmask segment ct.nii.gz "liver, left kidney" -o labels.nii.gz
      wordmask segment dicom_folder/ lung -o lungs.nrrd --overlay lungs.png
      wordmask segment polyp.png polyp -o mask.png --threshold 0.4
      wordmask segment ct.nii.gz spleen -o spleen.nii.gz --slices 40:52
      wordmask segment ct.nii.gz spleen -o spleen.nii.gz --roi 20,40,10:90,120,40
      wordmask segment ct.nii.gz spleen -o spleen.nii.gz --model medclip_samv2 --box 30,60,18:70,110,25
    """
    require_sound_environment()
    panels = [name for name, wanted in (("attribution", attribution), ("uncertainty", uncertainty)) if wanted]
    _check_outputs(image, output, overlay, panels)
    part, hints = parse_slices(slices), parse_hints(point or [], box)
    region = None if roi is None else parse_corners(roi, "--roi")

    from wordmask.data.volumes import read_volume
    from wordmask.words.prompts import parse_prompts

    prompts = [replace(prompt, prompt_set=prompt_set) for prompt in parse_prompts(words)]
    volume = read_volume(image)
    _check_format(output, volume)
    with messages().status(f"Loading {model}, preset {preset}"):
        from wordmask.inference.pipeline import VolumeSegmenter
        from wordmask.inference.result import write_labels
        from wordmask.models.loading import load_segmenter

        number, weights = chosen_version(app, model, version, preset)
        loaded = load_segmenter(model, preset=preset, device=device, weights=weights)
        segmenter = VolumeSegmenter(loaded, version=str(number) if number else "bundled")
    with progress_bar("slices") as show:
        result = segmenter.segment(
            volume,
            prompts,
            plane=plane,
            window=window,
            threshold=threshold,
            slices=part,
            hints=hints,
            roi=region,
            progress=lambda progress: show(progress.stage, progress.done, progress.total),
            keep=("labels", *panels),
        )
    write_labels(output, result)
    if overlay is not None:
        from wordmask.inference.overlay import overlay_picture

        overlay_picture(volume, result, overlay, panels=("labels", *panels))
    _answer(result, as_json=as_json)


def parse_slices(text: str | None) -> tuple[int, int] | None:
    """``"40:52"`` -> (40, 52); RequestError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text)
    if match is None:
        raise RequestError(f"--slices takes the first and the last slice, such as 40:52, not {text!r}.")
    return int(match[1]), int(match[2])


def parse_hints(points: list[str], box: str | None) -> VoxelHints:
    """``["10,20,5"]`` and ``"10,20,5:40,50,9"``; RequestError for anything else."""
    from wordmask.inference.hints import VoxelHints

    marked = tuple((*_voxel(text, "--point takes a voxel, such as 10,20,5"), True) for text in points)
    return VoxelHints(marked, None if box is None else parse_corners(box, "--box"))


def parse_corners(text: str, option: str) -> tuple[Triple, Triple]:
    """``"10,20,5:40,50,9"``, the first and the last voxel; RequestError for anything else."""
    rule = f"{option} takes two voxels, such as 10,20,5:40,50,9"
    corners = text.split(":")
    if len(corners) != 2:
        raise RequestError(f"{rule}, not {text!r}.")
    return _voxel(corners[0], rule), _voxel(corners[1], rule)


def _voxel(text: str, rule: str) -> tuple[float, float, float]:
    if re.fullmatch(r"\s*\d+(\.\d+)?(\s*,\s*\d+(\.\d+)?){2}\s*", text) is None:
        raise RequestError(f"{rule}, not {text!r}.")
    i, j, k = map(float, text.split(","))
    return i, j, k


def _check_outputs(image: Path, output: Path, overlay: Path | None, panels: list[str]) -> None:
    """Refuse output files that cannot be written, before anything is computed."""
    if panels and overlay is None:
        raise RequestError(f"--{panels[0]} needs a picture to draw in; add --overlay overlay.png.")
    if overlay is not None and overlay.suffix.lower() not in PICTURES:
        raise RequestError(
            f"The picture {overlay.name!r} is not a PNG or JPEG file; name it {overlay.stem}.png."
        )
    for path in (output, overlay):
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            raise VolumeError(
                f"{path.name} cannot be written, because there is no folder {path.parent}; create it first."
            )
        if path.is_dir() or not os.access(folder, os.W_OK):
            raise VolumeError(
                f"{path.name} cannot be written to {path.parent}; choose a file name in a folder that you "
                "can write to."
            )
        if path.exists() and image.exists() and path.samefile(image):
            raise VolumeError(f"{path.name} is the input image; choose another name for the output file.")
    if overlay is not None and overlay.absolute() == output.absolute():
        raise RequestError(
            f"The label map and the picture have the same name, {output.name}; choose two names."
        )


def _check_format(output: Path, volume: Volume) -> None:
    """Refuse, before minutes of computation, a file format that cannot hold the label map."""
    from wordmask.data.image_files import suffix_of
    from wordmask.data.volumes import LABEL_SUFFIXES

    allowed = (*LABEL_SUFFIXES, ".png") if volume.geometry.size[2] == 1 else LABEL_SUFFIXES
    if suffix_of(output) not in allowed:
        raise VolumeError(
            f"{output.name} has a format that cannot hold the label map of this image; use "
            f"{', '.join(allowed)}."
        )


def _answer(result: Segmentation, *, as_json: bool) -> None:
    for warning in result.warnings:
        messages().print(f"[yellow]Note:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
    else:
        answers().print(statistics_table(result))
        for sentence in advice(result):
            answers().print(sentence, markup=False, soft_wrap=True, highlight=False)


def statistics_table(result: Segmentation) -> Table:
    """One row per word, in the order of the labels."""
    picture = all(statistics.millilitres is None for statistics in result.statistics.values())
    table = Table(
        title=f"{result.model}, preset {result.preset}, version {result.version}, {result.plane} slices",
        title_justify="left",
    )
    table.add_column("label", justify="right")
    table.add_column("word")
    for heading in (
        "presence",
        "pixels" if picture else "voxels",
        *(() if picture else ("ml",)),
        "mean probability",
    ):
        table.add_column(heading, justify="right")
    table.add_column("window")
    for word, value in result.names.items():
        statistics = result.statistics[word]
        volume = [] if picture else [_number(statistics.millilitres, ".1f")]
        table.add_row(
            str(value),
            escape(word),
            f"{statistics.presence:.2f}",
            str(statistics.voxels) if statistics.voxels else "not found",
            *volume,
            _number(statistics.mean_probability, ".2f"),
            escape(result.window.get(word, "")),
        )
    return table


def advice(result: Segmentation) -> list[str]:
    """Which slices of a volume to look at, a sentence for each word that has any."""
    if result.slices == 1:
        return []
    sentences = []
    for word, statistics in result.statistics.items():
        if found := statistics.slices_to_check:
            listed = ", ".join(map(str, found[:LISTED])) + (", ..." if len(found) > LISTED else "")
            sentences.append(
                f"{word}: {len(found)} of {result.slices} slices are worth a look, the most uncertain first: "
                f"{listed}"
            )
    return sentences


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
