"""Sections: what the model reads at once. One, if everything fits; else as few as the pages allow."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, zip_longest

import numpy as np

from worker.engine import EncodedPrefix, PromptTokenizer, QuoteMask
from worker.errors import DoesNotFit
from worker.source import Source, passages

#: A passage longer than this is not offered as a quotation, in tokens.
LONGEST_QUOTE = 96
#: Fewer tokens of text than this beside a heading are not worth a section.
LEAST_ROOM = 32
#: How a page begins on which a chapter, article or numbered section does.
_HEADING = re.compile(
    r"\s*(?:#{1,6} |(?:chapter|part|section|article|appendix|annex|schedule)\s+[\divxlca-z]{1,8}\b"
    r"|第[零〇一二三四五六七八九十百\d]+[编篇章节部]|\d{1,2}(?:\.\d{1,2}){0,3}\.?\s+(?-i:[A-Z\u4e00-\u9fff]))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a page, and where its text begins in the section's."""

    source: int
    page: int
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence or row that may be quoted, and the section's tokens it stands in."""

    source: int
    words: str
    start: int
    end: int


@dataclass
class Section:
    """Pages laid out as one prompt prefix."""

    system: str
    tokenizer: PromptTokenizer
    pieces: list[Piece] = field(default_factory=list)
    document_ids: set[str] = field(default_factory=set)  #: of what its text is from
    _texts: list[str] = field(default_factory=list)
    _length: int = 0

    def add(self, source: int, page: int, head: str, text: str) -> None:
        """Put part of a page at the end."""
        self._texts += (head, text)
        self.pieces.append(Piece(source, page, text, self._length + len(head)))
        self._length += len(head) + len(text)

    @cached_property
    def text(self) -> str:
        """The section as the model reads it; all its text must have been added."""
        return "".join(self._texts)

    @cached_property
    def encoded(self) -> EncodedPrefix:
        """The section as tokens; all its text must have been added."""
        return self.tokenizer.prefix(self.system, self.text)

    @property
    def tokens(self) -> int:
        """Tokens of the section, template included."""
        return len(self.encoded.ids)

    def pages_read(self, tokens: int) -> int:
        """How many of its pieces lie within the first `tokens` tokens."""
        if tokens >= self.tokens:
            return len(self.pieces)
        reached = int(self.encoded.spans[:tokens, 1].max(initial=0))
        return sum(piece.at + len(piece.text) <= reached for piece in self.pieces)

    def quote_mask(
        self, *, source: int | None = None, only: Collection[str] = (), but: Collection[str] = ()
    ) -> QuoteMask | None:
        """A mask that lets the model pick one passage and nothing else; None if there is none to pick.

        `source`: only from this document. `only`: none but these passages. `but`: not these again.
        """
        offered = set(but)
        starts, ends = [], []
        for passage in self._passages:
            elsewhere = source is not None and passage.source != source
            if elsewhere or passage.words in offered or (only and passage.words not in only):
                continue
            offered.add(passage.words)
            starts.append(passage.start)
            ends.append(passage.end)
        if not starts:
            return None
        return QuoteMask(self.encoded.ids, starts, ends, stop_id=self.tokenizer.stop_ids[0])

    @cached_property
    def _passages(self) -> list[Passage]:
        """What may be quoted, found once."""
        spans = self.encoded.spans
        found = []
        for piece in self.pieces:
            for span in passages(piece.text):
                start = int(np.searchsorted(spans[:, 1], piece.at + span.start, side="right"))
                end = int(np.searchsorted(spans[:, 0], piece.at + span.end, side="left"))
                if 0 < end - start <= LONGEST_QUOTE:
                    found.append(Passage(piece.source, piece.text[span.start : span.end], start, end))
        return found

    def words(self, mask: QuoteMask) -> str:
        """The passage that was picked under `mask`."""
        start, end = mask.passage
        spans = self.encoded.spans
        return self.text[spans[start, 0] : spans[end - 1, 1]].strip()


def plan(
    sources: Sequence[Source],
    tokenizer: PromptTokenizer,
    *,
    system: str,
    budget: int,
    side_by_side: bool = False,
) -> list[Section]:
    """Lay documents out in sections of at most `budget` tokens, in order, split between pages where possible.

    With `side_by_side`, the first section holds the beginning of each document, the second what follows.

    Raises:
        DoesNotFit: a section would hold next to nothing.
    """
    pages = [
        (number, index, page.text)
        for number, source in enumerate(sources)
        for index, page in enumerate(source.document.pages)
    ]
    whole = _lay_out(system, tokenizer, sources, pages)
    if whole.tokens <= budget:
        return [whole]
    room = budget - len(tokenizer.prefix(system, "").ids) - 32
    if not side_by_side:
        groups = _groups(pages, tokenizer, sources, room)
        return [_lay_out(system, tokenizer, sources, group) for group in groups]
    columns = [
        _groups([page for page in pages if page[0] == number], tokenizer, sources, room // len(sources))
        for number in range(len(sources))
    ]
    return [
        _lay_out(system, tokenizer, sources, [part for group in row for part in group])
        for row in zip_longest(*columns, fillvalue=[])
    ]


Part = tuple[int, int, str]  #: source, page, text of the page or of a piece of it


def _groups(
    pages: Sequence[Part], tokenizer: PromptTokenizer, sources: Sequence[Source], room: int
) -> list[list[Part]]:
    """Pages in order, as many to a group as fit `room` tokens with their headings.

    A group ends before a page that begins with a heading, if there is one in its last third.
    """
    heading = 24 + max(tokenizer.count(source.filename) for source in sources)
    if room - heading < LEAST_ROOM:
        raise DoesNotFit("The model's window is too small for so many documents at once; name fewer.")
    parts = [
        ((source, page, part), tokens + heading)
        for source, page, text in pages
        for part, tokens in _halves(text, tokenizer, room - heading)
    ]
    before = [0, *accumulate(tokens for _, tokens in parts)]
    groups, start = [], 0
    while start < len(parts):
        end = max(start + 1, bisect_right(before, before[start] + room) - 1)
        if end < len(parts):
            least = bisect_left(before, before[start] + 2 * room // 3)
            candidates = range(end, max(least, start + 1) - 1, -1)
            headed = (at for at in candidates if _HEADING.match(parts[at][0][2]))
            end = next(headed, end)
        groups.append([part for part, _ in parts[start:end]])
        start = end
    return groups


def _lay_out(
    system: str,
    tokenizer: PromptTokenizer,
    sources: Sequence[Source],
    group: Sequence[Part],
) -> Section:
    section = Section(system, tokenizer)
    last: int | None = None
    for number, index, text in group:
        source = sources[number]
        gap = "\n\n" if section.pieces else ""
        title = f"Document {number + 1}: {source.filename}\n\n" if number != last else ""
        section.add(number, index, f"{gap}{title}[{source.place(index)}]\n", text)
        section.document_ids.add(source.document_id)
        last = number
    return section


def _halves(text: str, tokenizer: PromptTokenizer, room: int) -> Iterator[tuple[str, int]]:
    """A page, or halves of it until each fits: cut at a line's end, else at a blank, else anywhere."""
    tokens = tokenizer.count(text)
    if tokens <= room or len(text) < 2:
        yield text, tokens
        return
    middle = len(text) // 2
    cut = text.rfind("\n", 1, middle) + 1 or text.rfind(" ", 1, middle) + 1 or middle
    yield from _halves(text[:cut], tokenizer, room)
    yield from _halves(text[cut:], tokenizer, room)
