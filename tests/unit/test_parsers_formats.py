"""The formats beyond PDF, Word and HTML: same document, same rules."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from data import documents

from parsers import Damaged, Document, Empty, Encrypted, Limits, TooLarge, parse_in_process
from parsers.limits import DEFAULT_LIMITS

OFFICE = "urn:oasis:names:tc:opendocument:xmlns"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, content: bytes, filename: str, limits: Limits = DEFAULT_LIMITS) -> Document:
    path.write_bytes(content)
    return parse_in_process(path, filename=filename, limits=limits)


def texts(document: Document) -> list[str]:
    return [page.text for page in document.pages]


def test_markdown_has_sections_at_its_headings_but_not_in_code(path: Path) -> None:
    document = read(
        path, b"# Lease\n\nBetween A and B.\n\n```\n# no heading\n```\n\n## Rent ##\n\n900\n", "a.md"
    )
    assert texts(document) == ["# Lease\n\nBetween A and B.\n\n```\n# no heading\n```", "## Rent ##\n\n900"]
    assert [(s.title, s.level, s.page) for s in document.sections] == [("Lease", 1, 1), ("Rent", 2, 2)]


def book(*chapters: str) -> bytes:
    items = "".join(f'<item id="c{n}" href="text/c{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
    dc = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
    return documents.zip_of({
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<x><rootfile full-path="OPS/b.opf"/></x>',
        "OPS/b.opf": f"<package {dc}><m><dc:title>Moby</dc:title><dc:creator>H. M.</dc:creator></m>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
        **{f"OPS/text/c{n}.xhtml": chapter for n, chapter in enumerate(chapters)},
    })  # fmt: skip


def test_a_book_is_read_in_the_order_of_its_spine(path: Path) -> None:
    chapters = (
        "<html><body><h1>Two</h1><p>b</p></body></html>",
        "<html><body><h1>One</h1><p>a</p></body></html>",
    )
    document = read(path, book(*chapters), "a.epub")
    assert texts(document) == ["One\n\na", "Two\n\nb"]
    assert (document.title, document.metadata) == ("Moby", {"author": "H. M."})
    assert [section.title for section in document.sections] == ["One", "Two"]


def test_a_book_without_a_list_of_chapters_is_damaged(path: Path) -> None:
    with pytest.raises(Damaged):
        read(path, documents.zip_of({"META-INF/container.xml": "<container/>"}), "a.epub")


def odt(body: str, **parts: str) -> bytes:
    names = (
        f'xmlns:office="{OFFICE}:office:1.0" xmlns:text="{OFFICE}:text:1.0" xmlns:table="{OFFICE}:table:1.0"'
    )
    content = f"<office:x {names}><office:body><office:text>{body}</office:text></office:body></office:x>"
    files = {f"{name}.xml": part.replace("NAMES", names) for name, part in parts.items()}
    return documents.zip_of({
        "mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content, **files,
    })  # fmt: skip


def test_an_opendocument_text_keeps_headings_lists_tables_and_notes(path: Path) -> None:
    body = (
        '<text:h text:outline-level="1">Rent</text:h>'
        "<text:p>Due<text:s text:c='2'/>monthly<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>Net.</text:p></text:note-body></text:note>.</text:p>"
        "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row>"
        "<table:table-row><table:table-cell table:number-columns-repeated='2'><text:p>c</text:p>"
        "</table:table-cell></table:table-row></table:table>"
    )
    styles = "<s NAMES xmlns:style='x'><style:header><text:p>ACME</text:p></style:header></s>"
    document = read(path, odt(body, styles=styles), "a.odt")
    assert texts(document) == [
        "ACME",
        "Rent\n\nDue  monthly[1].\n\n[1] Net.\n\n• one\n\n| a | b |\n| --- | --- |\n| c | c |",
    ]
    assert [(section.title, section.page) for section in document.sections] == [("Rent", 2)]


def test_an_opendocument_text_with_a_password_is_encrypted(path: Path) -> None:
    manifest = "<m><file-entry><encryption-data/></file-entry></m>"
    content = {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "META-INF/manifest.xml": manifest,
        "content.xml": "x",
    }
    with pytest.raises(Encrypted):
        read(path, documents.zip_of(content), "a.odt")


def test_rich_text_is_read(path: Path) -> None:
    document = read(path, rb"{\rtf1\ansi {\b Rent} is 900 \'80.\par Due monthly.\par}", "a.rtf")
    assert texts(document) == ["Rent is 900 €.\n\nDue monthly."]


def deck(*slides: str) -> bytes:
    names = 'xmlns:p="p" xmlns:a="a"'
    ids = "".join(f'<p:sldId id="{n}" r:id="r{n}"/>' for n in range(len(slides)))
    links = "".join(
        f'<Relationship Id="r{n}" Type="{RELATIONS}/slide" Target="slides/{n}.xml"/>'
        for n in range(len(slides))
    )
    tree = "<p:sld {}><p:cSld><p:spTree>{}</p:spTree></p:cSld></p:sld>"
    return documents.zip_of({
        "ppt/presentation.xml": f'<p:x {names} xmlns:r="{RELATIONS}"><p:sldIdLst>{ids}</p:sldIdLst></p:x>',
        "ppt/_rels/presentation.xml.rels": f"<Relationships>{links}</Relationships>",
        **{f"ppt/slides/{n}.xml": tree.format(names, slide) for n, slide in enumerate(slides)},
    })  # fmt: skip


def shape(text: str, role: str = "body") -> str:
    return (
        f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{role}"/></p:nvPr></p:nvSpPr>'
        f"<p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )


def test_a_slide_is_a_page_with_its_title_as_a_section(path: Path) -> None:
    cell = "<a:tc><p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></a:tc>"
    row = f"<a:tr>{cell.format('a')}{cell.format('b')}</a:tr>"
    table = f"<p:graphicFrame><a:tbl>{row}{row}</a:tbl></p:graphicFrame>"
    document = read(
        path, deck(shape("Plan", "title") + shape("Buy.") + shape("7", "sldNum"), table), "a.pptx"
    )
    assert texts(document) == ["Plan\n\nBuy.", "| a | b |\n| --- | --- |\n| a | b |"]
    assert [document.place(index) for index in range(2)] == ["slide 1", "slide 2"]
    assert [(section.title, section.page) for section in document.sections] == [("Plan", 1)]


def workbook(rows: list[list[object]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Budget"
    for row in rows:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_sheet_is_tables_of_fifty_rows_each_with_the_heading(path: Path) -> None:
    document = read(path, workbook([["Item", "EUR"], *([f"no. {n}", n] for n in range(120))]), "a.xlsx")
    assert [page.name for page in document.pages] == [
        "sheet Budget, rows 1-51",
        "sheet Budget, rows 52-101",
        "sheet Budget, rows 102-121",
    ]
    assert [len(table.rows) for table in document.tables] == [51, 51, 21]
    assert all(table.rows[0] == ("Item", "EUR") for table in document.tables)


def test_what_separates_values_is_found_out(path: Path) -> None:
    document = read(path, b'Item;EUR\nRent;"1,250"\nTax|x;3\n', "a.csv")
    assert document.tables[0].rows == (("Item", "EUR"), ("Rent", "1,250"), ("Tax|x", "3"))


def test_a_source_tree_has_a_page_for_every_file(path: Path) -> None:
    files = {"app/main.py": "def f():\n    return 1\n", "README.md": "# App", "node_modules/x.js": "skip"}
    with zipfile.ZipFile(out := io.BytesIO(documents.zip_of(files)), "a") as archive:
        archive.writestr("logo.png", b"\x89PNG\0\0")
    document = read(path, out.getvalue(), "code.zip")
    assert [page.name for page in document.pages] == ["README.md", "app/main.py", "logo.png"]
    assert document.pages[1].text == "def f():\n    return 1"
    assert document.place(1, offset=10) == "app/main.py, line 2"
    assert document.blank_pages == [3]
    assert "1 of 3 files" in document.warnings[0]


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "a\\..\\b"])
def test_a_member_that_leads_out_of_its_archive_is_refused(path: Path, name: str) -> None:
    with pytest.raises(Damaged, match="outside"):
        read(path, documents.zip_of({name: "x", "a.txt": "y"}), "code.zip")


def test_an_archive_that_declares_too_much_is_refused_before_it_is_inflated(path: Path) -> None:
    content = documents.zip_of({f"{n}.txt": "0" * 100_000 for n in range(9)})
    with pytest.raises(TooLarge, match="900,000"):
        read(path, content, "code.zip", Limits(max_part_bytes=100_000))


def test_an_archive_without_text_is_empty(path: Path) -> None:
    with pytest.raises(Empty, match="no text files"):
        read(path, documents.zip_of({"a.bin": "\0\1"}), "code.zip")
