"""EPUB: the chapters in the order of the book's spine (EPUB 3.3, sections 4 and 5), each read as HTML."""

from __future__ import annotations

import posixpath
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from parsers import html
from parsers.archive import open_zip, read_member
from parsers.errors import Damaged, Empty, Unsupported
from parsers.limits import Limits
from parsers.package import Package
from parsers.reading import Reading, omissions
from parsers.sections import Block, sections

PARSER = "epub/3"

_CONTAINER = "META-INF/container.xml"
_METADATA = {"creator": "author", "publisher": "publisher", "date": "created", "subject": "subject"}


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a book. Raises Damaged, TooLarge, Unsupported (its chapters are locked)."""
    with open_zip(path) as archive:
        package = Package(archive, max_part_bytes=limits.max_part_bytes)
        container = package.xml(_CONTAINER)
        rootfile = None if container is None else container.find(".//{*}rootfile")
        name = "" if rootfile is None else rootfile.get("full-path", "")
        book = package.xml(name) if name else None
        if book is None:
            raise Damaged("The EPUB has no list of its chapters. Save a new copy and send that.")
        chapters = [*dict.fromkeys(_chapters(book, posixpath.dirname(name)))]
        if not _locked(package).isdisjoint(chapters):
            raise Unsupported("The book is protected against copying, and is not read. Send a free copy.")
        members = archive.namelist()
        found = {_plain(member): member for member in members} | {member: member for member in members}
        missing: list[str] = []
        warnings: dict[str, None] = {}  # each once
        left_out: Counter[str] = Counter()

        def blocks() -> Iterator[Block]:
            for chapter in chapters:
                name = found.get(chapter) or found.get(_plain(chapter), chapter)
                data = read_member(archive, name, max_bytes=limits.max_part_bytes)
                if data is None:
                    missing.append(chapter)
                    continue
                with suppress(Empty):
                    page = html.parse(data)
                    warnings.update(dict.fromkeys(page.warnings))
                    left_out.update(page.left_out)
                    yield from page.blocks()

        pages = sections(blocks())
    lost = [f"Not in the file, though in its order: {', '.join(missing)}."] if missing else []
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=book.findtext(".//{http://purl.org/dc/elements/1.1/}title"),
        metadata=_metadata(book),
        warnings=[*warnings, *omissions(left_out), *lost],
    )


def _locked(package: Package) -> set[str]:
    """Names of what is encrypted (EPUB Open Container Format 3.3, section 4.2.6.3.2); fonts often are."""
    root = package.xml("META-INF/encryption.xml")
    links = root.iter("{*}CipherReference") if root is not None else ()
    return {posixpath.normpath(urllib.parse.unquote(link.get("URI", ""))) for link in links}


def _chapters(book: Any, folder: str) -> Iterator[str]:
    """Names of the chapters in reading order; of one that is not in the list of files, what it is called."""
    items = {item.get("id"): item for item in book.iterfind("{*}manifest/{*}item")}
    for reference in book.iterfind("{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        path = reference.get("idref", "") if item is None else item.get("href", "").partition("#")[0]
        yield posixpath.normpath(posixpath.join(folder, urllib.parse.unquote(path)))


def _plain(name: str) -> str:
    """A member's name in the form by which one is found that is written otherwise in the list of chapters."""
    return urllib.parse.unquote(name).casefold()


def _metadata(book: Any) -> dict[str, str]:
    return {
        key: text
        for name, key in _METADATA.items()
        if (text := book.findtext(f".//{{http://purl.org/dc/elements/1.1/}}{name}"))
    }
