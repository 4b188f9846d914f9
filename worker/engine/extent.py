"""One file of stored pages: consecutive pages of one document, all layers. It exists whole or not at all.

    preamble | page keys | owners | checksum of each block | checksum of all that | zeros | payload

Numbers are little-endian, checksums XXH3-64, owners JSON; the zeros reach to a multiple of 4,096 bytes. The
payload is the caller's bytes, in blocks of 8 MiB: the unit of reading and of checking.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from xxhash import xxh3_64

from worker.engine.errors import SnapshotDamaged

#: Of the file format; another version is another identity, so old files are never misread.
VERSION = 2
SUFFIX = ".kv"
KEY_BYTES = 16
_BLOCK_BYTES = 8 << 20
_ALIGNMENT = 4096
_MAGIC = b"unabr.kv"
# magic, version, first page, pages, payload, owners, identity, parent; lengths in bytes
_PREAMBLE = struct.Struct("<8sHIIQI16s16s")
_TEMPORARY = SUFFIX + ".tmp"


@dataclass(frozen=True, slots=True)
class Extent:
    """What an extent's header says, its checksums aside."""

    path: Path
    identity: bytes  #: fingerprint of all that the payload depends on besides the tokens
    start: int  #: its first page's place in the chain
    parent: bytes  #: key of the page before that one; zeros at the beginning
    keys: tuple[bytes, ...] = field(hash=False)  #: of its pages
    payload_bytes: int
    owners: frozenset[str] = frozenset()  #: of what it was read from, by opaque names

    @property
    def stop(self) -> int:
        return self.start + len(self.keys)

    @property
    def file_bytes(self) -> int:
        return self._payload_offset + self.payload_bytes

    def reach(self, chain: Sequence[bytes], place: int) -> int:
        """Where the pages that it shares with `chain`, from `place` on, end."""
        for key, wanted in zip(self.keys[place - self.start :], chain[place:], strict=False):
            if key != wanted:
                break
            place += 1
        return place

    def write(self, payload: memoryview, clock_ns: Callable[[], int]) -> int:
        """Store `payload`, which is C-contiguous; the time of its first use.

        `clock_ns` is asked for that time when all is on disk and only the file's name is missing. An
        exception leaves nothing behind.
        """
        with _whole(self.path) as fd:
            checksums = []
            for offset, block in self._blocks(payload):
                checksums.append(_checksum(block))
                _transfer(os.pwritev, fd, block, offset)
            _transfer(os.pwritev, fd, memoryview(self._header(checksums)), 0)
            os.fsync(fd)
            used_ns = clock_ns()
            os.utime(fd, ns=(used_ns, used_ns))
        return used_ns

    def read(self, into: memoryview, pool: Executor) -> None:
        """Fill `into`, writable and C-contiguous, on the threads of `pool`, and check every byte.

        Raises `SnapshotDamaged` and `OSError`; `into` then holds anything.
        """
        if into.nbytes != self.payload_bytes:
            raise SnapshotDamaged("A stored part of a document has another size than its place in memory.")
        with _opened(self.path) as fd:
            checksums = self._checksums(fd)
            if sys.platform == "linux":  # read ahead by whole blocks, not by the system's guess
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            parts = zip(self._blocks(into), checksums, strict=True)
            reads = [pool.submit(_read_block, fd, *block, checksum) for block, checksum in parts]
            wait(reads)
            for read in reads:
                read.result()

    def _blocks(self, payload: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Each with its place in the file."""
        data, offset = payload.cast("B"), self._payload_offset
        for start in range(0, len(data), _BLOCK_BYTES):
            yield offset + start, data[start : start + _BLOCK_BYTES]

    def _checksums(self, fd: int) -> tuple[int, ...]:
        found, checksums = _parse(self.path, fd)
        if found != self:
            raise SnapshotDamaged()
        return checksums

    def _header(self, checksums: Sequence[int]) -> bytes:
        owners = self._packed_owners
        sizes = self.start, len(self.keys), self.payload_bytes, len(owners)
        preamble = _PREAMBLE.pack(_MAGIC, VERSION, *sizes, self.identity, self.parent)
        header = b"".join([preamble, *self.keys, owners, struct.pack(f"<{len(checksums)}Q", *checksums)])
        return header + struct.pack("<Q", _checksum(header))

    @property
    def _payload_offset(self) -> int:
        used = _header_bytes(len(self.keys), self.payload_bytes, len(self._packed_owners))
        return -(-used // _ALIGNMENT) * _ALIGNMENT

    @property
    def _packed_owners(self) -> bytes:
        return json.dumps(sorted(self.owners)).encode()


def read_header(path: Path) -> tuple[Extent, int]:
    """The extent stored in `path` and its last use, in ns since the epoch.

    Raises `SnapshotDamaged` and `OSError`.
    """
    with _opened(path) as fd:
        return _parse(path, fd)[0], os.fstat(fd).st_mtime_ns


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left; files that a living one holds stay."""
    for path in folder.glob("*" + _TEMPORARY):
        with suppress(OSError), _opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextmanager
def _whole(path: Path) -> Iterator[int]:
    """A new file, locked while it has a temporary name, and renamed to `path` when the block is done."""
    fd, temporary = tempfile.mkstemp(_TEMPORARY, dir=path.parent)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _parse(path: Path, fd: int) -> tuple[Extent, tuple[int, ...]]:
    """The header and the checksums of the blocks."""
    file_bytes = os.fstat(fd).st_size
    head = os.pread(fd, _ALIGNMENT, 0)
    if len(head) < _PREAMBLE.size:
        raise SnapshotDamaged()
    magic, version, start, pages, payload_bytes, owners_bytes, *fingerprints = _PREAMBLE.unpack_from(head)
    header_bytes = _header_bytes(pages, payload_bytes, owners_bytes)
    if magic != _MAGIC or version != VERSION or header_bytes > file_bytes:
        raise SnapshotDamaged()
    if header_bytes > len(head):
        head = os.pread(fd, header_bytes, 0)
    keys_end = _PREAMBLE.size + pages * KEY_BYTES
    keys = tuple(head[at : at + KEY_BYTES] for at in range(_PREAMBLE.size, keys_end, KEY_BYTES))
    owners_end = keys_end + owners_bytes
    *checksums, own = struct.unpack_from(f"<{_block_count(payload_bytes) + 1}Q", head, owners_end)
    if own != _checksum(head[: header_bytes - 8]):
        raise SnapshotDamaged()
    owners = frozenset(json.loads(head[keys_end:owners_end]))
    identity, parent = fingerprints
    extent = Extent(path, identity, start, parent, keys, payload_bytes, owners)
    if extent.file_bytes != file_bytes:
        raise SnapshotDamaged()
    return extent, tuple(checksums)


def _header_bytes(pages: int, payload_bytes: int, owners_bytes: int) -> int:
    return _PREAMBLE.size + pages * KEY_BYTES + owners_bytes + (_block_count(payload_bytes) + 1) * 8


def _block_count(payload_bytes: int) -> int:
    return -(-payload_bytes // _BLOCK_BYTES)


def _read_block(fd: int, offset: int, block: memoryview, checksum: int) -> None:
    _transfer(os.preadv, fd, block, offset)
    if _checksum(block) != checksum:
        raise SnapshotDamaged()


def _checksum(data: bytes | memoryview) -> int:
    total = xxh3_64()
    total.update(data)  # other threads run meanwhile, with every release of the package
    return total.intdigest()


def _transfer(
    call: Callable[[int, list[memoryview], int], int], fd: int, data: memoryview, offset: int
) -> None:
    """Move all of `data` by `call`, which may move less than asked."""
    while data:
        moved = call(fd, [data], offset)
        if not moved:
            raise SnapshotDamaged()  # the file ends here
        data, offset = data[moved:], offset + moved
