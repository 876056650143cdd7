"""What the log of a server means to a person: the sentence to show when it stops.

Knows the messages of `wordmask serve`, MONAI Label, uvicorn and Python; not processes.
"""

from __future__ import annotations

import re

from ..client.errors import as_sentence

_REFUSED = 2  # how `wordmask` ends after it has said what is wrong
_SEE_LOG = r"the log .*says why"
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_KNOWN: tuple[
    tuple[str, str], ...
] = (  # the first pattern that is found; what follows is the sentence, {0} the pattern's group
    (
        r"address already in use|\[Errno (?:48|98|10048)\]",
        "Another program uses the port; start the server again, with another port.",
    ),
    (
        r"APP Directory (?:.*?)([^\s/\\]+) NOT Found",
        "The app folder {0!r} is not there; choose the folder monailabel_app of WordMask.",
    ),
    (
        r"No module named ['\"]?wordmask",
        (
            "WordMask is not installed in the chosen environment; choose the one in which it is, or run: pip "
            "install -e . in its folder."
        ),
    ),
    (
        r"No such command ['\"]?serve",
        "The WordMask of the chosen environment is too old to be started from here; update it.",
    ),
    (
        r"No module named ['\"]?monailabel",
        (
            "MONAI Label is not installed in the chosen environment; choose the one in which WordMask was "
            "installed."
        ),
    ),
    (
        r"No module named ['\"]?([\w.]+)",
        "The chosen environment lacks the package {0!r}; install WordMask in it again.",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full, so the server cannot start; free some space.",
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory",
        "The graphics card has too little free memory; close other programs that use it, or use the CPU.",
    ),
    (
        r"MemoryError|DefaultCPUAllocator|Cannot allocate memory",
        (
            "This machine has too little free memory for the server; close other programs, or use a smaller "
            "preset."
        ),
    ),
    (
        r"PermissionError: .*?([^/\\'\"]+)['\"]?$",
        "The server may not use {0!r}; choose folders that you may write to.",
    ),
)


def plain_log(text: str) -> str:
    """Return a log without the terminal's colours and with one kind of line end."""
    return _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def reason_in(log: str, exit_code: int | None = None) -> str:
    """Return the sentence that says why a server stopped, according to its log; "" if the log does not say.

    Sentences of WordMask are returned as they are, known messages of MONAI Label and the system are
    translated, others are ignored. ``exit_code`` is None if it is not known.
    """
    text = plain_log(log)
    raised = re.findall(r"^wordmask[\w.]*\.\w+(?:Error|Exception): (.+)$", text, flags=re.MULTILINE)
    if raised:
        return as_sentence(raised[-1])
    printed = re.findall(r"^wordmask: (.+)$", text, flags=re.MULTILINE)
    # Else it is a warning.
    if printed and exit_code in (_REFUSED, None) and not re.search(_SEE_LOG, printed[-1]):
        return as_sentence(printed[-1])
    for pattern, sentence in _KNOWN:
        found = re.search(pattern, text, flags=re.MULTILINE)
        if found:
            return sentence.format(*found.groups())
    return ""


def why_it_stopped(log: str, exit_code: int | None = None) -> str:
    """Return one sentence for a server that stopped by itself, whatever its log says.

    ``exit_code`` is negative for a signal, None if it is not known.
    """
    known = reason_in(log, exit_code)
    if known:
        return known
    if exit_code in (-9, 137):
        return (
            "The server was ended by the system, probably because memory ran out; close other programs, or "
            "use a smaller preset."
        )
    if exit_code in (-15, 143, -2, 130):
        return "The server was stopped from outside; start it again when you need it."
    code = "" if exit_code is None else f" with the code {exit_code}"
    return f"The server stopped{code} for an unknown reason; its log, shown below, has the details."
