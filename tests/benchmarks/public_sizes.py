"""What MedCLIP-SAMv2 costs on the CPU at the published sizes, as a table.

Random weights cost what trained ones do.

    python -m tests.benchmarks.public_sizes [vit_b] [vit_h]

Each size is loaded in a process of its own, whose memory is what is reported. Files of up to 3.4 GB are made
and deleted.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.public_files import make_biomed_folder, registered, write_sam

from wordmask.models.base import SliceKey, all_pairs
from wordmask.models.loading import load_segmenter
from wordmask.words.prompts import parse_prompts

SLICES = {"vit_b": 2, "vit_h": 1}  # full internal batches of the presets
WORDS = ["liver", "a smooth round mass with a bright rim in the upper abdomen"]
SIZE = 256  # of a slice, in pixels


@dataclass(frozen=True)
class Costs:
    """loading, encoding of a slice, drawing of a (slice, word) pair.

    seconds; gigabytes: resident at most, before and after drawing.
    """

    loading: float
    encoding: float
    drawing: float
    gigabytes: tuple[float, float]


def measure(size: str, folder: Path) -> Costs:
    """Load the preset from files in ``folder`` and use it once."""
    with registered(
        folder / "weights", **{"biomedclip": folder / "biomedclip", f"sam_{size}": folder / "sam.pth"}
    ):
        marks = [time.perf_counter()]
        model = load_segmenter("medclip_samv2", preset=f"biomedclip_{size}", device="cpu")
        marks.append(time.perf_counter())
        count = SLICES[size]
        with torch.no_grad():
            prompts = model.encode_prompts(parse_prompts(WORDS))
            pixels = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
            marks.append(time.perf_counter())
            slices = model.encode_slices(
                pixels, [SliceKey("0" * 64, "axial", index) for index in range(count)]
            )
            marks.append(time.perf_counter())
            encoded = _gigabytes()
            pairs = all_pairs(count, len(WORDS))
            model(slices, prompts, pairs)
            marks.append(time.perf_counter())
    return Costs(
        marks[1] - marks[0],
        (marks[3] - marks[2]) / count,
        (marks[4] - marks[3]) / len(pairs),
        (encoded, _gigabytes()),
    )


def _gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_files(size: str, folder: Path) -> None:
    """BiomedCLIP's folder and SAM's checkpoint."""
    torch.manual_seed(0)
    make_biomed_folder(folder / "biomedclip", WORDS)
    write_sam(folder / "sam.pth", size)


def in_a_process(size: str) -> Costs:
    """Files are made in one process and measured in another."""
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        pool.apply(make_files, (size, Path(folder)))
        return pool.apply(measure, (size, Path(folder)))


def main(sizes: list[str]) -> None:
    """Print the table."""
    print(f"{torch.get_num_threads()} threads\n")
    print(
        "| preset | loading, s | encoding, s per slice | the rest, s per (slice, word) | GB resident at most "
        "|\n|---|---|---|---|---|"
    )
    for size in sizes:
        costs = in_a_process(size)
        gigabytes = f"{costs.gigabytes[1]:.1f} ({costs.gigabytes[0]:.1f} until slices are encoded)"
        print(
            f"| `biomedclip_{size}` | {costs.loading:.1f} | {costs.encoding:.1f} | {costs.drawing:.1f} | "
            f"{gigabytes} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(SLICES))
