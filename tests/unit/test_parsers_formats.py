"""The formats beyond PDF, Word and HTML: same document, same rules."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from data import documents

from parsers import Damaged, Document, Empty, Encrypted, Limits, TooLarge, Unsupported, parse_in_process
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


def odt(body: str, *, automatic: str = "", **parts: str) -> bytes:
    names = " ".join(f'xmlns:{name}="{OFFICE}:{name}:1.0"' for name in ("office", "style", "table", "text"))
    content = (
        f"<office:x {names}><office:automatic-styles>{automatic}</office:automatic-styles>"
        f"<office:body><office:text>{body}</office:text></office:body></office:x>"
    )
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
    styles = "<s NAMES><style:header><text:p>ACME</text:p></style:header></s>"
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


def style(name: str, display: str = "", *, family: str = "paragraph", parent: str = "") -> str:
    said = f'<style:text-properties text:display="{display}"/>' if display else ""
    named = f'style:name="{name}" style:family="{family}" style:parent-style-name="{parent}"'
    return f"<style:style {named}>{said}</style:style>"


def styled(text: str, name: str, element: str = "p") -> str:
    return f'<text:{element} text:style-name="{name}">{text}</text:{element}>'


def comment(text: str) -> str:
    return f"<office:annotation><dc:creator xmlns:dc='d'>Ann</dc:creator>{text}</office:annotation>"


def note(text: str) -> str:
    citation = "<text:note-citation>1</text:note-citation>"
    return f"<text:note>{citation}<text:note-body><text:p>{text}</text:p></text:note-body></text:note>"


HANGING = f"x{note('a b')}{comment('<text:p>c</text:p>')}"


@pytest.mark.parametrize(
    ("body", "text", "words"),
    [
        (styled("a secret", "P1") + styled("seen", "P2"), "seen", 2),
        (styled("a secret", "Secret") + "<text:p>seen</text:p>", "seen", 2),
        (styled("a secret", "P1", "h") + styled("seen", "Other"), "seen", 2),
        (styled("see" + styled("cr", "T1", "span") + "n", "P2"), "seen", 1),
        (styled("seen" + styled("<text:s/>a<text:tab/>b ", "T2", "span"), "P2"), "seen", 2),
        (styled("one " + styled("seen", "T3", "span") + " two", "P1"), "seen", 2),
        (styled("se" + styled("a" + styled("e", "T3", "span") + "b", "T1", "span") + "n", "P2"), "seen", 1),
        (styled(f"seen{styled(HANGING, 'T1', 'span')}", "P2"), "seen", 4),
        (styled("seen", "Round"), "seen", 0),
    ],
)
def test_text_that_an_opendocument_style_hides_is_left_out_and_told(
    path: Path, body: str, text: str, words: int
) -> None:
    styles = style("Secret", "none") + style("Shown", "true", parent="Secret") + style("Round", parent="Ring")
    automatic = (
        style("P1", parent="Secret") + style("P2", parent="Shown") + style("Ring", parent="Round")
        + style("T1", "none", family="text") + style("T2", parent="T1", family="text")
        + style("T3", "true", family="text", parent="T1")
    )  # fmt: skip
    document = read(path, odt(body, automatic=automatic, styles=f"<s NAMES>{styles}</s>"), "a.odt")
    assert texts(document) == [text]
    assert document.warnings == ((f"{words} words of hidden text were left out.",) if words else ())


def test_all_opendocument_styles_begin_with_that_of_their_family(path: Path) -> None:
    styles = (
        '<s NAMES><style:default-style style:family="paragraph"><style:text-properties text:display="none"/>'
        f"</style:default-style>{style('Shown', 'true')}{style('Other')}</s>"
    )
    body = "<text:p>one</text:p>" + styled("two", "Other") + styled("seen", "Shown")
    document = read(path, odt(body, styles=styles), "a.odt")
    assert (texts(document), document.warnings) == (["seen"], ("2 words of hidden text were left out.",))


def test_a_header_has_automatic_styles_of_its_own(path: Path) -> None:
    styles = f"<s NAMES>{style('P1', 'none')}<style:header>{styled('secret', 'P1')}</style:header></s>"
    body = odt(styled("seen", "P1"), automatic=style("P1", "true"), styles=styles)
    document = read(path, body, "a.odt")
    assert (texts(document), document.warnings) == (["seen"], ("1 words of hidden text were left out.",))


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ('text:display="none"', True),
        ('text:display="condition" text:condition="x" text:is-hidden="true"', True),
        ('text:display="condition" text:condition="x"', False),
        ('text:display="true"', False),
    ],
)
def test_a_hidden_section_is_left_out_whatever_styles_it_holds(path: Path, said: str, hidden: bool) -> None:
    cell = "<table:table-row><table:table-cell><text:p>cell</text:p></table:table-cell></table:table-row>"
    inner = (
        f"<text:section>{styled('One', 'P1')}</text:section><text:p>two{note('net')}</text:p>"
        f"<table:table>{cell}</table:table>"
    )
    body = f"<text:section {said}>{inner}</text:section><text:p>Seen{note('gross')}</text:p>"
    document = read(path, odt(body, automatic=style("P1", "true")), "a.odt")
    if hidden:
        assert texts(document) == ["Seen[1]\n\n[1] gross"]
        assert document.warnings == ("4 words of hidden text were left out.",)
    else:
        assert texts(document) == ["One\n\ntwo[1]\n\n[1] net\n\ncell\n\nSeen[2]\n\n[2] gross"]
        assert document.warnings == ()


@pytest.mark.parametrize(
    ("body", "text", "words"),
    [
        ("<text:p>a<text:hidden-text {}>b c</text:hidden-text>d</text:p>", "ad", 2),
        ("<text:p>a<text:hidden-text {} text:string-value='b c'/>d</text:p>", "ad", 2),
        ("<text:p>a<text:hidden-text text:is-hidden='false'>b</text:hidden-text>c</text:p>", "abc", 0),
        ("<text:p>a<text:hidden-text text:condition='x'>b</text:hidden-text>c</text:p>", "abc", 0),
        ("<text:p>a <text:hidden-paragraph {}/>b</text:p><text:p>c</text:p>", "c", 2),
        ("<text:p>a<text:hidden-paragraph text:condition='x'/></text:p>", "a", 0),
        (f"<text:p>a{comment('<text:p>b<text:hidden-paragraph {}/></text:p><text:p>c</text:p>')}</text:p>",
         "a\n\n[Comment by Ann: c]", 1),
        ("<text:p>a<text:variable-set text:display='none'>b c</text:variable-set></text:p>", "a", 2),
    ],
)  # fmt: skip
def test_a_field_hides_what_the_file_says_is_hidden_now(path: Path, body: str, text: str, words: int) -> None:
    document = read(path, odt(body.replace("{}", "text:condition='x' text:is-hidden='true'")), "a.odt")
    assert texts(document) == [text]
    assert document.warnings == ((f"{words} words of hidden text were left out.",) if words else ())


def test_hidden_headings_and_items_of_an_opendocument_text_count_on(path: Path) -> None:
    styles = (
        '<s NAMES><text:outline-style><text:outline-level-style text:level="1" style:num-format="1"/>'
        '</text:outline-style><text:list-style style:name="L"><text:list-level-style-number text:level="1" '
        f'style:num-format="1" style:num-suffix="."/></text:list-style>{style("P1", "none")}</s>'
    )
    item = "<text:list-item>{}</text:list-item>"
    items = item.format(styled("x", "P1")) + item.format("<text:p>y</text:p>")
    body = (
        f'{styled("A", "P1", "h")}<text:section text:display="none"><text:h>B</text:h></text:section>'
        f'<text:h>C</text:h><text:list text:style-name="L">{items}</text:list>'
    )
    assert texts(read(path, odt(body, styles=styles), "a.odt")) == ["3 C\n\n2. y"]


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


def test_a_hidden_slide_is_read_and_told(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(deck(shape("Plan"), shape("Reserve"))))
    files = {name: whole.read(name).decode() for name in whole.namelist()}
    files["ppt/slides/1.xml"] = files["ppt/slides/1.xml"].replace("<p:sld ", '<p:sld show="0" ')
    document = read(path, documents.zip_of(files), "a.pptx")
    assert texts(document) == ["Plan", "Reserve"]
    assert document.warnings == ("Hidden in the show, and read all the same: slide 2.",)


def test_a_hidden_sheet_is_read_and_told(path: Path) -> None:
    def hide(book: Any) -> None:
        book.create_sheet("Lists").append(["Oslo"])
        book["Lists"].sheet_state = "hidden"

    document = read(path, workbook([["Item", "EUR"]], hide), "a.xlsx")
    assert "Oslo" in texts(document)[1]
    assert document.warnings == ("Hidden in Excel, and read all the same: Lists.",)


def test_hidden_rows_and_columns_are_read_and_told(path: Path) -> None:
    def hide(book: Any) -> None:
        budget, lists = book["Budget"], book.create_sheet("Lists")
        for row in (2, 3, 7, 9):  # two of them are empty
            budget.row_dimensions[row].hidden = True
        budget["B7"] = " "
        budget.column_dimensions["B"].hidden = True
        budget.column_dimensions.group("D", "XFD", hidden=True)  # the unused rest
        lists.append(["Oslo", None, "Rome"])
        lists.column_dimensions.group("A", "C", hidden=True)
        other = book.create_sheet("Old")
        other.append(["Bern"])
        other.row_dimensions[1].hidden = True
        other.sheet_state = "hidden"

    document = read(path, workbook([["Item", "EUR"], ["Rent", 1], ["Tax", 2], ["Fee", 3]], hide), "a.xlsx")
    assert [len(table.rows) for table in document.tables] == [4, 1, 1]
    assert document.warnings == (
        "Hidden in Excel, and read all the same: 2 rows and 1 column of Budget, 2 columns of Lists, Old.",
    )


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ('<row r="2" spans="1:2" hidden="1">', True),
        ("<row hidden='true' r='2'>", True),
        ('<row r="2" hidden="0" collapsed="1">', False),
    ],
)
def test_a_row_that_a_filter_hides_is_told(path: Path, tag: str, told: bool) -> None:
    whole = zipfile.ZipFile(io.BytesIO(workbook([["Item"], ["Rent"]])))
    files = {name: whole.read(name).decode() for name in whole.namelist()}
    name = "xl/worksheets/sheet1.xml"
    assert '<row r="2">' in files[name]
    files[name] = files[name].replace('<row r="2">', tag)
    document = read(path, documents.zip_of(files), "a.xlsx")
    assert "Rent" in texts(document)[0]
    assert document.warnings == (
        ("Hidden in Excel, and read all the same: 1 row of Budget.",) if told else ()
    )


def test_hidden_rows_are_told_of_a_sheet_with_prefixed_names_and_another_place(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(workbook([["Item"], ["Rent"]])))
    files = {name: whole.read(name).decode() for name in whole.namelist()}
    sheet = files.pop("xl/worksheets/sheet1.xml").replace('<row r="2">', '<row r="2" hidden="1">')
    sheet = sheet.replace("xmlns=", "xmlns:x=").replace("<", "<x:").replace("<x:/", "</x:")
    files["xl/tables/one.xml"] = sheet
    for name in ("xl/_rels/workbook.xml.rels", "[Content_Types].xml"):
        files[name] = files[name].replace("xl/worksheets/sheet1.xml", "xl/tables/one.xml")
    document = read(path, documents.zip_of(files), "a.xlsx")
    assert document.warnings == ("Hidden in Excel, and read all the same: 1 row of Budget.",)


@pytest.mark.parametrize(
    "damage", ["<c " * 300_000, "<c><f/>" + " " * 300_000], ids=["no end of a tag", "nothing but blanks"]
)
def test_formulas_of_a_damaged_sheet_are_looked_for_in_linear_time(path: Path, damage: str) -> None:
    whole = zipfile.ZipFile(io.BytesIO(workbook([["Item"], ["Rent"]])))
    files = {name: whole.read(name).decode() for name in whole.namelist()}
    files["xl/worksheets/sheet1.xml"] += damage
    with pytest.raises(Damaged):
        read(path, documents.zip_of(files), "a.xlsx")


def workbook(rows: list[list[object]], change: Callable[[Any], object] = lambda book: None) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Budget"
    for row in rows:
        book.active.append(row)
    change(book)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


ARCHIVES = {
    "a.epub": book("<p>a</p>"),
    "a.xlsx": workbook([["a"]]),
    "a.zip": documents.zip_of({"a.py": "pass"}),
    "cut.zip": documents.zip_of({"a.py": "pass"})[:-22],
    "outside.zip": documents.zip_of({"../a.py": "pass"}),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_file_is_closed_once_it_is_read_or_refused(path: Path, name: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        with suppress(Damaged):
            read(path, ARCHIVES[name], name)
    assert not told


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


def test_a_chapter_that_is_not_in_the_book_is_told(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(book("<p>b</p>", "<p>a</p>")))
    files = {name: whole.read(name).decode() for name in whole.namelist() if not name.endswith("c0.xhtml")}
    assert read(path, documents.zip_of(files), "a.epub").warnings == (
        "Not in the file, though in its order: OPS/text/c0.xhtml.",
    )


def test_what_the_chapters_of_a_book_hide_is_left_out_and_told_once(path: Path) -> None:
    hidden = "<p hidden>one two</p><p style='display: none'>three</p><nav hidden><a href='#x'>Next</a></nav>"
    document = read(path, book(f"{hidden}<p>b</p>", f"{hidden}<p>a</p>"), "a.epub")
    assert texts(document) == ["a\n\nb"]
    assert document.warnings == (
        "2 words of navigation were left out.",
        "6 words of hidden text were left out.",
    )


@pytest.mark.parametrize(
    ("href", "member"),
    [
        ("My%20text.xhtml#top", "My text.xhtml"),
        ("My%20text.xhtml", "My%20text.xhtml"),
        ("text.xhtml", "Text.xhtml"),
    ],
)
def test_a_chapter_is_found_though_its_name_is_written_otherwise(path: Path, href: str, member: str) -> None:
    content = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<x><rootfile full-path="b.opf"/></x>',
        "b.opf": f"<package><manifest><item id='a' href='{href}'/><item id='b' href='{href}'/></manifest>"
        "<spine><itemref idref='a'/><itemref idref='b'/></spine></package>",
        member: "<p>Call me Ishmael.",
    }
    assert texts(read(path, documents.zip_of(content), "a.epub")) == ["Call me Ishmael."]


def test_a_chapter_that_the_list_of_files_does_not_know_is_told(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(book("<p>b</p>", "<p>a</p>")))
    files = {name: whole.read(name).decode().replace('idref="c0"', 'idref="x"') for name in whole.namelist()}
    assert read(path, documents.zip_of(files), "a.epub").warnings == (
        "Not in the file, though in its order: OPS/x.",
    )


@pytest.mark.parametrize(("name", "readable"), [("OPS/text/c0.xhtml", False), ("OPS/font.otf", True)])
def test_a_book_with_locked_chapters_is_refused_and_one_with_locked_fonts_is_not(
    path: Path, name: str, readable: bool
) -> None:
    with zipfile.ZipFile(out := io.BytesIO(book("<p>a</p>")), "a") as archive:
        archive.writestr("META-INF/encryption.xml", f"<e><CipherReference URI='{name}'/></e>")
    if readable:
        assert texts(read(path, out.getvalue(), "a.epub")) == ["a"]
        return
    with pytest.raises(Unsupported, match="protected"):
        read(path, out.getvalue(), "a.epub")


def test_a_text_box_of_an_opendocument_text_is_read_paragraph_by_paragraph(path: Path) -> None:
    box = "<x:text-box xmlns:x='x'><text:p>One</text:p><text:p>Two</text:p></x:text-box>"
    assert texts(read(path, odt(f"<text:p>See {box}there.</text:p>"), "a.odt")) == [
        "See there.\n\nOne\n\nTwo"
    ]


def test_remarks_in_the_xml_of_an_opendocument_text_are_no_words(path: Path) -> None:
    assert texts(read(path, odt("<text:p>on<!-- two -->e<?three?></text:p>"), "a.odt")) == ["one"]


def test_a_footnote_of_an_opendocument_text_may_hold_a_box(path: Path) -> None:
    box = "<x:text-box xmlns:x='x'><text:p>Box</text:p></x:text-box>"
    note = f"<text:note><text:note-body><text:p>one {box}two</text:p></text:note-body></text:note>"
    assert texts(read(path, odt(f"<text:p>See{note}.</text:p>"), "a.odt")) == [
        "See[1].\n\n[1] one two\n\nBox"
    ]


def test_notes_in_notes_of_an_opendocument_text_are_read_once(path: Path) -> None:
    """However deep they are: read by each note around it as well, a note would be read 2**59 times."""
    body = "<text:p>end</text:p>"
    for _ in range(60):
        body = f"<text:p>a<text:note><text:note-body>{body}</text:note-body></text:note></text:p>"
    [text] = texts(read(path, odt(body), "a.odt"))
    assert text.startswith("a[1]\n\n[1] a[2]\n\n[2] a[3]")
    assert text.endswith("[59] a[60]\n\n[60] end")


def test_a_table_in_a_table_of_an_opendocument_text_is_read_once(path: Path) -> None:
    def table(cell: str) -> str:
        rows = f"<table:table-row><table:table-cell>{cell}</table:table-cell></table:table-row>"
        return f"<table:table>{rows}</table:table>"

    assert texts(read(path, odt(table(table("<text:p>in</text:p>"))), "a.odt")) == ["in"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            rb"Due{\super\chftn}{\footnote {\super\chftn}In {\b advance}.} soon.",
            "Due[1] soon.\n\n[1] In advance.",
        ),
        (rb"Due{\*\atnauthor A}{\*\annotation When?}.", "Due.\n\n[Comment by A: When?]"),
        (rb"{\pntext\f0 1.\tab}Rent", "1.\tRent"),
        (rb"Rent {\deleted\revauthdel1 900}{\deleted0 950}", "Rent 950"),
        (rb"a{\shp{\*\shpinst{\sp{\sn x}{\sv 2}}{\shptxt Box}}{\shprslt Box}}", "a\n\nBox"),
        (rb"\{a\} \\ b", "{a} \\ b"),
    ],
)
def test_rich_text_loses_no_notes_numbers_and_boxes(path: Path, body: bytes, text: str) -> None:
    assert texts(read(path, rb"{\rtf1\ansi " + body + b"}", "a.rtf")) == [text]


def test_a_shape_with_alternatives_is_read_once(path: Path) -> None:
    either = (
        "<mc:AlternateContent xmlns:mc='m'><mc:Choice>{}</mc:Choice><mc:Fallback>{}</mc:Fallback>"
        "</mc:AlternateContent>"
    )
    assert texts(read(path, deck(either.format(shape("x = 1"), shape("x"))), "a.pptx")) == ["x = 1"]


def test_a_presentation_of_the_strict_kind_has_slides(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(deck(shape("Plan"))))
    files = {
        name: whole.read(name)
        .decode()
        .replace(RELATIONS, "http://purl.oclc.org/ooxml/officeDocument/relationships")
        for name in whole.namelist()
    }
    assert texts(read(path, documents.zip_of(files), "a.pptx")) == ["Plan"]


def test_the_texts_of_a_diagram_are_on_its_slide(path: Path) -> None:
    frame = f"<p:graphicFrame><d:relIds xmlns:d='d' xmlns:r='{RELATIONS}' r:dm='r9'/></p:graphicFrame>"
    data = "<d xmlns:a='a'><ptLst><pt><t><a:p><a:r><a:t>Step one</a:t></a:r></a:p></t></pt></ptLst></d>"
    link = f"<x><x Id='r9' Type='{RELATIONS}/diagramData' Target='../d.xml'/></x>"
    with zipfile.ZipFile(out := io.BytesIO(deck(shape("Plan") + frame)), "a") as archive:
        archive.writestr("ppt/slides/_rels/0.xml.rels", link)
        archive.writestr("ppt/d.xml", data)
    assert texts(read(path, out.getvalue(), "a.pptx")) == ["Plan\n\nStep one"]


def test_a_sheet_is_read_whole_whatever_it_says_of_its_size(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(workbook([["Item", "EUR"], ["Rent", 900]])))
    files = {name: whole.read(name).decode().replace('"A1:B2"', '"A1"') for name in whole.namelist()}
    [table] = read(path, documents.zip_of(files), "a.xlsx").tables
    assert table.rows == (("Item", "EUR"), ("Rent", "900"))


def test_numbers_have_the_digits_that_excel_shows(path: Path) -> None:
    [table] = read(path, workbook([["a", "b", "c"], [0.1 + 0.2, 1234567.25, 0]]), "a.xlsx").tables
    assert table.rows[1] == ("0.3", "1234567.25", "0")


def test_formulas_that_nobody_computed_are_told(path: Path) -> None:
    document = read(path, workbook([["Item", "EUR"], ["Sum", "=1+1"], ["=B2"]]), "a.xlsx")
    assert document.warnings[0].startswith("The values of 2 formulas are not in the file")


def test_a_formula_whose_value_is_an_empty_text_is_computed(path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(workbook([["Item"], ["=A9"]])))
    files = {name: whole.read(name).decode() for name in whole.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    files[sheet] = files[sheet].replace('<c r="A2">', '<c r="A2" t="str">')
    assert 't="str"' in files[sheet]
    assert read(path, documents.zip_of(files), "a.xlsx").warnings == ()


def test_rows_are_numbered_as_the_sheet_numbers_them(path: Path) -> None:
    rows: list[list[object]] = [[], ["Item", "EUR"], [], *([f"no. {n}", n] for n in range(60))]
    names = [page.name for page in read(path, workbook(rows), "a.xlsx").pages]
    assert names == ["sheet Budget, rows 2-53", "sheet Budget, rows 54-63"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'a,b\n1,"He said ""hi, you"""\n', (("a", "b"), ("1", 'He said "hi, you"'))),
        (b"a;b\n1,5;2,5\n3,5;4,5\n", (("a", "b"), ("1,5", "2,5"), ("3,5", "4,5"))),
        (b"it's\tb\n'x\ty, 'z'\n", (("it's", "b"), ("'x", "y, 'z'"))),
    ],
)
def test_values_are_separated_as_a_spreadsheet_does(
    path: Path, content: bytes, rows: tuple[tuple[str, ...], ...]
) -> None:
    assert read(path, content, "a.csv").tables[0].rows == rows


def test_values_that_cannot_be_told_apart_are_plain_text(path: Path) -> None:
    document = read(path, b'a,b\n1,"' + b"x " * 100_000, "a.csv")
    assert document.pages[0].text.startswith('a,b\n1,"x x')
    assert "plain text" in document.warnings[0]


def test_an_archive_with_a_password_is_encrypted(path: Path) -> None:
    content = bytearray(documents.zip_of({"a.txt": "x"}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    with pytest.raises(Encrypted, match="password"):
        read(path, bytes(content), "code.zip")


def test_folders_that_windows_names_are_folders(path: Path) -> None:
    files = {"src\\app.py": "x = 1", "node_modules\\a.js": "skip"}
    assert [page.name for page in read(path, documents.zip_of(files), "code.zip").pages] == ["src/app.py"]


def test_a_sheet_with_more_text_than_is_read_is_refused(path: Path) -> None:
    with pytest.raises(TooLarge, match="A sheet holds more than 900 bytes"):
        read(path, workbook([["x" * 100]] * 10), "a.xlsx", Limits(max_text_bytes=900))


def test_lists_and_headings_of_an_opendocument_text_are_numbered(path: Path) -> None:
    def level(kind: str, number: int, form: str, **more: str) -> str:
        said = " ".join(f'style:{name.replace("_", "-")}="{value}"' for name, value in more.items())
        return f'<text:{kind} text:level="{number}" style:num-format="{form}" {said}/>'

    number, heading = "list-level-style-number", "outline-level-style"
    styles = (
        f"<s NAMES><text:outline-style>{level(heading, 1, '1')}"
        f'{level(heading, 2, "1").replace("/>", """ text:display-levels="2"/>""")}</text:outline-style>'
        f'<text:list-style style:name="L">{level(number, 1, "1", num_suffix=".")}'
        f"{level(number, 2, 'a', num_prefix='(', num_suffix=')')}</text:list-style></s>"
    )
    item = "<text:list-item><text:p>{}</text:p>{}</text:list-item>"
    inner = f"<text:list>{item.format('x', '')}{item.format('y', '')}</text:list>"
    first = f'<text:list text:style-name="L">{item.format("one", "")}{item.format("two", inner)}</text:list>'
    body = (
        '<text:h text:outline-level="1">Rent</text:h><text:h text:outline-level="2">Due</text:h>'
        + first
        + first.replace("<text:list ", '<text:list text:continue-numbering="true" ')
        + '<text:h text:outline-level="2">Late</text:h>'
        + "<text:list>" + item.format("dot", "") + "</text:list>"
    )  # fmt: skip
    text = "\n\n".join(texts(read(path, odt(body, styles=styles), "a.odt")))
    assert text.split("\n\n") == [
        "1 Rent", "1.1 Due", "1. one", "2. two", "(a) x", "(b) y", "3. one", "4. two", "(a) x", "(b) y",
        "1.2 Late", "• dot",
    ]  # fmt: skip


def test_a_chart_is_its_titles_and_a_table_of_its_values(path: Path) -> None:
    def points(*values: object) -> str:
        return "".join(f"<c:pt idx='{n}'><c:v>{value}</c:v></c:pt>" for n, value in enumerate(values))

    def series(name: str, *values: object) -> str:
        return (
            f"<c:ser><c:tx><c:strRef>{points(name)}</c:strRef></c:tx><c:cat>{points('2023', '2024')}</c:cat>"
            f"<c:val>{points(*values)}</c:val></c:ser>"
        )

    title = "<c:title><a:p><a:r><a:t>Revenue</a:t></a:r></a:p></c:title>"
    drawn = series("Oslo", 5, 7.5) + series("Bergen", "4.4000000000000004")
    chart = f"<c:x xmlns:c='c' xmlns:a='a'>{title}{drawn}</c:x>"
    frame = f"<p:graphicFrame><c:chart xmlns:c='c' xmlns:r='{RELATIONS}' r:id='r9'/></p:graphicFrame>"
    link = f"<x><x Id='r9' Type='{RELATIONS}/chart' Target='../c.xml'/></x>"
    with zipfile.ZipFile(out := io.BytesIO(deck(shape("Plan") + frame)), "a") as archive:
        archive.writestr("ppt/slides/_rels/0.xml.rels", link)
        archive.writestr("ppt/c.xml", chart)
    [text] = texts(read(path, out.getvalue(), "a.pptx"))
    assert text.split("\n\n")[:2] == ["Plan", "Revenue"]
    [table] = read(path, out.getvalue(), "a.pptx").tables
    assert table.rows == (("", "Oslo", "Bergen"), ("2023", "5", "4.4"), ("2024", "7.5", ""))


def rich(path: Path, body: bytes) -> Document:
    return read(path, rb"{\rtf1\ansi\ansicpg1252 " + body + b"}", "a.rtf")


@pytest.mark.parametrize(
    "body",
    [rb"Rent {\v secret words}is due.\v  no\v0", rb"{\v secret words\par}Rent \v no\plain is due."],
)
def test_hidden_text_of_rich_text_is_left_out_and_told(path: Path, body: bytes) -> None:
    document = rich(path, body)
    assert texts(document) == ["Rent is due."]
    assert document.warnings == ("3 words of hidden text were left out.",)


def test_headers_and_notes_of_rich_text_stand_where_those_of_word_do(path: Path) -> None:
    running = rb"{\header ACME Ltd\par}{\headerf ACME Ltd\par}{\footer Page \chpgn\par}{\footerl Draft}"
    notes = rb"{\*\footnote\chftn Net.}{\footnote\ftnalt\chftn Since 1999.}{\footnote * Own.}"
    document = rich(path, running + rb"Rent" + notes + rb" is due.\par Next.")
    assert texts(document) == [
        "ACME Ltd\n\nRent[1][i] is due.\n\n[1] Net.\n\n* Own.\n\nNext.\n\n[i] Since 1999.\n\nDraft"
    ]


def test_a_table_of_rich_text_is_one_of_markdown(path: Path) -> None:
    row = rb"\trowd\cellx1\cellx2\pard\intbl %b\cell\pard\intbl one\par %b\cell\row"
    document = rich(path, rb"Before\par" + row % (b"a", b"b") + row % (b"c", b"d") + rb"\pard After\par")
    assert document.tables[0].rows == (("a", "one b"), ("c", "one d"))
    assert document.pages[0].text.startswith("Before\n\n|")
    assert document.pages[0].text.endswith("|\n\nAfter")


def test_a_row_of_rich_text_that_never_ends_is_not_lost(path: Path) -> None:
    assert texts(rich(path, rb"\pard\intbl a\cell b")) == ["a\nb"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb"\u8364?5 \uc2\u8364\'80\'805 {\uc0\u8364 5}", "€5 €5 €5"),
        (rb"a\uc1\u-10179?\u-8704?b", "a😀b"),
        (rb"\uc2\u12477\'83\\b", "ソb"),
        (rb"{\fonttbl{\f0\fcharset204 A;}{\f1\fcharset0 B;}}\f0 \'cf\'f0\f1 \'e9 {\f0\'cf}\'e9", "Прé Пé"),
        (rb"{\fonttbl{\f0\fcharset128 A;}}\f0 \'83A\'83" + b"\r\n" + rb"\'5c", "アソ"),
        (rb"\mac\ansicpg10000 \'8e", "é"),
        (b"x{\\pict{\\*\\picprop a}\\bin5 }{a}\\}{\\*\\objdata\\bin1 }}y", "xy"),
        (rb"{\object{\*\objdata 01}{\result shown}}{\upr{a}{\*\ud{\u233?}}}", "showné"),
        (rb'see {\field{\*\fldinst{HYPERLINK "http://x.y"}}{\fldrslt{\ul here}}}', "see here"),
        (rb"10{\super 6} m{\super 2}", "10^6 m2"),
        (rb"{\listtext  \u61623?\tab}dot", "•\tdot"),
        (rb"{\info{\doccomm made}{\title T}}{\*\pgdsctbl{\header no}}{\stylesheet Normal;}x", "x"),
        (b"{" * 500 + b"x" + b"}" * 500, "x"),
    ],
)  # fmt: skip
def test_rich_text_is_decoded_as_its_groups_say(path: Path, body: bytes, text: str) -> None:
    assert texts(rich(path, body)) == [text]


def test_rich_text_nested_without_end_is_damaged(path: Path) -> None:
    with pytest.raises(Damaged, match="too deeply"):
        rich(path, rb"{\footnote\chftn a" * 3000)


def test_rich_text_tells_its_title_and_author(path: Path) -> None:
    document = rich(path, rb"{\info{\title The Lease}{\author Ann}}x")
    assert (document.title, document.metadata) == ("The Lease", {"author": "Ann"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (rb"a{\mmath{\*\moMathPara{\*\moMath b}}}", "1 formulas"),
        (rb"a{\b b", "cut short"),
        (rb"a} more", "What follows"),
    ],
)
def test_rich_text_tells_what_it_does_not_read(path: Path, body: bytes, told: str) -> None:
    [warning] = rich(path, body).warnings
    assert told in warning
