"""A server on this machine: the environment, the command, the port, the log, and real processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.slicer.fault_server import a_closed_port, is_a_sentence
from tests.slicer.real_server import REPOSITORY, Running, server_process
from WordMaskLib.client import calls, errors
from WordMaskLib.client.addresses import repair_address
from WordMaskLib.client.answers import Health
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.server.environments import ServerEnvironment, find_environment
from WordMaskLib.server.server_log import plain_log, why_it_stopped
from WordMaskLib.server.server_process import (
    free_port,
    judge_start,
    likely_addresses,
    server_command,
    server_variables,
)

from wordmask import __version__


@pytest.fixture
def an_environment(tmp_path: Path) -> Path:
    """What an environment with WordMask looks like on disk; nothing in it runs."""
    folder = tmp_path / "env"
    packages = folder / "lib" / "python3.11" / "site-packages"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("#!/bin/sh\n")
    for name in ("monailabel-0.8.5", "wordmask-0.1.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    return folder


# --- the environment ---


@pytest.mark.parametrize("inner", ["", "bin", "bin/python"])
def test_an_environment_is_found_by_its_folder_its_programs_and_its_python(an_environment, inner):
    found = find_environment(an_environment / inner)
    assert found.folder == an_environment
    assert found.python == an_environment / "bin" / "python"
    assert found.version == "0.1.0"
    assert found.app_folder is None


def test_an_environment_is_found_by_the_folder_around_it(an_environment):
    an_environment.rename(an_environment.parent / ".venv")
    assert find_environment(an_environment.parent).folder == an_environment.parent / ".venv"


@pytest.mark.parametrize("inner", ["", "Scripts", "Scripts/python.exe"])
def test_an_environment_of_windows_is_found(tmp_path, inner):
    """Scripts in place of bin, Lib without a version; the name has a blank and an umlaut."""
    folder = tmp_path / "Müller Ärzte"
    (folder / "Scripts").mkdir(parents=True)
    (folder / "Scripts" / "python.exe").touch()
    for name in ("monailabel-0.8.5", "wordmask-0.1.0"):
        (folder / "Lib" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    found = find_environment(folder / inner)
    assert (found.folder, found.python) == (folder, folder / "Scripts" / "python.exe")
    assert found.version == "0.1.0"


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("file:///C:/Users/M%C3%BCller/word%20mask", "C:/Users/Müller/word mask"),
        ("file:///home/anna/word%20mask", "/home/anna/word mask"),
        ("https://example.org/wordmask.zip", None),
    ],
)
def test_the_folder_of_an_editable_installation_is_known(an_environment, address, source):
    (kept,) = an_environment.rglob("wordmask-*.dist-info")
    (kept / "direct_url.json").write_text(json.dumps({"url": address, "dir_info": {"editable": True}}))
    assert find_environment(an_environment).source == (None if source is None else Path(source))


def test_a_linked_python_is_run_by_its_place_in_the_environment(an_environment):
    """Where the link leads is a Python without the environment's packages."""
    python = an_environment / "bin" / "python"
    python.unlink()
    python.symlink_to(sys.executable)
    assert find_environment(an_environment).python == python


def test_this_environment_is_found_with_the_app_that_came_with_it():
    found = find_environment(sys.prefix)
    assert found.version == __version__
    assert found.app_folder == REPOSITORY / "monailabel_app"


@pytest.mark.parametrize(
    ("package", "title"), [("monailabel-0.8.5", "MONAI Label"), ("wordmask-0.1.0", "WordMask")]
)
def test_an_environment_without_a_package_is_refused_with_its_name(an_environment, package, title):
    (an_environment / "lib" / "python3.11" / "site-packages" / f"{package}.dist-info").rmdir()
    with pytest.raises(
        errors.ServerStartError, match=f"{title} is not installed in the environment 'env'"
    ) as refusal:
        find_environment(an_environment)
    assert is_a_sentence(refusal.value)
    (an_environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    # The package may lie in the system's folder.
    assert find_environment(an_environment).folder == an_environment


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("x"),
        lambda path: only_a_script(path),
    ],
)
def test_what_is_no_environment_is_refused_with_a_sentence(tmp_path, make):
    make(tmp_path / "chosen")
    with pytest.raises(errors.ServerStartError, match="chosen") as refusal:
        find_environment(tmp_path / "chosen")
    assert is_a_sentence(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def only_a_script(folder: Path) -> None:
    """MONAI Label's script without a Python beside it: it would take whatever `python` is on the PATH."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "monailabel").touch()


# --- the command ---


def test_the_command_listens_on_this_machine_alone(an_environment, tmp_path):
    app, studies = tmp_path / "Müllers app", tmp_path
    command = server_command(
        find_environment(an_environment), app, studies, 8123, conf={"preset": "tiny", "models": "a, b"}
    )
    assert command == [
        *(str(an_environment / "bin" / "python"), "-m", "wordmask.cli", "serve", "--studies", str(studies)),
        *(
            "--host",
            "127.0.0.1",
            "--port",
            "8123",
            "--app",
            str(app),
            "--conf",
            "preset=tiny",
            "--conf",
            "models=a, b",
        ),
    ]
    assert not app.exists(), "the server makes it"
    assert "--app" not in server_command(find_environment(an_environment), None, studies, 8123)


def test_a_folder_of_images_that_is_not_there_is_refused_with_a_sentence(an_environment, tmp_path):
    with pytest.raises(errors.ServerStartError, match="images that the server should offer") as no_studies:
        server_command(find_environment(an_environment), tmp_path / "app", tmp_path / "nowhere", 8000)
    assert is_a_sentence(no_studies.value)


def test_what_slicer_sets_for_its_own_python_does_not_reach_the_server():
    own = {
        "PATH": "/bin",
        "PYTHONHOME": "/slicer",
        "PYTHONPATH": "/slicer/lib",
        "LD_LIBRARY_PATH": "/slicer/lib",
        "HOME": "/home/x",
    }
    found = server_variables(own)
    assert {"PATH", "HOME"} <= found.keys()
    assert not {"PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"} & found.keys()
    assert "PYTHONHOME" in own


# --- ports and servers that run already ---


def test_a_port_that_is_taken_is_not_chosen():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = free_port(port)
        assert other != port
    free = a_closed_port()
    assert free_port(free) == free
    with socket.create_server(("127.0.0.1", other)):
        pass


def test_servers_are_looked_for_on_this_machine_alone():
    remembered = [
        repair_address(text) for text in ("127.0.0.1:8123", "example.org", "localhost:8000", "127.0.0.1:8123")
    ]
    assert [str(address) for address in likely_addresses(remembered)] == [
        *("http://127.0.0.1:8123", "http://localhost:8000", "http://127.0.0.1:8000"),
    ]


# --- is it up yet ---

REFUSED = errors.ServerUnreachableError("No server.")
UP = Health("0.1.0", 0, 0, {})


@pytest.mark.parametrize(
    ("known", "phase", "words"),
    [
        ({"answer": None, "seconds": 0.0}, "starting", "0 s"),
        ({"answer": REFUSED, "seconds": 12.0}, "starting", "12 s"),
        ({"answer": errors.ServerTimeoutError("Slow."), "seconds": 60.0}, "starting", "takes minutes"),
        ({"answer": UP, "seconds": 9.0}, "up", "ready"),
        ({"answer": errors.AccessDeniedError(401, "Token."), "seconds": 9.0}, "up", "ready"),
        ({"answer": errors.BadAnswerError("A page."), "seconds": 3.0}, "failed", "Another program"),
        ({"answer": errors.ServerAnswerError(404, "No."), "seconds": 3.0}, "failed", "Another program"),
        ({"answer": REFUSED, "seconds": 400.0}, "failed", "not ready after 300 s"),
        ({"answer": UP, "seconds": 9.0, "is_running": False, "exit_code": 1}, "failed", "code 1"),
    ],
)
def test_a_start_is_judged_by_what_is_known_of_it(known, phase, words):
    state = judge_start(**{"is_running": True, "log": "", **known})
    assert state.phase == phase
    assert words in state.sentence


# --- why did it die ---

TRACE = 'Traceback (most recent call last):\n  File "/x/app.py", line 3, in <module>\n'


@pytest.mark.parametrize(
    ("log", "code", "words"),
    [
        (
            f"{TRACE}wordmask.errors.RequestError: Another server runs from this app folder.\n",
            3,
            "Another server runs from this app",
        ),
        (
            f"\x1b[31mERROR\x1b[0m {TRACE}wordmask.errors.BrokenEnvironmentError: numpy 2 is installed\r\n",
            1,
            "numpy 2 is installed.",
        ),
        (
            "\x1b[1;31mwordmask:\x1b[0m Port 8000 is taken; name another one.\r\n",
            2,
            "Port 8000 is taken; name another one.",
        ),
        (
            "INFO: loading\nwordmask: The folder x cannot be read\nINFO: over",
            2,
            "The folder x cannot be read.",
        ),
        (
            "wordmask: The studies folder x has no images yet.\nINFO: all is well",
            -9,
            "because memory ran out",
        ),
        (
            "MemoryError\nwordmask: The server stopped while it was starting; the log above says why.",
            2,
            "too little free memory",
        ),
        ("WordMask is ready at http://127.0.0.1:8000 (Ctrl-C ends it).", 1, "with the code 1"),
        ("Usage: wordmask [OPTIONS]\n│ No such command 'serve'. │", 2, "too old to be started from here"),
        (
            "ERROR:    [Errno 98] error while binding on ('127.0.0.1', 8000): address already in use",
            1,
            "port",
        ),
        ("[Errno 10048] only one usage of each socket address", 1, "port"),
        ("/usr/bin/python: No module named monailabel", 1, "MONAI Label is not installed"),
        (f"{TRACE}ModuleNotFoundError: No module named 'wordmask_app'", 1, "WordMask is not installed"),
        (f"{TRACE}ModuleNotFoundError: No module named 'torch'", 1, "lacks the package 'torch'"),
        ("APP Directory /home/anna/apps/monailabel_app NOT Found", 1, "app folder 'monailabel_app'"),
        (f"{TRACE}OSError: [Errno 28] No space left on device: '/x/y'", 1, "disk is full"),
        (
            f"{TRACE}PermissionError: [Errno 13] Permission denied: '/home/anna/apps/logs'",
            1,
            "may not use 'logs'",
        ),
        (f"{TRACE}torch.OutOfMemoryError: CUDA out of memory. Tried", 1, "graphics card"),
        (f"{TRACE}MemoryError", 1, "too little free memory"),
        ("INFO: all is well", -9, "because memory ran out"),
        ("INFO: all is well", -15, "stopped from outside"),
        (f"{TRACE}ValueError: something odd", 1, "with the code 1 for an unknown reason"),
        ("", None, "for an unknown reason"),
    ],
)
def test_a_log_becomes_one_sentence(log, code, words):
    sentence = why_it_stopped(log, code)
    assert words in sentence
    assert is_a_sentence(errors.ServerStartError(sentence))
    assert "/home" not in sentence


def test_a_log_is_shown_without_the_colours_of_a_terminal():
    assert plain_log("\x1b[32mINFO\x1b[0m:  up\r\nnext\r") == "INFO:  up\nnext\n"


# --- processes ---


def test_a_python_without_wordmask_is_told_by_its_own_words(tmp_path):
    """A new environment, without packages, runs the very command."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    environment = ServerEnvironment(tmp_path / "bare", tmp_path / "bare" / "bin" / "python", "", None)
    port = a_closed_port()
    with (
        pytest.raises(errors.ServerStartError, match="WordMask is not installed in the chosen environment"),
        server_process(server_command(environment, tmp_path / "app", tmp_path, port), port, tmp_path / "log"),
    ):
        pass


@pytest.mark.server
def test_a_real_server_is_started_found_and_judged(server: Running):
    with pytest.raises(errors.AccessDeniedError):  # it asks for a token, so it is there
        WordMaskClient(server.url, timeout=10).run(calls.health())
    assert free_port(server.client.address.port) != server.client.address.port
    log = plain_log(server.log.read_text())
    assert f"WordMask is ready at {server.url}" in log
    assert "\x1b" not in log
