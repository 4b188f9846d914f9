"""Tables of a PDF page, by their ruling or by the alignment of their cells.

PDF has no tables, only words and strokes at places. A grid of strokes is a table; so are lines one below the
other whose pieces stand in the same columns, unless the pieces are long: those are columns of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

from parsers import markdown
from parsers.layout import Box, Layout, Line, Word
from parsers.ruling import Grid, grids

#: A gap this many times as wide as a line is high separates cells.
_GAP = 1.1
#: Lines this many heights apart still belong together.
_NEXT = 3.2
#: Rows of one table are no further apart, in heights of a line.
_ROWS_APART = 12
#: Mean characters of a piece from which on pieces are columns of a text.
_PROSE = 28
_MARKER = re.compile(r"[•▪◦●■–—\-*·]|\(?\w{1,4}[.)]|[\d.]+")
_NUMBER = re.compile(r"[\d.,ivxlc]+", re.IGNORECASE)
#: A hyphen that ends a line of a column, where PDFium saw none, for the line goes on in the next column.
_BROKEN = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")
#: A word; dots that lead to a page number are one.
_LED = re.compile(r"\.(?: \.)+(?![^ ])|[^ ]+")


class Block(NamedTuple):
    """Lines of the page, by index, and the text to put where the first of them was."""

    lines: frozenset[int]
    text: str


class _Row(NamedTuple):
    line: int
    #: Left edge, right edge and text of each piece.
    pieces: list[tuple[float, float, str]]


def blocks(layout: Layout) -> list[Block]:
    """Tables and columns on a page."""
    gap = _GAP * layout.em
    wide = [i for i, line in enumerate(layout.lines) if line.box and line.gap > gap]
    if not any(_near(layout, *pair) for pair in pairwise(wide)):
        return []
    found = list(_ruled(layout))
    used = frozenset[int]().union(*(block.lines for block in found))
    for run in _runs(layout, [index for index in wide if index not in used]):
        block = _aligned([_row(layout, index, gap) for index in run])
        if block:
            found.append(block)
    return found


def _near(layout: Layout, index: int, other: int) -> bool:
    """Whether two lines may be rows of one table."""
    box, below = layout.lines[index].box, layout.lines[other].box
    return bool(box and below and abs(box.bottom - below.bottom) < _ROWS_APART * layout.em)


def _ruled(layout: Layout) -> Iterator[Block]:
    used: set[int] = set()
    for grid in grids(layout):
        inside = [
            i
            for i, line in enumerate(layout.lines)
            if line.box and i not in used and grid.box.holds(*_middle(line.box))
        ]
        if len(inside) < 2 or not _apart(layout, grid, inside):
            continue
        rows = _cells(layout, grid, [layout.lines[i] for i in inside])
        cells = sum(map(len, rows))
        filled = sum(1 for row in rows for cell in row if cell)
        full_rows = sum(1 for row in rows if sum(map(bool, row)) > 1)
        if full_rows >= 2 and filled >= 0.4 * cells:
            used.update(inside)
            yield Block(frozenset(inside), markdown.table(rows))


def _apart(layout: Layout, grid: Grid, inside: list[int]) -> bool:
    """Whether the lines in a grid keep to it; those that reach out of it belong to something larger."""
    em = layout.em
    boxes = [box for i in inside if (box := layout.lines[i].box)]
    return all(box.left > grid.box.left - em and box.right < grid.box.right + em for box in boxes)


def _cells(layout: Layout, grid: Grid, lines: list[Line]) -> list[list[str]]:
    pieces = [piece for line in lines for piece in _pieces(layout.words(line), grid)]
    if len(grid.rows) == 2:  # a frame: each line of text is a row
        grid = Grid(grid.box, grid.columns, _lines_between(pieces, grid.box), grid.vertical)
    rows = [[""] * (len(grid.columns) - 1) for _ in range(len(grid.rows) - 1)]
    for text, box in pieces:
        row, column = grid.row((box.bottom + box.top) / 2), grid.column(box.left + 1)
        rows[row][column] = f"{rows[row][column]} {text}".strip()
    kept = [i for i in range(len(grid.columns) - 1) if any(row[i] for row in rows)]
    return [[row[i] for i in kept] for row in rows if any(row)]


def _pieces(words: list[Word], grid: Grid) -> Iterator[Word]:
    """Words of a line that no vertical line divides, together."""
    group: list[Word] = []
    for word in words:
        y = (word.box.bottom + word.box.top) / 2
        if group and grid.divides(group[-1].box.right, word.box.left, y):
            yield _joined(group)
            group = []
        group.append(word)
    if group:
        yield _joined(group)


def _lines_between(pieces: list[Word], box: Box) -> list[float]:
    """Row boundaries between lines of text."""
    middles = sorted({round((piece.box.bottom + piece.box.top) / 2) for piece in pieces}, reverse=True)
    heights = [piece.box.height for piece in pieces]
    near = mean(heights) / 2 if heights else 1
    centres: list[float] = []
    for middle in middles:
        if not centres or centres[-1] - middle > near:
            centres.append(middle)
    return [box.top, *((a + b) / 2 for a, b in pairwise(centres)), box.bottom]


def _row(layout: Layout, index: int, gap: float) -> _Row:
    line = layout.lines[index]
    groups: list[list[Word]] = []
    for word in layout.words(line, _LED):
        if groups and word.box.left - groups[-1][-1].box.right <= gap:
            groups[-1].append(word)
        else:
            groups.append([word])
    pieces = [_joined(group) for group in groups]
    return _Row(index, [(piece.box.left, piece.box.right, piece.text) for piece in pieces])


def _runs(layout: Layout, lines: list[int]) -> Iterator[list[int]]:
    """Three lines or more that follow each other down the page."""
    run: list[int] = []
    last = 0.0
    for index in lines:
        box = layout.lines[index].box
        assert box
        middle = (box.bottom + box.top) / 2
        if run and not 0 < last - middle < _NEXT * layout.em:
            if len(run) > 2:
                yield run
            run = []
        run.append(index)
        last = middle
    if len(run) > 2:
        yield run


def _aligned(run: list[_Row]) -> Block | None:
    """The table or the columns that rows form, if they do."""
    columns = _columns(run)
    pieces = [text for row in run for *_, text in row.pieces]
    prose = mean(map(len, pieces)) >= _PROSE
    if len(columns) < 2 or (len(columns) == 2 and not prose and not _two_columns(run)):
        return None
    rows = []
    for row in run:
        cells = [""] * len(columns)
        for left, right, text in row.pieces:
            at = next(i for i, (_, end) in enumerate(columns) if (left + right) / 2 <= end)
            cells[at] = f"{cells[at]} {text}".strip()
        rows.append(cells)
    lines = frozenset(row.line for row in run)
    if prose:
        if len(run) < 6 or len(columns) > 3:
            return None
        texts = ("\n".join(row[i] for row in rows if row[i]) for i in range(len(columns)))
        return Block(lines, "\n".join(_BROKEN.sub("\ufffe\n", text) for text in texts))
    if sum(1 for row in rows for cell in row if cell) < 0.5 * len(rows) * len(columns):
        return None
    return Block(lines, markdown.table(rows))


def _columns(run: list[_Row]) -> list[tuple[float, float]]:
    """Widths at which some piece stands, as intervals from left to right."""
    columns: list[tuple[float, float]] = []
    for left, right, _ in sorted(piece for row in run for piece in row.pieces):
        if columns and left <= columns[-1][1]:
            columns[-1] = (columns[-1][0], max(columns[-1][1], right))
        else:
            columns.append((left, right))
    return columns


def _two_columns(run: list[_Row]) -> bool:
    """Whether pairs of pieces are a table, not a list, an index or a table of contents."""
    if len(run) < 4 or any(len(row.pieces) != 2 for row in run):
        return False
    firsts, seconds = ([row.pieces[i] for row in run] for i in (0, 1))
    if sum(1 for *_, text in firsts if _MARKER.fullmatch(text)) > len(run) / 3:
        return False
    if sum(1 for *_, text in seconds if _NUMBER.fullmatch(text)) > len(run) / 2:
        return False
    lefts = [left for left, _, _ in seconds]
    rights = [right for _, right, _ in seconds]
    return max(lefts) - min(lefts) < 3 or max(rights) - min(rights) < 3


def _joined(words: Sequence[Word]) -> Word:
    if len(words) == 1:
        return words[0]
    lefts, bottoms, rights, tops = zip(*(word.box for word in words), strict=True)
    return Word(" ".join(word.text for word in words), Box(lefts[0], min(bottoms), max(rights), max(tops)))


def _middle(box: Box) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.bottom + box.top) / 2
