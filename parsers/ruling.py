"""The ruling of a PDF page: straight lines drawn on it, and the grids they form."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

from parsers.layout import Box, Layout

#: Objects and path segments looked at on a page: drawings have more, tables do not.
_MOST = 4000
#: A box thinner than this is a line, in points.
_THIN = 2.5
#: Vertical boundaries of one column: such a grid is a frame.
_FEWEST_COLUMNS = 2
#: Shorter lines rule nothing.
_SHORT = 6.0
#: Lines this near to each other meet, or are one.
_NEAR = 3.0


class Edge(NamedTuple):
    """A horizontal (at a height, from left to right) or vertical (at a width, from bottom to top) line."""

    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Edges that meet."""

    box: Box
    #: Boundaries of columns from left to right, and of rows from top to bottom.
    columns: list[float]
    rows: list[float]
    vertical: list[Edge]

    def column(self, x: float) -> int:
        """Index of the column at a width."""
        return min(max(bisect.bisect_right(self.columns, x) - 1, 0), len(self.columns) - 2)

    def row(self, y: float) -> int:
        """Index of the row at a height."""
        below = sum(1 for edge in self.rows if edge > y)
        return min(max(below - 1, 0), len(self.rows) - 2)

    def divides(self, left: float, right: float, y: float) -> bool:
        """Whether a vertical line stands between two widths at a height."""
        return any(left - 1 <= edge.at <= right + 1 and edge.low <= y <= edge.high for edge in self.vertical)


def grids(layout: Layout) -> list[Grid]:
    """The grids on a page with two columns or more, from top to bottom."""
    horizontal: list[Edge] = []
    vertical: list[Edge] = []
    for box in _boxes(layout):
        if box.height <= _THIN < _SHORT <= box.right - box.left:
            horizontal.append(Edge((box.bottom + box.top) / 2, box.left, box.right))
        elif box.right - box.left <= _THIN < _SHORT <= box.height:
            vertical.append(Edge((box.left + box.right) / 2, box.bottom, box.top))
        elif box.height > _SHORT and box.right - box.left > _SHORT:  # a cell or a frame
            horizontal += [Edge(box.bottom, box.left, box.right), Edge(box.top, box.left, box.right)]
            vertical += [Edge(box.left, box.bottom, box.top), Edge(box.right, box.bottom, box.top)]
    if len(_boundaries([edge.at for edge in vertical])) <= _FEWEST_COLUMNS:
        return []
    found = [_grid(*part) for part in _parts(_merged(horizontal), _merged(vertical))]
    return sorted(
        (grid for grid in found if len(grid.columns) > _FEWEST_COLUMNS), key=lambda grid: -grid.box.top
    )


def _boxes(layout: Layout) -> Iterator[Box]:
    page = layout.page.raw
    edges = [ctypes.c_float() for _ in range(4)]
    refs = [ctypes.byref(edge) for edge in edges]
    for index in range(min(pdfium_c.FPDFPage_CountObjects(page), _MOST)):
        shape = pdfium_c.FPDFPage_GetObject(page, index)
        if pdfium_c.FPDFPageObj_GetType(shape) != pdfium_c.FPDF_PAGEOBJ_PATH:
            continue
        segments = pdfium_c.FPDFPath_CountSegments(shape)
        if segments <= 5:
            if pdfium_c.FPDFPageObj_GetBounds(shape, *refs):
                yield layout.turned(Box(*(edge.value for edge in edges)))
        elif segments <= _MOST:
            yield from map(layout.turned, _strokes(shape, segments))


def _strokes(shape: Any, segments: int) -> Iterator[Box]:
    """The straight strokes of a path."""
    matrix = pdfium_c.FS_MATRIX()
    pdfium_c.FPDFPageObj_GetMatrix(shape, matrix)
    x, y = ctypes.c_float(), ctypes.c_float()
    last = None
    for index in range(segments):
        segment = pdfium_c.FPDFPath_GetPathSegment(shape, index)
        pdfium_c.FPDFPathSegment_GetPoint(segment, x, y)
        point = (
            matrix.a * x.value + matrix.c * y.value + matrix.e,
            matrix.b * x.value + matrix.d * y.value + matrix.f,
        )
        kind = pdfium_c.FPDFPathSegment_GetType(segment)
        if kind == pdfium_c.FPDF_SEGMENT_LINETO and last:
            yield Box(
                min(last[0], point[0]), min(last[1], point[1]), max(last[0], point[0]), max(last[1], point[1])
            )
        last = point


def _merged(edges: list[Edge]) -> list[Edge]:
    """Edges that continue each other as one."""
    out: list[Edge] = []
    for edge in sorted(set(edges)):
        for index in range(len(out) - 1, max(-1, len(out) - 20), -1):
            other = out[index]
            if edge.at - other.at <= 1 and edge.low <= other.high + _NEAR and edge.high >= other.low - _NEAR:
                out[index] = Edge(other.at, min(edge.low, other.low), max(edge.high, other.high))
                break
        else:
            out.append(edge)
    return out


def _parts(horizontal: list[Edge], vertical: list[Edge]) -> list[tuple[list[Edge], list[Edge]]]:
    """Groups of edges that meet, directly or through others."""
    owner = list(range(len(horizontal) + len(vertical)))

    def find(index: int) -> int:
        while owner[index] != index:
            owner[index] = owner[owner[index]]
            index = owner[index]
        return index

    for i, across in enumerate(horizontal):
        for j, upright in enumerate(vertical, start=len(horizontal)):
            if (
                across.low - _NEAR <= upright.at <= across.high + _NEAR
                and upright.low - _NEAR <= across.at <= upright.high + _NEAR
            ):
                owner[find(i)] = find(j)
    parts: dict[int, tuple[list[Edge], list[Edge]]] = {}
    for i, edge in enumerate([*horizontal, *vertical]):
        parts.setdefault(find(i), ([], []))[0 if i < len(horizontal) else 1].append(edge)
    return [part for part in parts.values() if len(part[0]) >= 2 and len(part[1]) >= 2]


def _grid(horizontal: list[Edge], vertical: list[Edge]) -> Grid:
    columns = _boundaries([edge.at for edge in vertical])
    rows = _boundaries([edge.at for edge in horizontal])[::-1]
    box = Box(columns[0], rows[-1], columns[-1], rows[0])
    return Grid(box, columns, rows, vertical)


def _boundaries(places: list[float]) -> list[float]:
    out: list[float] = []
    for place in sorted(places):
        if not out or place - out[-1] > _NEAR:
            out.append(place)
    return out
