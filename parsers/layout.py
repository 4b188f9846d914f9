"""The layout of a PDF page: its lines, where they stand, and the words of a line, by PDFium.

Coordinates are points (1/72 inch), x to the right and y upwards, as a reader sees the page.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

#: From the page as it is stored to the page as it is shown, by its rotation in degrees.
_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
#: A page with more strokes than this may show letters by them.
_RULES = 50
_LINE_END = "\r\n"
#: What PDFium writes for a hyphen that ended a line; it drops the line end.
_HYPHEN = "\ufffe"


class Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        return self.top - self.bottom

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.bottom <= y <= self.top


class Word(NamedTuple):
    text: str
    box: Box


class Line(NamedTuple):
    """A line as PDFium finds it: text on one base line, also across a gap."""

    text: str
    #: Index of its first character on the page.
    start: int
    #: Around all of it; None where nothing of it is to be seen.
    box: Box | None
    #: Width of its widest gap between two pieces.
    gap: float
    #: U+FFFE where a hyphen broke its last word.
    end: str


class Layout:
    """One page, open in PDFium. Close it."""

    def __init__(self, page: pdfium.PdfPage) -> None:
        self._page = page
        self._text = page.get_textpage()
        self._edges = [ctypes.c_double() for _ in range(4)]
        self._edge_refs = [ctypes.byref(edge) for edge in self._edges]
        self._upright = page.get_rotation() % 360 == 0
        self._turn = _TURNS[page.get_rotation() % 360]

    def close(self) -> None:
        self._text.close()
        self._page.close()

    @cached_property
    def lines(self) -> list[Line]:
        """All lines in the order in which the file draws them."""
        text = self._text.get_text_range()
        shifted = pdfium_c.FPDFText_CountChars(self._text.raw) != len(text)
        lines, at = [], 0
        for piece, end in _pieces(text):
            start, count = at, len(piece)
            if shifted and piece:  # some characters are in the page but not in its text
                start = pdfium_c.FPDFText_GetCharIndexFromTextIndex(self._text.raw, at)
                last = pdfium_c.FPDFText_GetCharIndexFromTextIndex(self._text.raw, at + count - 1)
                count = last - start + 1
            lines.append(self._line(piece, start, count, end))
            at += len(piece) + (len(end) or len(_LINE_END))
        return lines

    @property
    def is_picture(self) -> bool:
        """Whether images are drawn on the page, or more strokes than rules and frames need."""
        kinds = Counter(
            pdfium_c.FPDFPageObj_GetType(pdfium_c.FPDFPage_GetObject(self._page.raw, index))
            for index in range(pdfium_c.FPDFPage_CountObjects(self._page.raw))
        )
        pictures = kinds[pdfium_c.FPDF_PAGEOBJ_IMAGE] + kinds[pdfium_c.FPDF_PAGEOBJ_FORM]
        return pictures > 0 or kinds[pdfium_c.FPDF_PAGEOBJ_PATH] > _RULES

    @cached_property
    def em(self) -> float:
        """Height of the usual line."""
        heights = [line.box.height for line in self.lines if line.box and line.box.height > 1]
        return median(heights) if heights else 10.0

    def words(self, line: Line) -> list[Word]:
        """The words of a line and where they stand."""
        words, at = [], line.start
        page, refs = self._text.raw, self._edge_refs
        left, right, bottom, top = self._edges
        for text in line.text.split(" "):
            if text:
                # The first and the last letter tell where a word stands.
                pdfium_c.FPDFText_GetCharBox(page, at, *refs)
                box = left.value, bottom.value, right.value, top.value
                if len(text) > 1:
                    pdfium_c.FPDFText_GetCharBox(page, at + len(text) - 1, *refs)
                    box = (
                        min(box[0], left.value), min(box[1], bottom.value),
                        max(box[2], right.value), max(box[3], top.value),
                    )  # fmt: skip
                words.append(Word(text, self.turned(Box(*box))))
            at += len(text) + 1
        return words

    def turned(self, box: Box) -> Box:
        """A box of the page as it is stored, as the reader sees it."""
        if self._upright:
            return box
        a, b, c, d = self._turn
        xs = [a * x + b * y for x, y in ((box.left, box.bottom), (box.right, box.top))]
        ys = [c * x + d * y for x, y in ((box.left, box.bottom), (box.right, box.top))]
        return Box(min(xs), min(ys), max(xs), max(ys))

    @property
    def page(self) -> Any:
        return self._page

    def _line(self, text: str, start: int, count: int, end: str) -> Line:
        boxes: list[tuple[float, float, float, float]] = []
        if text.strip():
            left, top, right, bottom = self._edges
            page, refs = self._text.raw, self._edge_refs
            for index in range(pdfium_c.FPDFText_CountRects(page, start, count)):
                pdfium_c.FPDFText_GetRect(page, index, *refs)
                boxes.append((left.value, bottom.value, right.value, top.value))
        if not boxes:
            return Line(text, start, None, 0.0, end)
        if not self._upright:
            boxes = [self.turned(Box(*box)) for box in boxes]
        if len(boxes) == 1:
            return Line(text, start, Box(*boxes[0]), 0.0, end)
        return Line(text, start, _around(boxes), _widest_gap(boxes), end)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Lines of a text, each with the hyphen that ended it or ""."""
    for line in text.split(_LINE_END):
        *broken, last = line.split(_HYPHEN)
        for piece in broken:
            yield piece, _HYPHEN
        yield last, ""


def _around(boxes: list[tuple[float, float, float, float]]) -> Box:
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return Box(min(lefts), min(bottoms), max(rights), max(tops))


def _widest_gap(boxes: list[tuple[float, float, float, float]]) -> float:
    boxes.sort()
    widest, end = 0.0, boxes[0][2]
    for left, _, right, _ in boxes:
        if left > end:
            widest = max(widest, left - end)
        end = max(end, right)
    return widest
