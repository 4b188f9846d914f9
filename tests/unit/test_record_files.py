"""Files: received in constant memory, named by their hash, whole or not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import StorageFull, UploadEmpty, UploadTooLarge
from jobs.files import FileStore

LIMIT = 1000


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, max_upload_bytes=LIMIT)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root on Linux can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_upload_is_kept_under_the_hash_of_its_bytes(files: FileStore, tmp_path: Path) -> None:
    with files.incoming() as file:
        assert file.write(b"Hello, ") == 7
        file.write(bytearray(b"world"))
        stored = file.keep()
    assert stored.sha256 == hashlib.sha256(b"Hello, world").hexdigest()
    assert stored.size_bytes == 12
    assert files.upload(stored.sha256).read_bytes() == b"Hello, world"
    assert names(tmp_path / "uploads") == [stored.sha256]


def test_the_same_bytes_are_kept_once(files: FileStore, tmp_path: Path) -> None:
    for _ in range(2):
        with files.incoming() as file:
            file.write(b"same")
            stored = file.keep()
    assert names(tmp_path / "uploads") == [stored.sha256]


def test_what_was_received_can_be_read_back_before_it_is_kept(files: FileStore) -> None:
    with files.incoming() as file:
        file.write(b"%PDF-1.7 and more")
        file.seek(0)
        assert file.read(8) == b"%PDF-1.7"
        assert file.keep().size_bytes == 17


def test_an_upload_that_is_not_kept_is_dropped(files: FileStore, tmp_path: Path) -> None:
    with files.incoming() as file:
        file.write(b"half of it")
        assert len(names(tmp_path / "uploads")) == 1
    assert names(tmp_path / "uploads") == []


def test_an_upload_may_reach_the_limit_and_not_pass_it(files: FileStore, tmp_path: Path) -> None:
    with files.incoming() as file:
        file.write(b"x" * LIMIT)
        assert file.keep().size_bytes == LIMIT
    with files.incoming() as file:
        file.write(b"y" * LIMIT)
        with pytest.raises(UploadTooLarge, match="1,000 bytes"):
            file.write(b"y")
    assert len(names(tmp_path / "uploads")) == 1


def test_an_empty_upload_is_refused(files: FileStore, tmp_path: Path) -> None:
    with files.incoming() as file, pytest.raises(UploadEmpty):
        file.keep()
    assert names(tmp_path / "uploads") == []


def test_a_full_disk_is_told_and_leaves_nothing_behind(tiny_disk: Path) -> None:
    files = FileStore(tiny_disk, max_upload_bytes=10**9)
    with files.incoming() as file, pytest.raises(StorageFull):
        file.write(b"x" * 100_000)
    assert names(tiny_disk / "uploads") == []
    with files.incoming() as file:
        file.write(b"small")
        file.keep()


def test_a_text_that_does_not_fit_leaves_the_one_before(tiny_disk: Path) -> None:
    files = FileStore(tiny_disk, max_upload_bytes=10**9)
    files.save_text("hash", "1", b"the old text")
    with pytest.raises(StorageFull):
        files.save_text("hash", "1", b"x" * 100_000)
    assert files.text("hash", "1") == b"the old text"
    assert names(tiny_disk / "texts" / "hash") == ["1.json"]


def test_a_disk_too_full_to_begin_is_told(tiny_disk: Path) -> None:
    (tiny_disk / "uploads").mkdir()
    fill = tiny_disk / "fill"
    with pytest.raises(OSError, match="No space"):
        fill.write_bytes(b"x" * 100_000)
    files = FileStore(tiny_disk, max_upload_bytes=10**9)
    with files.incoming() as file, pytest.raises(StorageFull):
        file.write(b"x" * 4096)


def test_a_text_is_kept_for_each_version_of_the_parser(files: FileStore) -> None:
    files.save_text("hash", "pdf/1", b"one")
    files.save_text("hash", "pdf/2", b"two")
    files.save_text("hash", "pdf/2", b"two, again")
    assert files.text("hash", "pdf/1") == b"one"
    assert files.text("hash", "pdf/2") == b"two, again"
    assert files.text("hash", "pdf/3") is None
    assert files.text("other", "pdf/1") is None


def test_deleting_forgets_the_upload_and_every_text_of_it(files: FileStore, tmp_path: Path) -> None:
    with files.incoming() as file:
        file.write(b"secret")
        stored = file.keep()
    files.save_text(stored.sha256, "1", b"secret")
    files.delete(stored.sha256)
    files.delete(stored.sha256)
    assert not files.upload(stored.sha256).exists()
    assert files.text(stored.sha256, "1") is None
    assert set(tmp_path.rglob("*")) == {tmp_path / "uploads", tmp_path / "texts"}


def test_a_crash_while_receiving_leaves_nothing_that_looks_finished_and_the_sweep_removes_it(
    files: FileStore, tmp_path: Path
) -> None:
    crash = """
import os, sys
from pathlib import Path
from jobs.files import FileStore
file = FileStore(Path(sys.argv[1]), max_upload_bytes=1000).incoming()
file.write(b"half of it")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False)
    assert done.returncode == -9
    [left] = (tmp_path / "uploads").iterdir()
    assert left.name.startswith("incoming-")
    assert files.sweep(older_than_s=3600) == 0
    old = time.time() - 3601
    os.utime(left, (old, old))
    assert files.sweep(older_than_s=3600) == 1
    assert names(tmp_path / "uploads") == []


def test_the_sweep_of_files_leaves_what_is_finished(files: FileStore, tmp_path: Path) -> None:
    assert files.sweep(older_than_s=0) == 0
    with files.incoming() as file:
        file.write(b"whole")
        stored = file.keep()
    files.save_text(stored.sha256, "1", b"text")
    unfinished = tmp_path / "texts" / stored.sha256 / "incoming-1"
    unfinished.write_bytes(b"half a text")
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    assert files.sweep(older_than_s=3600) == 1
    assert not unfinished.exists()
    assert files.upload(stored.sha256).exists()
    assert files.text(stored.sha256, "1") == b"text"
