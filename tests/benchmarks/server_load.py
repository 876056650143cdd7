"""A server under load: how fast it answers while it computes, how much it does, and whether it grows or loses
anything.

    python -m tests.benchmarks.server_load [--requests 300] [--seconds 20]

Starts `monailabel start_server` on a copy of the sample studies with the bundled tiny model. Exit status 1
when a bound is broken: a median above 100 ms, growth above 10 % after the first 50 requests, or a lost
request.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import requests
import SimpleITK as sitk
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.support.servers import MODEL, copy_app, copy_studies, server_on

from wordmask.demo.client import AppClient, Server, ServerError

CT = "ct_trunk"
WORDS = (
    "liver",
    "spleen, heart",
    "lung",
    "liver, spleen, left kidney",
    "polyp",
    "skin lesion",
    "no such thing",
)
MEDIAN_BOUND, GROWTH_BOUND, WARM = 0.100, 0.10, 50  # seconds, share, requests
console = Console()


@dataclass(frozen=True)
class Latency:
    """Seconds of many answers."""

    route: str
    during: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def percentile_99(self) -> float:
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]


def probe(url: str, stop: Event, answers: SimpleQueue[list[float]]) -> None:
    """Ask one route again and again: in a process of its own, so that the load's own work is not measured."""
    session, seconds = requests.Session(), []
    while not stop.is_set():
        started = time.perf_counter()
        session.get(url, timeout=60).raise_for_status()
        seconds.append(time.perf_counter() - started)
        time.sleep(0.005)
    answers.put(seconds)


def latency(url: str, route: str, during: str, load: Callable[[float], None], seconds: float) -> Latency:
    """How fast a route answers while ``load(seconds)`` runs."""
    stop, answers = multiprocessing.Event(), multiprocessing.SimpleQueue()
    process = multiprocessing.Process(target=probe, args=(url + route, stop, answers))
    process.start()
    load(seconds)
    stop.set()
    measured = answers.get()
    process.join()
    return Latency(route, during, measured)


def unknown_volumes(folder: Path) -> Iterator[bytes]:
    """The CT again and again, each time with one other voxel, so that no cache knows it."""
    image = sitk.ReadImage(folder / f"{CT}.nii.gz")
    for number in range(10**6):
        image[0, 0, 0] = -1000 + number % 900
        path = folder.parent / "new.nii"
        sitk.WriteImage(image, str(path))
        yield path.read_bytes()


def measure_latency(
    client: AppClient, volumes: Iterator[bytes], seconds: float
) -> tuple[list[Latency], list[float]]:
    """Latencies idle, while jobs run, and while infers run; and the seconds of each infer."""
    infers: list[float] = []
    watched = client.start_job(MODEL, CT, {"words": "liver"})["id"]

    def jobs(length: float) -> None:
        end = time.monotonic() + length
        while time.monotonic() < end:
            client.wait(
                client.start_job(MODEL, params={"words": "liver, spleen"}, upload=("new.nii", next(volumes)))[
                    "id"
                ]
            )

    def infer(length: float) -> None:
        end = time.monotonic() + length
        while time.monotonic() < end:
            infers.append(
                client.infer(MODEL, "", {"words": "liver, spleen"}, upload=("new.nii", next(volumes))).seconds
            )

    found = []
    for during, load in (("nothing", time.sleep), ("jobs", jobs), ("infer", infer)):
        for route in ("/info/", f"/wordmask/jobs/{watched}"):
            found.append(latency(client.url, route, during, load, seconds / 2))
    return found, infers


class Soak:
    """Requests of every kind, one after the other and some at a time.

    Counts what was asked and what was lost.
    """

    def __init__(self, client: AppClient, volumes: Iterator[bytes], images: list[str]) -> None:
        self.client, self.volumes, self.images = client, volumes, images
        self.random = random.Random(0)
        self.asked = self.lost = 0
        self.kinds: dict[str, int] = {}

    def step(self) -> None:
        """One request, brought to its end."""
        kind = self.random.choice(
            ["job", "job", "infer", "infer", "upload", "cancel", "wrong", "map", "save"]
        )
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.asked += 1
        if not getattr(self, kind)(self.random.choice(self.images), {"words": self.random.choice(WORDS)}):
            self.lost += 1

    def job(self, image: str, params: dict[str, str]) -> bool:
        return self._fetched(self.client.start_job(MODEL, image, params)["id"])

    def upload(self, image: str, params: dict[str, str]) -> bool:
        return self._fetched(
            self.client.start_job(MODEL, params=params, upload=("new.nii", next(self.volumes)))["id"]
        )

    def infer(self, image: str, params: dict[str, str]) -> bool:
        return self.client.infer(MODEL, image, params | {"result_extension": ".nrrd"}).file is not None

    def map(self, image: str, params: dict[str, str]) -> bool:
        return (
            self.client.infer(MODEL, image, {"words": "liver", "output_volume": "probability"}).file
            is not None
        )

    def save(self, image: str, params: dict[str, str]) -> bool:
        return self.client.infer(MODEL, image, {**params, "save_label": True}).file is not None

    def cancel(self, image: str, params: dict[str, str]) -> bool:
        job = self.client.start_job(MODEL, params=params, upload=("new.nii", next(self.volumes)))["id"]
        self.client.cancel(job)
        return self.client.wait(job)["state"] in ("cancelled", "done")

    def wrong(self, image: str, params: dict[str, str]) -> bool:
        try:
            self.client.infer(MODEL, image, params | {"plane": "diagonal"})
        except ServerError as error:
            return error.status == 400
        return False

    def _fetched(self, job: str) -> bool:
        return self.client.wait(job)["state"] == "done" and self.client.result(job).file is not None


def resident(server: Server) -> float:
    """Memory of the server process in MB."""
    return psutil.Process(server.process_id).memory_info().rss / 2**20


def soak(server: Server, mixed: Soak, requests_in_all: int) -> tuple[list[float], float]:
    """Resident MB before, after the first 50, and at the end; and requests per second."""
    memory, started = [resident(server)], time.perf_counter()
    for number in track(range(requests_in_all), "Mixed requests", console=console, transient=True):
        mixed.step()
        if number + 1 == WARM:
            memory.append(resident(server))
    memory.append(resident(server))
    return memory, mixed.asked / (time.perf_counter() - started)


def report(
    latencies: list[Latency], infers: list[float], mixed: Soak, memory: list[float], rate: float
) -> bool:
    """Print the tables; whether every bound holds."""
    table = Table("route", "while the server does", "median ms", "99th percentile ms", "answers")
    for found in latencies:
        route = "/info/" if found.route == "/info/" else "/wordmask/jobs/{id}"
        table.add_row(
            route,
            found.during,
            f"{1e3 * found.median:.1f}",
            f"{1e3 * found.percentile_99:.1f}",
            str(len(found.seconds)),
        )
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, no GPU is used", table)
    before, warm, after = memory[0], memory[1], memory[-1]
    growth = after / warm - 1
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(mixed.kinds.items()))
    console.print(
        "Infer of a volume of 40 slices that is new to the cache, two words: "
        f"{statistics.median(infers):.2f} s (median)"
    )
    console.print(f"{mixed.asked} mixed requests ({kinds}): {rate:.2f} per second, lost: {mixed.lost}")
    console.print(
        f"Memory: {before:.0f} MB before, {warm:.0f} MB after {WARM} requests, {after:.0f} MB at the end "
        f"({growth:+.1%})"
    )
    slow = [found for found in latencies if found.median > MEDIAN_BOUND]
    return not slow and growth <= GROWTH_BOUND and mixed.lost == 0


def main() -> int:
    """Run all of it; 0 when every bound holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=300, help="mixed requests of the soak, more than 50")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each kind of load lasts")
    arguments = parser.parse_args()
    if arguments.requests <= WARM:
        parser.error(f"--requests must be more than {WARM}")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wordmask-load-")))
        copy_app(scratch)
        copy_studies(scratch)
        server = stack.enter_context(server_on(scratch, cache_mb="64"))
        client, volumes = AppClient(server.url), unknown_volumes(server.studies)
        latencies, infers = measure_latency(client, volumes, arguments.seconds)
        mixed = Soak(client, volumes, sorted(images_of(client)))
        memory, rate = soak(server.process, mixed, arguments.requests)
    return 0 if report(latencies, infers, mixed, memory, rate) else 1


def images_of(client: AppClient) -> list[str]:
    """The ids of all images."""
    listed = requests.get(f"{client.url}/datastore/", params={"output": "all"}, timeout=60).json()
    return list(listed["objects"])


if __name__ == "__main__":
    sys.exit(main())
