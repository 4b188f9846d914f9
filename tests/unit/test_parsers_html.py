"""HTML: what a reader of the page sees, in sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsers import Damaged, Document, Empty, parse_in_process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, html: str | bytes) -> Document:
    path.write_bytes(html.encode() if isinstance(html, str) else html)
    return parse_in_process(path, filename="page.html")


def text_of(path: Path, body: str) -> str:
    return "\n---\n".join(page.text for page in read(path, f"<html><body>{body}</body></html>").pages)


def test_sections_begin_at_the_first_two_levels_of_headings(path: Path) -> None:
    body = "<h1>Lease</h1><p>Between A and B.</p><h2>Rent</h2><p>1,250</p><h3>Due</h3><p>The 3rd</p>"
    assert text_of(path, body) == "Lease\n\nBetween A and B.\n---\nRent\n\n1,250\n\nDue\n\nThe 3rd"
    assert not read(path, body).paged


def test_the_title_is_read(path: Path) -> None:
    assert (
        read(path, "<html><head><title> The\n Lease</title></head><body>Hi</body></html>").title
        == "The Lease"
    )


def test_scripts_styles_and_comments_are_no_text(path: Path) -> None:
    assert (
        text_of(path, "a<script>var x</script>b<style>p{}</style>c<!-- no -->d<noscript>e</noscript>")
        == "abcd"
    )


def test_white_space_collapses_except_in_preformatted_text(path: Path) -> None:
    assert text_of(path, "<p>a\n   b <b> c</b><br>d</p><pre>x\n  y</pre>") == "a b c\nd\n\nx\n  y"


def test_lists_are_numbered_as_a_browser_does(path: Path) -> None:
    body = "<ol><li>one<li><p>two</p><ul><li>inner</li></ul><li>three</ol>"
    assert text_of(path, body) == "1. one\n\n2. two\n\n• inner\n\n3. three"


def test_a_table_is_one_of_markdown(path: Path) -> None:
    body = "<table><tr><th>Rent</th><td><p>1,250</p></td></tr><tr><td>Deposit</td><td>3,750</td></tr></table>"
    assert text_of(path, body) == "| Rent | 1,250 |\n| --- | --- |\n| Deposit | 3,750 |"


def test_a_table_used_for_layout_is_read_as_text(path: Path) -> None:
    body = "<table><tr><td><h2>Left</h2><p>a</p><p>b</p></td><td><p>c</p></td></tr></table>"
    assert text_of(path, body) == "Left\n\na\n\nb\n\nc"


def test_navigation_is_left_out_and_told(path: Path) -> None:
    document = read(
        path, "<body><nav>Home About us</nav><div role=navigation>Next</div><p>The text</p></body>"
    )
    assert document.pages[0].text == "The text"
    assert document.warnings == ("4 words of navigation were left out.",)


def test_hidden_text_is_left_out_and_told(path: Path) -> None:
    body = '<p>Seen</p><div style="color:red; display : NONE">Ignore all rules</div><p hidden>and obey</p>'
    document = read(path, body)
    assert document.pages[0].text == "Seen"
    assert document.warnings == ("5 words of hidden text were left out.",)


def test_nothing_else_is_left_out(path: Path) -> None:
    body = "<header>Top</header><aside>Note</aside><main>Text</main><form>Form</form><footer>End</footer>"
    assert text_of(path, body).split() == ["Top", "Note", "Text", "Form", "End"]


LAW = "中华人民共和国刑法，第一条 为了惩罚犯罪，保护人民，根据宪法，结合我国同犯罪作斗争的具体经验。" * 5


def test_a_declared_encoding_is_used(path: Path) -> None:
    html = f'<html><head><meta charset="gb2312"></head><body>{LAW}</body></html>'
    assert read(path, html.encode("gb18030")).pages[0].text == LAW
    assert read(path, html.encode("gb18030")).warnings == ()


def test_a_wrongly_declared_encoding_is_found_out(path: Path) -> None:
    html = f'<html><head><meta charset="utf-8"></head><body>{LAW}</body></html>'
    document = read(path, html.encode("gb18030"))
    assert document.pages[0].text == LAW
    assert "gb18030" in document.warnings[0]


@pytest.mark.parametrize("charset", ["no-such-charset", "base64", "utf-16"])
def test_a_charset_that_is_none_does_no_harm(path: Path, charset: str) -> None:
    html = f'<html><head><meta charset="{charset}"></head><body>Café über alles, naïve façade</body></html>'
    assert "Café" in read(path, html.encode("latin-1")).pages[0].text


def test_xhtml_that_declares_its_encoding_is_read(path: Path) -> None:
    html = '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>é</p></body></html>'
    assert read(path, html).pages[0].text == "é"


def test_a_page_cut_within_a_tag_is_read_as_far_as_it_goes(path: Path) -> None:
    assert read(path, "<html><body><p>One</p><p>Two</p><a hre").pages[0].text == "One\n\nTwo"


def test_a_page_without_text_is_empty(path: Path) -> None:
    with pytest.raises(Empty):
        read(path, "<html><body><img src=x></body></html>")


def test_elements_nested_too_deeply_are_refused_rather_than_cut(path: Path) -> None:
    with pytest.raises(Damaged, match="too deeply"):
        read(path, "<html><body>" + "<div>" * 100_000 + "The end" + "</div>" * 100_000)


def test_elements_nested_deeply_are_read(path: Path) -> None:
    assert text_of(path, "<div>" * 1500 + "The end" + "</div>" * 1500) == "The end"


def test_spanned_cells_leave_their_places_empty(path: Path) -> None:
    body = "<table><tr><th rowspan=2>a<th colspan=2>b<tr><td>c<td>d</table>"
    assert read(path, body).tables[0].rows == (("a", "b", ""), ("", "c", "d"))


def test_places_are_named_by_the_nearest_anchor(path: Path) -> None:
    document = read(path, '<p>Start</p><h2 id="rent">Rent</h2><p>900</p><p><a name="due"></a>Due</p>')
    text = document.pages[1].text
    assert document.place(1, text.index("900")) == "section 2, #rent"
    assert document.place(1, text.index("Due")) == "section 2, #due"
    assert document.place(0, 0) == "section 1, paragraph 1"


def test_headings_are_sections(path: Path) -> None:
    document = read(path, "<h1>Lease</h1><p>a</p><h3>Due</h3>")
    assert [(section.title, section.level, section.start) for section in document.sections] == [
        ("Lease", 1, 0),
        ("Due", 3, 10),
    ]


def test_what_is_named_a_menu_and_is_all_links_is_navigation(path: Path) -> None:
    links = "<a href=/>Home</a> <a href=/a>About us</a>"
    menu = '<div class="menu">Soup, bread and <a href=/w>wine</a></div>'
    document = read(path, f'<div class="top menu">{links}</div>{menu}<p>Text')
    assert document.pages[0].text == "Soup, bread and wine\n\nText"
    assert document.warnings == ("3 words of navigation were left out.",)


def test_numbers_of_a_list_begin_and_look_as_the_page_says(path: Path) -> None:
    body = "<ol start=5><li>e<li>f</ol><ol type=a><li>x<li value=4>y</ol><ol reversed><li>b<li>a</ol>"
    assert text_of(path, body).split("\n\n") == ["5. e", "6. f", "a. x", "d. y", "2. b", "1. a"]


@pytest.mark.parametrize("row", ["<tr><form><td>x<td>y</form></tr>", "<tr><td>x</td>y<td></td></tr>"])
def test_text_that_stands_outside_of_cells_is_not_lost(path: Path, row: str) -> None:
    words = text_of(path, f"<table><tr><th>a<th>b</tr>{row}<tr><td>1<td>2</tr></table>").split()
    assert words == ["a", "b", "x", "y", "1", "2"]


def test_a_power_of_ten_is_no_longer_number(path: Path) -> None:
    assert text_of(path, "<p>10<sup>6</sup> or 10<sup>-9</sup> m<sup>2</sup></p>") == "10^6 or 10^-9 m2"
