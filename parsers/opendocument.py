"""OpenDocument text: headings, lists, tables, notes, comments (OpenDocument 1.3, part 3, sections 5 to 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsers import markdown
from parsers.archive import open_zip
from parsers.attributes import get, whole
from parsers.errors import Damaged, Encrypted
from parsers.limits import Limits
from parsers.package import Package
from parsers.reading import Reading
from parsers.sections import Block, sections

PARSER = "opendocument/1"

_SKIPPED = frozenset({"tracked-changes", "sequence-decls", "note-citation", "forms", "table-header-columns"})
_METADATA = {"creator": "author", "subject": "subject", "creation-date": "created", "date": "modified"}
_MOST_REPEATED = 50


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
    walk = _Walk()
    pages = sections([*walk.running(styles, "header"), *walk.blocks(body), *walk.running(styles, "footer")])
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=False,
        title=None if meta is None else meta.findtext(".//{*}title"),
        metadata=_metadata(meta),
    )


class _Walk:
    """The way through a document; a note follows the paragraph it hangs on."""

    def __init__(self) -> None:
        self._pending: list[Block] = []
        self._notes = 0

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
            match _name(child):
                case "h" | "p" as name:
                    text = "".join(self._inline(child))
                    level = whole(get(child, "outline-level"), default=1) if name == "h" else 0
                    if text.strip():
                        yield Block(bullet + text, level)
                        bullet = ""
                    yield from self._hanging()
                case "list-item":
                    yield from self.blocks(child, bullet="• ")
                case "table":
                    rows = [row for row in self._rows(child) if any(row)]
                    text = (
                        markdown.table(rows) if markdown.is_table(rows) else "\n".join(map("\n".join, rows))
                    )
                    yield Block(text)
                case name if name not in _SKIPPED:
                    yield from self.blocks(child)

    def _hanging(self) -> Iterator[Block]:
        pending, self._pending = self._pending, []
        yield from pending

    def _inline(self, element: Any) -> Iterator[str]:
        yield element.text or ""
        for child in element:
            match _name(child):
                case "s":
                    yield " " * min(whole(get(child, "c"), default=1), _MOST_REPEATED)
                case "tab":
                    yield "\t"
                case "line-break":
                    yield "\n"
                case "note":
                    self._notes += 1
                    self._pending.append(Block(f"[{self._notes}] {self._text(child)}"))
                    yield f"[{self._notes}]"
                case "annotation":
                    author = child.findtext("{*}creator")
                    said = self._text(child)
                    self._pending.append(Block(f"[Comment{f' by {author}' if author else ''}: {said}]"))
                case name if name not in _SKIPPED:
                    yield from self._inline(child)
            yield child.tail or ""

    def _text(self, element: Any) -> str:
        """The paragraphs within an element, on one line."""
        return " ".join("".join(self._inline(part)).strip() for part in element.iter("{*}p", "{*}h"))

    def _rows(self, table: Any) -> Iterator[list[str]]:
        for row in table.iter("{*}table-row"):
            cells: list[str] = []
            for cell in row.iterchildren("{*}table-cell", "{*}covered-table-cell"):
                times = min(whole(get(cell, "number-columns-repeated"), default=1), _MOST_REPEATED)
                cells += [" ".join(block.text for block in self.blocks(cell))] * times
            while cells and not cells[-1]:
                cells.pop()
            yield cells


def _metadata(meta: Any) -> dict[str, str]:
    if meta is None:
        return {}
    return {key: text for name, key in _METADATA.items() if (text := meta.findtext(f".//{{*}}{name}"))}


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]
