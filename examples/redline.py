"""A contract in CriticMarkup -> the Word file before negotiation, and the Word file with tracked changes.

Understood: `# title`, `## heading`, numbered clauses (`4.2 text`), lettered items (`(a) text`), tables of
`| cell |` rows whose first row is the header, `**bold**`, footnotes (`[^1]`, `[^1]: text`), and, of
CriticMarkup, `{--deleted--}`, `{++inserted++}` (also a whole paragraph) and `{>>Author|comment<<}`, which is
attached to its paragraph. The same text gives the same bytes: dates are passed in and the archive carries
none of its own.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any

import docx
from docx.document import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_TAB_ALIGNMENT
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.section import Section
from docx.shared import Mm, Pt, RGBColor
from docx.text.paragraph import Paragraph

INK = RGBColor(0x10, 0x30, 0x3F)
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
RULES = f"<w:tblBorders {nsdecls('w')}>{{}}</w:tblBorders>".format(
    "".join(
        f'<w:{edge} w:val="single" w:sz="{eighths}" w:space="0" w:color="10303F"/>'
        for edge, eighths in (("top", 8), ("bottom", 8), ("insideH", 2))
    )
)
FOOTNOTES_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
MARKUP = re.compile(
    r"\{--(?P<deleted>.+?)--\}|\{\+\+(?P<inserted>.+?)\+\+\}|\{>>(?P<author>.+?)\|(?P<comment>.+?)<<\}"
    r"|\*\*(?P<bold>.+?)\*\*|\[\^(?P<note>\d+)\]"
)
NOTE = re.compile(r"^\[\^(\d+)\]: (.+)$", re.MULTILINE)
NUMBERED = re.compile(r"^(\d+\.\d+|\(\w\)) ")


@dataclass(frozen=True, slots=True)
class Draft:
    """Which side of the negotiation to write: `tracked` shows the changes; without it none was made yet."""

    tracked: bool
    label: str
    author: str
    date: datetime

    @property
    def stamp(self) -> str:
        return self.date.strftime("%Y-%m-%dT%H:%M:%SZ")


def write(source: str, draft: Draft) -> bytes:
    """The contract as a .docx archive."""
    document = docx.Document()
    notes = {int(number): text for number, text in NOTE.findall(source)}
    title, *blocks = NOTE.sub("", source).strip().split("\n\n")
    _dress(document, title.removeprefix("# "), draft)
    document.add_paragraph(title.removeprefix("# "), "Title")
    writer = _Writer(document, draft)
    for block in blocks:
        writer.block(block.strip())
    _attach_footnotes(document, notes)
    return _archive(document)


class _Writer:
    def __init__(self, document: Document, draft: Draft) -> None:
        self._document = document
        self._draft = draft
        self._changes = 0

    def block(self, text: str) -> None:
        if text.startswith("## "):
            self._document.add_paragraph(text.removeprefix("## "), "Heading 1")
        elif text.startswith("| "):
            self._table([[cell.strip() for cell in row.strip("| ").split(" |")] for row in text.splitlines()])
        elif text.startswith("{++") and text.endswith("++}") and text.count("{++") == 1:
            if self._draft.tracked:
                self._inserted_paragraph(text)
        else:
            self._inline(self._document.add_paragraph(style=_style_of(text)), text)

    def _inserted_paragraph(self, text: str) -> None:
        paragraph = self._document.add_paragraph(style=_style_of(text.removeprefix("{++")))
        mark = OxmlElement("w:rPr")
        mark.append(self._change("w:ins"))
        paragraph._p.get_or_add_pPr().append(mark)
        self._inline(paragraph, text)

    def _table(self, rows: list[list[str]]) -> None:
        table = self._document.add_table(len(rows), len(rows[0]))
        table._tbl.tblPr.find(qn("w:tblLook")).addprevious(parse_xml(RULES))
        table.rows[0]._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))
        for cells, row in zip(rows, table.rows, strict=True):
            row._tr.get_or_add_trPr().append(OxmlElement("w:cantSplit"))
            for text, cell in zip(cells, row.cells, strict=True):
                cell.paragraphs[0].style = "Table Text"
                self._inline(cell.paragraphs[0], f"**{text}**" if cells is rows[0] else text)

    def _inline(self, paragraph: Paragraph, text: str) -> None:
        end = 0
        for mark in MARKUP.finditer(text):
            self._run(paragraph, text[end : mark.start()])
            self._mark(paragraph, mark)
            end = mark.end()
        self._run(paragraph, text[end:])

    def _mark(self, paragraph: Paragraph, mark: re.Match[str]) -> None:
        match mark.lastgroup, mark[mark.lastgroup or 0]:
            case "deleted", text:
                self._run(paragraph, text, "w:del" if self._draft.tracked else None)
            case "inserted", text if self._draft.tracked:
                self._run(paragraph, text, "w:ins")
            case "comment", text if self._draft.tracked:
                self._comment(paragraph, mark["author"], text)
            case "bold", text:
                self._run(paragraph, text, bold=True)
            case "note", number:
                _refer(paragraph, int(number))

    def _run(self, paragraph: Paragraph, text: str, change: str | None = None, *, bold: bool = False) -> None:
        if not text:
            return
        run = paragraph.add_run(NUMBERED.sub(r"\1\t", text, count=1) if not paragraph.runs else text)
        run.bold = True if bold else None
        if change is None:
            return
        if change == "w:del":
            for part in run._r.findall(qn("w:t")):
                part.tag = qn("w:delText")
        wrapper = self._change(change)
        run._r.addprevious(wrapper)
        wrapper.append(run._r)

    def _change(self, tag: str) -> Any:
        self._changes += 1
        element = OxmlElement(tag)
        element.set(qn("w:id"), str(1000 + self._changes))
        element.set(qn("w:author"), self._draft.author)
        element.set(qn("w:date"), self._draft.stamp)
        return element

    def _comment(self, paragraph: Paragraph, author: str, text: str) -> None:
        initials = "".join(name[0] for name in author.split())
        comment = self._document.comments.add_comment(text, author=author, initials=initials)
        comment._comment_elm.set(qn("w:date"), self._draft.stamp)
        start, stop, reference = (
            OxmlElement(f"w:comment{part}") for part in ("RangeStart", "RangeEnd", "Reference")
        )
        for element in (start, stop, reference):
            element.set(qn("w:id"), str(comment.comment_id))
        first = next(child for child in paragraph._p if child.tag != qn("w:pPr"))
        first.addprevious(start)
        paragraph._p.append(stop)
        paragraph.add_run()._r.append(reference)


def _style_of(text: str) -> str:
    number = NUMBERED.match(text)
    if number is None:
        return "Normal"
    return "Item" if number[1].strip("()").islower() else "Clause"


def _dress(document: Document, title: str, draft: Draft) -> None:
    _set_styles(document)
    _set_page(document.sections[0], title, draft)
    properties = document.core_properties
    properties.title, properties.author, properties.comments = title, draft.author, draft.label
    properties.last_modified_by, properties.language = draft.author, "en-GB"
    properties.created = properties.modified = draft.date


def _set_styles(document: Document) -> None:
    _style(document, "Normal", "Cambria", 10.5).paragraph_format.line_spacing = 1.15
    for name, left, hanging in (("Clause", 12, 12), ("Item", 20, 8)):
        clause = _style(document, name, "Cambria", 10.5).paragraph_format
        clause.left_indent, clause.first_line_indent = Mm(left), Mm(-hanging)
        clause.tab_stops.add_tab_stop(Mm(left))
    for name in ("Header", "Footer"):
        stops = _style(document, name, "Calibri", 8.5).paragraph_format.tab_stops
        stops.clear_all()
        stops.add_tab_stop(Mm(150), WD_TAB_ALIGNMENT.RIGHT)
    for name, size, before, after in (("Title", 24, 0, 14), ("Heading 1", 12.5, 16, 6)):
        heading = _style(document, name, "Calibri", size, before=before, after=after)
        heading.font.bold, heading.font.color.rgb = True, INK
        heading.paragraph_format.keep_with_next = True
        for border in heading.element.pPr.findall(qn("w:pBdr")):
            heading.element.pPr.remove(border)
    _style(document, "Table Text", "Calibri", 10, before=3, after=3)
    _style(document, "Footnote Text", "Cambria", 9, after=0)
    _style(document, "Comment Text", "Calibri", 9)
    document.styles.add_style("Comment Reference", WD_STYLE_TYPE.CHARACTER, builtin=True)
    reference = document.styles.add_style("Footnote Reference", WD_STYLE_TYPE.CHARACTER, builtin=True)
    reference.font.superscript = True


def _style(
    document: Document, name: str, font: str, size: float, *, before: float = 0, after: float = 6
) -> Any:
    """The paragraph style of that name, made if the template lacks it; sizes and spaces in points."""
    styles = document.styles
    if name not in styles:
        builtin = name.startswith(("Footnote", "Comment"))
        styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH, builtin=builtin)
    style: Any = styles[name]
    for fonts in style.element.get_or_add_rPr().findall(
        qn("w:rFonts")
    ):  # theme fonts would win over the name
        fonts.getparent().remove(fonts)
    style.font.name, style.font.size = font, Pt(size)
    style.paragraph_format.space_before, style.paragraph_format.space_after = Pt(before), Pt(after)
    return style


def _set_page(section: Section, title: str, draft: Draft) -> None:
    section.page_width, section.page_height = Mm(210), Mm(297)
    section.left_margin = section.right_margin = Mm(30)
    section.top_margin, section.bottom_margin = Mm(28), Mm(25)
    section.header.paragraphs[0].add_run(f"{title}\t{draft.label}")
    footer = section.footer.paragraphs[0]
    footer.add_run("Corvane Logistics Limited and Brightmoor Data Services LLP\tPage ")
    _field(footer, "PAGE")
    footer.add_run(" of ")
    _field(footer, "NUMPAGES")


def _field(paragraph: Paragraph, instruction: str) -> None:
    field = OxmlElement("w:fldSimple")
    field.set(qn("w:instr"), instruction)
    paragraph._p.append(field)
    run = paragraph.add_run("1")
    field.append(run._r)


def _refer(paragraph: Paragraph, number: int) -> None:
    reference = OxmlElement("w:footnoteReference")
    reference.set(qn("w:id"), str(number))
    run = paragraph.add_run()
    run.style = "Footnote Reference"
    run._r.append(reference)


def _attach_footnotes(document: Document, notes: dict[int, str]) -> None:
    """A part of their own (ECMA-376, part 1, 11.3.7); ids -1 and 0 are the separators that Word expects."""
    separators = "".join(
        f'<w:footnote w:type="{kind}" w:id="{number}"><w:p><w:r><w:{kind}/></w:r></w:p></w:footnote>'
        for number, kind in ((-1, "separator"), (0, "continuationSeparator"))
    )
    texts = "".join(
        f'<w:footnote w:id="{number}"><w:p><w:pPr><w:pStyle w:val="FootnoteText"/></w:pPr>'
        f'<w:r><w:rPr><w:rStyle w:val="FootnoteReference"/></w:rPr><w:footnoteRef/></w:r>'
        f'<w:r><w:t xml:space="preserve"> {text}</w:t></w:r></w:p></w:footnote>'
        for number, text in notes.items()
    )
    blob = f"<w:footnotes {nsdecls('w')}>{separators}{texts}</w:footnotes>".encode()
    part = Part(PackURI("/word/footnotes.xml"), FOOTNOTES_TYPE, blob, document.part.package)
    document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)


def _archive(document: Document) -> bytes:
    saved, fixed = BytesIO(), BytesIO()
    document.save(saved)
    with zipfile.ZipFile(saved) as loose, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in loose.infolist():
            archive.writestr(
                zipfile.ZipInfo(entry.filename, ZIP_EPOCH), loose.read(entry), zipfile.ZIP_DEFLATED
            )
    return fixed.getvalue()
