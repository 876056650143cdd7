"""Each wrong input of ``wordmask serve`` is one sentence with exit status 2, before the server starts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from wordmask.cli import main
from wordmask.cli.serve import split_setting
from wordmask.demo.client import free_port
from wordmask.errors import RequestError
from wordmask.weights.app_folder import default_app, find_app
from wordmask_app import serving
from wordmask_app.serving import (
    APP_FILES,
    ServerOptions,
    check_studies,
    end_children,
    installed_app,
    prepare_app,
)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What `wordmask serve` says when it refuses."""
    assert main(["serve", *map(str, arguments)]) == 2
    return capsys.readouterr().err.partition("wordmask: ")[2]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "Bilder für heute"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"")
    return folder


def test_a_taken_port_is_named(capsys, tmp_path, studies):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = refusal(capsys, "--studies", studies, "--app", tmp_path / "app", "--port", port)
    assert f"Port {port} is taken" in sentence
    assert "--port" in sentence
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("option", ["--host", "--studies"])
def test_an_empty_value_is_not_taken_for_everything(capsys, option):
    assert f"{option} is empty" in refusal(capsys, option, " ")


def test_a_host_that_is_elsewhere_is_refused(capsys, tmp_path, studies):
    assert "is not an address of this machine" in refusal(
        capsys, "--studies", studies, "--host", "no.such.host.invalid"
    )


@pytest.mark.parametrize(
    ("name", "said"), [("missing", "There is no studies folder"), ("Bilder für heute/x.png", "is a file")]
)
def test_a_studies_folder_that_cannot_be_used_is_named(capsys, tmp_path, studies, name, said):
    sentence = refusal(capsys, "--studies", tmp_path / name, "--app", tmp_path / "app", "--port", free_port())
    assert said in sentence.replace("\n", " ")
    assert "--studies" in sentence


def test_a_studies_folder_that_may_not_be_read_is_named(monkeypatch, studies):
    def deny(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)  # whoever runs the tests may be root
    with pytest.raises(RequestError, match=r"may not read the studies folder .*heute.* change its rights"):
        check_studies(studies)


def test_a_studies_folder_that_may_not_be_written_to_is_a_warning(monkeypatch, studies):
    monkeypatch.setattr(serving.os, "access", lambda path, mode: mode != os.W_OK)
    assert "its images are served, but no label can be kept" in str(check_studies(studies))


def test_an_empty_studies_folder_is_a_warning(tmp_path, studies):
    assert check_studies(studies) is None
    (studies / "x.png").unlink()
    assert "has no images yet" in str(check_studies(studies))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("modles=tiny", "Did you mean 'models'?"),
        ("zebra=1", "Settings: models,"),
        ("preset", "has no equals sign"),
        ("queue=many", "is a whole number of jobs"),
    ],
)
def test_a_wrong_setting_is_explained(capsys, studies, setting, said):
    assert said in refusal(capsys, "--studies", studies, "--conf", setting)


def test_a_setting_may_hold_equals_signs_and_blanks():
    assert split_setting("cache_dir = /data/a b=c ") == ("cache_dir", "/data/a b=c")


def test_half_of_the_files_for_https_is_refused(capsys, studies):
    half = ("--studies", studies, "--ssl-keyfile", "key.pem")
    assert "both --ssl-keyfile and --ssl-certfile" in refusal(capsys, *half)
    assert "There is no file key.pem for https" in refusal(capsys, *half, "--ssl-certfile", "cert.pem")


def test_a_new_app_folder_gets_the_apps_files(tmp_path):
    folder = tmp_path / "neue" / "App für alle"
    prepare_app(folder)
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ) == sorted(APP_FILES)
    (folder / "model" / "kept").write_text("a version")
    prepare_app(folder)
    assert (folder / "model" / "kept").read_text() == "a version"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("file", "is a file"),
        ("others", "holds other files and no main.py"),
        ("app", "holds another MONAI Label app"),
    ],
)
def test_an_app_folder_that_is_something_else_is_left_alone(tmp_path, make, said):
    folder = tmp_path / "app"
    if make == "file":
        folder.write_text("notes")
    else:
        folder.mkdir()
        (folder / "notes.txt").write_text("notes")
    if make == "app":
        (folder / "main.py").write_text("class Other: ...")
    with pytest.raises(RequestError, match=said):
        prepare_app(folder)
    assert (folder if make == "file" else folder / "notes.txt").read_text() == "notes"


def test_an_app_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot be written to .* --app"):
        prepare_app(tmp_path / "file" / "app")


def test_without_a_name_the_app_here_is_meant_else_that_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_app() == tmp_path / "data" / "wordmask" / "app"
    with pytest.raises(RequestError, match=r"no app folder yet.*wordmask serve"):
        find_app(None)
    prepare_app(default_app())
    assert find_app(None) == tmp_path / "data" / "wordmask" / "app"
    prepare_app(Path("monailabel_app"))
    assert find_app(None) == Path("monailabel_app")


def test_the_address_to_open_is_one_of_this_machine():
    def url(host: str, keyfile: Path | None = None) -> str:
        return ServerOptions(Path("app"), "studies", host, 8000, keyfile=keyfile).url

    assert [url("0.0.0.0"), url("::"), url("::1"), url("10.0.0.1", Path("key"))] == [
        "http://127.0.0.1:8000", "http://[::1]:8000", "http://[::1]:8000", "https://10.0.0.1:8000",
    ]  # fmt: skip


def test_what_was_started_ends_although_it_does_not_obey():
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
        "time.sleep(600)"
    )
    with contextlib.suppress(KeyboardInterrupt), end_children():
        child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(os.getpid(), signal.SIGTERM)
    assert not psutil.pid_exists(child.pid)


def test_the_app_that_is_copied_is_the_one_of_the_source_tree():
    assert (installed_app() / "main.py").is_file()
