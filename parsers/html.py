"""HTML: all text a reader of the page would see, in sections that begin at its h1 and h2.

Measured before choosing: trafilatura 2.3, which looks for the main text, kept 1.2 % of the words of RFC 9110
and 93 % of RFC 7231, and did not say so. Some words of a footer too many harm less, so only navigation,
scripts and hidden elements are left out here, and a warning counts the words. What a style sheet
hides is read: mostly it stands in tabs and folds, which a reader opens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree
from lxml.html import HTMLParser, document_fromstring

from parsers import markdown
from parsers.encoding import decode
from parsers.errors import Damaged, Empty
from parsers.limits import Limits
from parsers.numbering import FORMATS, spell
from parsers.reading import Reading, omissions
from parsers.sections import Block, sections

PARSER = "html/4"

_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_DECLARED_WITHIN = 4096
_WITHOUT_TEXT = "//head|//script|//style|//template|//noscript|//comment()|//processing-instruction()"
_NAVIGATION = "//nav|//*[@role='navigation' or @role='menu' or @role='menubar']"
#: Names that pages give to navigation; what has one and is mostly links is left out, too.
_NAMED = (
    "//*[(@class or @id) and (self::div or self::ul or self::ol or self::p or self::table or self::header)]"
)
_NAVIGATION_NAMES = frozenset({
    "nav", "navbar", "navigation", "menu", "breadcrumb", "breadcrumbs", "pagination", "pager", "sidebar",
    "skip-link", "related", "share", "social",
})  # fmt: skip
_MOSTLY = 0.7
_HIDDEN = "//*[@hidden]|//*[@style]"
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hgroup", "hr", "html", "legend", "li", "main", "nav", "ol", "option", "p", "pre",
    "search", "section", "summary", "table", "td", "th", "tr", "ul",
})  # fmt: skip
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
#: A table row with one of these in it is laid out block by block.
_LARGE = ("table", "ul", "ol", "dl", "pre", *_HEADINGS)
_MOST_SPANNED = 100
_WHOLE = re.compile(r"\s*-?\d{1,9}")
_SPACE = re.compile(r"[ \t\r\n\f]+")
_SPACE_RUN = re.compile(" {2,}")
_AROUND_BREAK = re.compile(r" ?([\t\n]) ?")


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a page. Raises Empty, Damaged (elements nested too deeply to be read whole)."""
    page = parse(path.read_bytes())
    pages = sections(page.blocks())
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=page.title,
        metadata=page.metadata,
        warnings=[*page.warnings, *omissions(page.left_out)],
    )


@dataclass(frozen=True, slots=True)
class Html:
    """A page of HTML without what is no text of its own."""

    root: Any
    title: str | None
    metadata: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    #: Words left out, by what they are.
    left_out: Counter[str] = field(default_factory=Counter)

    def blocks(self) -> Iterator[Block]:
        """Paragraphs, list items, tables and headings in reading order."""
        return _Walk(self.root).blocks()


def parse(data: bytes) -> Html:
    """The page that these bytes hold. Raises Empty, Damaged."""
    declared = _CHARSET.search(data[:_DECLARED_WITHIN])
    text, warning = decode(data, declared[1].decode("ascii") if declared else None)
    root = _parse(text)
    page = Html(root, root.findtext(".//title"), _metadata(root), [warning] if warning else [])
    _drop(root.xpath(_WITHOUT_TEXT))
    hidden = [e for e in root.xpath(_HIDDEN) if "hidden" in e.attrib or _HIDING.search(e.get("style", ""))]
    named = [element for element in root.xpath(_NAMED) if _navigates(element)]
    _keep_powers(root)
    for name, elements in (("navigation", [*root.xpath(_NAVIGATION), *named]), ("hidden text", hidden)):
        page.left_out[name] = _drop(elements)
    return page


def _keep_powers(root: Any) -> None:
    """Write 10^6 for a raised number behind a number, which would be another number on its line."""
    for raised in root.iter("sup"):
        before = raised.getprevious()
        text = raised.getparent().text if before is None else before.tail
        if (text or "")[-1:].isdigit() and (raised.text or "").lstrip("-−")[:1].isdigit():
            raised.text = f"^{raised.text}"


def _metadata(root: Any) -> dict[str, str]:
    found = {}
    for element in root.iterfind(".//meta"):
        name = (element.get("name") or "").lower()
        if name in {"author", "description", "keywords", "date"} and element.get("content"):
            found[name] = element.get("content")
    return found


def _navigates(element: Any) -> bool:
    """Whether an element is named like navigation and holds little but links."""
    names = f"{element.get('class', '')} {element.get('id', '')}".lower().split()
    if _NAVIGATION_NAMES.isdisjoint(names):
        return False
    text = len("".join(element.itertext()).split())
    linked = sum(len("".join(link.itertext()).split()) for link in element.iter("a"))
    return linked >= _MOSTLY * text


def _parse(text: str) -> Any:
    # As bytes, for lxml refuses text that declares an encoding; huge_tree raises the bound of 256 levels.
    parser = HTMLParser(encoding="utf-8", huge_tree=True)
    try:
        root = document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except etree.ParserError as exc:
        raise Empty from exc
    except etree.XMLSyntaxError as exc:  # HTML has no syntax errors; libxml2 reports its lack of memory so
        raise MemoryError from exc
    if any(entry.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT for entry in parser.error_log):
        raise Damaged(
            "The page nests its elements too deeply to be read whole. Save it as plain text and send that."
        )
    return root


def _drop(elements: list[Any]) -> int:
    """Take elements out of the tree, but not the text behind them. Returns the number of words in them."""
    words = 0
    for element in elements:
        if element.getparent() is None:  # it is gone already
            continue
        if isinstance(element.tag, str):
            words += len("".join(element.itertext()).split())
        element.drop_tree()
    return words


class _Walk:
    """The way through a page, and what is open on it."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._pieces: list[str] = []
        #: Waits for the first text of its list item.
        self._bullet = ""
        #: Those that are open, None for one with bullets.
        self._lists: list[_Numbers | None] = []
        self._preformatted = 0
        #: The first name met since the last block.
        self._anchor: str | None = None

    def blocks(self) -> Iterator[Block]:
        """Blocks in reading order."""
        walk = etree.iterwalk(self._root, events=("start", "end"))
        table: Any = None  # a table that was read as a whole
        for event, element in walk:
            tag, starts = element.tag, event == "start"
            if tag in _BLOCKS and table is None:
                yield from self._block(element, starts=starts)
            if starts:
                self._anchor = (
                    self._anchor or element.get("id") or (tag == "a" and element.get("name")) or None
                )
            if tag == "table" and starts and (rows := _rows(element)):
                table = element
                yield Block(markdown.table(rows), anchor=self._anchor)
                self._anchor = None
                walk.skip_subtree()
                continue
            if element is table:
                table = None
            elif tag == "br" and starts:
                self._pieces.append("\n")
            elif tag == "pre":
                self._preformatted += 1 if starts else -1
            text = element.text if starts else element.tail
            if text:
                self._pieces.append(text if self._preformatted else _SPACE.sub(" ", text))

    def _block(self, element: Any, *, starts: bool) -> Iterator[Block]:
        """The text before the beginning or end of a block element, as a block of its own."""
        tag = element.tag
        text = "".join(self._pieces)
        text = text if self._preformatted else _tidy(text)
        self._pieces.clear()
        if text.strip():
            level = int(tag[1]) if tag in _HEADINGS and not starts else 0
            yield Block(self._bullet + text, level, self._anchor)
            self._bullet, self._anchor = "", None
        if tag in {"ul", "ol"}:
            opened = _Numbers(element) if tag == "ol" else None
            self._lists = [*self._lists, opened] if starts else self._lists[:-1]
        elif tag == "li":
            numbers = self._lists[-1] if self._lists else None
            self._bullet = (numbers.next(element) if numbers else "• ") if starts else ""


class _Numbers:
    """The numbers that a browser draws before the items of a list."""

    def __init__(self, element: Any) -> None:
        backwards = "reversed" in element.attrib
        self._step = -1 if backwards else 1
        self._next = _stated(element, "start", len(element.findall("li")) if backwards else 1)
        self._format = FORMATS.get(element.get("type", ""), "decimal")

    def next(self, item: Any) -> str:
        number = _stated(item, "value", self._next)
        self._next = number + self._step
        return f"{spell(number, self._format)}. "


def _stated(element: Any, name: str, default: int) -> int:
    """The whole number that an attribute states."""
    found = _WHOLE.match(element.get(name, ""))
    return int(found[0]) if found else default


def _rows(table: Any) -> list[list[str]]:
    """The cells of a table by row; none where it is a layout: its cells hold more than a paragraph, or text
    stands outside of them."""
    rows: list[list[str]] = []
    waiting: dict[int, int] = {}  # rows that a cell above still spans, by column
    for row in table.iter("tr"):
        if not _fits_a_line(row):
            return []
        cells: list[str] = []
        for cell in row.iterchildren("td", "th"):
            _skip_spanned(cells, waiting)
            start = len(cells)
            cells += [_cell(cell), *[""] * (_span(cell, "colspan") - 1)]
            waiting |= dict.fromkeys(range(start, len(cells)), _span(cell, "rowspan") - 1)
        _skip_spanned(cells, waiting)
        rows.append(cells)
    caption = table.find("caption")
    if caption is not None and (title := _tidy("".join(caption.itertext()))):
        rows.insert(0, [title])
    held = "".join(cell for row in rows for cell in row)
    return rows if markdown.is_table(rows) and _letters(held) == _letters("".join(table.itertext())) else []


def _letters(text: str) -> int:
    return sum(map(len, text.split()))


def _skip_spanned(cells: list[str], waiting: dict[int, int]) -> None:
    while waiting.get(len(cells), 0) > 0:
        waiting[len(cells)] -= 1
        cells.append("")


def _cell(cell: Any) -> str:
    return " ".join("".join(_inner(cell)).split())


def _inner(cell: Any) -> Iterator[str]:
    for event, element in etree.iterwalk(cell, events=("start", "end")):
        text = element.text if event == "start" else element.tail if element is not cell else ""
        yield " " if element.tag in _BLOCKS or element.tag == "br" else ""
        yield text or ""


def _span(cell: Any, name: str) -> int:
    said = cell.get(name, "1")
    return min(int(said), _MOST_SPANNED) if said.isdecimal() and len(said) < 5 and int(said) else 1


def _fits_a_line(row: Any) -> bool:
    """Whether no cell of a table row holds more than a few lines."""
    if next(row.iter(*_LARGE), None) is not None:
        return False
    return all(
        sum(1 for block in cell.iter("p", "div") if (block.text or "").strip()) <= 1
        for cell in row.iterchildren("td", "th")
    )


def _tidy(text: str) -> str:
    return _AROUND_BREAK.sub(r"\1", _SPACE_RUN.sub(" ", text)).strip(" \n")
