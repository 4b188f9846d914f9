"""A document while it is being read: what is known before the first page, and the pages as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parsers.clean import clean
from parsers.document import Document, Page
from parsers.errors import Empty, TooLarge, TooManyPages
from parsers.limits import Limits


class RawPage(NamedTuple):
    """A page as its format gives it, before cleaning."""

    text: str
    label: str | None = None


@dataclass(slots=True)
class Reading:
    """What a format's `read` returns: it opened the file, and reads a page when one is drawn from it."""

    parser: str
    raw_pages: Iterable[RawPage]
    #: Number of pages to come.
    total: int
    paged: bool
    title: str | None = None
    #: What to tell the sender where no page holds text.
    if_empty: str | None = None
    #: May grow while pages are drawn.
    warnings: list[str] = field(default_factory=list)

    def pages(self, limits: Limits) -> Iterator[Page]:
        """Cleaned pages one by one. Raises TooManyPages before the first, TooLarge, Empty after the last."""
        if self.paged and self.total > limits.max_pages:
            raise TooManyPages(
                f"The file has {self.total:,} pages; {limits.max_pages:,} are read at most. Split it."
            )
        size = 0
        for number, raw in enumerate(self.raw_pages, start=1):
            page = Page(number, clean(raw.text), raw.label)
            size += len(page.text.encode())
            if size > limits.max_text_bytes:
                raise TooLarge(f"The file holds more than {limits.max_text_bytes:,} bytes of text. Split it.")
            yield page
        if not size:
            raise Empty(self.if_empty)

    def document(self, pages: Sequence[Page], media_type: str) -> Document:
        """The finished document, once all pages are drawn."""
        title = " ".join(clean(self.title).split()) if self.title else None
        return Document(
            tuple(pages), title or None, media_type, self.paged, tuple(self.warnings), self.parser
        )
