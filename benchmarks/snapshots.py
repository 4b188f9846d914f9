"""How fast do read documents go to disk and come back? Run: python -m benchmarks.snapshots [--folder DIR]

One document's extents, random bytes, saved and restored through `SnapshotStore`, in turns with one plain file
of the same size written, copied and read by one thread. What is written is on the disk when the clock stops.
Restoring and reading are timed twice: from the page cache ("cached"), and after the system was asked to drop
the files from it ("disk"). The store computes and checks checksums; the plain file has none.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

from benchmarks import report
from worker.engine.snapshots import ExtentRef, Identity, SnapshotStore, chain

PAGES = 64  # of an extent: 8,192 tokens
PAGE_TOKENS = 128
IDENTITY = Identity(
    model="random bytes",
    revision="1",
    tokenizer="none",
    template="none",
    kv_format="int4",
    kv_version=1,
    dtype="bfloat16",
    layers=40,
    kv_heads=4,
    dim=128,
    layout=1,
)


def random_buffer(size: int) -> memoryview:
    """Aligned to pages, as pinned memory is."""
    buffer = memoryview(mmap.mmap(-1, size))
    buffer[:] = np.random.default_rng(1).bytes(size)
    return buffer


def seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def drop(*paths: Path) -> None:
    """Ask the system to keep nothing of `paths` in memory."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def write_plain(path: Path, data: memoryview, times: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            rest = data
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def copy_plain(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    sync(target)


def read_plain(path: Path, into: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(into):
            pass


def save(store: SnapshotStore, keys: list[bytes], data: memoryview) -> None:
    for start in range(0, len(keys), PAGES):
        store.wait_for_room(len(data), timeout_s=600)
        assert store.save(keys, start, start + PAGES, data)
    assert store.flush(600)


def restore(store: SnapshotStore, refs: list[ExtentRef], into: memoryview) -> None:
    for ref in refs:
        store.load(ref, into)


def measure_round(
    folder: Path, data: memoryview, extents: int, ids: np.ndarray[Any, Any]
) -> dict[str, float]:
    """Seconds of every step, in a new folder."""
    figures: dict[str, float] = {}
    keys = chain(ids)
    into = memoryview(mmap.mmap(-1, len(data)))
    into[:] = data  # so that its memory is there
    plain, copy = folder / "plain", folder / "copy"
    store = SnapshotStore(folder / "kv", identity=IDENTITY, capacity_bytes=1 << 50)
    try:
        figures["write plain"] = seconds(lambda: write_plain(plain, data, extents))
        figures["save"] = seconds(lambda: save(store, keys, data))
        figures["copy plain"] = seconds(lambda: copy_plain(plain, copy))
        copy.unlink()
        refs = store.find(keys)
        assert len(refs) == extents
        for name in ("cached", "disk"):
            if name == "disk":
                drop(plain, *(ref.extent.path for ref in refs))
            else:  # what was written last may have displaced what was written first
                read_plain(plain, into)
                restore(store, refs, into)
            figures[f"read plain, {name}"] = seconds(lambda: read_plain(plain, into))
            figures[f"restore, {name}"] = seconds(lambda: restore(store, refs, into))
            assert into == data
    finally:
        store.close()
    return figures


def measure(folder: Path | None, gib: float, extent_mib: int, rounds: int) -> dict[str, Any]:
    data = random_buffer(extent_mib << 20)
    extents = max(1, round(gib * 1024 / extent_mib))
    all_seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        ids = np.random.default_rng(number).integers(0, 150_000, extents * PAGES * PAGE_TOKENS, np.int32)
        with tempfile.TemporaryDirectory(dir=folder) as room:
            for name, value in measure_round(Path(room), data, extents, ids).items():
                all_seconds.setdefault(name, []).append(value)
    million = np.random.default_rng(0).integers(0, 150_000, 1_000_000, np.int32)
    return {
        "folder": str(folder or tempfile.gettempdir()),
        "extents": extents,
        "extent_mib": extent_mib,
        "xxhash": xxhash.VERSION,
        "load_average": os.getloadavg(),
        "seconds": all_seconds,
        "gb_per_s": {
            name: statistics.median(extents * len(data) / value / 1e9 for value in values)
            for name, values in all_seconds.items()
        },
        "keys_of_a_million_tokens_s": [seconds(partial(chain, million)) for _ in range(rounds)],
    }


def tabulate(figures: dict[str, Any]) -> Table:
    gib = figures["extents"] * figures["extent_mib"] / 1024
    table = Table("step", "GB/s (median)", title=f"{gib:.1f} GiB in extents of {figures['extent_mib']} MiB")
    for name, speed in figures["gb_per_s"].items():
        table.add_row(name, f"{speed:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder if absent")
    parser.add_argument("--gib", type=float, default=4.0, help="to save in one round; thrice that is written")
    parser.add_argument("--extent-mib", type=int, default=170, help="170: 8,192 tokens of GLM-4-9B in 4 bits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = measure(options.folder, options.gib, options.extent_mib, options.rounds)
    Console().print(tabulate(figures))
    saved = report.save("snapshots", figures)
    if options.json:
        shutil.copyfile(saved, options.json)


if __name__ == "__main__":
    main()
