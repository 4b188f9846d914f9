"""Documents once read, kept on disk: a read goes on after a restart where its stored pages end.

A document is a chain of pages. A page's key is the hash of its tokens and of the key before it, so it stands
for everything up to its end: documents that begin alike share their pages, and how much of one is stored is
found by walking along its keys. What is stored at once, one chunk's pages, is an extent; `extent.py` has its
file format and the errors. Several processes may share a folder: files appear whole and vanish at any time.

Nothing here fails a request. What cannot be stored is skipped and what cannot be loaded is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engine import extent as files
from worker.engine.errors import SnapshotDamaged, SnapshotError
from worker.engine.extent import Extent
from worker.engine.page import PAGE

logger = logging.getLogger(__name__)

# The disk is never filled beyond this, by snapshots.
_FREE_SHARE = 20  # a twentieth
_FREE_BYTES = 2 << 30
_BEGIN = bytes(files.KEY_BYTES)  # stands before every first page


@dataclass(frozen=True, slots=True)
class Identity:
    """All that a page's stored bytes depend on besides its tokens and those before it."""

    model: str
    revision: str
    tokenizer: str  #: fingerprint
    template: str  #: the rule by which a prefix is laid out
    kv_format: str
    kv_version: int
    dtype: str
    layers: int
    kv_heads: int
    dim: int
    layout: int  #: version of the engine's own order of bytes
    page_tokens: int = PAGE

    @property
    def fingerprint(self) -> bytes:
        return _hash(json.dumps([files.VERSION, asdict(self)], sort_keys=True).encode())


def chain(ids: Sequence[int] | NDArray[np.int32]) -> list[bytes]:
    """The keys of the whole pages of `ids`, in order."""
    data, size = _int32(ids), PAGE * 4
    keys, key = [], _BEGIN
    for begin in range(0, len(data) - size + 1, size):
        key = _hash(key + data[begin : begin + size])
        keys.append(key)
    return keys


def end_key(ids: Sequence[int] | NDArray[np.int32]) -> bytes:
    """The key of the tokens behind a document's pages; with it the document's chain is complete."""
    return _hash(_int32(ids), person=b"end")


@dataclass(frozen=True, slots=True)
class ExtentRef:
    """Where pages `start` to `stop` (exclusive) of a chain are stored; others may stand around them."""

    extent: Extent
    start: int
    stop: int


class DiskUsage(Protocol):
    """What `shutil.disk_usage` returns."""

    @property
    def total(self) -> int: ...
    @property
    def free(self) -> int: ...


@dataclass(slots=True, eq=False)
class _Job:
    """An extent to be stored."""

    extent: Extent
    payload: memoryview
    wait_until_filled: Callable[[], object]
    on_done: Callable[[bool], None]
    writing: bool = False  #: taken from the queue and not yet in the index
    cancelled: bool = False


class SnapshotStore:
    """Extents in a folder, the least recently used given up for new ones. Every method is thread-safe."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: Identity,
        capacity_bytes: int,
        queue_bytes: int = 2 << 30,
        readers: int = 8,
        writers: int = 2,
        clock_ns: Callable[[], int] = time.time_ns,
        disk_usage: Callable[[Path], DiskUsage] = shutil.disk_usage,
    ) -> None:
        """Look through `folder`, whose other identities count towards `capacity_bytes` too.

        `queue_bytes` may wait to be written. Raises `SnapshotError` if the folder cannot be used.
        """
        self.identity = identity
        self._fingerprint = identity.fingerprint
        self._folder = folder
        self._own_folder = folder / self._fingerprint.hex()
        self._capacity_bytes = capacity_bytes
        self._queue_bytes = queue_bytes
        self._clock_ns = clock_ns
        self._disk_usage = disk_usage
        self._indexes: dict[bytes, _Index] = {}  # by fingerprint
        self._index = self._indexes[self._fingerprint] = _Index()
        self._pins: Counter[Path] = Counter()
        self._queue: deque[_Job] = deque()
        self._pending: dict[Path, _Job] = {}  # in the queue or being written
        self._closing = False
        self._complained = False
        self._changed = threading.Condition()  # guards the seven above
        self._readers = ThreadPoolExecutor(readers, "snapshot-reader")
        try:
            self._make_folders()
            self._describe()
            for room in _identities(folder):
                files.remove_unfinished(room)
            self._refresh()
        except OSError as exc:
            raise SnapshotError(f"Snapshots cannot be kept in {folder}: {exc}.") from exc
        self._writers = [
            threading.Thread(target=self._write, name=f"snapshot-writer-{number}", daemon=True)
            for number in range(writers)
        ]
        for writer in self._writers:
            writer.start()

    def find(self, chain: Sequence[bytes]) -> list[ExtentRef]:
        """The stored beginning of `chain`, as long as can be: each part starts where the one before stops."""
        refs = self._run(chain)
        whole = sum(ref.stop - ref.start for ref in refs) == len(chain)
        if not whole or not all(ref.extent.path.exists() for ref in refs):
            self._refresh()
            refs = self._run(chain)
        return refs

    @contextmanager
    def pin(self, refs: Iterable[ExtentRef]) -> Iterator[None]:
        """Keep this store from giving up `refs` for new extents while the block runs."""
        paths = [ref.extent.path for ref in refs]
        with self._changed:
            self._pins.update(paths)
        try:
            yield
        finally:
            with self._changed:
                self._pins.subtract(paths)
                self._pins = +self._pins

    def load(self, ref: ExtentRef, into: memoryview) -> None:
        """Fill `into`, as many bytes as were saved, with the whole extent, checked.

        Raises `SnapshotDamaged`; the extent is then removed and `into` holds anything.
        """
        extent = ref.extent
        try:
            extent.read(into, self._readers)
        except (SnapshotDamaged, OSError) as exc:
            logger.warning("%s could not be loaded: %s", extent.path, exc)
            self._remove([extent])
            if isinstance(exc, SnapshotDamaged):
                raise
            raise SnapshotDamaged() from exc
        now = self._clock_ns()
        with self._changed:
            self._indexes[extent.identity].use(extent, now)
        with suppress(OSError):
            os.utime(extent.path, ns=(now, now))

    def save(
        self,
        chain: Sequence[bytes],
        start: int,
        stop: int,
        payload: memoryview,
        on_done: Callable[[bool], None] = lambda stored: None,
        *,
        wait_until_filled: Callable[[], object] = lambda: None,
        owners: frozenset[str] = frozenset(),
    ) -> bool:
        """Have pages `start` to `stop` (exclusive) of `chain` stored; never waits for the disk.

        False: not taken, because the queue is full, these pages are in it already, or the page before `start`
        is neither stored nor queued; try again after a later chunk, or go on without. True: `payload`,
        C-contiguous, belongs to this store until `on_done`, which says whether the pages are stored. A writer
        calls it, or this method itself when they are stored already. A card may still be filling it: a writer
        calls `wait_until_filled` before it looks at it.
        """
        if not 0 <= start < stop <= len(chain) or not payload.nbytes:
            raise ValueError("An extent holds at least one page and one byte.")
        keys, parent = tuple(chain[start:stop]), chain[start - 1] if start else _BEGIN
        # With its owners: else one process would take another's file for its own, read for others.
        whose = _hash(json.dumps(sorted(owners)).encode()).hex()[:8]
        path = self._own_folder / f"{start:06}-{stop:06}-{keys[-1].hex()}-{whose}{files.SUFFIX}"
        extent = Extent(path, self._fingerprint, start, parent, keys, payload.nbytes, owners)
        job = _Job(extent, payload, wait_until_filled, on_done)
        with self._changed:
            known = self._index.holds(keys)
            taken = not known and path not in self._pending and self._takes(job)
            if taken:
                self._pending[path] = job
                self._queue.append(job)
                self._changed.notify_all()
        if known:
            on_done(True)
        return known or taken

    def wait_for_room(self, size: int, timeout_s: float) -> bool:
        """Whether the queue takes `size` bytes, after waiting up to `timeout_s` for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._has_room(size), timeout_s)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is queued; whether that came true in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    def owners(self) -> set[str]:
        """Of all that is stored, under whatever identity and by whatever process, or about to be."""
        self._refresh()
        with self._changed:
            queued = (job.extent for job in self._pending.values() if not job.cancelled)
            extents = [*self._all(), *queued]
            return {owner for extent in extents for owner in extent.owners}

    def forget(self, owners: Collection[str]) -> int:
        """Delete every extent, of whatever identity, that is of one of `owners`.

        Returns bytes. What is queued or being written is not kept either.
        """
        self._refresh()
        with self._changed:
            for job in self._pending.values():
                job.cancelled |= not job.extent.owners.isdisjoint(owners)
            gone = [extent for extent in self._all() if not extent.owners.isdisjoint(owners)]
        self._remove(gone)
        return sum(extent.file_bytes for extent in gone)

    def close(self, timeout_s: float = 10.0) -> None:
        """Take no more, write what is queued, and drop what is not written after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.flush(timeout_s)
        with self._changed:
            for job in self._pending.values():
                job.cancelled = True
        for writer in self._writers:
            writer.join(max(0.0, deadline - time.monotonic()))
        self._readers.shutdown()

    def _run(self, chain: Sequence[bytes]) -> list[ExtentRef]:
        with self._changed:
            return self._index.run(chain)

    def _all(self) -> list[Extent]:
        return [extent for index in self._indexes.values() for extent in index.all()]

    @property
    def _bytes(self) -> int:
        return sum(index.bytes for index in self._indexes.values())

    def _takes(self, job: _Job) -> bool:
        return not self._closing and self._has_room(job.extent.payload_bytes) and self._follows(job)

    def _has_room(self, size: int) -> bool:
        queued = sum(job.extent.payload_bytes for job in self._pending.values())
        return not queued or queued + size <= self._queue_bytes

    def _follows(self, job: _Job) -> bool:
        """Whether its pages can be reached: those before them are stored, or about to be."""
        parent = job.extent.parent
        before = [other.extent for other in self._pending.values() if other is not job]
        return (
            parent == _BEGIN or self._index.holds([parent]) or any(parent in extent.keys for extent in before)
        )

    def _write(self) -> None:
        """A writer's life."""
        while job := self._next():
            stored = False
            try:
                stored = self._store(job)
            except (OSError, SnapshotError) as exc:
                self._complain(exc)
            except Exception:
                logger.exception("An extent could not be stored.")
            try:
                job.on_done(stored)
            except Exception:
                logger.exception("Told of an extent, the reader failed.")
            with self._changed:
                del self._pending[job.extent.path]
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            job = self._queue.popleft()
            job.writing = True
            return job

    def _store(self, job: _Job) -> bool:
        with self._changed:
            wanted = not job.cancelled and self._follows(job)
        if not wanted:
            return False
        self._make_folders()  # somebody may have deleted them
        self._make_room(job)
        job.wait_until_filled()
        used_ns = job.extent.write(job.payload, self._clock_ns)
        with self._changed:
            self._index.add(job.extent, used_ns)
            job.writing = self._complained = False
            wanted = not job.cancelled  # asked last: `forget` does not see a file before it has its name
        if not wanted:
            self._remove([job.extent])
        return wanted

    def _make_room(self, job: _Job) -> None:
        """Give up the least recently used extents until `job` fits; raises `SnapshotError` if it cannot.

        On a disk that is nearly full, snapshots take each other's place and no more than that.
        """
        self._refresh()
        disk = self._disk_usage(self._own_folder)
        spare = max(0, disk.free - max(_FREE_BYTES, disk.total // _FREE_SHARE))
        with self._changed:
            room = min(self._capacity_bytes, self._bytes + spare)
        while True:
            with self._changed:
                writing = [other.extent for other in self._pending.values() if other.writing]
                if self._bytes + sum(extent.file_bytes for extent in writing) <= room:
                    return
                victim = self._victim({extent.parent for extent in writing})
            if victim is None or job.extent.file_bytes > room:
                raise SnapshotError(f"there is no room for more in {room:,} bytes")
            if not self._used_elsewhere(victim):
                self._remove([victim])

    def _victim(self, parents: Collection[bytes]) -> Extent | None:
        """The least recently used extent at the end of its chain; `parents`: see `_Index.ends`."""
        ends = [
            end
            for index in self._indexes.values()
            for end in index.ends(parents)
            if end[1].path not in self._pins
        ]
        oldest = min(ends, key=lambda end: (end[0], -end[1].start), default=None)
        return oldest and oldest[1]

    def _used_elsewhere(self, extent: Extent) -> bool:
        """Whether another process used `extent` since this one saw it; that is noted."""
        with suppress(OSError):
            used_ns = extent.path.stat().st_mtime_ns
            with self._changed:
                return self._indexes[extent.identity].use(extent, used_ns)
        return False

    def _remove(self, extents: Iterable[Extent]) -> None:
        for extent in extents:
            with self._changed:
                self._indexes[extent.identity].discard(extent)
            try:
                extent.path.unlink(missing_ok=True)
            except OSError as exc:
                self._complain(exc)

    def _refresh(self) -> None:
        """Learn what other processes stored and removed."""
        with self._changed:
            known = {extent.path: extent for extent in self._all()}
        present = _extent_files(self._folder)
        found = list(self._readers.map(_header, present - known.keys()))
        with self._changed:
            for path in known.keys() - present:
                self._indexes[known[path].identity].discard(known[path])
            for extent, used_ns in filter(None, found):
                self._indexes.setdefault(extent.identity, _Index()).add(extent, used_ns)

    def _make_folders(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own_folder.mkdir(mode=0o700, exist_ok=True)

    def _describe(self) -> None:
        """Tell people whose pages the folder holds."""
        path = self._own_folder / "identity.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self.identity), indent=2) + "\n")

    def _complain(self, error: Exception) -> None:
        """Log the first of a row of failures."""
        with self._changed:
            known, self._complained = self._complained, True
        if not known:
            logger.warning("Documents are read but not all is kept in %s: %s.", self._folder, error)


class _Index:
    """Which pages of one identity are stored where, in memory."""

    def __init__(self) -> None:
        self.bytes = 0
        self._used_ns: dict[Extent, int] = {}
        self._holding: dict[bytes, set[Extent]] = {}  # by page: the extents that hold it
        self._following: dict[bytes, set[Extent]] = {}  # by page: the extents that begin after it

    def all(self) -> list[Extent]:
        return list(self._used_ns)

    def holds(self, keys: Iterable[bytes]) -> bool:
        return all(key in self._holding for key in keys)

    def add(self, extent: Extent, used_ns: int) -> None:
        if extent not in self._used_ns:
            self.bytes += extent.file_bytes
        self._used_ns[extent] = used_ns
        self._following.setdefault(extent.parent, set()).add(extent)
        for key in extent.keys:
            self._holding.setdefault(key, set()).add(extent)

    def discard(self, extent: Extent) -> None:
        if self._used_ns.pop(extent, None) is None:
            return
        self.bytes -= extent.file_bytes
        _drop(self._following, extent.parent, extent)
        for key in extent.keys:
            _drop(self._holding, key, extent)

    def use(self, extent: Extent, used_ns: int) -> bool:
        """Note that `extent` was used at `used_ns`; whether that is news."""
        news = self._used_ns.get(extent, used_ns) < used_ns
        if news:
            self._used_ns[extent] = used_ns
        return news

    def run(self, chain: Sequence[bytes]) -> list[ExtentRef]:
        """The longest run from the beginning, in as few extents as that takes."""
        refs: list[ExtentRef] = []
        place = 0
        while place < len(chain) and (extents := self._holding.get(chain[place])):
            stop, best = max(((extent.reach(chain, place), extent) for extent in extents), key=itemgetter(0))
            refs.append(ExtentRef(best, place, stop))
            place = stop
        return refs

    def ends(self, parents: Collection[bytes]) -> list[tuple[int, Extent]]:
        """The extents that nothing follows, and their last use: giving them up leaves usable beginnings.

        `parents`: pages that something not stored yet will follow.
        """
        return [
            (used_ns, extent)
            for extent, used_ns in self._used_ns.items()
            if not any(key in self._following or key in parents for key in reversed(extent.keys))
        ]


def _drop(extents: dict[bytes, set[Extent]], key: bytes, extent: Extent) -> None:
    extents[key].discard(extent)
    if not extents[key]:
        del extents[key]


def _extent_files(folder: Path) -> set[Path]:
    return {
        path for identity in _identities(folder) for path in _listed(identity) if path.suffix == files.SUFFIX
    }


def _identities(folder: Path) -> list[Path]:
    """Their folders, named by fingerprint."""
    return [path for path in _listed(folder) if len(path.name) == 2 * files.KEY_BYTES]


def _listed(folder: Path) -> list[Path]:
    """What is in `folder`; nothing if that cannot be seen."""
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def _header(path: Path) -> tuple[Extent, int] | None:
    """What `path` holds and its last use; None if it cannot be read, or was damaged and is removed."""
    with suppress(OSError):
        try:
            extent, used_ns = files.read_header(path)
            if extent.identity.hex() != path.parent.name:
                raise SnapshotDamaged()
            return extent, used_ns
        except SnapshotDamaged as exc:
            logger.warning("%s is removed: %s", path, exc)
            path.unlink()
    return None


def _hash(data: bytes, person: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=files.KEY_BYTES, person=person).digest()


def _int32(ids: Sequence[int] | NDArray[np.int32]) -> bytes:
    return np.ascontiguousarray(ids, "<i4").tobytes()
