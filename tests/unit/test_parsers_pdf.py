"""PDF: pages, labels, titles, passwords, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data import documents

from parsers import (
    Damaged,
    Document,
    Empty,
    Encrypted,
    Limits,
    Page,
    TooLarge,
    TooManyPages,
    WrongPassword,
    parse_in_process,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, content: bytes, **options: Any) -> Document:
    path.write_bytes(content)
    return parse_in_process(path, filename="lease.pdf", **options)


def test_each_page_has_its_text_its_number_and_its_printed_label(path: Path) -> None:
    content = documents.pdf(
        ["Preface", "Rent (monthly)\nis due"], title="Lease", labels="0 << /S /r >> 1 << /S /D >>"
    )
    document = read(path, content)
    assert document.pages == (Page(1, "Preface", "i"), Page(2, "Rent (monthly)\nis due", "1"))
    assert document.title == "Lease"
    assert document.paged
    assert document.media_type == "application/pdf"
    assert document.warnings == ()


def test_a_pdf_without_labels_and_title_has_none(path: Path) -> None:
    document = read(path, documents.pdf(["Hello"]))
    assert document.pages[0].label is None
    assert document.title is None


def test_a_word_hyphenated_at_a_line_end_is_whole(path: Path) -> None:
    text = read(path, documents.pdf(["The con-\ntract is non-\nEuropean."])).pages[0].text
    assert "contract is non-European." in text


def test_pages_without_text_are_kept_and_counted(path: Path) -> None:
    document = read(path, documents.pdf(["Hello", "", "World"]))
    assert [page.text for page in document.pages] == ["Hello", "", "World"]
    assert document.blank_pages == [2]


def test_a_scan_is_empty_and_the_message_says_why(path: Path) -> None:
    with pytest.raises(Empty, match="No page holds text"):
        read(path, documents.pdf(["", ""]))


def test_progress_is_told_page_by_page(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    read(path, documents.pdf(["a", "b", "c"]), on_page=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_locked_pdf_opens_with_its_password_only(path: Path) -> None:
    content = documents.locked_pdf(["Secret"], "open sesame")
    assert read(path, content, password="open sesame").pages[0].text == "Secret"
    with pytest.raises(Encrypted):
        read(path, content)
    with pytest.raises(WrongPassword):
        read(path, content, password="guess")


def test_a_password_that_is_not_needed_does_no_harm(path: Path) -> None:
    assert read(path, documents.pdf(["Open"]), password="any").pages[0].text == "Open"


def test_a_pdf_with_a_broken_end_is_read_all_the_same(path: Path) -> None:
    content = documents.pdf(["Hello"])
    assert read(path, content.replace(b"startxref\n", b"startxref\n9")).pages[0].text == "Hello"


def test_a_pdf_without_header_is_read_by_the_second_reader(path: Path) -> None:
    document = read(path, documents.pdf(["Hello", "World"]).removeprefix(b"%PDF-1.4\n"))
    assert [page.text for page in document.pages] == ["Hello", "World"]
    assert "repaired" in document.warnings[0]


def test_a_page_that_cannot_be_read_is_empty_and_told(path: Path) -> None:
    document = read(path, documents.pdf(["a", "b", "c"]).replace(b"[7 0 R 9 0 R", b"[7 0 R 99 0 R"))
    assert [page.text for page in document.pages] == ["a", "", "c"]
    assert document.warnings == ("1 of 3 pages could not be read and are empty here: 2.",)


def test_a_pdf_of_which_no_page_can_be_read_is_damaged(path: Path) -> None:
    with pytest.raises(Damaged):
        read(path, documents.pdf(["a"]).replace(b"[7 0 R", b"[99 0 R"))


def test_rubble_is_damaged(path: Path) -> None:
    with pytest.raises(Damaged):
        read(path, b"%PDF-1.7\n%%EOF\n")


def test_too_many_pages_are_refused_before_any_is_read(path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(TooManyPages, match="3 pages; 2 are read"):
        read(
            path,
            documents.pdf(["a", "b", "c"]),
            limits=Limits(max_pages=2),
            on_page=lambda done, total: seen.append(done),
        )
    assert seen == []


def test_a_file_over_the_limit_is_refused(path: Path) -> None:
    with pytest.raises(TooLarge, match="100 are read"):
        read(path, documents.pdf(["a"]), limits=Limits(max_bytes=100))


def test_text_over_the_limit_is_refused(path: Path) -> None:
    with pytest.raises(TooLarge, match="10 bytes of text"):
        read(path, documents.pdf(["12345678", "12345678"]), limits=Limits(max_text_bytes=10))


def test_a_wrong_name_is_told_but_does_no_harm(path: Path) -> None:
    path.write_bytes(documents.pdf(["Hello"]))
    document = parse_in_process(path, filename="hello.docx")
    assert document.media_type == "application/pdf"
    assert document.warnings == ("The name says Word, but the content is PDF and was read so.",)
