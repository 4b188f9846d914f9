"""The second reader of PDFs, pypdf: for what PDFium cannot open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lxml import etree

from parsers.errors import Damaged, ParseError
from parsers.ocr import named
from parsers.reading import RawPage, Reading

if TYPE_CHECKING:
    from pypdf import PdfReader

PARSER = "pdf/4"

_T = TypeVar("_T")


def read(path: Path, *, password: str | None, otherwise: type[ParseError]) -> Reading:
    """Open a PDF that PDFium refused, or raise `otherwise`. A password of "" is tried, too."""
    from pypdf import PasswordType, PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)

    def opened() -> tuple[PdfReader, int]:
        pdf = PdfReader(path)
        opened_by = PasswordType.USER_PASSWORD if password is None else pdf.decrypt(password)
        # Without a password opens what its readers open so, not what its owner left unlocked.
        if not opened_by or (not password and opened_by != PasswordType.USER_PASSWORD):
            raise otherwise
        return pdf, len(pdf.pages)

    try:
        pdf, total = _tried(opened)
    except Damaged as exc:
        raise otherwise from exc
    warnings: list[str] = []
    if password is None:
        warnings.append("The file is damaged. It was repaired while reading; text may be missing.")

    def pages() -> Iterator[RawPage]:
        unread = []
        for index in range(total):
            try:
                yield RawPage(_tried(partial(_page, pdf, index)))
            except Damaged:
                unread.append(index + 1)
                yield RawPage("")
        if len(unread) == total:
            raise Damaged
        if unread:
            warnings.append(
                f"{len(unread)} of {total} pages could not be read and are empty here: {named(unread)}."
            )

    return Reading(PARSER, pages(), total, paged=True, warnings=warnings)


def form(path: Path, password: str | None) -> str:
    """Names and values of the fields of an XFA form, one a line; "" where there are none."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)

    def found() -> str:
        pdf = PdfReader(path, password=password)
        datasets = (pdf.xfa or {}).get("datasets")
        if not isinstance(datasets, bytes):
            return ""
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
        root = etree.fromstring(datasets, parser)
        fields = [] if root is None else [e for e in root.iter("*") if len(e) == 0 and (e.text or "").strip()]
        return "\n".join(f"{etree.QName(field).localname}: {field.text.strip()}" for field in fields)

    try:
        return _tried(found)
    except Damaged:
        return ""


def _page(pdf: PdfReader, index: int) -> str:
    return pdf.pages[index].extract_text()


def _tried(call: Callable[[], _T]) -> _T:
    """What `call` returns; pypdf raises nearly anything on a broken file, even AssertionError."""
    try:
        return call()
    except (MemoryError, ParseError):
        raise
    except Exception as exc:
        raise Damaged from exc
