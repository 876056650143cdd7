"""`make fresh`: does what the README says work for somebody who has a bare Debian machine and the packages
that it names, and nothing else?

Makes the machine, types the commands of the README's text into it, and says how long each took and which
failed. Exits with 1 when one failed, and with 2 where a bare machine cannot be made; with --where-possible
that is no failure.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fresh.machine import SUITE, BareMachine, Running, missing_tools
from tests.fresh.readme import PYTHON, Command, read_commands, read_dice, read_packages

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLING, USING = "Two commands", "Five minutes"  # sections of the README
READY = "is ready at"  # what `wordmask serve` prints when it answers
# In place of all tests, which take longer than the rest together and run elsewhere: some of the library, some
# of the command, and some that want Qt, for which a bare machine has no libraries: they have to say so.
SAMPLE = (
    "tests/unit/words/test_prompts.py tests/unit/data/test_volumes.py tests/unit/cli/test_cli.py "
    "tests/slicer/test_qt_transport.py"
)
LOUD_SKIP = "apt-get install"
MINUTES = 15  # for one command; an installation over a slow line takes longest
DICE_TOLERANCE = 0.005


@dataclass
class Visit:
    """Somebody at a bare machine who types one command after another."""

    machine: BareMachine
    promised_dice: float
    shell_state: list[str] = field(default_factory=list)
    server: tuple[str, Running, set[Path]] | None = (
        None  # what was typed, what runs, and what was in /tmp before
    )
    rows: list[tuple[float, str, str]] = field(
        default_factory=list
    )  # seconds, what was typed, what was wrong or ""

    @property
    def failed(self) -> bool:
        """Was anything wrong so far?"""
        return any(wrong for _, _, wrong in self.rows)

    def follow(self, commands: list[Command]) -> None:
        """Type the commands; a server among them runs until the last one, and is then ended."""
        for command in commands:
            if command.has_a_placeholder:
                print(
                    f"\nLeft out, because the reader is to replace a word in it: {command.text}", flush=True
                )
            elif command.is_a_server:
                if not self._leave_running(command):
                    break  # those that follow ask the server
            elif command.text.partition("#")[0].strip() == "make test":
                self._type(Command(f'make test ARGS="{SAMPLE}"'))
            else:
                self._type(command)
        self._end_server()

    def _type(self, command: Command) -> None:
        title = command.text if command.language != PYTHON else "python"
        print(f"\n$ {command.text.rstrip()}", flush=True)
        begin = time.monotonic()
        running = self._start(command)
        status = running.wait(MINUTES * 60)
        wrong = f"exit status {status}" if status else self._broken_promise(command, running.output)
        self.rows.append((time.monotonic() - begin, title, wrong))
        if command.changes_the_shell:
            self.shell_state.append(command.text)

    def _start(self, command: Command) -> Running:
        typed = "python -" if command.language == PYTHON else command.text
        return self.machine.start(
            "\n".join(["set -e", *self.shell_state, typed]),
            command.text if command.language == PYTHON else None,
        )

    def _broken_promise(self, command: Command, output: str) -> str:
        """What a command that ended well did not do all the same, or nothing."""
        if command.text.startswith("make demo"):
            dice = read_dice(output)
            return (
                ""
                if abs(dice - self.promised_dice) <= DICE_TOLERANCE
                else f"Dice {dice}, the README says {self.promised_dice}"
            )
        if command.text.startswith("make test"):
            return "" if LOUD_SKIP in output else "the test that wants Qt does not say what to install"
        return ""

    def _leave_running(self, command: Command) -> bool:
        """Start a server; whether it got ready."""
        print(f"\n$ {command.text}   (in a second terminal)", flush=True)
        begin, before = time.monotonic(), self.machine.temporary_files()
        running = self._start(command)
        wrong = "" if running.wait_for(READY, MINUTES * 60) else f"it did not print {READY!r}"
        self.rows.append((time.monotonic() - begin, command.text, wrong))
        self.server = (command.text.partition(" #")[0].strip(), running, before)
        return not wrong

    def _end_server(self) -> None:
        """Press Ctrl-C; nothing that the server started may be left."""
        if self.server is None:
            return
        title, running, before = self.server
        self.server = None
        print(f"\n^C   ({title})", flush=True)
        begin = time.monotonic()
        running.press_ctrl_c()
        left = [
            *self.machine.wait_until_quiet(60).values(),
            *map(str, self.machine.temporary_files() - before),
        ]
        self.rows.append((time.monotonic() - begin, f"Ctrl-C on {title}", f"it left {left}" if left else ""))

    def report(self) -> None:
        """Minutes and seconds per command, and what was wrong."""
        print("\n  time  command")
        for seconds, title, wrong in self.rows:
            print(
                f"{seconds // 60:3.0f}:{seconds % 60:02.0f}  "
                f"{title.partition(' #')[0].strip()}{wrong and f'   FAILED: {wrong}'}"
            )
        print(
            f"{sum(seconds for seconds, _, _ in self.rows) / 60:.1f} minutes in all; .venv has "
            f"{self.machine.gigabytes('.venv'):.1f} GB"
        )


def main() -> int:
    """Visit a bare machine; 0 when the README keeps its promises there."""
    if (reason := missing_tools()) is not None:
        print(f"The README's commands were NOT tried on a bare machine. {reason}", file=sys.stderr)
        return 0 if "--where-possible" in sys.argv[1:] else 2
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    packages = read_packages(readme)
    print(f"A bare Debian ({SUITE}) with {' '.join(packages)}, and the repository's last commit.", flush=True)
    with BareMachine.make(packages, REPOSITORY) as machine:
        visit = Visit(machine, read_dice(readme))
        visit.follow(read_commands(readme, INSTALLING))
        print("\nFrom here on the machine has no network.", flush=True)
        machine.disconnect()
        visit.follow(read_commands(readme, USING))
        visit.report()
    return 1 if visit.failed else 0


if __name__ == "__main__":
    sys.exit(main())
