"""Citations: every quotation is searched in the documents, and its page is where it was found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from rapidfuzz import fuzz

from worker.source import Source, Span, squeeze

Match = Literal["exact", "normalized", "close", "none"]

#: Below this likeness (0 to 100, normalized indel similarity) a quotation counts as invented.
CLOSE_ENOUGH = 90.0
_QUOTED = re.compile(r"[“\"„«]([^“”\"„«»\n]{20,600})[”\"“»]|「([^」\n]{6,300})」|『([^』\n]{6,300})』")


class Citation(TypedDict):
    """A quotation and where it stands; offsets count characters of the page's text."""

    quote: str
    document_id: str
    page: int | None
    place: str | None
    label: str | None
    start: int | None
    end: int | None
    verified: bool
    match: Match
    score: float


def quotations(text: str) -> list[str]:
    """What stands between quotation marks in an answer and is long enough to be a quotation."""
    return [next(filter(None, found.groups())) for found in _QUOTED.finditer(text)]


def verify(quote: str, sources: Sequence[Source]) -> Citation:
    """Find a quotation: letter by letter, then without blanks and hyphens, then the closest passage.

    What is nowhere comes back with `verified` false and no page.
    """
    quote = quote.strip()
    for source in sources:
        start = source.text.find(quote)
        if quote and start >= 0:
            return _found(quote, source, Span(start, start + len(quote)), "exact")
    wanted = squeeze(quote)[0]
    for source in sources:
        text, offsets = source.squeezed
        start = text.find(wanted)
        if wanted and start >= 0:
            end = int(offsets[start + len(wanted) - 1]) + 1
            return _found(quote, source, Span(int(offsets[start]), end), "normalized")
    return _closest(quote, wanted, sources)


def unique(citations: Iterable[Citation]) -> list[Citation]:
    """Citations without those that point at the same passage as an earlier one."""
    kept: dict[tuple[object, ...], Citation] = {}
    for citation in citations:
        place = (citation["document_id"], citation["page"], citation["start"])
        kept.setdefault(place if citation["verified"] else (citation["quote"],), citation)
    return list(kept.values())


def _closest(quote: str, wanted: str, sources: Sequence[Source]) -> Citation:
    best: tuple[float, Source, Span] | None = None
    for source in sources:
        text, offsets = source.squeezed
        if len(wanted) < 12 or len(text) < len(wanted):
            continue
        cutoff = best[0] if best else CLOSE_ENOUGH
        found = fuzz.partial_ratio_alignment(wanted, text, score_cutoff=cutoff)
        if found is not None and found.dest_end > found.dest_start:
            span = Span(int(offsets[found.dest_start]), int(offsets[found.dest_end - 1]) + 1)
            best = found.score, source, span
    if best is None:
        return Citation(
            quote=quote, document_id=sources[0].document_id, page=None, place=None, label=None, start=None,
            end=None, verified=False, match="none", score=0.0,
        )  # fmt: skip
    score, source, span = best
    return _found(quote, source, span, "close", score=round(score / 100, 4))


def _found(quote: str, source: Source, span: Span, match: Match, *, score: float = 1.0) -> Citation:
    index = source.page_at(span.start)
    page = source.document.pages[index]
    at = span.start - source.starts[index]
    return Citation(
        quote=quote,
        document_id=source.document_id,
        page=page.number,
        place=source.place(index, at),
        label=page.label,
        start=at,
        end=min(at + span.end - span.start, len(page.text)),
        verified=match != "close",  # one word may turn a sentence round
        match=match,
        score=score,
    )


def count_verified(citations: Iterable[Citation]) -> tuple[int, int]:
    """Quotations given and quotations verified."""
    found = [citation["verified"] for citation in citations]
    return len(found), sum(found)
