"""PDF: what stands where on a page, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from data import documents
from data.documents import drawn, drawn_pdf

from parsers import Document, Limits, parse_in_process
from parsers.layout import Box, Line
from parsers.limits import DEFAULT_LIMITS
from parsers.paragraphs import join

ROWS = (("Item", "Due", "EUR"), ("Rent", "3rd", "900"), ("Heating", "1st", "80"), ("Water", "1st", "30"))
PROSE = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, content: bytes, limits: Limits = DEFAULT_LIMITS) -> Document:
    path.write_bytes(content)
    return parse_in_process(path, filename="a.pdf", limits=limits)


def cells(rows: tuple[tuple[str, ...], ...] = ROWS) -> str:
    return "".join(
        drawn(cell, 80 + 150 * column, 600 - 20 * row)
        for row, line in enumerate(rows)
        for column, cell in enumerate(line)
    )


def ruling(columns: int, rows: int) -> str:
    across = (f"70 {615 - 20 * row} m {70 + 150 * columns} {615 - 20 * row} l S" for row in range(rows + 1))
    upright = (
        f"{70 + 150 * column} 615 m {70 + 150 * column} {615 - 20 * rows} l S"
        for column in range(columns + 1)
    )
    return "\n".join([*across, *upright]) + "\n"


def test_cells_in_columns_are_a_table(path: Path) -> None:
    document = read(path, drawn_pdf([drawn("Costs") + cells() + drawn("That is all.", y=400)]))
    assert document.pages[0].text == (
        "Costs\n| Item | Due | EUR |\n| --- | --- | --- |\n| Rent | 3rd | 900 |\n"
        "| Heating | 1st | 80 |\n| Water | 1st | 30 |\n\nThat is all."
    )
    [table] = document.tables
    assert table.rows == ROWS
    assert document.pages[0].text[table.start : table.end].startswith("| Item")


def test_a_ruled_table_has_the_cells_that_are_ruled(path: Path) -> None:
    rows = (("Item", "EUR"), ("Rent", "900"), ("", "80"))
    [table] = read(path, drawn_pdf([ruling(2, 3) + cells(rows)])).tables
    assert table.rows == rows


def test_a_table_on_a_page_that_lies_on_its_side_is_one(path: Path) -> None:
    turned = "0 1 -1 0 612 0 cm\n" + cells()
    assert read(path, drawn_pdf([turned], page="/Rotate 90")).tables[0].rows == ROWS


def test_a_frame_and_a_list_are_no_tables(path: Path) -> None:
    points = "".join(drawn(f"{n}.", 80, 600 - 20 * n) + drawn(PROSE, 110, 600 - 20 * n) for n in range(1, 6))
    document = read(path, drawn_pdf(["60 480 500 200 re S\n" + points]))
    assert document.tables == []
    assert document.pages[0].text.startswith(f"1. {PROSE}\n2. ")


def test_columns_drawn_line_by_line_are_read_one_after_the_other(path: Path) -> None:
    lines = "".join(
        drawn(f"left {n} of a long line of words", 50, 600 - 14 * n)
        + drawn(f"right {n} of a long line of words", 330, 600 - 14 * n)
        for n in range(8)
    )
    words = read(path, drawn_pdf([lines])).pages[0].text.split()
    sides = [word for word in words if word in {"left", "right"}]
    assert sides == ["left"] * 8 + ["right"] * 8


def running(number: int) -> str:
    return (
        drawn("ACME Annual Report", 72, 760)
        + drawn(f"Chapter {number * number}\n{PROSE} {number * 7}")
        + drawn(f"- {number + 4} -", 300, 40)
    )


def test_running_headers_are_kept_once_and_page_numbers_become_labels(path: Path) -> None:
    document = read(path, drawn_pdf([running(n) for n in range(1, 9)]))
    texts = [page.text for page in document.pages]
    assert sum("ACME" in text for text in texts) == 1
    assert texts[4] == f"Chapter 25\n{PROSE} 35"
    assert [page.label for page in document.pages] == [str(n + 4) for n in range(1, 9)]


def test_a_page_that_has_nothing_else_keeps_its_header(path: Path) -> None:
    pages = [running(1), running(2), drawn("ACME Annual Report", 72, 760), running(4), running(5)]
    document = read(path, drawn_pdf(pages))
    assert document.pages[2].text == "ACME Annual Report"
    assert document.blank_pages == []


def test_what_comes_twice_does_not_run(path: Path) -> None:
    pages = [drawn("ACME", y=760) + drawn(f"{PROSE} {n}") for n in range(2)] + [drawn(PROSE)]
    assert sum("ACME" in page.text for page in read(path, drawn_pdf(pages)).pages) == 2


def test_the_head_of_a_table_is_no_running_header(path: Path) -> None:
    dues = (("Rent", 7), ("Heat", 9))
    pages = [
        drawn("ACME Annual Report", 72, 760)
        + drawn(f"- {n} -", 300, 40)
        + cells((ROWS[0], *((item, f"{n * n + due}th", str(n * due)) for item, due in dues)))
        for n in range(1, 7)
    ]
    document = read(path, drawn_pdf(pages))
    assert [table.rows[0] for table in document.tables] == [ROWS[0]] * 6
    assert document.tables[4].rows[1:] == (("Rent", "32th", "35"), ("Heat", "34th", "45"))
    assert sum("ACME" in page.text for page in document.pages) == 1


def test_a_header_that_is_a_table_is_kept_once(path: Path) -> None:
    rows = (("ACME", "Manual", "B-7"), ("Status", "final", "2024"), ("By", "QA", "all"))
    head = "".join(
        drawn(cell, 80 + 150 * column, 750 - 15 * row)
        for row, line in enumerate(rows)
        for column, cell in enumerate(line)
    )
    pages = [head + drawn(f"{PROSE} {n * n}\n{n * 7} {PROSE}", y=500) for n in range(1, 7)]
    document = read(path, drawn_pdf(pages))
    assert [table.page for table in document.tables] == [1]
    assert document.pages[4].text == f"{PROSE} 25\n35 {PROSE}"


def test_bookmarks_are_sections_where_their_titles_stand(path: Path) -> None:
    pages = [drawn("Preface"), drawn("See below.\nRent and\nDeposit\n900")]
    [section] = read(path, drawn_pdf(pages, outline="Rent and Deposit")).sections
    assert (section.title, section.level, section.page, section.start) == ("Rent and Deposit", 1, 2, 11)


def test_pictures_that_nobody_reads_are_told(path: Path) -> None:
    document = read(path, documents.scanned_pdf("Rent"), Limits(max_ocr_pages=0))
    assert document.blank_pages == [1]
    assert "1 of 2 pages are pictures and were not read" in document.warnings[0]


def line(text: str, left: float, right: float, bottom: float) -> Line:
    return Line(text, 0, Box(left, bottom, right, bottom + 10), 0.0, "")


def test_full_lines_of_chinese_are_joined_and_paragraphs_are_not() -> None:
    lines = [
        line("承租人应当按照约定的期限支付租金，", 20, 200, 100),
        line("逾期支付的，出租人可以解除合同。", 0, 200, 80),
        line("第二条 出租人应当交付租赁物。", 20, 150, 60),
    ]
    assert join(lines, 10, {}, ()) == (
        "承租人应当按照约定的期限支付租金，逾期支付的，出租人可以解除合同。\n第二条 出租人应当交付租赁物。"
    )


def test_numbers_that_do_not_count_pages_are_no_footers(path: Path) -> None:
    pages = [drawn("Invoice", y=760) + drawn(f"Total {n * n * 10} EUR", y=740) for n in range(1, 7)]
    texts = [page.text for page in read(path, drawn_pdf(pages)).pages]
    assert texts[3] == "Total 160 EUR"


def test_of_many_numbers_the_one_that_counts_the_pages_is_their_label(path: Path) -> None:
    heads = [f"Exhibit 2.{n // 2} (Cont. {n % 2})" for n in range(1, 13)]
    pages = [
        drawn(head, y=760) + drawn(f"{PROSE} {n * n}") + drawn(f"page {n + 2}", 300, 40)
        for n, head in enumerate(heads, start=1)
    ]
    document = read(path, drawn_pdf(pages))
    assert [page.label for page in document.pages] == [str(n + 2) for n in range(1, 13)]
    assert [page.text.split("\n")[0] for page in document.pages] == heads


def test_a_page_number_that_stands_elsewhere_where_a_chapter_begins_is_one(path: Path) -> None:
    pages = [
        drawn(f"{PROSE} {n * n}") + (drawn(f"{n}", 300, 40) if n == 7 else drawn(f"Rent law {n}", 72, 760))
        for n in range(1, 11)
    ]
    document = read(path, drawn_pdf(pages))
    assert [page.label for page in document.pages] == [str(n) for n in range(1, 11)]
    assert document.pages[6].text == f"{PROSE} 49"


def test_roman_page_numbers_are_page_numbers(path: Path) -> None:
    pages = [
        drawn(PROSE + f" {n * n}") + drawn(roman, 300, 40) for n, roman in enumerate(["iii", "iv", "v", "vi"])
    ]
    document = read(path, drawn_pdf(pages))
    assert [page.label for page in document.pages] == ["iii", "iv", "v", "vi"]
    assert document.pages[2].text == f"{PROSE} 4"


def test_what_is_numbered_page_by_page_is_no_page_number(path: Path) -> None:
    pages = [drawn(f"Invoice No. {1000 + n}", y=760) + drawn(f"{PROSE} {n * n}") for n in range(6)]
    document = read(path, drawn_pdf(pages))
    assert [page.text.split("\n")[0] for page in document.pages] == [
        f"Invoice No. {1000 + n}" for n in range(6)
    ]


def test_a_word_that_a_column_broke_is_whole(path: Path) -> None:
    left = ["The lease goes on and on in-", "definitely, as it says at the"] * 4
    right = ["and each of them may ter-", "minate it after the third year."] * 4
    lines = "".join(
        drawn(one, 50, 600 - 14 * n) + drawn(other, 330, 600 - 14 * n)
        for n, (one, other) in enumerate(zip(left, right, strict=True))
    )
    text = read(path, drawn_pdf([lines])).pages[0].text
    assert text.count("indefinitely") == text.count("terminate") == 4


def test_a_word_that_a_cell_broke_keeps_its_hyphen(path: Path) -> None:
    rows = (("Item", "Note"), ("Rent", "inter-"), ("", "national"), ("Heat", "none"))
    [table] = read(path, drawn_pdf([ruling(2, 4) + cells(rows)])).tables
    assert table.rows[1] == ("Rent", "inter-")
