"""A bare Debian machine in a folder.

Made by mmdebstrap, entered by chroot as an ordinary user with an empty environment.

Knows: Debian, mounts and processes. Does not know what is typed into the machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

SUITE = "bookworm"  # Debian 12, whose Python, 3.11.2, is the oldest that somebody comes with
TOOLS = ("mmdebstrap", "unshare", "nsenter", "chroot", "git")
USER = "someone"
HOME = Path("/home") / USER
CHECKOUT = HOME / "Wörd Mask"  # a blank and an umlaut, as people have them
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": str(HOME),
    # The one thing that the machine takes from where it stands: whom to trust. Networks such as those of
    # hospitals sign TLS themselves, and pip believes only the certificates that it brings, unless it is told
    # otherwise.
    "PIP_CERT": str(CERTIFICATES),
}
# Every command has mounts of its own, so they are gone when its processes are, whatever happens to this
# script.
ENTER = """
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/dev/shm"
exec chroot --userspec={user}:{user} "$0" /usr/bin/env -i {environment} /bin/bash -c "$1"
"""

# A network that has 127.0.0.1 and nothing else, as long as somebody holds this program's standard input open.
LOOPBACK_ONLY = """
import fcntl, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
print("up", flush=True)
sys.stdin.read()
"""


def missing_tools() -> str | None:
    """Why a machine cannot be made here, in a sentence; None when it can."""
    if os.geteuid() != 0:
        return "Only root can make a bare machine."
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"A bare machine needs {', '.join(lacking)}: apt-get install mmdebstrap util-linux git."
    if (
        subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode
        != 0
    ):
        return (
            "A bare machine needs mounts and a network of its own, and they are not permitted here (unshare "
            "--mount --net)."
        )
    return None


class Running:
    """A command that runs in the machine; its output is printed as it comes, and kept."""

    def __init__(self, root: Path, command: str, standard_input: str | None, network: str | None) -> None:
        environment = " ".join(shlex.quote(f"{name}={value}") for name, value in ENVIRONMENT.items())
        enter = "set -e" + ENTER.format(environment=environment, user=USER)
        enter_network = ["nsenter", f"--net={network}"] if network else []
        self.process = subprocess.Popen(
            [
                *enter_network,
                "unshare",
                "--mount",
                "bash",
                "-c",
                enter,
                str(root),
                f"cd {shlex.quote(str(CHECKOUT))}\n{command}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own, so that Ctrl-C reaches it and nobody else
        )
        self._lines: list[str] = []
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(standard_input or "")
            self.process.stdin.close()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return "".join(self._lines)

    def wait_for(self, text: str, seconds: float) -> bool:
        """Wait until it has written this text; False when it ended, or was too slow."""
        with self._new_line:
            self._new_line.wait_for(lambda: text in self.output or not self._reader.is_alive(), seconds)
            return text in self.output

    def wait(self, seconds: float) -> int:
        """Wait for its end and return its exit status.

        Whoever is too slow is ended and returns that of `timeout`, 124.
        """
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return 124
        self._reader.join(10)
        return self.process.returncode

    def press_ctrl_c(self) -> None:
        """What a terminal does: SIGINT to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it and its group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(f"    {line}", end="", flush=True)
            with self._new_line:
                self._lines.append(line)
                self._new_line.notify_all()
        with self._new_line:
            self._new_line.notify_all()


class BareMachine:
    """A folder with Debian's smallest system, the packages that were asked for, and a repository's last
    commit.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._network: subprocess.Popen[str] | None = None

    @classmethod
    @contextmanager
    def make(cls, packages: list[str], repository: Path) -> Iterator[Self]:
        """Make the machine, and remove it at the end with all that runs in it."""
        with tempfile.TemporaryDirectory(prefix="bare_machine_", ignore_cleanup_errors=True) as folder:
            machine = cls(Path(folder).resolve() / "root")
            include = f"--include={','.join(packages)}"
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, machine.root], check=True
            )
            try:
                machine._settle(repository)
                yield machine
            finally:
                machine.end_processes()

    def start(self, command: str, standard_input: str | None = None) -> Running:
        """Type a command in the checkout's folder."""
        return Running(
            self.root, command, standard_input, f"/proc/{self._network.pid}/ns/net" if self._network else None
        )

    def disconnect(self) -> None:
        """Take the network away from all commands from now on.

        What is installed has to do without, and the machine's ports are its own.
        """
        command = ["unshare", "--net", sys.executable, "-c", LOOPBACK_ONLY]
        self._network = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._network.stdout is not None
        if self._network.stdout.readline() != "up\n":
            raise OSError("The bare machine did not get a network of its own; the lines above say why.")

    def processes(self) -> dict[int, str]:
        """Number -> command line, of all that runs in the machine."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                if (process / "root").readlink() == self.root:
                    found[int(process.name)] = (
                        (process / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
                    )
        return found

    def wait_until_quiet(self, seconds: float) -> dict[int, str]:
        """Wait until nothing runs in the machine; what still does after that time."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def temporary_files(self) -> set[Path]:
        """What lies in the machine's /tmp."""
        return set((self.root / "tmp").iterdir())

    def gigabytes(self, folder: str) -> float:
        """The size of a folder of the checkout on the disk."""
        path = self.root / CHECKOUT.relative_to("/") / folder
        answer = subprocess.run(
            ["du", "--summarize", "--block-size=1000000", path], capture_output=True, text=True, check=False
        )
        return int(answer.stdout.split()[0] if answer.stdout else 0) / 1000

    def end_processes(self) -> None:
        """End all that still runs in the machine."""
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.wait_until_quiet(30)
        if self._network is not None:
            self._network.communicate()

    def _settle(self, repository: Path) -> None:
        """A user with a checkout, names that resolve, and certificates."""
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        shutil.copyfile("/etc/resolv.conf", self.root / "etc/resolv.conf")
        if CERTIFICATES.is_file():
            inside = self.root / CERTIFICATES.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CERTIFICATES, inside)
        subprocess.run(
            ["chroot", self.root, "useradd", "--create-home", "--shell=/bin/bash", USER], check=True
        )
        inside = self.root / CHECKOUT.relative_to("/")
        inside.mkdir()
        # As a clone has them: only files that are committed. Git refuses folders of others, and to root
        # everything belongs to others.
        archive = ["git", "-c", "safe.directory=*", "-C", repository, "archive", "HEAD"]
        tree = subprocess.run(archive, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "--extract", "--directory", inside], input=tree, check=True)
        # `curl -s` alone ends well when the server answers with an error; this makes it fail, and leaves the
        # command as it is written.
        (self.root / HOME.relative_to("/") / ".curlrc").write_text("fail-with-body\nshow-error\n")
        subprocess.run(["chroot", self.root, "chown", "--recursive", f"{USER}:{USER}", HOME], check=True)
