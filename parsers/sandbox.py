"""Parsing in a child process that cannot outgrow its limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from parsers.document import Document, Page
from parsers.errors import BY_CODE, Damaged, OutOfMemory, ParseError, TimedOut
from parsers.limits import DEFAULT_LIMITS, MIB, Limits
from parsers.reader import OnPage

#: With -I the child ignores PYTHONPATH and the working directory, so it is told where this package lies.
_START = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
runpy.run_module("parsers.child", run_name="__main__")
"""
_COMMAND = (sys.executable, "-I", "-B", "-c", _START, str(Path(__file__).resolve().parent.parent))
_ENVIRONMENT = {"LANG": "C.UTF-8"}


def parse(
    path: Path,
    *,
    filename: str,
    password: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_page: OnPage | None = None,
) -> Document:
    """The document at `path`, read by a child process. Raises ParseError, or OSError where there is no file.

    `filename` is the name the sender gave it. `on_page` is called with pages done and pages in all; what it
    raises ends the child and is passed on.
    """
    request = {
        "path": str(path.resolve(strict=True)),
        "filename": filename,
        "password": password,
        "limits": asdict(limits),
    }
    with tempfile.TemporaryFile() as stderr, _start(stderr) as child:
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(child)

        deadline = threading.Timer(limits.wall_s, stop)
        deadline.start()
        try:
            document = _talk(child, json.dumps(request), on_page)
            if document is None:
                raise TimedOut if late.is_set() else _reason(child.wait(), limits, stderr)
            return document
        finally:
            deadline.cancel()
            _kill(child)


def _start(stderr: IO[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_ENVIRONMENT,
        cwd="/",
        encoding="ascii",
        start_new_session=True,  # a group of its own, to be killed as one
    )


def _talk(child: subprocess.Popen[str], request: str, on_page: OnPage | None) -> Document | None:
    """Send the request and gather the answer: the document, or None where the child ended without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError), child.stdin:
        child.stdin.write(request)
    pages: list[Page] = []
    for line in child.stdout:
        if not line.endswith("\n"):
            break  # killed while it wrote
        message = json.loads(line)
        if "error" in message:
            raise BY_CODE[message["error"]["code"]](message["error"]["message"])
        if "document" in message:
            return replace(Document.from_json(message["document"]), pages=tuple(pages))
        pages.append(Page(**message["page"]))
        if on_page:
            on_page(len(pages), message["total"])
    return None


def _reason(status: int, limits: Limits, stderr: IO[bytes]) -> ParseError:
    """Why a child ended without a word."""
    match -status:
        case signal.SIGXCPU:
            return TimedOut(f"Reading the file took more than {limits.cpu_s} s of processor time. Split it.")
        case signal.SIGALRM:
            return TimedOut()
        case signal.SIGKILL:  # by the kernel, for we did not
            return OutOfMemory()
        case crash if crash > 0:
            return Damaged(
                "The file crashed the parser. Open it in the program that made it and save a new copy."
            )
    stderr.seek(0)
    lines = stderr.read(MIB).decode(errors="replace").split("\n")
    return ParseError(f"The parser failed: {' '.join(lines[-2:]).strip() or 'no reason given'}")


def _kill(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
