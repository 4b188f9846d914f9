"""Parsing without a child process: the way from a path to pages, format by format."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from parsers.document import Document
from parsers.errors import OutOfMemory, TooLarge
from parsers.limits import DEFAULT_LIMITS, Limits
from parsers.reading import Reading
from parsers.sniff import (
    BY_SUFFIX,
    EPUB,
    HTML,
    KINDS,
    MARKDOWN,
    OPENDOCUMENT,
    PDF,
    RTF,
    SEPARATED,
    SHEETS,
    SLIDES,
    TEXT,
    WORD,
    ZIP,
    sniff,
)

#: Called with pages done and pages in all.
OnPage = Callable[[int, int], None]

#: Module and function, imported when needed: each brings its own library.
_READERS = {
    PDF: ("parsers.pdf", "read"),
    WORD: ("parsers.word", "read"),
    HTML: ("parsers.html", "read"),
    MARKDOWN: ("parsers.text", "read_markdown"),
    TEXT: ("parsers.text", "read"),
    EPUB: ("parsers.epub", "read"),
    OPENDOCUMENT: ("parsers.opendocument", "read"),
    RTF: ("parsers.richtext", "read"),
    SLIDES: ("parsers.slides", "read"),
    SHEETS: ("parsers.sheets", "read"),
    SEPARATED: ("parsers.sheets", "read_separated"),
    ZIP: ("parsers.source_tree", "read"),
}


class Read(Protocol):
    """The door of every format."""

    def __call__(self, path: Path, *, password: str | None, limits: Limits) -> Reading: ...


def open_document(path: Path, *, filename: str, password: str | None, limits: Limits) -> tuple[str, Reading]:
    """Media type and opened document. Raises any ParseError but those of the sandbox."""
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise TooLarge(f"The file has {size:,} bytes; {limits.max_bytes:,} are read at most. Split it.")
    media_type = sniff(path, filename, password)
    module, function = _READERS[media_type]
    read: Read = getattr(import_module(module), function)
    reading = read(path, password=password, limits=limits)
    named = BY_SUFFIX.get(Path(filename).suffix.lower(), media_type)
    if KINDS[named] != KINDS[media_type]:
        reading.warnings.append(
            f"The name says {KINDS[named]}, but the content is {KINDS[media_type]} and was read so."
        )
    return media_type, reading


def parse_in_process(
    path: Path,
    *,
    filename: str,
    password: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_page: OnPage | None = None,
) -> Document:
    """What `parse` does, but without a child: a hostile file can crash or exhaust this process."""
    try:
        media_type, reading = open_document(path, filename=filename, password=password, limits=limits)
        pages = []
        for page in reading.pages(limits):
            pages.append(page)
            if on_page:
                on_page(page.number, reading.total)
        return reading.document(pages, media_type)
    except MemoryError as exc:
        raise OutOfMemory from exc
