"""Files: uploads named by the SHA-256 of their bytes, and the text parsed from them.

Each is written under another name and renamed once it is whole: a crash leaves nothing that looks finished.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.errors import StorageFull, UploadEmpty, UploadTooLarge

_FULL = {errno.ENOSPC, errno.EDQUOT}
#: How the names of unfinished files begin.
_INCOMING = "incoming-"


@contextmanager
def _disk() -> Iterator[None]:
    """Translate a full disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StorageFull from exc
        raise


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is kept."""

    sha256: str
    size_bytes: int


class Incoming(io.RawIOBase):
    """A file being received: hashed while it is written, in constant memory. Dropped unless kept.

    Writing raises `UploadTooLarge` beyond the limit and `StorageFull` when the disk has no room.
    """

    def __init__(self, file: io.FileIO, path: Path, limit: int) -> None:
        super().__init__()
        self._file = file
        self._path = path
        self._limit = limit
        self._hash = hashlib.sha256()
        self._size = 0
        self._sealed: Stored | None = None

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._sealed = None
        self._size += len(view)
        if self._size > self._limit:
            raise UploadTooLarge(
                f"The file is larger than {self._limit:,} bytes, the most this server accepts."
            )
        self._hash.update(view)
        done = 0
        with _disk():
            while done < len(view):
                done += self._file.write(view[done:])
        return done

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seal(self) -> Stored:
        """Have every byte on the disk, however long that takes, once; what the file will be kept as.

        Raises:
            UploadEmpty: nothing was written.
            StorageFull: the disk has no room.
        """
        if not self._size:
            raise UploadEmpty
        if self._sealed is None:
            with _disk():
                os.fsync(self._file.fileno())
            self._sealed = Stored(self._hash.hexdigest(), self._size)
        return self._sealed

    def keep(self) -> Stored:
        """Move the file to its name, durably. Raises what `seal` raises."""
        stored = self.seal()
        with _disk():
            os.replace(self._path, self._path.with_name(stored.sha256))
            _sync_folder(self._path.parent)
        return stored

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._path.unlink(missing_ok=True)
        super().close()


class FileStore:
    """The folder both API and workers see."""

    def __init__(self, root: Path, *, max_upload_bytes: int) -> None:
        self._uploads = root / "uploads"
        self._texts = root / "texts"
        self._max_upload_bytes = max_upload_bytes

    def incoming(self) -> Incoming:
        """A new file to write an upload into."""
        with _disk():
            self._uploads.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._uploads, prefix=_INCOMING)
        return Incoming(io.FileIO(descriptor, "r+"), Path(name), self._max_upload_bytes)

    def upload(self, sha256: str) -> Path:
        """Where an upload lies."""
        return self._uploads / sha256

    def save_text(self, sha256: str, parser_version: str, text: bytes) -> None:
        """Keep what a parser made of an upload."""
        path = self._text(sha256, parser_version)
        with _disk():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_INCOMING, delete=False) as file:
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
            _sync_folder(path.parent)

    def text(self, sha256: str, parser_version: str) -> bytes | None:
        """What a parser made of an upload, or None if that version never read it."""
        try:
            return self._text(sha256, parser_version).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, sha256: str) -> None:
        """Forget an upload and every text of it."""
        self.upload(sha256).unlink(missing_ok=True)
        shutil.rmtree(self._texts / sha256, ignore_errors=True)

    def sweep(self, *, older_than_s: float) -> int:
        """Remove unfinished files that nobody has written to for so long: a crash left them. How many."""
        last = time.time() - older_than_s
        removed = 0
        for path in chain(self._uploads.glob(f"{_INCOMING}*"), self._texts.glob(f"*/{_INCOMING}*")):
            with suppress(FileNotFoundError):  # finished or removed meanwhile
                if path.stat().st_mtime < last:
                    path.unlink()
                    removed += 1
        return removed

    def _text(self, sha256: str, parser_version: str) -> Path:
        return self._texts / sha256 / f"{parser_version.replace('/', '-')}.json"


def _sync_folder(path: Path) -> None:
    """Make a rename durable: the folder's entry must reach the disk too (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
