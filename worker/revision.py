"""A revision: what changed between two versions of the same text.

Paragraphs are aligned first, by the edit distance of their sequences; within what does not match, paragraphs
that resemble each other are paired in order, and each pair is compared word by word. So the alignment, not a
model, answers for completeness: every word that differs is in some change. A file that keeps its own changes
needs no other version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

from worker.source import Source, Span, paragraphs

#: The last two are of words within a paragraph, tracked by the file itself.
Kind = Literal["added", "removed", "changed", "moved", "renumbered", "inserted", "deleted"]
#: A run of words: only before ("-"), only after ("+"), or in both ("=").
Run = tuple[Literal["-", "+", "="], str]

#: Likeness (0 to 100) from which two paragraphs are versions of one.
ALIKE = 50
#: Share of paragraphs in common from which two texts are versions of one.
SAME_TEXT = 0.3
#: Characters of the longest line that may repeat at head or foot.
_FURNITURE = 200
#: Pairs of paragraphs that are compared at once; beyond, a stretch is halved first.
_MOST_PAIRS = 4_000_000

_QUOTES = str.maketrans("“”„«»‘’‚\u00a0", '""""' + '"' + "''' ")
#: What a line break or typesetting leaves inside a word.
_HYPHENS = re.compile(r"(?<=\w)[-‐‑]\s+(?=[a-z])|\u00ad|\u200b")
#: Before them a number with a stop is a day: in German, Danish and Norwegian.
_MONTHS = r"januar|februar|märz|mart?s|april|ma[ij]|juni|juli|august|(?:sept|nov|de[scz])ember|o[kc]tober"
#: A number at the head of a paragraph, which moves when something is put in before it. What may be an amount
#: ("30 days", "1.5 million", "12.50 EUR") or a day ("30. Juni") is none.
_NUMBER = re.compile(
    r"^\s*(?:[#>*•·–—-]+\s*)*(?:第[零〇一二三四五六七八九十百千万\d]+[条章节编款项]\s*|§+\s*|(?:article|section|clause)\s+(?=[\divxlc])"
    r"|[（(][\da-z一二三四五六七八九十]{1,4}[)）]\s*|\d{1,3}(?:\.\d{1,3})*[.)、．]\s+"
    rf"(?!(?:{_MONTHS})\b)"
    r"|[ivxlc]{1,5}[.)]\s+|[a-z][.)]\s+"
    r"|\d{1,3}(?:\.[1-9]\d?)+\s+(?-i:(?=[^\W\d_a-z])(?![A-Z]{3}\b|Mi[ol]|Mrd)))?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-zÀ-ÿ0-9_]+(?:[.,'’][A-Za-zÀ-ÿ0-9_]+)*|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, row or heading of a version; `start` and `end` are offsets in its page's text."""

    page: int
    start: int
    end: int
    text: str

    @cached_property
    def words(self) -> str:
        """Its text as two versions are compared: without the number at its head and ways of setting."""
        return _NUMBER.sub("", plain(self.text), count=1)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, with what it stands on in each version."""

    kind: Kind
    before: Paragraph | None
    after: Paragraph | None
    words: list[Run]
    author: str | None = None  #: of a tracked change, as is its date
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """Two versions, aligned."""

    changes: list[Change]
    unchanged: int  #: paragraphs that are in both, those renumbered among them

    @property
    def same_text(self) -> bool:
        """Whether these are versions of one text at all."""
        kinds = Counter(change.kind for change in self.changes)
        kept = self.unchanged + kinds["changed"] + kinds["moved"]
        return kept >= SAME_TEXT * (kept + (kinds["added"] + kinds["removed"]) / 2)


def compare(before: Source, after: Source) -> Revision:
    """Every difference between two versions, in the order of the later one."""
    old, new = list(_body(before)), list(_body(after))
    changes: list[Change] = []
    unchanged = 0
    for left, right, equal in _aligned(old, new):
        if equal:
            unchanged += len(left)
            changes += _renumbered(zip(left, right, strict=True))
        else:
            changes += _differences(left, right)
    return Revision(_with_moves(changes), unchanged)


def tracked(source: Source) -> Revision:
    """The changes that a file keeps itself, each on the paragraph where it stands or stood, in order."""
    texts = [page.text for page in source.document.pages]
    changes: list[Change] = []
    for change in source.document.changes:
        page = change.page - 1
        here = _paragraph_at(texts[page], change.start)
        stands = Paragraph(page, here.start, here.end, texts[page][here.start : here.end])
        words: list[Run] = [("+" if change.kind == "inserted" else "-", change.text)]
        changes.append(Change(change.kind, None, stands, words, change.author, change.date))
    touched = {
        (change.after.page, change.after.start) for change in changes if change.after and change.after.text
    }
    return Revision(changes, sum(text.count("\n\n") + 1 for text in texts if text) - len(touched))


def _paragraph_at(text: str, offset: int) -> Span:
    """What stands between two blank lines around an offset."""
    start = len("".join(text[:offset].rpartition("\n\n")[:2]))
    end = text.find("\n\n", start)
    return Span(start, len(text) if end < 0 else end)


def plain(text: str) -> str:
    """A text without the ways of setting it: line breaks, hyphens at them, kinds of quotation marks."""
    return " ".join(_HYPHENS.sub("", text).translate(_QUOTES).split())


def _body(source: Source) -> Iterator[Paragraph]:
    """The paragraphs of a document; what its pages repeat at head and foot is taken once."""
    furniture, seen = _furniture(source), set[str]()
    for index, page in enumerate(source.document.pages):
        for span in paragraphs(page.text):
            found = Paragraph(index, span.start, span.end, page.text[span.start : span.end])
            forms = _forms(found.text, page.number)
            if found.words and forms.isdisjoint(seen):
                yield found
            seen |= forms & furniture


def _furniture(source: Source) -> set[str]:
    """Forms of the lines that stand at the head or foot of many pages."""
    if not source.document.paged or len(source.document.pages) < 4:
        return set()
    ends: Counter[str] = Counter()
    for page in source.document.pages:
        lines = [line for line in page.text.splitlines() if line.strip()]
        ends.update({form for line in [*lines[:2], *lines[-2:]] for form in _forms(line, page.number)})
    return {line for line, count in ends.items() if count >= max(3, len(source.document.pages) // 10)}


def _forms(line: str, page: int) -> set[str]:
    """A line as it is, and with each number as its distance from that of the page: equal ones count pages."""
    said = plain(line)
    numbers = re.finditer(r"\d{1,6}", said) if len(said) <= _FURNITURE else ()
    return {said, *(f"{said[: n.start()]}#{int(n[0]) - page}{said[n.end() :]}" for n in numbers)}


def _aligned(
    old: Sequence[Paragraph], new: Sequence[Paragraph]
) -> Iterator[tuple[Sequence[Paragraph], Sequence[Paragraph], bool]]:
    """Stretches of both versions, in order: equal ones, and those between them."""
    ids: dict[str, int] = {}
    left, right = ([ids.setdefault(one.words, len(ids)) for one in side] for side in (old, new))
    i = j = 0
    for block in Levenshtein.opcodes(left, right):
        if block.tag == "equal":
            if block.src_start > i or block.dest_start > j:
                yield old[i : block.src_start], new[j : block.dest_start], False
            i, j = block.src_end, block.dest_end
            yield old[block.src_start : i], new[block.dest_start : j], True
    if i < len(old) or j < len(new):
        yield old[i:], new[j:], False


def _differences(left: Sequence[Paragraph], right: Sequence[Paragraph]) -> Iterator[Change]:
    """The changes within a stretch; none if it is only broken into other paragraphs."""
    if _letters(left) == _letters(right):
        return
    if len(left) * len(right) > _MOST_PAIRS:
        i, j = len(left) // 2, len(right) // 2
        yield from _differences(left[:i], right[:j])
        yield from _differences(left[i:], right[j:])
        return
    for one, other in _pairs(left, right):
        if one is None and other is not None:
            yield Change("added", None, other, [("+", plain(other.text))])
        elif other is None and one is not None:
            yield Change("removed", one, None, [("-", plain(one.text))])
        elif one is not None and other is not None:
            if one.words == other.words:
                yield from _renumbered([(one, other)])
            else:
                yield Change("changed", one, other, word_runs(plain(one.text), plain(other.text)))


def _renumbered(pairs: Iterable[tuple[Paragraph, Paragraph]]) -> Iterator[Change]:
    for one, other in pairs:
        before, after = plain(one.text), plain(other.text)
        if before != after:
            yield Change("renumbered", one, other, word_runs(before, after))


def _letters(side: Iterable[Paragraph]) -> str:
    return "".join("".join(plain(one.text).split()) for one in side)


def _pairs(
    left: Sequence[Paragraph], right: Sequence[Paragraph]
) -> list[tuple[Paragraph | None, Paragraph | None]]:
    """Paragraphs of a stretch paired in order, so that the likeness of all pairs together is greatest."""
    if not left or not right:
        return [(one, None) for one in left] + [(None, other) for other in right]
    alike = process.cdist(
        [one.words for one in left], [one.words for one in right], scorer=fuzz.ratio, score_cutoff=ALIKE
    ).astype(np.float32)
    best = np.zeros((len(left) + 1, len(right) + 1), np.float32)
    for i, row in enumerate(alike):
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], best[i, :-1] + row))
    pairs: list[tuple[Paragraph | None, Paragraph | None]] = []
    i, j = len(left), len(right)
    while i or j:
        if i and j and alike[i - 1, j - 1] and best[i, j] == best[i - 1, j - 1] + alike[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((left[i], right[j]))
        elif j and best[i, j] == best[i, j - 1]:
            j -= 1
            pairs.append((None, right[j]))
        else:
            i -= 1
            pairs.append((left[i], None))
    return pairs[::-1]


def word_runs(before: str, after: str) -> list[Run]:
    """Two texts word by word; a letter of a script without blanks is a word."""
    left, right = _WORD.findall(before), _WORD.findall(after)
    runs: list[Run] = []
    for block in Levenshtein.opcodes(left, right):
        one = "".join(left[block.src_start : block.src_end])
        other = "".join(right[block.dest_start : block.dest_end])
        if block.tag == "equal":
            runs.append(("=", one))
        else:
            runs += [run for run in (("-", one), ("+", other)) if run[1]]
    return runs


def _with_moves(changes: list[Change]) -> list[Change]:
    """The same changes, where what was removed here and added there word for word is one move."""
    removed: dict[str, list[Change]] = {}
    for change in changes:
        if change.kind == "removed" and change.before is not None:
            removed.setdefault(change.before.words, []).append(change)
    told: list[Change] = []
    gone: set[int] = set()
    for change in changes:
        partners = removed.get(change.after.words) if change.kind == "added" and change.after else None
        if partners and change.after is not None:
            partner = partners.pop()
            gone.add(id(partner))
            told.append(Change("moved", partner.before, change.after, [("=", plain(change.after.text))]))
        else:
            told.append(change)
    return [change for change in told if id(change) not in gone]
