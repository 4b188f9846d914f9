"""Spreadsheets: Excel by openpyxl, and tables of separated values; each sheet is one table or several."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from parsers import markdown, text
from parsers.archive import check_sizes, open_zip, read_member
from parsers.encoding import decode
from parsers.errors import Damaged, TooLarge
from parsers.limits import Limits
from parsers.reading import Mark, RawPage, Reading

PARSER = "sheets/3"

#: Rows of a page.
_ROWS = 50
#: Characters by which it is found out what separates values, and what may; the comma last, for it stands in
#: numbers and texts, too.
_SAMPLE = 1 << 16
_SEPARATORS = ";\t|,"
#: A cell with a formula and no value, not even an empty text: no Excel has saved the file since it was made.
_UNCOMPUTED = re.compile(
    rb"<c\b(?![^>]*\bt=.str)[^>]*>\s*<f\b[^>]*(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an .xlsx file: values as Excel last computed them. Raises Damaged, TooLarge, Encrypted."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with open_zip(path, password) as archive:
            most = 4 * limits.max_part_bytes
            check_sizes(archive, max_bytes=most)
            book = load_workbook(
                cast(IO[bytes], archive.fp), read_only=True, data_only=True, keep_links=False
            )
            uncomputed = sum(
                len(_UNCOMPUTED.findall(read_member(archive, name, max_bytes=most) or b""))
                for name in archive.namelist()
                if name.startswith("xl/worksheets/") and name.endswith(".xml")
            )
            pages = [
                page for sheet in book.worksheets for page in _pages(sheet.title, _values(sheet, limits))
            ]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, TypeError, SyntaxError) as exc:
        raise Damaged from exc
    title, author = book.properties.title, book.properties.creator or ""
    hidden = [sheet.title for sheet in book.worksheets if sheet.sheet_state != "visible"]
    warnings = [f"Hidden in Excel, and read all the same: {', '.join(hidden)}."] if hidden else []
    if uncomputed:
        warnings.append(
            f"The values of {uncomputed:,} formulas are not in the file, and empty here. Open it in Excel, "
            "save it and send that."
        )
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=title,
        metadata={"author": author},
        warnings=warnings,
    )


def read_separated(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a .csv or .tsv file; what separates its values is found out."""
    written, warning = decode(path.read_bytes())
    separator = max(_SEPARATORS, key=lambda mark: _rows_alike(written[:_SAMPLE], mark))
    try:
        pages = [*_pages(None, csv.reader(io.StringIO(written, newline=""), delimiter=separator))]
    except csv.Error:  # such as a quotation mark that is never closed
        reading = text.read(path, password=password, limits=limits)
        reading.warnings.append("The values could not be told apart; the file was read as plain text.")
        return reading
    return Reading(PARSER, pages, len(pages), paged=False, warnings=[warning] if warning else [])


def _rows_alike(sample: str, separator: str) -> int:
    """How many rows have as many values as most do, if these are several."""
    try:
        widths = Counter(map(len, csv.reader(io.StringIO(sample, newline=""), delimiter=separator)))
    except csv.Error:
        return 0
    return max((rows for width, rows in widths.items() if width > 1), default=0)


def _values(sheet: Any, limits: Limits) -> Iterator[list[str]]:
    sheet.reset_dimensions()  # what the file says of its size is often wrong, and would cut it
    size = 0
    for row in sheet.iter_rows(values_only=True):
        # Excel, too, shows fifteen digits of a number, so that 0.1 + 0.2 is 0.3.
        values = [
            f"{cell:.15g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row
        ]
        size += sum(map(len, values))  # a text that the file holds once may stand in every cell
        if size > limits.max_text_bytes:
            raise TooLarge(f"A sheet holds more than {limits.max_text_bytes:,} bytes of text. Split it.")
        yield values


def _pages(sheet: str | None, rows: Iterable[list[str]]) -> Iterator[RawPage]:
    """A table for every fifty rows that hold something, each under the heading row of the sheet."""
    filled = ((number, row) for number, cells in enumerate(rows, 1) if (row := _trimmed(cells)))
    head = next(filled, None)
    part = [] if head is None else [head, *islice(filled, _ROWS)]
    begins = True
    while head and part:
        rows_here = f"rows {part[0][0]}-{part[-1][0]}"
        name = f"sheet {sheet}, {rows_here}" if sheet else rows_here
        marks = [Mark(sheet, level=1, start=0)] if sheet and begins else []
        shown = part if begins else [head, *part]
        yield RawPage(markdown.table([row for _, row in shown]), name=name, marks=marks)
        part, begins = list(islice(filled, _ROWS)), False


def _trimmed(row: list[str]) -> list[str]:
    row = list(row)
    while row and not row[-1].strip():
        row.pop()
    return row
