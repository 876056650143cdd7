"""What the WordMask module is made of, in three layers: plain Python, MRML (`segments`), and Qt (the Widget alone, outside of here).

Plain Python needs nothing but the standard library and runs on Python 3.9 to 3.12:

    addresses        repairs what was typed as the address of a server
    errors           one tree; every message is one sentence
    answers          what a server says, checked and with types; job_answers: of work that takes time
    calls            every request as plain data, and how to read its answer: for `urllib`-like and for Qt's transport alike
    multipart        streamed `multipart/form-data`, both ways
    readers, files   answers in pieces as they come, and files that are whole or not there
    wire, transport  sockets with patience, and one request over them
    client           all of it in one object that waits for its answers
    prompts          the text box: words, completion, history, hints
    server_process   a server on this machine: command, port, start and stop; environments: where it is installed; server_log: why it died
"""  # noqa: N999 - Slicer's names

from __future__ import annotations

__version__ = "0.1.0"
