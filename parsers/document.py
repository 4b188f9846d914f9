"""The result of parsing: a document as pages of text, and what is known of their structure."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from parsers.markdown import Table, tables

#: Raise it whenever any parser's output may change: saved text is keyed by it.
PARSER_VERSION = "7"

#: Version 1 had pages, title, media type, warnings and parser only; the rest is empty when it is read.
_JSON_VERSION = 2
#: Its pages are files, and their lines are cited.
_SOURCE_TREE = "application/zip"
_READABLE = (1, _JSON_VERSION)


@dataclass(frozen=True, slots=True)
class Page:
    """One sheet of a paged document, or one place of another. Offsets count characters of `text`."""

    #: Physical position in the file, from 1.
    number: int
    text: str
    #: The number printed on the page ("iv", "A-3"), where the file or the page states it.
    label: str | None = None
    #: What the place is called where a number says nothing: "src/app.py", "sheet Budget", "slide 3".
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and where it stands."""

    title: str
    #: 1 for the outermost.
    level: int
    page: int
    #: Offset in the page's text; 0 where the page does not repeat the title.
    start: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """A name by which a place can be linked to: page.html#name."""

    name: str
    page: int
    start: int


@dataclass(frozen=True, slots=True)
class Change:
    """A tracked change: the text of the document holds insertions, and no deletions."""

    kind: Literal["inserted", "deleted"]
    text: str
    author: str | None
    #: As the file writes it, ISO 8601.
    date: str | None
    #: The page on which its paragraph begins; of the change itself, it may be the next.
    page: int
    #: Offset in the page's text of its paragraph; of the next one, or the text's end, where that is gone.
    start: int = 0


@dataclass(frozen=True)
class Document:
    pages: tuple[Page, ...]
    title: str | None
    media_type: str
    #: False where `pages` are sections of a text that has no sheets: a citation then says "section n".
    paged: bool
    #: Sentences for the reader: what was guessed, skipped or repaired.
    warnings: tuple[str, ...]
    #: The parser and the version of its rules, such as "pdf/1".
    parser: str
    sections: tuple[Section, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    changes: tuple[Change, ...] = ()
    #: What the file says of itself: author, subject, created, ...
    metadata: Mapping[str, str] | None = None
    #: ISO 639-1 code of the language that most of the text is in.
    language: str | None = None
    #: Numbers of the pages whose text was recognised from their picture.
    ocr_pages: tuple[int, ...] = ()

    @property
    def characters(self) -> int:
        return sum(len(page.text) for page in self.pages)

    @property
    def blank_pages(self) -> list[int]:
        """Numbers of the pages that have no text."""
        return [page.number for page in self.pages if not page.text.strip()]

    @cached_property
    def tables(self) -> list[Table]:
        """The Markdown tables in the text, in order."""
        return [table for page in self.pages for table in tables(page.text, page.number)]

    def place(self, index: int, offset: int | None = None) -> str:
        """What a person would call a page, or the character at `offset` on it; `index` counts from 0."""
        page = self.pages[index]
        if page.name and offset is not None and self.media_type == _SOURCE_TREE:
            return f"{page.name}, line {page.text.count(chr(10), 0, offset) + 1}"
        if page.name:
            return page.name
        if self.paged:
            return f"page {page.number}"
        place = f"section {page.number}"
        if offset is None:
            return place
        if anchor := self._anchor(page.number, offset):
            return f"{place}, #{anchor}"
        return f"{place}, paragraph {page.text.count(chr(10) * 2, 0, offset) + 1}"

    def _anchor(self, page: int, offset: int) -> str | None:
        """The nearest anchor at or before a character, also on an earlier page."""
        at = bisect.bisect_right(self.anchors, (page, offset), key=lambda anchor: (anchor.page, anchor.start))
        return self.anchors[at - 1].name if at else None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values that `from_json` turns back into an equal document."""
        pages = [
            {"number": page.number, "text": page.text, "label": page.label, "name": page.name}
            for page in self.pages
        ]  # `asdict` would copy them value by value
        return {"version": _JSON_VERSION, **asdict(replace(self, pages=())), "pages": pages}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Document:
        """The document that `to_json` wrote down. Raises ValueError for a version it does not know."""
        if data.get("version") not in _READABLE:
            raise ValueError(f"saved document has version {data.get('version')!r}, expected {_JSON_VERSION}")
        return cls(
            pages=tuple(Page(**page) for page in data["pages"]),
            title=data["title"],
            media_type=data["media_type"],
            paged=data["paged"],
            warnings=tuple(data["warnings"]),
            parser=data["parser"],
            sections=tuple(Section(**section) for section in data.get("sections", ())),
            anchors=tuple(Anchor(**anchor) for anchor in data.get("anchors", ())),
            changes=tuple(Change(**change) for change in data.get("changes", ())),
            metadata=data.get("metadata"),
            language=data.get("language"),
            ocr_pages=tuple(data.get("ocr_pages", ())),
        )
