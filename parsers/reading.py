"""A document while it is being read: what is known before the first page, and the pages as they come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from parsers.clean import clean, one_line
from parsers.document import Anchor, Change, Document, Page, Section
from parsers.errors import Empty, TooLarge, TooManyPages
from parsers.language import language
from parsers.limits import Limits

_SAMPLE = 20_000


class Mark(NamedTuple):
    """A heading, an anchor or a changed paragraph on a page."""

    title: str = ""
    #: 0 for what is no heading.
    level: int = 0
    anchor: str | None = None
    #: Offset in the cleaned text, None where the title has to be looked for.
    start: int | None = None
    #: Those of the paragraph that begins here.
    changes: Sequence[Change] = ()


class RawPage(NamedTuple):
    """A page as its format gives it, before cleaning."""

    text: str
    label: str | None = None
    name: str | None = None
    marks: Sequence[Mark] = ()
    #: The text was recognised from a picture of the page.
    ocr: bool = False


def omissions(words: Mapping[str, int]) -> list[str]:
    """Warnings of words left out, by what they are."""
    return [f"{count:,} words of {name} were left out." for name, count in words.items() if count]


def disclosures(where: str, names: Sequence[str]) -> list[str]:
    """A warning of what was read although `where` hides it."""
    return [f"Hidden in {where}, and read all the same: {', '.join(names)}."] if names else []


@dataclass(slots=True)
class Reading:
    """What a format's `read` returns: it opened the file, and reads a page when one is drawn from it."""

    parser: str
    raw_pages: Iterable[RawPage]
    #: Number of pages to come.
    total: int
    paged: bool
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: What to tell the sender where no page holds text.
    if_empty: str | None = None
    #: May grow while pages are drawn.
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    ocr_pages: list[int] = field(default_factory=list)
    _sample: str = ""

    def pages(self, limits: Limits) -> Iterator[Page]:
        """Cleaned pages one by one. Raises TooManyPages before the first, TooLarge, Empty after the last."""
        if self.paged and self.total > limits.max_pages:
            raise TooManyPages(
                f"The file has {self.total:,} pages; {limits.max_pages:,} are read at most. Split it."
            )
        size = 0
        for number, raw in enumerate(self.raw_pages, start=1):
            page = Page(number, clean(raw.text), raw.label, raw.name)
            size += len(page.text.encode())
            if size > limits.max_text_bytes:
                raise TooLarge(f"The file holds more than {limits.max_text_bytes:,} bytes of text. Split it.")
            self._note(page, raw)
            yield page
        if not size:
            raise Empty(self.if_empty)

    def document(self, pages: Sequence[Page], media_type: str) -> Document:
        """The finished document, once all pages are drawn."""
        return Document(
            pages=tuple(pages),
            title=one_line(self.title or "") or None,
            media_type=media_type,
            paged=self.paged,
            warnings=tuple(self.warnings),
            parser=self.parser,
            sections=tuple(self.sections),
            anchors=tuple(sorted(self.anchors, key=lambda anchor: (anchor.page, anchor.start))),
            changes=tuple(self.changes),
            metadata={name: said for name, value in self.metadata.items() if (said := one_line(value))},
            language=language(self._sample),
            ocr_pages=tuple(self.ocr_pages),
        )

    def _note(self, page: Page, raw: RawPage) -> None:
        """Keep what is known of a page besides its text."""
        if len(self._sample) < _SAMPLE:
            self._sample += f"{page.text}\n"
        if raw.ocr:
            self.ocr_pages.append(page.number)
        at = 0
        for mark in raw.marks:
            title = one_line(mark.title)
            start = mark.start
            if start is None and title:
                start = at = _find(page.text, title, at)
            elif start is None:
                start = len(page.text)
            if mark.level and title:
                self.sections.append(Section(title, mark.level, page.number, start))
            if mark.anchor:
                self.anchors.append(Anchor(mark.anchor, page.number, start))
            self.changes += [replace(change, page=page.number, start=start) for change in mark.changes]


def _find(text: str, title: str, at: int) -> int:
    """Where a title stands in a text, from `at` on or before, 0 where it does not. Lines may break it."""
    for start in (at, 0):
        exact = text.find(title, start)
        if exact >= 0:
            return exact
    words = re.compile(r"\s+".join(map(re.escape, title.split())), re.IGNORECASE)
    found = words.search(text)
    return found.start() if found else 0
