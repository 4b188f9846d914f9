"""The child process: reads one request on stdin, parses within limits, writes JSON lines on stdout.

{"page": {...}, "total": 12}       for each page, as soon as it is read
{"document": {...}}                then the document without its pages,
{"error": {"code", "message"}}     or why there is none
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsers.errors import OutOfMemory, ParseError
from parsers.limits import MIB, Limits
from parsers.reader import open_document


def main() -> None:
    request = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    confine(limits)
    # Results go out on a descriptor of their own, so that no library can print between them.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as results:
        os.dup2(2, 1)
        try:
            for message in _messages(Path(request["path"]), request["filename"], request["password"], limits):
                print(json.dumps(message), file=results, flush=True)
        except MemoryError:
            print(json.dumps(_error(OutOfMemory())), file=results, flush=True)


def confine(limits: Limits) -> None:
    """Put this process under the limits. The alarm ends it even when nobody waits for it any more."""
    for kind, amount in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, MIB),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, hard if kind == resource.RLIMIT_CPU else bound))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)


def _messages(path: Path, filename: str, password: str | None, limits: Limits) -> Iterator[dict[str, Any]]:
    try:
        media_type, reading = open_document(path, filename=filename, password=password, limits=limits)
        for page in reading.pages(limits):
            yield {"page": asdict(page), "total": reading.total}
        yield {"document": reading.document((), media_type).to_json()}
    except ParseError as exc:
        yield _error(exc)


def _error(error: ParseError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


if __name__ == "__main__":
    main()
