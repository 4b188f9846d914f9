"""The layout of a PDF page: its lines, where they stand, and the words of a line, by PDFium.

Coordinates are points (1/72 inch), x to the right and y upwards, as a reader sees the page.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from statistics import median
from typing import NamedTuple

import pypdfium2.raw as pdfium_c
from pypdfium2 import PdfiumError

from parsers.native import native

#: From the page as it is stored to the page as it is shown, by its quarter turns.
_TURNS = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))
#: Annotations that show text of their own.
_SHOWN = (pdfium_c.FPDF_ANNOT_WIDGET, pdfium_c.FPDF_ANNOT_FREETEXT, pdfium_c.FPDF_ANNOT_STAMP)
#: A page with more strokes than this may show letters by them.
_RULES = 50
_PICTURES = (pdfium_c.FPDF_PAGEOBJ_IMAGE, pdfium_c.FPDF_PAGEOBJ_FORM)
#: Share of a page from which on its pictures are what it shows, and a line of text is a stamp on them.
_COVERED = 0.5
_LINE_END = "\r\n"
#: What PDFium writes for a hyphen that ended a line; it drops the line end.
_HYPHEN = "\ufffe"
_WORD = re.compile("[^ ]+")
#: Alef before lam: two letters, or the glyph of lam and alef, whose letters PDFium turns round with the line.
_ALEF_LAM = re.compile("[\u0622\u0623\u0625\u0627\u0671]\u0644")
_FOUR = struct.Struct("4d").unpack_from
_Edges = tuple[float, float, float, float]

_load_page = native(pdfium_c.FPDF_LoadPage)
_close_page = native(pdfium_c.FPDF_ClosePage)
_rotation = native(pdfium_c.FPDFPage_GetRotation)
_flatten = native(pdfium_c.FPDFPage_Flatten)
_count_notes = native(pdfium_c.FPDFPage_GetAnnotCount)
_note = native(pdfium_c.FPDFPage_GetAnnot)
_note_kind = native(pdfium_c.FPDFAnnot_GetSubtype)
_close_note = native(pdfium_c.FPDFPage_CloseAnnot)
_load_text = native(pdfium_c.FPDFText_LoadPage)
_close_text = native(pdfium_c.FPDFText_ClosePage)
_count_chars = native(pdfium_c.FPDFText_CountChars)
_get_text = native(pdfium_c.FPDFText_GetText)
_char_index = native(pdfium_c.FPDFText_GetCharIndexFromTextIndex)
_char_box = native(pdfium_c.FPDFText_GetCharBox)
_count_rects = native(pdfium_c.FPDFText_CountRects)
_rect = native(pdfium_c.FPDFText_GetRect)
_width = native(pdfium_c.FPDF_GetPageWidthF)
_height = native(pdfium_c.FPDF_GetPageHeightF)
count_objects = native(pdfium_c.FPDFPage_CountObjects)
page_object = native(pdfium_c.FPDFPage_GetObject)
object_type = native(pdfium_c.FPDFPageObj_GetType)
bounds = native(pdfium_c.FPDFPageObj_GetBounds)
_count_inside = native(pdfium_c.FPDFFormObj_CountObjects)
_inside = native(pdfium_c.FPDFFormObj_GetObject)


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

    def __init__(self, document: int, index: int) -> None:
        """`document`: the address of a document that stays open. Raises PdfiumError."""
        self.page = _shown(document, index)
        self._text = _load_text(self.page)
        if not self._text:
            _close_page(self.page)
            raise PdfiumError("Failed to load text.")
        #: Left, bottom, right and top of what was asked for last, and their addresses.
        self._edges = array("d", bytes(32))
        left, _ = self._edges.buffer_info()
        self._at = left, left + 8, left + 16, left + 24
        quarters = _rotation(self.page) % 4
        self._upright = quarters == 0
        self._turn = _TURNS[quarters]

    def close(self) -> None:
        _close_text(self._text)
        _close_page(self.page)

    @cached_property
    def lines(self) -> list[Line]:
        """All lines in the order in which the file draws them."""
        text, shifted = self._read()
        lines, at = [], 0
        for piece, end in _pieces(text):
            start, count = at, len(piece)
            if shifted and piece:  # some characters are in the page but not in its text
                start = _char_index(self._text, at)
                count = _char_index(self._text, at + count - 1) - start + 1
            lines.append(self._line(piece, start, count, end))
            at += len(piece) + (len(end) or len(_LINE_END))
        return lines

    @property
    def is_picture(self) -> bool:
        """Whether images are drawn on the page, or more strokes than rules and frames need."""
        kinds = Counter(
            object_type(page_object(self.page, index)) for index in range(count_objects(self.page))
        )
        return any(kinds[kind] for kind in _PICTURES) or kinds[pdfium_c.FPDF_PAGEOBJ_PATH] > _RULES

    @property
    def is_covered(self) -> bool:
        """Whether images take up most of the page."""
        edges = array("f", bytes(16))
        left, _ = edges.buffer_info()
        area = 0.0
        for index in range(count_objects(self.page)):
            shape = page_object(self.page, index)
            if _is_image(shape) and bounds(shape, left, left + 4, left + 8, left + 12):
                area += (edges[2] - edges[0]) * (edges[3] - edges[1])
        return area >= _COVERED * _width(self.page) * _height(self.page)

    @cached_property
    def em(self) -> float:
        """Height of the usual line."""
        heights = [line.box.height for line in self.lines if line.box and line.box.height > 1]
        return median(heights) if heights else 10.0

    def words(self, line: Line, pattern: re.Pattern[str] = _WORD) -> list[Word]:
        """The words of a line and where they stand, the last with the hyphen that broke it."""
        words = []
        for word in pattern.finditer(line.text):
            # The first and the last letter tell where a word stands.
            first = last = self._edges_of(line.start + word.start())
            if len(word[0]) > 1:
                last = self._edges_of(line.start + word.end() - 1)
            words.append(Word(word[0], self.turned(_around([first, last]))))
        if words and line.end:
            words[-1] = words[-1]._replace(text=words[-1].text + line.end)
        return words

    def turned(self, box: Box) -> Box:
        """A box of the page as it is stored, as the reader sees it."""
        if self._upright:
            return box
        a, b, c, d = self._turn
        xs = [a * x + b * y for x, y in ((box.left, box.bottom), (box.right, box.top))]
        ys = [c * x + d * y for x, y in ((box.left, box.bottom), (box.right, box.top))]
        return Box(min(xs), min(ys), max(xs), max(ys))

    def _read(self) -> tuple[str, bool]:
        """The text of the page, and whether it leaves characters out."""
        count = _count_chars(self._text)
        letters = array("H", bytes(2 * count + 2))
        written = _get_text(self._text, 0, count, letters.buffer_info()[0])
        text = letters[: max(0, written - 1)].tobytes().decode("utf-16-le", "ignore")
        return _ALEF_LAM.sub(self._in_order, text), len(text) != count

    def _in_order(self, found: re.Match[str]) -> str:
        """Two letters as they are read: if they stand at one place, they are one glyph, the second first."""
        first, second = (self._edges_of(_char_index(self._text, found.start() + n)) for n in (0, 1))
        return found[0][::-1] if first == second else found[0]

    def _edges_of(self, index: int) -> _Edges:
        """The box of a character."""
        left, bottom, right, top = self._at
        _char_box(self._text, index, left, right, bottom, top)
        return _FOUR(self._edges)

    def _line(self, text: str, start: int, count: int, end: str) -> Line:
        if not text or text.isspace():
            return Line(text, start, None, 0.0, end)
        page, edges, (left, bottom, right, top) = self._text, self._edges, self._at
        boxes: list[_Edges] = []
        for index in range(_count_rects(page, start, count)):
            _rect(page, index, left, top, right, bottom)
            boxes.append(_FOUR(edges))
        if not boxes:
            return Line(text, start, None, 0.0, end)
        if not self._upright:
            boxes = [self.turned(Box(*box)) for box in boxes]
        if len(boxes) == 1:
            return Line(text, start, Box(*boxes[0]), 0.0, end)
        return Line(text, start, _around(boxes), _widest_gap(boxes), end)


def _is_image(shape: int) -> bool:
    """Whether an object of a page is an image, or a form with one."""
    kind = object_type(shape)
    inside = _count_inside(shape) if kind == pdfium_c.FPDF_PAGEOBJ_FORM else 0
    return kind == pdfium_c.FPDF_PAGEOBJ_IMAGE or any(_is_image(_inside(shape, n)) for n in range(inside))


def _shown(document: int, index: int) -> int:
    """A page with what its form fields and notes show drawn into it."""
    page = _load_page(document, index)
    for number in range(_count_notes(page) if page else 0):
        note = _note(page, number)
        kind = _note_kind(note)
        _close_note(note)
        if kind in _SHOWN:
            _flatten(page, pdfium_c.FLAT_NORMALDISPLAY)
            _close_page(page)
            page = _load_page(document, index)
            break
    if not page:
        raise PdfiumError("Failed to load page.")
    return page


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Lines of a text, each with the hyphen that ended it or ""."""
    for line in text.split(_LINE_END):
        *broken, last = line.split(_HYPHEN)
        for piece in broken:
            yield piece, _HYPHEN
        yield last, ""


def _around(boxes: Sequence[_Edges]) -> Box:
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return Box(min(lefts), min(bottoms), max(rights), max(tops))


def _widest_gap(boxes: list[_Edges]) -> float:
    boxes.sort()
    widest, end = 0.0, boxes[0][2]
    for left, _, right, _ in boxes:
        if left > end:
            widest = max(widest, left - end)
        end = max(end, right)
    return widest
