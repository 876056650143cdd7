"""What the README tells a newcomer to type, read from its text.

Knows: Markdown's headings and fenced blocks. Runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SHELL, PYTHON = (
    "",
    "python",
)  # the language of a block as its fence names it; a block without one is typed into a shell
SHELL_STATE = (".", "source", "export", "cd")  # commands that hold for those after them
SERVERS = ("make serve", "wordmask serve", "monailabel start_server")
PLACEHOLDER = re.compile(r"\b(FOLDER|FILE|ID)\b")  # words for the reader to replace


@dataclass(frozen=True)
class Command:
    """One thing to type: a line of a shell block, or a whole block of Python."""

    text: str
    language: str = SHELL

    @property
    def changes_the_shell(self) -> bool:
        """Does it hold for the commands after it, such as an activation?"""
        return self.language == SHELL and self.text.split()[0] in SHELL_STATE

    @property
    def is_a_server(self) -> bool:
        """Does it run until somebody ends it?"""
        return self.language == SHELL and self.text.startswith(SERVERS)

    @property
    def has_a_placeholder(self) -> bool:
        """Is there a word in it, its comment apart, that the reader is to replace?"""
        return self.language == SHELL and PLACEHOLDER.search(self.text.partition(" #")[0]) is not None


def read_commands(readme: str, section: str) -> list[Command]:
    """The commands of a section's blocks, in their order; ValueError when there is none."""
    commands = [
        command
        for language, block in _blocks(_section(readme, section))
        for command in _commands(language, block)
    ]
    if not commands:
        raise ValueError(
            f"README.md has no command in its section {section!r}; name the sections that it has in "
            "tests/fresh."
        )
    return commands


def read_packages(readme: str) -> list[str]:
    """Debian's packages that the README wants: those of its first ``apt-get install``."""
    found = re.search(r"apt-get install ([^`\n]+)", readme)
    if found is None:
        raise ValueError("README.md names no Debian packages: it has no `apt-get install`.")
    return [word for word in found[1].split() if not word.startswith("-")]


def read_dice(text: str) -> float:
    """The mean Dice that the README promises, or that `make demo` prints."""
    found = re.search(r"Mean Dice (?:over 70 \(case, word\) pairs: )?(0\.\d+)", text)
    if found is None:
        raise ValueError(f"There is no mean Dice in this text: {text[-300:]!r}")
    return float(found[1])


def _section(readme: str, title: str) -> str:
    """What stands between a heading and the next one of its level."""
    _, heading, rest = readme.partition(f"\n## {title}\n")
    if not heading:
        raise ValueError(f"README.md has no section {title!r}; name the sections that it has in tests/fresh.")
    return rest.partition("\n## ")[0]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    for fenced in re.finditer(r"^```([a-z]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield fenced[1], fenced[2]


def _commands(language: str, block: str) -> Iterator[Command]:
    if language == PYTHON:
        yield Command(block, PYTHON)
    elif language == SHELL:
        lines = block.replace("\\\n", " ").splitlines()  # a command may go over several lines
        yield from (
            Command(line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")
        )
