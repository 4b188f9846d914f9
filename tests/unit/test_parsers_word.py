"""Word: all text in reading order, with the pages that Word marked."""

from __future__ import annotations

from pathlib import Path

import pytest
from data import documents
from data.documents import paragraph, run

from parsers import Damaged, Document, Empty, Limits, TooLarge, parse_in_process
from parsers.document import Change, Section
from parsers.limits import DEFAULT_LIMITS

LAID_OUT = "<w:r><w:lastRenderedPageBreak/></w:r>"
PAGE_BREAK = '<w:r><w:br w:type="page"/></w:r>'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, content: bytes, limits: Limits = DEFAULT_LIMITS) -> Document:
    path.write_bytes(content)
    return parse_in_process(path, filename="lease.docx", limits=limits)


def text_of(path: Path, body: str, **parts: str) -> str:
    return "\n".join(page.text for page in read(path, documents.word(body, **parts)).pages)


def p(*content: str) -> str:
    return f"<w:p>{''.join(content)}</w:p>"


def table(*rows: tuple[str, ...]) -> str:
    cells = ["".join(f"<w:tc>{cell}</w:tc>" for cell in row) for row in rows]
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def math(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


def of(name: str, *arguments: str, **properties: str) -> str:
    """A formula's element of arguments `e`."""
    inside = "".join(f'<m:{key} m:val="{value}"/>' for key, value in properties.items())
    parts = "".join(f"<m:e>{argument}</m:e>" for argument in arguments)
    return f"<m:{name}><m:{name}Pr>{inside}</m:{name}Pr>{parts}</m:{name}>"


def test_paragraphs_are_read_in_order(path: Path) -> None:
    body = paragraph("One & only") + p(
        run("tab"), "<w:r><w:tab/></w:r>", run("line"), "<w:r><w:br/></w:r>", run("end")
    )
    assert text_of(path, body) == "One & only\n\ntab\tline\nend"


def test_insertions_are_kept_and_deletions_dropped(path: Path) -> None:
    body = p(
        run("Rent is "),
        f"<w:del>{run('900')}<w:r><w:delText>900</w:delText></w:r></w:del>",
        f"<w:ins>{run('1,250')}</w:ins>",
        f"<w:moveFrom>{run(' old')}</w:moveFrom>",
        f"<w:moveTo>{run(' EUR')}</w:moveTo>",
    )
    assert text_of(path, body) == "Rent is 1,250 EUR"


def test_field_results_are_kept_and_their_codes_dropped(path: Path) -> None:
    body = p(run("See page "), "<w:r><w:instrText>PAGEREF x</w:instrText></w:r>", run("12"))
    assert text_of(path, body) == "See page 12"


def test_links_content_controls_and_formulas_are_read(path: Path) -> None:
    body = p(
        f"<w:hyperlink>{run('a link, ')}</w:hyperlink>",
        f"<w:sdt><w:sdtPr/><w:sdtContent>{run('a control, ')}</w:sdtContent></w:sdt>",
        "<m:oMath><m:r><m:t>a=b</m:t></m:r></m:oMath>",
    )
    assert text_of(path, body) == "a link, a control, a=b"


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (math("f") + of("d", math("x")), "f(x)"),
        (of("d", math("x"), math("y"), begChr="[", sepChr=";", endChr="]"), "[x;y]"),
        (of("sSup", math("x")), "x"),
        ("<m:sSup><m:e>" + math("x") + "</m:e><m:sup>" + math("n-k") + "</m:sup></m:sSup>", "x^(n-k)"),
        ("<m:f><m:num>" + math("a+b") + "</m:num><m:den>" + math("2") + "</m:den></m:f>", "(a+b)/2"),
        (
            '<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>' + math("n=1") + "</m:sub><m:sup>"
            + math("∞") + "</m:sup><m:e>" + math("n") + "</m:e></m:nary>",
            "∑_(n=1)^∞ n",
        ),
        (of("rad", math("x+1")), "√(x+1)"),
        ("<m:func><m:fName>" + math("cos") + "</m:fName><m:e>" + math("x") + "</m:e></m:func>", "cos x"),
    ],
)  # fmt: skip
def test_a_formula_stands_on_a_line(path: Path, parts: str, line: str) -> None:
    assert text_of(path, p(f"<m:oMath>{parts}</m:oMath>")) == line


def test_a_table_is_one_of_markdown(path: Path) -> None:
    body = table((paragraph("Rent"), paragraph("1,250")), (paragraph("Deposit"), paragraph("3,750")))
    assert text_of(path, body) == "| Rent | 1,250 |\n| --- | --- |\n| Deposit | 3,750 |"


def test_a_table_that_holds_paragraphs_is_read_cell_by_cell(path: Path) -> None:
    inner = table((paragraph("x"), paragraph("y")))
    body = table((paragraph("Left") + paragraph("below"), inner + paragraph("Right")))
    assert text_of(path, body) == "Left\nbelow\nx\ny\nRight"


def test_a_text_box_is_read_once_after_its_paragraph(path: Path) -> None:
    box = f"<w:txbxContent>{paragraph('In the box')}</w:txbxContent>"
    body = p(
        run("Around"),
        f"<w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent></w:r>",
        run(" it"),
    )
    assert text_of(path, body) == "Around it\n\nIn the box"


def test_a_footnote_follows_its_paragraph_and_endnotes_the_text(path: Path) -> None:
    body = p(
        run("Rent"),
        '<w:r><w:endnoteReference w:id="2"/></w:r>',
        '<w:r><w:footnoteReference w:id="7"/></w:r>',
        run(" is due."),
    ) + paragraph("Next.")
    notes = {
        "footnotes": f'<w:footnote w:id="7">{paragraph("Net.")}</w:footnote>',
        "endnotes": f'<w:endnote w:id="2">{paragraph("Since 1999.")}</w:endnote>',
    }
    assert text_of(path, body, **notes) == "Rent[i][1] is due.\n\n[1] Net.\n\nNext.\n\n[i] Since 1999."


def test_a_note_that_cites_itself_is_read_once(path: Path) -> None:
    cite = '<w:r><w:footnoteReference w:id="1"/></w:r>'
    note = f'<w:footnote w:id="1">{p(run("Again"), cite)}</w:footnote>'
    assert text_of(path, p(run("See"), cite), footnotes=note) == "See[1]\n\n[1] Again"


def test_list_labels_are_written_out(path: Path) -> None:
    numbering = (
        '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/>'
        '<w:lvlText w:val="§ %1"/></w:lvl></w:abstractNum>'
        '<w:num w:numId="3"><w:abstractNumId w:val="0"/></w:num>'
    )
    styles = (
        '<w:style w:styleId="Clause"><w:pPr><w:numPr><w:numId w:val="3"/></w:numPr></w:pPr></w:style>'
        '<w:style w:styleId="Special"><w:basedOn w:val="Clause"/></w:style>'
    )
    body = (
        paragraph("Rent", '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="3"/></w:numPr>')
        + paragraph("Deposit", '<w:pStyle w:val="Special"/>')
        + paragraph("No clause")
    )
    assert text_of(path, body, numbering=numbering, styles=styles) == "§ 1 Rent\n\n§ 2 Deposit\n\nNo clause"


def test_a_clause_that_was_deleted_is_not_counted(path: Path) -> None:
    numbering = (
        '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:lvlText w:val="%1."/></w:lvl>'
        '</w:abstractNum><w:num w:numId="3"><w:abstractNumId w:val="0"/></w:num>'
    )
    clause = '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="3"/></w:numPr>'
    mark = f"<w:pPr>{clause}<w:rPr><w:del/></w:rPr></w:pPr>"
    gone = p(mark, "<w:del><w:r><w:delText>Old</w:delText></w:r></w:del>")
    body = paragraph("Rent", clause) + gone + paragraph("Deposit", clause)
    assert text_of(path, body, numbering=numbering) == "1. Rent\n\n2. Deposit"


def test_a_page_that_begins_in_what_was_deleted_is_a_page(path: Path) -> None:
    gone = f"<w:del>{LAID_OUT}<w:r><w:delText>x</w:delText></w:r></w:del>"
    document = read(path, documents.word(p(run("One")) + p(gone, run("Two"))))
    assert [page.text for page in document.pages] == ["One", "Two"]


def test_pages_begin_where_word_began_them(path: Path) -> None:
    body = p(run("One")) + p(LAID_OUT, run("Two goes ")) + p(run("on and "), LAID_OUT, run("ends on three"))
    document = read(path, documents.word(body))
    assert [page.text for page in document.pages] == ["One", "Two goes\n\non and", "ends on three"]
    assert document.paged
    assert "Word's last layout" in document.warnings[0]


def test_a_page_break_and_the_mark_it_led_to_are_one_page_start(path: Path) -> None:
    body = p(run("One"), PAGE_BREAK) + p(LAID_OUT, run("Two"), PAGE_BREAK) + p(run("Three"))
    assert [page.text for page in read(path, documents.word(body)).pages] == ["One", "Two", "Three"]


def test_a_row_across_two_pages_begins_the_second_once(path: Path) -> None:
    split = p(run("a"), LAID_OUT, run("b"))
    document = read(path, documents.word(table((split, split))))
    assert len(document.pages) == 2


def test_a_chapter_that_begins_on_an_odd_page_leaves_a_blank_sheet(path: Path) -> None:
    first = paragraph("Chapter 1", "<w:sectPr/>")
    last = '<w:sectPr><w:type w:val="oddPage"/></w:sectPr>'
    document = read(path, documents.word(first + paragraph("Chapter 2") + p(LAID_OUT, run("more")) + last))
    assert [page.text for page in document.pages] == ["Chapter 1", "", "Chapter 2", "more"]


def test_missing_page_marks_are_told(path: Path) -> None:
    body = p(run("One")) + "".join(p(LAID_OUT, run(str(n))) for n in range(2, 10))
    document = read(path, documents.word(body, app="<Pages>10</Pages>"))
    assert document.paged
    assert "may be up to 1 too low" in document.warnings[0]


def test_without_enough_page_marks_there_are_sections(path: Path) -> None:
    body = p(run("One")) + p(LAID_OUT, run("Two"))
    document = read(path, documents.word(body, app="<Pages>40</Pages>"))
    assert not document.paged
    assert document.warnings == ()


def test_page_breaks_alone_make_no_page_numbers(path: Path) -> None:
    document = read(path, documents.word(p(run("One"), PAGE_BREAK, run("Two"))))
    assert not document.paged
    assert document.pages[0].text == "One\nTwo"


@pytest.mark.parametrize(
    "style",
    [
        '<w:style w:styleId="X"><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>',
        '<w:style w:styleId="X"><w:name w:val="Heading 1"/></w:style>',
        '<w:style w:styleId="X"><w:basedOn w:val="H"/></w:style>'
        '<w:style w:styleId="H"><w:basedOn w:val="X"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>',
    ],
)
def test_sections_begin_at_headings(path: Path, style: str) -> None:
    heading = '<w:pStyle w:val="X"/>'
    body = (
        paragraph("Rent", heading) + paragraph("1,250") + paragraph("Deposit", heading) + paragraph("3,750")
    )
    document = read(path, documents.word(body, styles=style))
    assert [page.text for page in document.pages] == ["Rent\n\n1,250", "Deposit\n\n3,750"]


def test_the_title_is_that_of_the_properties(path: Path) -> None:
    content = documents.word(paragraph("Hi"), core="<dc:title> The\nLease </dc:title>")
    assert read(path, content).title == "The Lease"


def test_a_document_without_text_is_empty(path: Path) -> None:
    with pytest.raises(Empty):
        read(path, documents.word("<w:p/>"))


def test_a_part_that_inflates_beyond_the_limit_is_refused(path: Path) -> None:
    bomb = documents.word(paragraph("0" * 1_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(TooLarge, match="inflates to 1,000,"):
        read(path, bomb, Limits(max_part_bytes=100_000))


def test_a_part_that_lies_about_its_size_is_damaged(path: Path) -> None:
    content = documents.word(paragraph("0" * 1_000_000))
    entry = content.index(b"PK\x01\x02")  # the first entry of the directory is the document
    size = entry + 24
    with pytest.raises(Damaged):
        read(path, content[:size] + (1000).to_bytes(4, "little") + content[size + 4 :])


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_entities_are_refused(path: Path, declaration: str) -> None:
    document = (
        f"{declaration}<w:document {documents.NAMESPACES}><w:body>{paragraph('x')}</w:body></w:document>"
    )
    with pytest.raises(Damaged, match="entities"):
        read(path, documents.zip_of({"word/document.xml": document}))


def test_tables_nested_without_end_are_damaged(path: Path) -> None:
    deep = "<w:tbl><w:tr><w:tc>" * 3000 + "</w:tc></w:tr></w:tbl>" * 3000
    with pytest.raises(Damaged):
        read(path, documents.word(deep))


def test_a_zip_directory_of_many_megabytes_is_not_loaded(path: Path) -> None:
    content = documents.word(paragraph("x"))
    end = content.index(b"PK\x05\x06") + 12
    with pytest.raises(TooLarge, match="parts"):
        read(path, content[:end] + (500 << 20).to_bytes(4, "little") + content[end + 4 :])


def test_comments_follow_the_paragraph_they_are_on(path: Path) -> None:
    body = p(run("Rent is 900."), '<w:r><w:commentReference w:id="3"/></w:r>') + paragraph("Next.")
    comments = f'<w:comment w:id="3" w:author="Ann">{paragraph("Too much?")}</w:comment>'
    assert text_of(path, body, comments=comments) == "Rent is 900.\n\n[Comment by Ann: Too much?]\n\nNext."


def test_headers_and_footers_are_read_once_but_for_page_numbers(path: Path) -> None:
    content = documents.word(
        paragraph("Body."), header=paragraph("ACME Ltd"), footer=paragraph("Page 3 of 9")
    )
    assert [page.text for page in read(path, content).pages] == ["ACME Ltd\n\nBody."]


def test_tracked_changes_are_kept_beside_the_text(path: Path) -> None:
    deleted = (
        '<w:del w:author="Ann" w:date="2026-01-02T03:04:05Z"><w:r><w:delText>900</w:delText></w:r></w:del>'
    )
    body = p(run("One")) + p(LAID_OUT, run("Rent is "), deleted, f"<w:ins>{run('950')}</w:ins>")
    document = read(path, documents.word(body))
    assert document.pages[1].text == "Rent is 950"
    assert document.changes == (
        Change("deleted", "900", "Ann", "2026-01-02T03:04:05Z", page=2),
        Change("inserted", "950", None, None, page=2),
    )


@pytest.mark.parametrize("first", [run("One"), run("One") + LAID_OUT])
def test_a_tracked_change_is_at_its_paragraph(path: Path, first: str) -> None:
    gone = p("<w:del><w:r><w:delText>Gone.</w:delText></w:r></w:del>")
    changed = p(run("Rent  is "), f"<w:ins>{run('950')}</w:ins>", run(" a month"))
    document = read(path, documents.word(p(first) + paragraph("Two") + changed + paragraph("End") + gone))
    inserted, deleted = document.changes
    text = document.pages[inserted.page - 1].text
    assert text[inserted.start :].startswith("Rent  is 950 a month")
    assert (deleted.text, deleted.page) == ("Gone.", inserted.page)
    assert deleted.start > inserted.start


def test_headings_are_sections_on_their_pages(path: Path) -> None:
    style = '<w:style w:styleId="H"><w:name w:val="heading 2"/></w:style>'
    body = p(run("One")) + p(LAID_OUT, run("intro")) + paragraph("Rent", '<w:pStyle w:val="H"/>')
    document = read(path, documents.word(body, styles=style))
    assert document.sections == (Section("Rent", 2, page=2, start=7),)


def test_a_document_without_pages_is_cited_by_section_and_paragraph(path: Path) -> None:
    document = read(path, documents.word(paragraph("One") + paragraph("Two")))
    assert document.place(0, document.pages[0].text.index("Two")) == "section 1, paragraph 2"


def test_a_row_that_begins_a_page_begins_another_table(path: Path) -> None:
    rows = [(paragraph("a"), paragraph("b")), (paragraph("c"), paragraph("d"))]
    later = [(p(LAID_OUT, run("e")), paragraph("f")), (paragraph("g"), paragraph("h"))]
    document = read(path, documents.word(table(*rows, *later)))
    assert [found.page for found in document.tables] == [1, 2]
    assert document.tables[1].rows == (("e", "f"), ("g", "h"))


def test_powers_and_fractions_keep_their_meaning(path: Path) -> None:
    letter = "<m:r><m:t>{}</m:t></m:r>".format
    power = f"<m:sSup><m:e>{letter('x')}</m:e><m:sup>{letter('2')}</m:sup></m:sSup>"
    fraction = f"<m:f><m:num>{letter('a')}</m:num><m:den>{letter('b')}</m:den></m:f>"
    assert text_of(path, p(f"<m:oMath>{power}{letter('+')}{fraction}</m:oMath>")) == "x^2+a/b"


def test_a_page_of_html_that_the_file_takes_in_is_read(path: Path) -> None:
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    chunk = f'<w:altChunk xmlns:r="{office}" r:id="c1"/>'
    files = {
        "word/document.xml": f"<w:document {documents.NAMESPACES}><w:body>{paragraph('Before')}{chunk}"
        "</w:body></w:document>",
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        f'relationships"><Relationship Id="c1" Type="{office}/aFChunk" Target="taken.html"/></Relationships>',
        "word/taken.html": "<p hidden>x<p>The <b>rent</b> is due.<table><tr><td>a<td>b<tr><td>c<td>d</table>",
    }
    document = read(path, documents.zip_of(files))
    assert document.pages[0].text == "Before\n\nThe rent is due.\n\n| a | b |\n| --- | --- |\n| c | d |"
    assert document.warnings == ("1 words of hidden text were left out.",)


def test_signs_of_a_font_of_symbols_are_read(path: Path) -> None:
    signs = [("Symbol", "F0B3"), ("Wingdings", "F0FE"), ("Arial", "2014"), ("Emblems", "F041"), ("A", "-5")]
    body = p(*(f'<w:r><w:sym w:font="{font}" w:char="{code}"/></w:r>' for font, code in signs), run("5"))
    assert text_of(path, body) == "≥☑—" + 2 * "\N{REPLACEMENT CHARACTER}" + "5"


def test_what_was_chosen_in_a_form_is_read(path: Path) -> None:
    def field(state: str) -> str:
        return f"<w:r><w:fldChar><w:ffData>{state}</w:ffData></w:fldChar></w:r>"

    entries = '<w:listEntry w:val="monthly"/><w:listEntry w:val="yearly"/>'
    body = p(
        field('<w:checkBox><w:default w:val="0"/><w:checked/></w:checkBox>'),
        run(" rent "),
        field('<w:checkBox><w:default w:val="0"/></w:checkBox>'),
        run(" lease, "),
        field(f'<w:ddList><w:result w:val="1"/>{entries}</w:ddList>'),
    )
    assert text_of(path, body) == "☒ rent ☐ lease, yearly"


def test_a_row_that_begins_further_right_keeps_its_columns(path: Path) -> None:
    late = '<w:tr><w:trPr><w:gridBefore w:val="1"/></w:trPr><w:tc>' + paragraph("900") + "</w:tc></w:tr>"
    body = table((paragraph("Item"), paragraph("EUR"))).replace("</w:tbl>", late + "</w:tbl>")
    assert text_of(path, body) == "| Item | EUR |\n| --- | --- |\n|  | 900 |"


def test_a_power_of_ten_is_no_longer_number(path: Path) -> None:
    raised = "<w:r><w:rPr><w:vertAlign w:val='superscript'/></w:rPr><w:t>{}</w:t></w:r>"
    body = p(run("10"), raised.format(6), run(" m"), raised.format(2))
    assert text_of(path, body) == "10^6 m2"


def test_the_texts_of_a_diagram_follow_its_paragraph(path: Path) -> None:
    box = "<dgm:pt xmlns:dgm='d' xmlns:a='a'><dgm:t><a:p><a:r><a:t>{}</a:t></a:r></a:p></dgm:t></dgm:pt>"
    frame = "<x:relIds xmlns:x='d' xmlns:r='o/relationships' r:dm='diagramData'/>"
    drawing = f"<w:r><w:drawing>{frame}</w:drawing></w:r>"
    body = p(run("See"), f"<mc:AlternateContent><mc:Choice>{drawing}</mc:Choice></mc:AlternateContent>")
    data = f"<dgm:ptLst xmlns:dgm='d'>{box.format('Plan')}{box.format('Build')}</dgm:ptLst>"
    assert text_of(path, body + paragraph("End"), diagramData=data) == "See\n\nPlan\n\nBuild\n\nEnd"


HIDDEN = "<w:rPr><w:vanish/></w:rPr>"
SHOWN = '<w:rPr><w:vanish w:val="0"/></w:rPr>'


def styled(text: str, style: str, properties: str = "") -> str:
    return f'<w:r><w:rPr><w:rStyle w:val="{style}"/>{properties}</w:rPr><w:t>{text}</w:t></w:r>'


def test_hidden_text_is_left_out_and_told(path: Path) -> None:
    hidden = f"<w:r>{HIDDEN}<w:t>secret words</w:t></w:r>"
    row = f"<w:tr><w:trPr><w:hidden/></w:trPr><w:tc>{paragraph('no row')}</w:tc></w:tr>"
    body = p(run("Rent is "), hidden, run("900."), f"<w:r>{SHOWN}<w:t> Due.</w:t></w:r>")
    document = read(path, documents.word(body + f"<w:tbl>{row}</w:tbl>"))
    assert [page.text for page in document.pages] == ["Rent is 900. Due."]
    assert document.warnings == ("4 words of hidden text were left out.",)


def test_a_style_hides_text_and_two_show_it_again(path: Path) -> None:
    styles = (
        f'<w:style w:styleId="Note">{HIDDEN}</w:style><w:style w:styleId="Aside">{HIDDEN}</w:style>'
        '<w:style w:styleId="Child"><w:basedOn w:val="Note"/></w:style>'
        f'<w:style w:styleId="Open"><w:basedOn w:val="Note"/>{SHOWN}</w:style>'
    )
    body = paragraph("one", '<w:pStyle w:val="Child"/>') + paragraph("two", '<w:pStyle w:val="Open"/>')
    both = p('<w:pPr><w:pStyle w:val="Note"/></w:pPr>', styled("three", "Aside"), styled("four", "Open"))
    own = p(styled("five", "Aside"), styled("six", "Aside", '<w:vanish w:val="0"/>'))
    document = read(path, documents.word(body + both + own, styles=styles))
    assert document.pages[0].text == "two\n\nthree\n\nsix"
    assert document.warnings == ("3 words of hidden text were left out.",)


def test_what_is_hidden_in_a_browser_alone_is_read(path: Path) -> None:
    body = p("<w:r><w:rPr><w:webHidden/></w:rPr><w:t>12</w:t></w:r>", f"<w:r>{HIDDEN}</w:r>")
    document = read(path, documents.word(body))
    assert (document.pages[0].text, document.warnings) == ("12", ())


def test_a_page_that_begins_in_hidden_text_is_a_page(path: Path) -> None:
    hidden = f"<w:r>{HIDDEN}<w:lastRenderedPageBreak/><w:t>secret</w:t></w:r>"
    document = read(path, documents.word(p(run("One")) + p(hidden, run("Two"))))
    assert [page.text for page in document.pages] == ["One", "Two"]


ONE_LIST = (
    '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:lvlText w:val="%1."/></w:lvl>'
    '<w:lvl w:ilvl="1"><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="(%2)"/></w:lvl></w:abstractNum>'
    '<w:num w:numId="3"><w:abstractNumId w:val="0"/></w:num>'
)


def test_a_clause_that_is_hidden_is_not_counted(path: Path) -> None:
    clause = '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="3"/></w:numPr>'
    gone = p(f"<w:pPr>{clause}{HIDDEN}</w:pPr>", f"<w:r>{HIDDEN}<w:t>Old</w:t></w:r>")
    body = paragraph("Rent", clause) + gone + paragraph("Deposit", clause)
    assert text_of(path, body, numbering=ONE_LIST) == "1. Rent\n\n2. Deposit"


def test_a_paragraph_may_state_its_level_and_its_style_the_list(path: Path) -> None:
    styles = '<w:style w:styleId="S"><w:pPr><w:numPr><w:numId w:val="3"/></w:numPr></w:pPr></w:style>'
    deeper = '<w:pStyle w:val="S"/><w:numPr><w:ilvl w:val="1"/></w:numPr>'
    body = paragraph("Rent", '<w:pStyle w:val="S"/>') + paragraph("monthly", deeper)
    assert text_of(path, body, numbering=ONE_LIST, styles=styles) == "1. Rent\n\n(a) monthly"


def field(code: str, result: str) -> str:
    begin, separate, end = (
        f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>' for kind in ("begin", "separate", "end")
    )
    return begin + code + separate + result + end


def test_the_result_of_a_field_within_the_code_of_another_is_no_text(path: Path) -> None:
    code = "<w:r><w:instrText>{}</w:instrText></w:r>".format
    inner = field(code("MERGEFIELD Sex"), run("F"))
    link = field(code("HYPERLINK"), run("see ") + field(code("REF x"), run("§ 2")))
    body = p(run("Dear "), field(code("IF ") + inner + code(" = F"), run("Madam")), run(", "), link)
    assert text_of(path, body) == "Dear Madam, see § 2"


def test_a_field_that_ends_in_another_paragraph_keeps_its_result(path: Path) -> None:
    begin, separate, end = (
        f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>' for kind in ("begin", "separate", "end")
    )
    body = p(begin, separate, run("Rent 1")) + p(run("Deposit 2"), end) + p(begin, run("never closed"))
    assert text_of(path, body) == "Rent 1\n\nDeposit 2\n\nnever closed"


def test_a_note_with_a_mark_of_its_own_is_not_counted(path: Path) -> None:
    own = '<w:r><w:footnoteReference w:customMarkFollows="1" w:id="2"/><w:t>*</w:t></w:r>'
    body = p(run("Rent"), own, run(" is due"), '<w:r><w:footnoteReference w:id="3"/></w:r>')
    notes = (
        f'<w:footnote w:id="2">{paragraph("* Net.")}</w:footnote>'
        f'<w:footnote w:id="3">{paragraph("Soon.")}</w:footnote>'
    )
    assert text_of(path, body, footnotes=notes) == "Rent* is due[1]\n\n* Net.\n\n[1] Soon."


def test_what_is_written_across_the_page_is_read(path: Path) -> None:
    art = "<w:r><w:pict><v:shape xmlns:v='v'><v:textpath string='DRAFT'/></v:shape></w:pict></w:r>"
    assert text_of(path, paragraph("Rent"), header=p(art)) == "DRAFT\n\nRent"
