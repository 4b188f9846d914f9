"""Spreadsheets: Excel by openpyxl, and tables of separated values; each sheet is one table or several."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from parsers import markdown, text
from parsers.archive import check_sizes, open_zip
from parsers.attributes import get
from parsers.drawing import link
from parsers.encoding import decode
from parsers.errors import Damaged, TooLarge
from parsers.limits import Limits
from parsers.package import Package
from parsers.reading import Mark, RawPage, Reading, disclosures

PARSER = "sheets/4"

#: Rows of a page.
_ROWS = 50
#: Characters by which it is found out what separates values, and what may; the comma last, for it stands in
#: numbers and texts, too.
_SAMPLE = 1 << 16
_SEPARATORS = ";\t|,"
#: A cell with a formula and no value, not even an empty text: no Excel has saved the file since it was made.
_UNCOMPUTED = re.compile(
    rb"<c\b(?![^<>]*\bt=.str)[^<>]*>\s*+<f\b[^<>]*(?:/>|>[^<]*</f>)\s*+(?:<v\s*+/>|<v>\s*+</v>)?\s*+</c>"
)
#: What is hidden: by hand, with its group or by a filter (ECMA-376 part 1, section 18.3.1).
_HIDDEN = rb"""<(?:\w{1,9}:)?+%b\b(?=[^<>]*>)(?=[^<>]*\shidden=["'](?:1|true)["'])"""
_HIDDEN_ROW = re.compile(_HIDDEN % b"row" + rb"""[^<>]*\sr=["'](\d{1,9})["']""")
_HIDDEN_COLUMNS = re.compile(
    _HIDDEN % b"col" + rb"""(?=[^<>]*\smin=["'](\d{1,9})["'])[^<>]*\smax=["'](\d{1,9})["']"""
)
_MOST_COLUMNS = 1 << 14


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
            package = Package(archive, max_part_bytes=most)
            parts = _parts(package)
            sheets = [
                (sheet, _Written(package.data(parts.get(sheet.title, "")) or b""))
                for sheet in book.worksheets
            ]
            pages = [
                page
                for sheet, written in sheets
                for page in _pages(sheet.title, _values(sheet, written, limits))
            ]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, TypeError, SyntaxError) as exc:
        raise Damaged from exc
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=book.properties.title,
        metadata={"author": book.properties.creator or ""},
        warnings=_warnings(sheets),
    )


def _warnings(sheets: Sequence[tuple[Any, _Written]]) -> list[str]:
    """What is hidden in the sheets, which are read by now, and what is missing."""
    hidden = [
        name
        for sheet, written in sheets
        for name in (written.hidden(sheet.title) if sheet.sheet_state == "visible" else [sheet.title])
    ]
    warnings = disclosures("Excel", hidden)
    if uncomputed := sum(written.uncomputed for _, written in sheets):
        warnings.append(
            f"The values of {uncomputed:,} formulas are not in the file, and empty here. Open it in Excel, "
            "save it and send that."
        )
    return warnings


class _Written:
    """What stands in the file of a sheet, and openpyxl does not tell where it reads row by row."""

    def __init__(self, xml: bytes) -> None:
        self.uncomputed = len(_UNCOMPUTED.findall(xml))
        end = len(xml) if b" hidden=" in xml else 0  # most sheets hide nothing, which is soon found out
        self._rows = set(map(int, _HIDDEN_ROW.findall(xml, 0, end)))
        self._columns = bytearray(_MOST_COLUMNS)  # 1 for those that are hidden and held nothing so far
        for first, last in _HIDDEN_COLUMNS.findall(xml, 0, min(end, xml.find(b"sheetData"))):
            span = slice(max(int(first), 1) - 1, int(last))
            self._columns[span] = b"\1" * len(self._columns[span])
        #: Those that hold something: the unused rest of a sheet is often hidden, too.
        self._filled = {"row": 0, "column": 0}

    def note(self, number: int, row: list[str]) -> None:
        """Take notice of the values of a row."""
        if number in self._rows and any(map(str.strip, row)):
            self._filled["row"] += 1
        at = self._columns.find(1, 0, len(row))
        while at >= 0:
            if row[at].strip():
                self._filled["column"] += 1
                self._columns[at] = 0
            at = self._columns.find(1, at + 1, len(row))

    def hidden(self, title: str) -> list[str]:
        """What is hidden of the sheet, as a warning names it, once it is read."""
        told = [f"{count:,} {name}{'s' * (count > 1)}" for name, count in self._filled.items() if count]
        return [f"{' and '.join(told)} of {title}"] if told else []


def _parts(package: Package) -> dict[str, str]:
    """The parts of the sheets by their titles."""
    main = package.related("", "officeDocument") or "xl/workbook.xml"
    root, by_id = package.xml(main), dict(package.links(main, "worksheet"))
    found = () if root is None else root.iterfind("{*}sheets/{*}sheet")
    return {get(sheet, "name"): by_id.get(link(sheet, "id"), "") for sheet in found}


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


def _values(sheet: Any, written: _Written, limits: Limits) -> Iterator[list[str]]:
    sheet.reset_dimensions()  # what the file says of its size is often wrong, and would cut it
    size = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        # Excel, too, shows fifteen digits of a number, so that 0.1 + 0.2 is 0.3.
        values = [
            f"{cell:.15g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row
        ]
        size += sum(map(len, values))  # a text that the file holds once may stand in every cell
        if size > limits.max_text_bytes:
            raise TooLarge(f"A sheet holds more than {limits.max_text_bytes:,} bytes of text. Split it.")
        written.note(number, values)
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
