"""PDF: text by PDFium, page by page; pypdf is the second reader where PDFium cannot open the file.

Measured on 372 real and broken PDFs: PDFium crashes on none, reads 20,000 pages in 0.8 s, gives titles and
labels of pages, and opens encrypted files without a further package, which pypdf needs for AES. Of 46 broken
files that it refuses, pypdf finds text in one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from parsers.errors import Damaged, Encrypted, Unsupported, WrongPassword
from parsers.limits import Limits
from parsers.reading import RawPage, Reading

PARSER = "pdf/1"

_SCANNED = (
    "No page holds text; the PDF seems to be scanned. Run text recognition (OCR) on it and send the result."
)
_HEX_STRING = re.compile(r"<[0-9A-Fa-f]*>")


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Open a PDF. Raises Encrypted, WrongPassword, Unsupported (its encryption), Damaged."""
    try:
        pdf = pdfium.PdfDocument(path, password=password)
    except pdfium.PdfiumError as exc:
        if exc.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise WrongPassword if password else Encrypted from exc
        if exc.err_code == pdfium_c.FPDF_ERR_SECURITY:
            raise Unsupported(
                "The PDF is locked in a way that is not read. Send a copy without protection."
            ) from exc
        return _second_reader(path)
    warnings: list[str] = []
    return Reading(
        parser=PARSER,
        raw_pages=_each(len(pdf), lambda index: _page(pdf, index), warnings),
        total=len(pdf),
        paged=True,
        title=_title(pdf.get_metadata_value("Title")),
        warnings=warnings,
        if_empty=_SCANNED,
    )


def _page(pdf: pdfium.PdfDocument, index: int) -> RawPage | None:
    try:
        page = pdf[index]
        text_page = page.get_textpage()
    except pdfium.PdfiumError:
        return None
    text = text_page.get_text_range()
    text_page.close()
    page.close()
    return RawPage(text, pdf.get_page_label(index) or None)


def _title(title: str) -> str | None:
    """The title, unless its maker wrote the source form of a PDF string into it."""
    return None if _HEX_STRING.fullmatch(title) else title


def _each(total: int, page: Callable[[int], RawPage | None], warnings: list[str]) -> Iterator[RawPage]:
    """All pages in order; one that cannot be read (None) is empty and told of at the end."""
    unread = []
    has_text = False
    for index in range(total):
        raw = page(index)
        if raw is None:
            unread.append(index + 1)
            raw = RawPage("")
        has_text = has_text or bool(raw.text.strip())
        yield raw
    if unread and not has_text:
        raise Damaged
    if unread:
        named = ", ".join(map(str, unread[:20])) + (" and more" if len(unread) > 20 else "")
        warnings.append(f"{len(unread)} of {total} pages could not be read and are empty here: {named}.")


def _second_reader(path: Path) -> Reading:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    # pypdf raises nearly anything on a broken file, from AssertionError to RecursionError.
    try:
        pdf = PdfReader(path)
        total = len(pdf.pages)
    except MemoryError:
        raise
    except Exception as exc:
        raise Damaged from exc

    def page(index: int) -> RawPage | None:
        try:
            return RawPage(pdf.pages[index].extract_text())
        except MemoryError:
            raise
        except Exception:
            return None

    warnings = ["The file is damaged. It was repaired while reading; text may be missing."]
    return Reading(
        PARSER, _each(total, page, warnings), total, paged=True, warnings=warnings, if_empty=_SCANNED
    )
