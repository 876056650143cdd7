"""Starts the server in this interpreter: ``wordmask serve``.

MONAI Label's own start is a shell script that calls whatever ``python`` is on the PATH and passes its
arguments unquoted, so that folders with a blank in their name are torn apart. Here every wrong input is one
sentence, before anything slow is imported. Knows MONAI Label's start-up and uvicorn; not models.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from wordmask.data.studies import FILE_SUFFIXES, OWN_FILES, list_studies
from wordmask.errors import RequestError
from wordmask.weights.app_folder import is_app
from wordmask_app.settings import AppSettings

logger = logging.getLogger(__name__)

# main.py makes the folder an app, so it is copied last.
APP_FILES = ("README.md", "requirements.txt", "LICENSE", "model/.gitignore", "main.py")
# Where MONAI Label looks for apps, below the environment's folder.
INSTALLED_APP = "monailabel/sample-apps/wordmask"
SHUTDOWN_SECONDS = 5  # that open connections get to end
REMOTE = ("http://", "https://")


@dataclass(frozen=True)
class ServerOptions:
    """What to serve, and where.

    Attributes:
        app: folder of the app; made when it is missing or empty.
        studies: folder of the images, or the address of a DICOMweb server.
        host: address to listen on; port: 1 to 65535.
        conf: settings of the app, see `wordmask_app.settings.AppSettings`.
        keyfile, certfile: private key and certificate for https; None: plain http.
    """

    app: Path
    studies: str
    host: str
    port: int
    conf: Mapping[str, str] = field(default_factory=dict)
    keyfile: Path | None = None
    certfile: Path | None = None

    @property
    def url(self) -> str:
        """The address to open on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            self.host, f"[{self.host}]" if ":" in self.host else self.host
        )
        return f"{'https' if self.keyfile else 'http'}://{host}:{self.port}"


def serve(options: ServerOptions, *, ready: Callable[[], None], warn: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; what the server started (trainings, scoring) ends with it.

    Args:
        options: what to serve, and where.
        ready: called once the server answers.
        warn: called with a sentence that does not prevent the start.

    Raises:
        RequestError: the port, a folder or a setting cannot be used.
        WordMaskError: a model or its weights cannot be used.
    """
    AppSettings.from_conf(options.conf)
    for name, value in (("--host", options.host), ("--studies", options.studies)):
        # An empty host would let every machine in; an empty folder name would be the current folder.
        if not value.strip():
            raise RequestError(f"{name} is empty; give it a value, or leave it out.")
    if (options.keyfile is None) != (options.certfile is None):
        raise RequestError(
            "For https the server needs both --ssl-keyfile and --ssl-certfile, and only one was given."
        )
    for file in (options.keyfile, options.certfile):
        if file is not None and not file.is_file():
            raise RequestError(
                f"There is no file {file} for https; check the names after --ssl-keyfile and --ssl-certfile."
            )
    with claim_port(options.host, options.port) as listener, end_children():
        prepare_app(options.app)
        if not options.studies.startswith(REMOTE) and (sentence := check_studies(Path(options.studies))):
            warn(sentence)
        _run(options, listener, ready)


@contextlib.contextmanager
def claim_port(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound to the port, so that no other program can take it during the start.

    Raises:
        RequestError: the port is taken or needs rights, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise RequestError(
            f"{host!r} is not an address of this machine; start the server with --host 127.0.0.1."
        ) from None
    with socket.socket(family, kind, protocol) as listener:
        # On Windows the option would let two servers share a port; elsewhere it allows an immediate restart.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise RequestError(_why_not_bound(error, host, port)) from None
        yield listener


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} is taken by another program; stop that "
            "one, or start this server with another --port."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"This account may not use port {port}; start the server with a --port above 1023."
    return f"The server cannot listen on {host} ({error.strerror}); start it with --host 127.0.0.1."


def prepare_app(folder: Path) -> None:
    """Make sure that the folder is an app that this account can write to.

    A missing or empty folder becomes one.

    Raises:
        RequestError: the folder is something else, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"The app folder {folder} is a file; name a folder with --app.")
    try:
        if not is_app(folder):
            if folder.is_dir() and any(folder.iterdir()):
                raise RequestError(
                    f"{folder} is not a MONAI Label app folder, because it holds other files "
                    "and no main.py; name an app, or an empty or new folder, with --app."
                )
            _copy_app(folder)
        if "wordmask_app" not in (folder / "main.py").read_text(encoding="utf-8", errors="replace"):
            raise RequestError(
                f"The app folder {folder} holds another MONAI Label app, whose main.py does not start "
                "WordMask; name an app of WordMask, or an empty or new folder, with --app."
            )
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(
            f"The app folder {folder} cannot be written to ({error.strerror}), and trained "
            "models and logs are kept there; name a folder of your own with --app."
        ) from None


def _copy_app(folder: Path) -> None:
    source = installed_app()
    for name in APP_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    logger.info("Made the app folder %s.", folder)


def installed_app() -> Path:
    """The app folder that came with this installation: of the source tree, or below the environment's folder.

    Raises:
        RequestError: there is none.
    """
    source = Path(__file__).resolve().parents[1]
    if is_app(source):
        return source
    for file in metadata.files("wordmask") or ():
        if file.as_posix().endswith(f"{INSTALLED_APP}/main.py"):
            return Path(os.fspath(file.locate())).resolve().parent
    raise RequestError("The app's files are missing from this installation of WordMask; install it again.")


def check_studies(folder: Path) -> str | None:
    """A warning about a studies folder that can be used, None when there is nothing to say.

    Raises:
        RequestError: the folder is missing, or this account cannot read it.
    """
    if not folder.exists():
        raise RequestError(
            f"There is no studies folder {folder}; name the folder that holds your images with --studies."
        )
    if not folder.is_dir():
        raise RequestError(
            f"The studies folder {folder} is a file; name the folder that holds it with --studies."
        )
    try:
        found = list_studies(folder, ignore=OWN_FILES, follow_links=False)
    except OSError as error:
        raise RequestError(
            f"This account may not read the studies folder {folder} ({error.strerror}); change its rights, "
            "or name another folder with --studies."
        ) from None
    if not found.images:
        return (
            f"The studies folder {folder} has no images yet ({len(found.left_out)} other files or folders "
            f"are there); copy some into it ({', '.join(FILE_SUFFIXES)}, DICOM), the server will find them."
        )
    if not os.access(folder, os.W_OK):
        return (
            f"This account may not write to the studies folder {folder}: its images are served, but no "
            "label can be kept. Change its rights, or name another folder with --studies."
        )
    return None


@contextlib.contextmanager
def end_children() -> Iterator[None]:
    """End every process that was started inside the block, asked first and killed if it does not obey.

    SIGTERM is turned into KeyboardInterrupt inside the block, because it would end this process before its
    children otherwise.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, stubborn = psutil.wait_procs(children, timeout=SHUTDOWN_SECONDS)
        for child in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(stubborn)


def _run(options: ServerOptions, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn
    from monailabel.main import Main
    from monailabel.utils.others.generic import init_log_config

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

    start = Main()
    studies = options.studies if options.studies.startswith(REMOTE) else str(Path(options.studies).resolve())
    arguments = start.args_parser().parse_args(
        ["start_server", "--app", str(options.app.resolve()), "--studies", studies]
    )
    arguments.port, arguments.conf = options.port, list(options.conf.items())
    os.environ.setdefault("PATH", os.defpath)  # MONAI Label appends to it
    start.start_server_init_settings(arguments)
    log_config = init_log_config(None, arguments.app, "app.log", arguments.verbose)

    from monailabel.interfaces.utils.app import app_instance

    # here and not in uvicorn's start-up, which would answer an error with a stack trace
    app_instance().runtime.start()
    config = uvicorn.Config(
        "monailabel.app:app",
        host=options.host,
        port=options.port,
        log_config=log_config,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ssl_keyfile=options.keyfile,
        ssl_certfile=options.certfile,
    )
    # It has been read; MONAI Label leaves it among the temporary files, where nothing would remove it.
    Path(log_config).unlink()
    server = Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise RequestError("The server stopped while it was starting; the log above says why.")
