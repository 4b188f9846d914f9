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


#: A child that read a smaller file than this is kept for the next one, for so many files.
_SMALL_BYTES = 8 * MIB
_FILES = 50


class Sandbox:
    """Parses in child processes. Safe to share between threads: each file has a child of its own.

    Starting a child takes a fifth of a second. So one that read a small file is kept for the next, and with
    `ready` another is started ahead of the next file where one was not kept.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, ready: bool = True) -> None:
        self._limits = replace(limits, processes=min(2, os.cpu_count() or 1))
        self._ready = ready
        self._lock = threading.Lock()
        self._idle: list[_Child] = []

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def parse(
        self, path: Path, *, filename: str, password: str | None = None, on_page: OnPage | None = None
    ) -> Document:
        """The document at `path`, read by a child. Raises ParseError, or OSError where there is no file.

        `filename` is the name the sender gave it. `on_page` is called with pages done and pages in all; what
        it raises ends the child and is passed on.
        """
        path = path.resolve(strict=True)
        small = path.stat().st_size <= _SMALL_BYTES
        child = self._child()
        reply = None
        try:
            reply = child.parse(path, filename, password, self._limits, on_page)
        finally:
            self._put_back(child, kept=reply is not None and small and child.files < _FILES)
        if isinstance(reply, ParseError):
            raise reply
        return reply

    def _put_back(self, child: _Child, *, kept: bool) -> None:
        """Keep a child for the next file, or end it."""
        if not kept:
            child.close()
        with self._lock:
            if kept:
                self._idle.append(child)
            elif self._ready and not self._idle:
                self._idle.append(_Child())

    def _child(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
                child.close()
        return _Child()


def parse(
    path: Path,
    *,
    filename: str,
    password: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_page: OnPage | None = None,
) -> Document:
    """What a sandbox made for this one file gives."""
    with Sandbox(limits, ready=False) as sandbox:
        return sandbox.parse(path, filename=filename, password=password, on_page=on_page)


class _Child:
    """One child process."""

    def __init__(self) -> None:
        self.files = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_ENVIRONMENT,
            cwd="/",
            encoding="ascii",
            start_new_session=True,  # a group of its own, to be killed as one
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        with self._process:
            self._kill()
        self._stderr.close()

    def parse(
        self, path: Path, filename: str, password: str | None, limits: Limits, on_page: OnPage | None
    ) -> Document | ParseError:
        """The document, or what the child says is wrong with it. Raises ParseError if the child ended."""
        self.files += 1
        request = {
            "path": str(path), "filename": filename, "password": password, "limits": asdict(limits),
        }  # fmt: skip
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill()

        deadline = threading.Timer(limits.wall_s, stop)
        deadline.start()
        try:
            reply = self._talk(json.dumps(request), on_page)
        finally:
            deadline.cancel()
        if reply is None:
            raise TimedOut if late.is_set() else _reason(self._process.wait(), limits, self._stderr)
        return reply

    def _talk(self, request: str, on_page: OnPage | None) -> Document | ParseError | None:
        """Send the request and gather the answer, None where the child ended without one."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            print(request, file=process.stdin, flush=True)
        pages: list[Page] = []
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # killed while it wrote
            message = json.loads(line)
            if "error" in message:
                return BY_CODE[message["error"]["code"]](message["error"]["message"])
            if "document" in message:
                return replace(Document.from_json(message["document"]), pages=tuple(pages))
            pages.append(Page(**message["page"]))
            if on_page:
                on_page(len(pages), message["total"])
        return None

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


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
