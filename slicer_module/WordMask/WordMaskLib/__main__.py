"""The module's round trip without the application, and an example for one's own scripts.

Needs slicer-core, or Slicer's PythonSlicer.

    python -m WordMaskLib ct.nii.gz "liver, spleen" -o result.seg.nrrd --server http://127.0.0.1:8000

Run it in the folder of the module, or with that folder in PYTHONPATH. A token is read from the variable
WORDMASK_TOKEN."""  # noqa: N999 - Slicer's names

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk

ENDING = ".seg.nrrd"


def start_scene() -> None:
    """Make an empty scene where no application has made one. Call it before the package's MRML parts are
    used.
    """
    if getattr(slicer, "mrmlScene", None) is None:
        vtk.vtkObject.GlobalWarningDisplayOff()
        slicer.mrmlScene = slicer.vtkMRMLScene()


def segment_file(
    image: Path, words: str, output: Path, server: str, *, model: str = "", token: str = ""
) -> list[str]:
    """Segment an image file and write a segmentation with names, colours and codes.

    Returns the lines of a table.

    Raises:
        ClientError: a sentence, and no output
    """
    from .client.client import WordMaskClient
    from .client.errors import LocalFileError
    from .flows.cases import open_case
    from .flows.flows import Report, run_waiting
    from .flows.messages import not_found_text, stage_text
    from .flows.segmenting import segment
    from .flows.session import Session

    def report(step: Report) -> None:
        print(f"\r{stage_text(step):<60}", end="", file=sys.stderr, flush=True)  # noqa: T201 - a command's progress

    start_scene()
    client, session = WordMaskClient(server, token or None), Session()
    volume = open_case(image, image.name.split(".")[0], client.address)
    done = run_waiting(segment(session, client.address, volume, words, model=model), client, report=report)
    print(file=sys.stderr)  # noqa: T201
    if done.imported.segmentation is not None:
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(output))
        if not storage.WriteData(done.imported.segmentation):
            raise LocalFileError(
                f"{output.name} cannot be written; check that its folder exists and that you may write to it."
            )
    rows = session.table(volume, done.imported.segmentation)
    lines = [_line(row) for row in rows if row.segment_id is not None]
    missing = not_found_text(done.imported.not_found)
    return [*lines, *([missing] if missing else []), *done.warnings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 on success, also if a word was not found, and 2 after one sentence on
    stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m WordMaskLib", description="Segment an image file by words, with a WordMask server."
    )
    parser.add_argument("image", type=Path, help="NIfTI, NRRD, PNG, JPEG, TIFF or BMP file")
    parser.add_argument("words", help='what to look for, for example "liver, spleen"')
    parser.add_argument(
        "-o", "--output", type=Path, help=f"segmentation to write; else beside the image, with {ENDING}"
    )
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--model", default="", help="name of a model; else the server's first one")
    options = parser.parse_args(arguments)
    output = options.output or options.image.with_name(options.image.name.split(".")[0] + ENDING)
    if not output.name.endswith(ENDING):
        parser.error(f"the output is a file with the ending {ENDING}, not {output.name}")
    from .client.errors import ClientError

    if not options.image.is_file():
        return _fail(f"There is no file {options.image.name}.")
    try:
        token = os.environ.get("WORDMASK_TOKEN", "")
        lines = segment_file(
            options.image, options.words, output, options.server, model=options.model, token=token
        )
    except ClientError as error:
        return _fail(str(error))
    print("\n".join(lines))  # noqa: T201 - the answer of a command
    return 0


def _line(row: Any) -> str:
    amount = f"{row.voxels} px" if row.millilitres is None else f"{row.millilitres:.1f} ml"
    sure = "" if row.mean_probability is None else f"probability {row.mean_probability:.2f}"
    return f"{row.name:<24}{amount:>12}  {sure}".rstrip()


def _fail(sentence: str) -> int:
    print(f"\n{sentence}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main())
