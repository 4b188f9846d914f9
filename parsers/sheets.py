"""Spreadsheets: Excel by openpyxl, and tables of separated values; each sheet is one table or several."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from parsers import markdown
from parsers.archive import check_sizes, open_zip
from parsers.encoding import decode
from parsers.errors import Damaged
from parsers.limits import Limits
from parsers.reading import Mark, RawPage, Reading

PARSER = "sheets/1"

#: Rows of a page.
_ROWS = 50
_MOST_COLUMNS = 500
_SAMPLE = 1 << 16


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an .xlsx file: values as Excel last computed them. Raises Damaged, TooLarge, Encrypted."""
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with open_zip(path, password) as archive:
            check_sizes(archive, max_bytes=4 * limits.max_part_bytes)
            book = load_workbook(
                cast(IO[bytes], archive.fp), read_only=True, data_only=True, keep_links=False
            )
            pages = [page for sheet in book.worksheets for page in _pages(sheet.title, _values(sheet))]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, TypeError, SyntaxError) as exc:
        raise Damaged from exc
    title, author = book.properties.title, book.properties.creator or ""
    return Reading(PARSER, pages, len(pages), paged=False, title=title, metadata={"author": author})


def read_separated(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a .csv or .tsv file; what separates its values is found out."""
    text, warning = decode(path.read_bytes())
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:_SAMPLE], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), dialect))
    except csv.Error as exc:
        raise Damaged from exc
    pages = [*_pages(None, rows)]
    return Reading(PARSER, pages, len(pages), paged=False, warnings=[warning] if warning else [])


def _values(sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows(values_only=True, max_col=_MOST_COLUMNS):
        yield ["" if cell is None else str(cell) for cell in row]


def _pages(sheet: str | None, rows: Iterable[list[str]]) -> Iterator[RawPage]:
    """A table for every fifty rows, each under the heading row of the sheet."""
    filled = (_trimmed(row) for row in rows)
    body = (row for row in filled if row)
    head = next(body, None)
    first = 1  # the heading is the first row of the first page
    while head is not None:
        part = list(islice(body, _ROWS))
        if not part and first > 1:
            return
        last = first + len(part) - (first > 1)
        rows_here = f"rows {first}-{last}"
        marks = [Mark(sheet, level=1, start=0)] if sheet and first == 1 else []
        name = f"sheet {sheet}, {rows_here}" if sheet else rows_here
        yield RawPage(markdown.table([head, *part]), name=name, marks=marks)
        first = last + 1


def _trimmed(row: list[str]) -> list[str]:
    row = list(row)
    while row and not row[-1].strip():
        row.pop()
    return row
