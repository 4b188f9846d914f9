"""Sections: everything is laid out once, in order, within the budget."""

from __future__ import annotations

import pytest

from parsers import Document, Page
from worker.engine import FakeEngine
from worker.errors import DoesNotFit
from worker.section import Section, plan
from worker.source import Source, passages

TOKENIZER = FakeEngine().tokenizer


def source(name: str, *pages: str) -> Source:
    numbered = tuple(Page(number, text) for number, text in enumerate(pages, 1))
    return Source(f"doc_{name}", f"{name}.txt", Document(numbered, None, "text/plain", True, (), "text/1"))


def laid_out(sources: list[Source], budget: int, *, side_by_side: bool = False) -> list[Section]:
    return plan(sources, TOKENIZER, system="Read.", budget=budget, side_by_side=side_by_side)


BOOK = source("book", *(f"Page {n} tells of the item numbered {n}. " * 5 for n in range(1, 13)))


def test_what_fits_is_one_section_with_every_page_marked() -> None:
    (section,) = laid_out([BOOK], 10_000)
    assert [piece.page for piece in section.pieces] == list(range(12))
    assert "[page 12]\nPage 12 tells" in section.text
    assert section.text.startswith("Document 1: book.txt")


@pytest.mark.parametrize("budget", [400, 777, 1500])
def test_sections_hold_every_character_once_and_keep_to_the_budget(budget: int) -> None:
    sections = laid_out([BOOK], budget)
    assert len(sections) > 1
    assert all(section.tokens <= budget for section in sections)
    read: dict[int, str] = {}
    for section in sections:
        for piece in section.pieces:
            assert section.text[piece.at : piece.at + len(piece.text)] == piece.text
            read[piece.page] = read.get(piece.page, "") + piece.text
    assert [read[index] for index in range(12)] == [page.text for page in BOOK.document.pages]


@pytest.mark.parametrize("heading", ["Chapter 2", "## The second part", "第二章 总则", "2.1 Definitions"])
def test_a_section_ends_before_a_heading_where_there_is_one_near_its_end(heading: str) -> None:
    pages = [f"Page {n} tells of the item numbered {n}. " * 5 for n in range(1, 13)]
    pages[5] = f"{heading}\n{pages[5]}"
    first, *_ = laid_out([source("book", *pages)], 1_400)
    assert first.pieces[-1].page == 4


def test_one_endless_line_is_cut_anywhere() -> None:
    sections = laid_out([source("line", "x" * 5000)], 500)
    assert "".join(piece.text for section in sections for piece in section.pieces) == "x" * 5000


def test_side_by_side_each_section_has_part_of_each_document() -> None:
    other = source("other", *(f"Another page {n}. " * 8 for n in range(1, 7)))
    sections = laid_out([BOOK, other], 1200, side_by_side=True)
    assert {piece.source for piece in sections[0].pieces} == {0, 1}
    assert sum(len(section.pieces) for section in sections) >= 18


def test_too_many_documents_for_the_window_are_refused_instead_of_cut_to_crumbs() -> None:
    with pytest.raises(DoesNotFit, match="name fewer"):
        laid_out([BOOK] * 20, 1200, side_by_side=True)


def test_pages_read_counts_only_whole_pages() -> None:
    (section,) = laid_out([BOOK], 10_000)
    assert section.pages_read(0) == 0
    assert section.pages_read(section.tokens) == 12
    assert 0 < section.pages_read(section.tokens // 2) < 12


def test_a_quote_mask_allows_nothing_but_passages() -> None:
    (section,) = laid_out([source("a", "It was built in Bergen. It is blue and heavy.")], 1000)
    mask = section.quote_mask()
    assert mask is not None
    assert bytes(mask.allowed([]).tolist()) == b"I"
    assert bytes(mask.allowed(list(b"It ")).tolist()) == b"iw"
    assert mask.allowed(list(b"It i")).size == 0
    assert section.words(mask) == "It is blue and heavy."


def test_a_passage_that_is_repeated_is_offered_once() -> None:
    (section,) = laid_out([source("a", "It is blue and heavy.", "It is blue and heavy.")], 1000)
    mask = section.quote_mask()
    assert mask is not None
    assert mask.allowed([]).size == 0


def test_passages_already_quoted_are_not_offered_again() -> None:
    (section,) = laid_out([source("a", "It was built in Bergen. Now it is blue and heavy.")], 1000)
    mask = section.quote_mask(but=["It was built in Bergen."])
    assert mask is not None
    assert mask.allowed([]).size == 0
    assert section.words(mask) == "Now it is blue and heavy."
    assert section.quote_mask(only=["nowhere in it"]) is None


def test_passages_are_sentences_and_the_rows_of_tables() -> None:
    table = "".join(f"Plant number {row}   {row * 1000:,}   in service\n" for row in range(20))
    text = "One sentence stands here. 这是第一句话，它有一定的长度。\n\n" + table
    found = [text[span.start : span.end] for span in passages(text)]
    assert found[:2] == ["One sentence stands here.", "这是第一句话，它有一定的长度。"]
    assert "Plant number 7   7,000   in service" in found
