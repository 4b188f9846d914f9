"""The ruling of a PDF page: straight lines drawn on it, and the grids they form."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import pypdfium2.raw as pdfium_c

from parsers.layout import Box, Layout, bounds, count_objects, object_type, page_object
from parsers.native import native

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

_place = attrgetter("at")
_count_segments = native(pdfium_c.FPDFPath_CountSegments)
_matrix = native(pdfium_c.FPDFPageObj_GetMatrix)
_segment = native(pdfium_c.FPDFPath_GetPathSegment)
_point = native(pdfium_c.FPDFPathSegment_GetPoint)
_segment_type = native(pdfium_c.FPDFPathSegment_GetType)


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
    #: From left to right.
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
        first = bisect.bisect_left(self.vertical, left - 1, key=_place)
        last = bisect.bisect_right(self.vertical, right + 1, lo=first, key=_place)
        return any(edge.low <= y <= edge.high for edge in self.vertical[first:last])


def grids(layout: Layout) -> list[Grid]:
    """The grids on a page with two columns or more, from top to bottom."""
    horizontal: list[Edge] = []
    vertical: list[Edge] = []
    for left, bottom, right, top in _boxes(layout):
        width, height = right - left, top - bottom
        if height <= _THIN < _SHORT <= width:
            horizontal.append(Edge((bottom + top) / 2, left, right))
        elif width <= _THIN < _SHORT <= height:
            vertical.append(Edge((left + right) / 2, bottom, top))
        elif height > _SHORT and width > _SHORT:  # a cell or a frame
            horizontal += [Edge(bottom, left, right), Edge(top, left, right)]
            vertical += [Edge(left, bottom, top), Edge(right, bottom, top)]
    if len(_boundaries([edge.at for edge in vertical])) <= _FEWEST_COLUMNS:
        return []
    found = [_grid(*part) for part in _parts(_merged(horizontal), _merged(vertical))]
    return sorted(
        (grid for grid in found if len(grid.columns) > _FEWEST_COLUMNS), key=lambda grid: -grid.box.top
    )


def _boxes(layout: Layout) -> Iterator[Box]:
    page = layout.page
    edges = array("f", bytes(16))
    left, _ = edges.buffer_info()
    for index in range(min(count_objects(page), _MOST)):
        shape = page_object(page, index)
        if object_type(shape) != pdfium_c.FPDF_PAGEOBJ_PATH:
            continue
        segments = _count_segments(shape)
        if segments <= 5:
            if bounds(shape, left, left + 4, left + 8, left + 12):
                yield layout.turned(Box(*edges))
        elif segments <= _MOST:
            yield from map(layout.turned, _strokes(shape, segments))


def _strokes(shape: int, segments: int) -> Iterator[Box]:
    """The straight strokes of a path."""
    numbers = array("f", bytes(24))
    place, _ = numbers.buffer_info()
    _matrix(shape, place)
    a, b, c, d, e, f = numbers
    last = None
    for index in range(segments):
        segment = _segment(shape, index)
        _point(segment, place, place + 4)
        x, y = numbers[0], numbers[1]
        point = a * x + c * y + e, b * x + d * y + f
        kind = _segment_type(segment)
        if kind == pdfium_c.FPDF_SEGMENT_LINETO and last:
            yield Box(
                min(last[0], point[0]), min(last[1], point[1]), max(last[0], point[0]), max(last[1], point[1])
            )
        last = point


def _merged(edges: list[Edge]) -> list[Edge]:
    """Edges that continue each other as one, in order of their places."""
    out: list[Edge] = []
    for edge in sorted(set(edges)):
        at, low, high = edge
        for index in range(len(out) - 1, max(-1, len(out) - 20), -1):
            place, start, end = out[index]
            if at - place > 1:
                out.append(edge)
                break
            if low <= end + _NEAR and high >= start - _NEAR:
                out[index] = Edge(place, min(low, start), max(high, end))
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

    for i, (height, left, right) in enumerate(horizontal):
        first = bisect.bisect_left(vertical, left - _NEAR, key=_place)
        last = bisect.bisect_right(vertical, right + _NEAR, lo=first, key=_place)
        for j, (_, low, high) in enumerate(vertical[first:last], start=len(horizontal) + first):
            if low - _NEAR <= height <= high + _NEAR and owner[i] != owner[j]:
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
