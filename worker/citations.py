"""Citations: every quotation is searched in the documents, and its page is where it was found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypedDict

import numpy as np
from rapidfuzz import fuzz

from worker.source import SHORTEST, Source, Span, grams, squeeze

_RANGE = r"(?!\d|\s*(?:[-‐‑–—,&]|and|to)\s*\d)"
_CLAIM = rf"(?P<claim>(?:(?:[Pp]ages?|[Pp]p?\.)\s*|第\s*)(?P<page>\d+){_RANGE}(?:\s*页)?)"
#: A page that an answer claims for the quotation before it (`“…” (page 7)`) or after it (`Page 7: “…”`).
_AFTER = re.compile(rf"^[”\"“»」』]?[.,;]?\s*[(\[（,]?\s*(?:on\s+|see\s+|在)?{_CLAIM}")
_BEFORE = re.compile(rf"{_CLAIM}(?:\s+(?:says|states|reads|notes))?(?:\s+that)?[\s:：,(（]*[“\"„«「『]?$")

Match = Literal["exact", "normalized", "close", "none"]

#: Below this likeness (0 to 100, normalized indel similarity) a quotation counts as invented.
CLOSE_ENOUGH = 90.0
#: Characters of a text that are searched together, and pairs of characters that one search may compare.
_STRETCH, _CELLS = 1_024, 75_000_000
#: A straight mark opens where a word does not end, so that what stands between two quotations is none.
_QUOTED = re.compile(
    r"(?:[“„«]|(?<!\w)\"(?!\s))([^“”\"„«»\n]{20,600})[”\"“»]|「([^」\n]{6,300})」|『([^』\n]{6,300})』"
)
#: Figures of one number.
_FIGURES = re.compile(r"\d[.,]?\d")


class Citation(TypedDict):
    """A quotation and where it stands; offsets count characters of the page's text."""

    quote: str
    document_id: str | None
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

    A place does not count where the quotation has only part of a number, 10 of 100. What is nowhere comes
    back with `verified` false, and neither document nor page.
    """
    quote = quote.strip()
    for source in sources:
        for start in _places(quote, source.text):
            span = Span(start, start + len(quote))
            if not _cuts_a_number(source.text, span):
                return _found(quote, source, span, "exact")
    wanted = squeeze(quote)[0]
    for source in sources:
        text, offsets = source.squeezed
        for start in _places(wanted, text):
            span = Span(int(offsets[start]), int(offsets[start + len(wanted) - 1]) + 1)
            if not _cuts_a_number(source.text, span):
                return _found(quote, source, span, "normalized")
    return _closest(quote, wanted, sources)


def _places(words: str, text: str) -> Iterator[int]:
    at = text.find(words) if words else -1
    while at >= 0:
        yield at
        at = text.find(words, at + 1)


def _cuts_a_number(text: str, span: Span) -> bool:
    """Whether a span begins or ends within a number."""
    head, tail = text[max(0, span.start - 2) : span.start + 1], text[span.end - 1 : span.end + 2]
    return bool(_FIGURES.match(tail) or any(_FIGURES.fullmatch(head, at) for at in (0, 1)))


def at(source: Source, page: int, start: int, end: int) -> Citation:
    """The quotation of a place that is known: characters `start` to `end` of the page with index `page`."""
    span = Span(source.starts[page] + start, source.starts[page] + end)
    return _found(source.text[span.start : span.end], source, span, "exact")


def put_right(text: str, citations: Iterable[Citation]) -> str:
    """An answer in which the page claimed right beside a verified quotation is the page it was found on.

    Of a document without pages, the place takes the claim's stead: a page that is none helps nobody.
    """
    for citation in citations:
        at = text.find(citation["quote"])
        if citation["page"] is None or not citation["verified"] or at < 0:
            continue
        end = at + len(citation["quote"])
        claimed = _AFTER.search(text[end : end + 60])
        shift = end
        if claimed is None:
            claimed, shift = _BEFORE.search(text[max(0, at - 60) : at]), max(0, at - 60)
        if claimed is not None:
            page, place = str(citation["page"]), str(citation["place"])
            part, right = ("page", page) if place == f"page {page}" else ("claim", place)
            start, stop = (shift + offset for offset in claimed.span(part))
            text = text[:start] + right + text[stop:]
    return text


def unique(citations: Iterable[Citation]) -> list[Citation]:
    """Citations without those that point at the same passage as an earlier one."""
    kept: dict[tuple[object, ...], Citation] = {}
    for citation in citations:
        place = (citation["document_id"], citation["page"], citation["start"])
        kept.setdefault(place if citation["verified"] else (citation["quote"],), citation)
    return list(kept.values())


def _closest(quote: str, wanted: str, sources: Sequence[Source]) -> Citation:
    best: tuple[float, Source, Span] | None = None
    for source in sources if len(wanted) >= SHORTEST else ():
        text, offsets = source.squeezed
        for start in _likely(wanted, source):
            stretch = text[start : start + _STRETCH + len(wanted)]
            least = best[0] if best else CLOSE_ENOUGH
            found = fuzz.partial_ratio_alignment(wanted, stretch, score_cutoff=least)
            if found is None or found.dest_end == found.dest_start or (best and found.score == least):
                continue
            first, last = start + found.dest_start, start + found.dest_end - 1
            best = found.score, source, Span(int(offsets[first]), int(offsets[last]) + 1)
    if best is None:
        return Citation(
            quote=quote, document_id=None, page=None, place=None, label=None, start=None, end=None,
            verified=False, match="none", score=0.0,
        )  # fmt: skip
    score, source, span = best
    return _found(quote, source, span, "close", score=round(score / 100, 4))


def _likely(wanted: str, source: Source) -> Iterator[int]:
    """Where stretches of a squeezed text begin that may hold something close to `wanted`, likeliest first.

    Likely is where windows of its length share most three-letter sequences with it. Close ones share two
    fifths at least: they differ by a fifth of its letters, and each spoils three sequences (Ukkonen 1992).
    In a text where more is likely than `_CELLS` allow, as in one phrase over and over, the rest is left out.
    """
    window = len(wanted) - 2
    if len(source.grams) < window:
        return
    known = np.zeros(1 << 16, np.bool_)
    known[grams(wanted)] = True
    shared = np.cumsum(known[source.grams], dtype=np.int32)
    shared[window:] -= shared[:-window].copy()
    shared = shared[window - 1 :]
    best = np.maximum.reduceat(shared, np.arange(0, len(shared), _STRETCH))
    most = max(1, _CELLS // (len(wanted) * (_STRETCH + len(wanted))))
    for stretch in np.argsort(-best, kind="stable")[:most]:
        if best[stretch] < 0.4 * len(wanted) - 2:
            return
        yield int(stretch) * _STRETCH


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
