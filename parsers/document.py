"""The result of parsing: a document as pages of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Raise it whenever any parser's output may change: saved text is keyed by it.
PARSER_VERSION = "1"

_JSON_VERSION = 1


@dataclass(frozen=True, slots=True)
class Page:
    """One sheet of a paged document, or one section of a document without fixed pages."""

    #: Physical position in the file, from 1.
    number: int
    text: str
    #: The number printed on the page ("iv", "A-3"), where the file states it.
    label: str | None = None


@dataclass(frozen=True, slots=True)
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

    @property
    def characters(self) -> int:
        return sum(len(page.text) for page in self.pages)

    @property
    def blank_pages(self) -> list[int]:
        """Numbers of the pages that have no text."""
        return [page.number for page in self.pages if not page.text.strip()]

    @property
    def pages_without_text(self) -> int:
        return len(self.blank_pages)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values that `from_json` turns back into an equal document."""
        return {"version": _JSON_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Document:
        """The document that `to_json` wrote down. Raises ValueError for a version it does not know."""
        if data.get("version") != _JSON_VERSION:
            raise ValueError(f"saved document has version {data.get('version')!r}, expected {_JSON_VERSION}")
        return cls(
            pages=tuple(Page(**page) for page in data["pages"]),
            title=data["title"],
            media_type=data["media_type"],
            paged=data["paged"],
            warnings=tuple(data["warnings"]),
            parser=data["parser"],
        )
