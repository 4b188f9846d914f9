"""PDF: text, layout, outline and labels by PDFium, page by page; pypdf is the second reader.

Measured on 372 real and broken PDFs: PDFium crashes on none, reads 20,000 pages in 0.8 s, gives outlines,
titles and labels at once, and opens encrypted files without a further package, which pypdf needs for AES. Of
46 broken files that it refuses, pypdf finds text in one. pypdf alone reads XFA forms and a few passwords.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from parsers import grid, second
from parsers.clean import one_line
from parsers.errors import Damaged, Encrypted, Unsupported, WrongPassword
from parsers.halves import made
from parsers.hyphens import Hyphens
from parsers.layout import Layout, Line
from parsers.limits import Limits
from parsers.native import address
from parsers.ocr import Scans, named
from parsers.paragraphs import join
from parsers.reading import Mark, RawPage, Reading
from parsers.running import Leaf, mark_running

PARSER = "pdf/4"

_SCANNED = (
    "No page holds text; the PDF seems to be scanned, and none was recognised in its pictures. "
    "Run text recognition (OCR) on it and send the result."
)
#: So many lines of text may stand on a scanned page, such as its number.
_STAMPED = 4
#: Share of the time for a file after which no further picture is recognised.
_OCR_SHARE = 0.8
#: A PDF of more pages is shared between processes.
_LONG = 20
#: After so many pages a PDF is opened afresh: PDFium keeps what it has parsed of it.
_FRESH = 2000
_HEX_STRING = re.compile(r"<[0-9A-Fa-f]*>")
_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?")
_XFA = (pdfium_c.FORMTYPE_XFA_FULL, pdfium_c.FORMTYPE_XFA_FOREGROUND)


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Open a PDF. Raises Encrypted, WrongPassword, Unsupported (its encryption), Damaged."""
    open_pdf = partial(pdfium.PdfDocument, path, password=password)
    try:
        pdf = open_pdf()
    except pdfium.PdfiumError as exc:
        if exc.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            locked = WrongPassword if password else Encrypted
            return second.read(path, password=password or "", otherwise=locked)
        if exc.err_code == pdfium_c.FPDF_ERR_SECURITY:
            raise Unsupported(
                "The PDF is locked in a way that is not read. Send a copy without protection."
            ) from exc
        return second.read(path, password=None, otherwise=Damaged)
    warnings: list[str] = []
    pages = _Pages(open_pdf, pdf, Scans(limits.max_ocr_pages, _OCR_SHARE * limits.wall_s), warnings, limits)
    if pdfium_c.FPDF_GetFormType(pdf.raw) in _XFA:
        pages.form = second.form(path, password)
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pdf),
        paged=True,
        title=_title(pdf.get_metadata_value("Title")),
        metadata=_metadata(pdf),
        if_empty=_SCANNED,
        warnings=warnings,
    )


class _Sheet(NamedTuple):
    """What is seen on a page."""

    lines: list[Line]
    #: Height of the usual line.
    em: float
    blocks: list[grid.Block]
    is_picture: bool
    #: What text there is stands on a picture.
    is_stamped: bool = False


class _Pages:
    """The pages of a PDF, one after the other."""

    def __init__(
        self,
        open_pdf: Callable[[], pdfium.PdfDocument],
        pdf: pdfium.PdfDocument,
        scans: Scans,
        warnings: list[str],
        limits: Limits,
    ) -> None:
        """`open_pdf` opens `pdf` again; `warnings` is told what only reading shows."""
        self._open = open_pdf
        self._pdf = pdf
        self._scans = scans
        self._warnings = warnings
        #: What a form of XML holds beside its pages.
        self.form = ""
        self._outline = _outline(pdf)
        self._labels = [pdf.get_page_label(index) for index in range(min(len(pdf), limits.max_pages))]
        self._hyphens = Hyphens()
        self._processes = limits.processes
        self._sheets: dict[int, _Sheet] = {}
        self._unread: list[int] = []
        self._looked = 0

    def __iter__(self) -> Iterator[RawPage]:
        labelled = any(self._labels)
        has_text = False
        for leaf in mark_running(self._leaves()):
            text, recognised = self._text(leaf)
            if leaf.index == 0 and self.form:
                text = f"{text}\n\n{self.form}"
            has_text = has_text or bool(text.strip())
            yield RawPage(
                text,
                label=(self._labels[leaf.index] if labelled else leaf.printed) or None,
                marks=self._outline.get(leaf.index, ()),
                ocr=recognised,
            )
        self._report(has_text)

    def _leaves(self) -> Iterator[Leaf]:
        total = len(self._pdf)
        shared = self._processes > 1 and total > _LONG
        sheets = made(self._look, total, there=self._look_again) if shared else map(self._look, range(total))
        for index, seen in enumerate(sheets):
            if seen is None:
                self._unread.append(index + 1)
            sheet = self._sheets[index] = seen or _Sheet([], 0.0, [], is_picture=False)
            titles = frozenset(one_line(mark.title).lower() for mark in self._outline.get(index, ()))
            yield Leaf(index, sheet.lines, titles, [block.lines for block in sheet.blocks])

    def _look(self, index: int) -> _Sheet | None:
        """A page, None where it cannot be read."""
        self._looked += 1
        if self._looked % _FRESH == 0:
            self._pdf.close()
            self._pdf = self._open()
        try:
            layout = Layout(address(self._pdf.raw), index)
        except pdfium.PdfiumError:
            return None
        try:
            visible = sum(1 for line in layout.lines if line.box)
            is_picture = visible <= _STAMPED and layout.is_picture
            is_stamped = is_picture and visible > 0 and layout.is_covered
            return _Sheet(layout.lines, layout.em, grid.blocks(layout), is_picture, is_stamped)
        finally:
            layout.close()

    def _look_again(self) -> Callable[[int], _Sheet | None]:
        """To look in another process, which must not share the open file."""
        self._pdf = self._open()
        return self._look

    def _text(self, leaf: Leaf) -> tuple[str, bool]:
        """Text of a page, and whether it was recognised in its picture."""
        sheet = self._sheets.pop(leaf.index)
        blocks = [block for block in sheet.blocks if block.lines.isdisjoint(leaf.dropped)]
        hidden = leaf.dropped.union(*(block.lines for block in blocks))
        lines = join(sheet.lines, sheet.em, {min(block.lines): block.text for block in blocks}, hidden)
        text = self._hyphens.mend(lines)
        if text.strip() and not sheet.is_stamped:
            return text, False
        if not sheet.is_picture:  # nothing is left out of a page that has nothing else
            return join(sheet.lines, sheet.em, {}, ()), False
        page = self._pdf[leaf.index]
        recognised = self._scans.read(page, leaf.index + 1, typed=text)
        page.close()
        return recognised or text, bool(recognised)

    def _report(self, has_text: bool) -> None:
        if self._unread and not has_text:
            raise Damaged
        total = len(self._pdf)
        if self._unread:
            pages = named(self._unread)
            self._warnings.append(
                f"{len(self._unread)} of {total} pages could not be read and are empty here: {pages}."
            )
        self._warnings += self._scans.warnings(total)
        if self.form:
            self._warnings.append("The PDF is an XFA form; its fields are added to the text of page 1.")


def _outline(pdf: pdfium.PdfDocument) -> Mapping[int, list[Mark]]:
    """The bookmarks by the index of the page they lead to."""
    marks: dict[int, list[Mark]] = defaultdict(list)
    for bookmark in pdf.get_toc():
        target = bookmark.get_dest()
        index = target.get_index() if target else None
        title = bookmark.get_title()
        if index is not None and title:
            marks[index].append(Mark(title, bookmark.level + 1))
    return marks


def _title(title: str) -> str | None:
    """The title, unless its maker wrote the source form of a PDF string into it."""
    return None if _HEX_STRING.fullmatch(title) else title


def _metadata(pdf: pdfium.PdfDocument) -> dict[str, str]:
    said = pdf.get_metadata_dict(skip_empty=True)
    names = {"Author": "author", "Subject": "subject", "Keywords": "keywords", "Creator": "creator",
             "Producer": "producer", "CreationDate": "created", "ModDate": "modified"}  # fmt: skip
    return {
        name: _date(said[key]) if key.endswith("Date") else said[key]
        for key, name in names.items()
        if key in said
    }


def _date(text: str) -> str:
    """A date of PDF (ISO 32000-2, section 7.9.4) as ISO 8601, without its zone."""
    found = _DATE.match(text)
    if not found:
        return text
    day = "-".join(filter(None, found.groups()[:3]))
    time = ":".join(filter(None, found.groups()[3:]))
    return f"{day}T{time}" if time.count(":") else day
