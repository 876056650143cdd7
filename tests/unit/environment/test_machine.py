"""Each thing of the machine that cannot be used is one sentence with its remedy."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from wordmask.cli import main
from wordmask.environment import machine as machine_check
from wordmask.environment.machine import (
    find_device_problem,
    find_folder_problems,
    find_library_problems,
    find_python_problem,
    probe_port,
)


@pytest.mark.parametrize(
    ("version", "fits"), [((3, 11, 0), True), ((3, 12, 9), True), ((3, 10, 14), False), ((3, 13, 1), False)]
)
def test_a_python_that_is_too_old_or_too_new_is_named(version, fits):
    problem = find_python_problem(version)
    assert (
        problem is None
        if fits
        else ".".join(map(str, version)) in str(problem) and "3.11 or 3.12" in str(problem)
    )


def test_a_missing_system_library_is_named_with_its_debian_package():
    def load(name: str) -> None:
        if name == "torch":
            raise ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")
        if name == "monai":
            raise OSError("libodd.so.3: cannot open shared object file: No such file or directory")
        if name == "numpy":
            raise RuntimeError("built for another processor")

    first, second, third = find_library_problems(["SimpleITK", "torch", "monai", "numpy"], load)
    assert "torch needs the system library libgomp.so.1" in first
    assert "apt-get install libgomp1" in first
    assert "monai needs the system library libodd.so.3" in second
    assert "built for another processor" in third
    assert "install it again" in third


class _Health(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def a_program(status: int | None) -> Iterator[int]:
    """The port of a program that answers every question with an HTTP status, or hangs up (None)."""
    if status is None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            threading.Thread(
                target=lambda: [silent.accept()[0].close() for _ in range(2)], daemon=True
            ).start()
            yield silent.getsockname()[1]
        return
    server = http.server.HTTPServer(("127.0.0.1", 0), type("Handler", (_Health,), {"status": status}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "found"), [(200, "WordMask"), (401, "WordMask"), (404, "taken"), (None, "taken")]
)
def test_a_port_is_free_ours_or_taken(status, found):
    with a_program(status) as port:
        assert probe_port(port) == found
    assert probe_port(port) == "free"


def test_a_folder_that_cannot_be_made_is_named_and_others_are_not_made(tmp_path):
    (tmp_path / "file").write_text("")
    folders = {
        "models": (tmp_path / "file" / "app", "choose another one with --app"),
        "weights": (tmp_path / "a" / "b", "choose"),
    }
    (problem,) = find_folder_problems(folders)
    assert problem.startswith("The folder for models")
    assert problem.endswith("; choose another one with --app.")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "is built for CPUs"), ("13.0", "driver is too old for CUDA 13.0")]
)
def test_a_gpu_that_torch_does_not_use_is_named(monkeypatch, cuda, said):
    monkeypatch.setattr(machine_check.sys, "platform", "linux")
    monkeypatch.setattr(machine_check, "name_nvidia_gpu", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    problem = str(find_device_problem())
    assert "Tesla T4" in problem
    assert said in problem
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device_problem() is None


def test_a_mac_whose_gpu_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setattr(machine_check.sys, "platform", "darwin")
    monkeypatch.setattr(machine_check.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "MPS" in str(find_device_problem())


def test_check_prints_every_problem_and_exits_with_2(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        machine_check,
        "find_library_problems",
        lambda: ["torch needs the system library libgomp.so.1, which is missing."],
    )
    with a_program(404) as port:
        assert main(["check", "--port", str(port), "--app", str(tmp_path / "file" / "app")]) == 2
    printed = capsys.readouterr().err
    assert [
        said in printed for said in ("libgomp.so.1", f"Port {port} is taken", "trained models and logs")
    ] == [True] * 3
    assert printed.count("wordmask:") == 3


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch, tmp_path):
    program = Path(tmp_path / "nvidia-smi")
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_check.name_nvidia_gpu() is None
    program.write_text("#!/bin/sh\necho Tesla T4\n")
    assert machine_check.name_nvidia_gpu() == "Tesla T4"
