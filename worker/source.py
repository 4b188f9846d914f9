"""A source: a parsed document with the text that citations are checked against."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import parsers

#: Left out when two texts are compared loosely: blanks, and what line breaks and typesetting put in.
_LOOSE = np.array([chr(code).isspace() or chr(code) in "-‐‑‒–—\u00ad\u200b" for code in range(0x3100)])
#: A minus or a range, 2-3, is no hyphen that may be left out.
_MINUS = re.compile(r"[-‐‑‒–—](?<![^\W\d_].)(?=\s*\d)")
_QUOTES = str.maketrans("“”„«»‘’‚", '""""' + '"' + "'''")
#: The end of a sentence, of a paragraph, or of a line (which may be neither).
_BREAKS = re.compile(r"(?<=[.!?])[\"”')\]]*\s+|(?<=[。！？])[”」』]?|\n\s*\n|\n")

#: A passage worth quoting, in characters.
SHORTEST, LONGEST = 12, 400
#: A full stop after so few characters on a line is that of a number or an abbreviation.
_NO_SENTENCE = 6


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a text."""

    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """One document of a job: its pages, and their text joined."""

    document_id: str
    filename: str
    document: parsers.Document

    @cached_property
    def text(self) -> str:
        """All pages, a blank line between two."""
        return "\n\n".join(page.text for page in self.document.pages)

    @cached_property
    def starts(self) -> list[int]:
        """Where in `text` each page begins."""
        starts, at = [], 0
        for page in self.document.pages:
            starts.append(at)
            at += len(page.text) + 2
        return starts

    @cached_property
    def squeezed(self) -> tuple[str, NDArray[np.int64]]:
        """`text` as `squeeze` leaves it."""
        return squeeze(self.text)

    @cached_property
    def grams(self) -> NDArray[np.uint16]:
        """The `grams` of the squeezed text."""
        return grams(self.squeezed[0])

    def page_at(self, offset: int) -> int:
        """Index of the page that holds a character of `text`."""
        return bisect.bisect_right(self.starts, offset) - 1

    def place(self, index: int, offset: int | None = None) -> str:
        """What a person would call a page, or a character of its text."""
        return self.document.place(index, offset)


def squeeze(text: str) -> tuple[str, NDArray[np.int64]]:
    """A text as loose comparison sees it, in lower case, and the offset of each character that is left."""
    plain = _MINUS.sub("−", text.translate(_QUOTES))
    codes = np.frombuffer(plain.encode("utf-32-le"), np.uint32)
    loose = _LOOSE[np.minimum(codes, len(_LOOSE) - 1)]
    offsets = np.flatnonzero(~loose)
    left = codes[offsets].tobytes().decode("utf-32-le")
    return left.replace("İ", "i").lower(), offsets  # the one letter that is two in lower case


def grams(text: str) -> NDArray[np.uint16]:
    """A number for each three characters that follow each other; the same for the same three."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    mixed = codes[:-2] * 0x9E3779B1 + codes[1:-1] * 0x85EBCA77 + codes[2:] * 0xC2B2AE3D
    return (mixed >> 16).astype(np.uint16)


def passages(text: str) -> Iterator[Span]:
    """Sentences, headings and table rows of a text, in order: what a quotation may be."""
    start = 0
    for end in [*_boundaries(text), len(text)]:
        span = _trimmed(text, start, end)
        lines = [span] if span.end - span.start <= LONGEST else _lines(text, span)
        yield from (line for line in lines if SHORTEST <= line.end - line.start <= LONGEST)
        start = end


def paragraphs(text: str) -> Iterator[Span]:
    """A text in sentences, headings and rows, in order, with nothing left out.

    What is too short to end a sentence ("2.", "Art.") belongs to what follows it on its line.
    """
    start = 0
    for end in [*_boundaries(text), len(text)]:
        span = _trimmed(text, start, end)
        if span.end - span.start <= _NO_SENTENCE and end < len(text) and "\n" not in text[span.end : end]:
            continue
        if span.end > span.start:
            yield span
        start = end


def _lines(text: str, span: Span) -> Iterator[Span]:
    at = span.start
    for line in text[span.start : span.end].splitlines(keepends=True):
        yield _trimmed(text, at, at + len(line))
        at += len(line)


def _boundaries(text: str) -> Iterator[int]:
    """Where one passage ends and the next begins.

    A line that ends well before the others do, and is followed by a capital or a figure, was not broken for
    want of room: it is a heading, a row or the end of a paragraph.
    """
    lengths = sorted(len(line) for line in text.splitlines() if line.strip())
    full = 0.8 * lengths[int(0.9 * len(lengths))] if lengths else 0.0
    for found in _BREAKS.finditer(text):
        line = found.start() - text.rfind("\n", 0, found.start()) - 1
        before, begins = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
        if found[0] != "\n" or before in ".!?" or (line < full and not begins.islower()):
            yield found.end()


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return Span(start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()))
