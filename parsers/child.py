"""The child process: reads requests on stdin, parses within limits, writes JSON lines on stdout.

{"page": {...}, "total": 12}       for each page, as soon as it is read
{"document": {...}}                then the document without its pages,
{"error": {"code", "message"}}     or why there is none
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from parsers import network
from parsers.errors import OutOfMemory, ParseError
from parsers.limits import MIB, Limits
from parsers.reader import open_document

#: Loaded before the first request: what most documents need.
_USUAL = ("parsers.pdf", "parsers.word", "parsers.html")
#: Seconds between two news of the pages read: every waking of the other process costs time.
_TELL_EVERY_S = 0.02


def main() -> None:
    for module in _USUAL:
        import_module(module)
    gc.freeze()  # what is loaded now stays
    # Results go out on a descriptor of their own, so that no library can print between them.
    with os.fdopen(os.dup(1), "w", 1 << 16, encoding="ascii") as results:
        os.dup2(2, 1)
        confined = False
        for line in sys.stdin:
            request = json.loads(line)
            limits = Limits(**request["limits"])
            if not confined:
                confine(limits)
                confined = True
            start_clocks(limits)
            try:
                path = Path(request["path"])
                told = time.monotonic()
                for message in _messages(path, request["filename"], request["password"], limits):
                    print(json.dumps(message), file=results)
                    if time.monotonic() - told > _TELL_EVERY_S:
                        results.flush()
                        told = time.monotonic()
                results.flush()
            except MemoryError:
                print(json.dumps(_error(OutOfMemory())), file=results, flush=True)
            signal.setitimer(signal.ITIMER_REAL, 0)


def confine(limits: Limits) -> None:
    """Put this process under the limits, and off the network."""
    for kind, amount in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, MIB),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))
    network.forbid()


def start_clocks(limits: Limits) -> None:
    """Begin to count the time of one file. The alarm ends this process even if nobody waits for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = int(used.ru_utime + used.ru_stime) + limits.cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (allowed if hard < 0 else min(allowed, hard), hard))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)


def _messages(path: Path, filename: str, password: str | None, limits: Limits) -> Iterator[dict[str, Any]]:
    try:
        media_type, reading = open_document(path, filename=filename, password=password, limits=limits)
        for page in reading.pages(limits):
            told = {"number": page.number, "text": page.text, "label": page.label, "name": page.name}
            yield {"page": told, "total": reading.total}
        yield {"document": reading.document((), media_type).to_json()}
    except ParseError as exc:
        yield _error(exc)


def _error(error: ParseError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


if __name__ == "__main__":
    main()
