"""How much does the API grow while a file of 1 GiB is uploaded? `python -m benchmarks.upload [--mib 1024]`"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from api.stack import Stack
from benchmarks.report import save
from settings import Settings

MIB = 1024**2


def resident(group: int) -> int:
    """Resident bytes of a process group (`resident` of statm, proc(5))."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if os.getpgid(int(folder.name)) == group:
                pages += int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


class Body:
    """A multipart body of noise, made as it is sent."""

    HEAD = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="noise.txt"\r\n\r\n'
    TAIL = b"\r\n--limit--\r\n"

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = len(self.HEAD) + size + len(self.TAIL)

    def __iter__(self) -> Iterator[bytes]:
        yield self.HEAD
        block = (b"All work and no play makes a dull document.\n" * 30_000)[:MIB]
        for _ in range(self.size // MIB):
            yield block
        yield self.TAIL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), engine="fake", port=0, log_level="warning")
        with Stack(settings) as stack, httpx.Client(base_url=stack.url, trust_env=False, timeout=600) as http:
            api = next(child for child in stack.children if child.name == "api")
            assert api.pid is not None
            http.post("/v1/documents", files={"file": ("a.txt", b"warm up")}).raise_for_status()
            before = peak = resident(api.pid)
            done = threading.Event()

            def watch() -> None:
                nonlocal peak
                while not done.wait(0.02):
                    peak = max(peak, resident(api.pid or 0))

            watcher = threading.Thread(target=watch)
            watcher.start()
            body = Body(options.mib * MIB)
            headers = {
                "Content-Type": "multipart/form-data; boundary=limit",
                "Content-Length": str(body.length),
            }
            started = time.perf_counter()
            answer = http.post("/v1/documents", content=body, headers=headers)
            seconds = time.perf_counter() - started
            done.set()
            watcher.join()
            answer.raise_for_status()
    figures = {
        "uploaded_mib": options.mib,
        "seconds": round(seconds, 2),
        "resident_before_mib": round(before / MIB, 1),
        "resident_growth_mib": round((peak - before) / MIB, 1),
    }
    print(json.dumps(figures, indent=2))
    print(save("upload", figures))


if __name__ == "__main__":
    main()
