"""A zip archive of text files, such as a code base: one document, in which every file is a page."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from parsers.archive import check_sizes, open_zip, read_member
from parsers.encoding import decode, is_text
from parsers.errors import Damaged
from parsers.limits import MIB, Limits
from parsers.reading import Mark, RawPage, Reading

PARSER = "source_tree/2"

_HEAD_BYTES = 1 << 14
#: A longer file is data, not source.
_MOST_BYTES = 2 * MIB
#: Folders that hold what was fetched or built, not written.
_SKIPPED = frozenset({
    ".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".idea", "__MACOSX",
})  # fmt: skip


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an archive without unpacking it.

    Raises Damaged (a member leads out of it), Encrypted, TooLarge.
    """
    with open_zip(path) as archive:
        check_sizes(archive, max_bytes=4 * limits.max_part_bytes)
        members = sorted(_members(archive), key=lambda entry: PurePosixPath(_name(entry)).parts)
    warnings: list[str] = []
    return Reading(
        parser=PARSER,
        raw_pages=_pages(path, members, warnings),
        total=len(members),
        paged=False,
        if_empty="The archive holds no text files. Unpack it and send the documents in it.",
        warnings=warnings,
    )


def _members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for entry in archive.infolist():
        place = PurePosixPath(_name(entry))
        if place.is_absolute() or ".." in place.parts:
            raise Damaged("The archive names a file outside of itself. Pack it anew and send that.")
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if not _name(entry).endswith("/") and not link and _SKIPPED.isdisjoint(place.parts):
            yield entry


def _name(entry: zipfile.ZipInfo) -> str:
    """Some programs for Windows part folders in their own way."""
    return entry.filename.replace("\\", "/")


def _pages(path: Path, members: list[zipfile.ZipInfo], warnings: list[str]) -> Iterator[RawPage]:
    unread = 0
    with open_zip(path) as archive:
        for entry in members:
            data = None
            if entry.file_size <= _MOST_BYTES:
                data = read_member(archive, entry.filename, max_bytes=_MOST_BYTES)
            if data is None or not is_text(data[:_HEAD_BYTES]):
                unread += 1
                yield RawPage("", name=_name(entry))
            else:
                yield RawPage(decode(data).text, name=_name(entry), marks=[Mark(_name(entry), 1, start=0)])
    if unread:
        warnings.append(
            f"{unread:,} of {len(members):,} files hold no text or are too long, and were not read."
        )
