"""PowerPoint: a slide is a page, with its texts, tables and notes (ECMA-376 part 1, section 19)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsers import markdown
from parsers.archive import open_zip
from parsers.attributes import localname
from parsers.drawing import chosen, drawn, link
from parsers.errors import Damaged
from parsers.limits import Limits
from parsers.package import Package
from parsers.reading import Mark, RawPage, Reading, disclosures

PARSER = "slides/3"

_TITLES = {"title", "ctrTitle"}
#: Placeholders that show the same on every slide.
_RUNNING = {"sldNum", "dt", "ftr", "hdr", "sldImg"}


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a .pptx file. Raises Damaged, TooLarge, Encrypted, WrongPassword."""
    with open_zip(path, password) as archive:
        package = Package(archive, max_part_bytes=limits.max_part_bytes)
        main = package.related("", "officeDocument") or "ppt/presentation.xml"
        root = package.xml(main)
        if root is None:
            raise Damaged("The file holds no presentation. Save a new copy and send that.")
        by_id = dict(package.links(main, "slide"))
        order = [link(reference, "id") for reference in root.iterfind("{*}sldIdLst/{*}sldId")]
        hidden: list[str] = []
        slides = [
            _slide(package, by_id[key], f"slide {number}", hidden)
            for number, key in enumerate(order, 1)
            if key in by_id
        ]
        core = package.xml(package.related("", "core-properties") or "docProps/core.xml")
    title = None if core is None else core.findtext("{*}title")
    author = "" if core is None else core.findtext("{*}creator") or ""
    return Reading(
        parser=PARSER,
        raw_pages=slides,
        total=len(slides),
        paged=True,
        title=title,
        metadata={"author": author},
        warnings=disclosures("the show", hidden),
    )


def _slide(package: Package, name: str, called: str, hidden: list[str]) -> RawPage:
    root = package.xml(name)
    if root is not None and root.get("show") in {"0", "false"}:
        hidden.append(called)
    marks: list[Mark] = []
    texts = [] if root is None else [*_texts(root.find("{*}cSld/{*}spTree"), marks)]
    texts += drawn(package, name, root)
    notes = package.related(name, "notesSlide")
    page = package.xml(notes) if notes else None
    if page is not None:
        said = "\n".join(_texts(page.find("{*}cSld/{*}spTree"), []))
        texts += [f"Notes: {said}"] if said.strip() else []
    return RawPage("\n\n".join(texts), name=called, marks=marks)


def _texts(parent: Any, marks: list[Mark]) -> Iterator[str]:
    for shape in parent if parent is not None else ():
        match localname(shape):
            case "sp":
                kind = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
                role = "" if kind is None else kind.get("type", "")
                text = _paragraphs(shape.find("{*}txBody"))
                if role in _RUNNING or not text.strip():
                    continue
                if role in _TITLES:
                    marks.append(Mark(text, level=1))
                yield text
            case "AlternateContent":
                for choice in chosen(shape):
                    yield from _texts(choice, marks)
            case "grpSp":
                yield from _texts(shape, marks)
            case "graphicFrame":
                for table in shape.iter("{*}tbl"):
                    rows = [[_paragraphs(cell.find("{*}txBody")) for cell in row.iterfind("{*}tc")]
                            for row in table.iterfind("{*}tr")]  # fmt: skip
                    yield markdown.table(rows) if markdown.is_table(rows) else "\n".join(map("\n".join, rows))


def _paragraphs(body: Any) -> str:
    if body is None:
        return ""
    return "\n".join(
        "".join(
            "\n" if str(run.tag).endswith("}br") else run.text or ""
            for run in paragraph.iter("{*}t", "{*}br")
        )
        for paragraph in body.iterfind("{*}p")
    )
