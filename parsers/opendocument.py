"""OpenDocument text: headings, lists, tables, notes, comments (OpenDocument 1.3, part 3, sections 5 to 9)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parsers import markdown
from parsers.archive import open_zip
from parsers.attributes import get, localname, whole
from parsers.errors import Damaged, Encrypted
from parsers.limits import Limits
from parsers.numbering import FORMATS, spell
from parsers.package import Package
from parsers.reading import Reading, omissions
from parsers.sections import Block, sections

PARSER = "opendocument/3"

_SKIPPED = frozenset({
    "tracked-changes", "sequence-decls", "note-citation", "forms", "table-header-columns", "ruby-text",
})  # fmt: skip
_METADATA = {"creator": "author", "subject": "subject", "creation-date": "created", "date": "modified"}
_MOST_REPEATED = 50
#: Level of a heading.
_DEEPEST = 10
#: Style of a list, None for the headings, and level.
_Place = tuple[str | None, int]
#: Family of a style, and its name; "" is the style that all others of the family begin with.
_Style = tuple[str, str]


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an .odt file. It keeps no pages, so it has sections. Raises Damaged, Encrypted, TooLarge."""
    with open_zip(path) as archive:
        package = Package(archive, max_part_bytes=limits.max_part_bytes)
        manifest = package.xml("META-INF/manifest.xml")
        if manifest is not None and next(manifest.iter("{*}encryption-data"), None) is not None:
            raise Encrypted("The document is locked with a password. Save a copy without one and send that.")
        root, meta, styles = (package.xml(f"{name}.xml") for name in ("content", "meta", "styles"))
    body = None if root is None else root.find("{*}body/{*}text")
    if body is None:
        raise Damaged("The file holds no text document. Save a new copy and send that.")
    # Each of the two parts has automatic styles of its own, often by the same names.
    margin, walk = _Walk(styles), _Walk(styles, root)
    pages = sections(
        [*margin.running(styles, "header"), *walk.blocks(body), *margin.running(styles, "footer")]
    )
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=None if meta is None else meta.findtext(".//{*}title"),
        metadata=_metadata(meta),
        warnings=omissions({"hidden text": margin.left_out + walk.left_out}),
    )


class _Walk:
    """The way through a document; a note follows the paragraph it hangs on."""

    def __init__(self, *parts: Any) -> None:
        parts = tuple(part for part in parts if part is not None)
        self._pending: list[Block] = []
        self._notes = 0
        #: How a list of this style is numbered at this level.
        self._levels = {key: level for part in parts for key, level in _levels(part).items()}
        self._hiding = _hiding(parts)
        self._hidden: list[str] = []
        self._gone = False  # True within what is hidden as a whole
        #: Last number given at each level of the list that is open, and of the headings.
        self._counts: list[int] = []
        self._headings: list[int] = []
        self._style = ""
        #: Last number given in the lists of a style at a level, which another may continue.
        self._ends: dict[_Place, int] = {}

    @property
    def left_out(self) -> int:
        """Words that were hidden."""
        return len("".join(self._hidden).split())

    def running(self, styles: Any, kind: str) -> Iterator[Block]:
        """Headers or footers, each once."""
        seen = set()
        for part in styles.iter(f"{{*}}{kind}") if styles is not None else ():
            for block in self.blocks(part):
                if block.text not in seen and not block.text.strip().isdecimal():
                    seen.add(block.text)
                    yield block

    def blocks(self, parent: Any, bullet: str = "") -> Iterator[Block]:
        """Blocks in reading order."""
        for child in parent:
            match localname(child):
                case "h" | "p" as name:
                    text = self._line(child)
                    level = min(whole(get(child, "outline-level"), default=1), _DEEPEST) if name == "h" else 0
                    # LibreOffice counts hidden headings, too, as it does hidden items (SwNodeNum::IsCounted).
                    number = self._numbered(child, level) if level and _holds_text(child) else ""
                    if text.strip():
                        yield Block((number or bullet) + text, level)
                        bullet = ""
                    yield from self._hanging()
                case "list":
                    yield from self._list(child)
                case "list-item":
                    if self._counts:
                        self._counts[-1] = whole(get(child, "start-value"), default=self._counts[-1] + 1)
                    yield from self.blocks(child, bullet=self._label(self._style, self._counts) or "• ")
                case "table" if next(child.iterdescendants("{*}table"), None) is None:
                    rows = [row for row in self._rows(child) if any(row)]
                    text = (
                        markdown.table(rows) if markdown.is_table(rows) else "\n".join(map("\n".join, rows))
                    )
                    yield Block(text)
                case name if name not in _SKIPPED:
                    with self._hiding_all(_is_hidden(child)):
                        yield from self.blocks(child)

    def _list(self, element: Any) -> Iterator[Block]:
        outer = self._style, self._counts
        self._style = get(element, "style-name") or self._style
        place = self._style, len(self._counts) + 1
        goes_on = get(element, "continue-numbering") == "true" or get(element, "continue-list")
        last = self._ends.get(place) if goes_on else None
        self._counts = [*self._counts, self._start(*place) - 1 if last is None else last]
        yield from self.blocks(element)
        self._ends[place] = self._counts[-1]
        self._style, self._counts = outer

    def _numbered(self, heading: Any, level: int) -> str:
        """The number of a heading."""
        if get(heading, "is-list-header") == "true":
            return ""
        counts = self._headings
        counts += [self._start(None, deeper) for deeper in range(len(counts) + 1, level)]
        next_one = counts[level - 1] + 1 if len(counts) >= level else self._start(None, level)
        self._headings = [*counts[: level - 1], whole(get(heading, "start-value"), default=next_one)]
        return self._label(None, self._headings)

    def _label(self, style: str | None, counts: list[int]) -> str:
        """What stands before an item, "" where it has no number (part 3, sections 16.31 and 19.880)."""
        own = self._levels.get((style, len(counts)))
        if own is None or not get(own, "num-format"):
            return ""
        shown = range(max(1, len(counts) + 1 - whole(get(own, "display-levels"), default=1)), len(counts) + 1)
        levels = [self._levels.get((style, level)) for level in shown]
        numbers = [
            spell(counts[level - 1], FORMATS.get(get(found, "num-format"), "decimal"))
            for level, found in zip(shown, levels, strict=True)
            if found is not None and get(found, "num-format")
        ]
        return f"{get(own, 'num-prefix')}{'.'.join(numbers)}{get(own, 'num-suffix')} "

    def _start(self, style: str | None, level: int) -> int:
        found = self._levels.get((style, level))
        return 1 if found is None else whole(get(found, "start-value"), default=1)

    def _hanging(self) -> Iterator[Block]:
        pending, self._pending = self._pending, []
        yield from pending

    def _line(self, paragraph: Any) -> str:
        """The text of a paragraph; what is hidden of it is kept apart."""
        self._hidden.append(" ")
        with self._hiding_all(_hides_itself(paragraph)):
            return "".join(self._inline(paragraph, self._hides("paragraph", paragraph)))

    @contextmanager
    def _hiding_all(self, hidden: bool) -> Iterator[None]:
        """Within it all is hidden if that is so here, whatever the styles say."""
        outer, self._gone = self._gone, self._gone or hidden
        try:
            yield
        finally:
            self._gone = outer

    def _hides(self, family: str, element: Any, outer: bool = False) -> bool:
        """Whether the style of an element hides its text; one that does not say leaves it as it is around."""
        return self._gone or self._hiding.get((family, get(element, "style-name")), outer)

    def _shown(self, text: str | None, hidden: bool) -> str:
        if hidden:
            self._hidden.append(text or "")
        return "" if hidden else text or ""

    def _inline(self, element: Any, hidden: bool) -> Iterator[str]:
        yield self._shown(element.text, hidden)
        for child in element:
            match localname(child):
                case "s":
                    yield self._shown(" " * min(whole(get(child, "c"), default=1), _MOST_REPEATED), hidden)
                case "tab":
                    yield self._shown("\t", hidden)
                case "line-break":
                    yield self._shown("\n", hidden)
                case "span" | "a":
                    yield from self._inline(child, self._hides("text", child, hidden))
                case "hidden-text" if _is_hidden(child):
                    self._hidden.append(child.text or get(child, "string-value"))
                case "note" | "annotation" | "text-box" as name if hidden or name == "text-box":
                    before, self._pending = self._pending, []
                    with self._hiding_all(hidden):
                        before += self.blocks(child)
                    self._pending = before
                case "note":
                    self._notes += 1
                    mark = f"[{self._notes}]"
                    self._hang(child, f"{mark} ", "")
                    yield mark
                case "annotation":
                    author = child.findtext("{*}creator")
                    self._hang(child, f"[Comment{f' by {author}' if author else ''}: ", "]")
                case name if name not in _SKIPPED:
                    yield from self._inline(child, hidden or _is_hidden(child))
            yield self._shown(child.tail, hidden)

    def _hang(self, note: Any, begin: str, end: str) -> None:
        """Hang a note, on one line, on its paragraph; what hangs on the note comes behind it."""
        before, self._pending = self._pending, []
        holder = _paragraph_of(note)
        # Those of a note or a box within it hang on them.
        own = (part for part in note.iter("{*}p", "{*}h") if _paragraph_of(part) is holder)
        said = " ".join(filter(None, (self._line(part).strip() for part in own)))
        before += [Block(begin + said + end), *self._pending]
        self._pending = before

    def _rows(self, table: Any) -> Iterator[list[str]]:
        for row in table.iter("{*}table-row"):
            cells: list[str] = []
            for cell in row.iterchildren("{*}table-cell", "{*}covered-table-cell"):
                times = min(whole(get(cell, "number-columns-repeated"), default=1), _MOST_REPEATED)
                cells += [" ".join(block.text for block in self.blocks(cell))] * times
            while cells and not cells[-1]:
                cells.pop()
            yield cells


def _hiding(parts: tuple[Any, ...]) -> dict[_Style, bool]:
    """Whether a style hides text or shows it, of those that say so or inherit it (part 3, section 16.2)."""
    styles = {
        (get(style, "family"), get(style, "name")): style
        for part in parts
        for style in part.iter("{*}style", "{*}default-style")
    }
    hiding: dict[_Style, bool | None] = {}
    for first in styles:
        heirs: list[_Style] = []
        key, said = first, ""
        while not said and key in styles and key not in hiding:
            hiding[key] = None  # ends a circle, too
            heirs.append(key)
            said = _display(styles[key])
            key = key[0], get(styles[key], "parent-style-name") if key[1] else ""
        hiding.update(dict.fromkeys(heirs, said == "none" if said else hiding.get(key)))
    return {key: hides for key, hides in hiding.items() if hides is not None}


def _display(style: Any) -> str:
    """What a style says of the display of text; a condition is not weighed, so that it shows it."""
    return next((get(properties, "display") for properties in style.iterfind("{*}text-properties")), "")


def _is_hidden(element: Any) -> bool:
    """Whether a section or a field is hidden, where it stands on a condition by the file's own word."""
    return get(element, "display") == "none" or get(element, "is-hidden") == "true"


def _hides_itself(paragraph: Any) -> bool:
    """Whether a field within a paragraph hides all of it."""
    return any(
        _is_hidden(field) and _paragraph_of(field) is paragraph
        for field in paragraph.iter("{*}hidden-paragraph")
    )


def _paragraph_of(element: Any) -> Any:
    """The innermost paragraph around an element."""
    return next(element.iterancestors("{*}p", "{*}h"), None)


def _holds_text(element: Any) -> bool:
    return any(map(str.strip, element.itertext()))


def _levels(root: Any) -> dict[_Place, Any]:
    """The levels of lists that have numbers, by the name of their style."""
    kinds = ("list-level-style-number", "outline-level-style")
    return {
        (
            None if style.tag.endswith("}outline-style") else get(style, "name"),
            whole(get(level, "level")),
        ): level
        for style in root.iter("{*}list-style", "{*}outline-style")
        for level in style.iterchildren(*(f"{{*}}{kind}" for kind in kinds))
    }


def _metadata(meta: Any) -> dict[str, str]:
    if meta is None:
        return {}
    return {key: text for name, key in _METADATA.items() if (text := meta.findtext(f".//{{*}}{name}"))}
