"""A text without pages is cut into sections of about a page."""

from __future__ import annotations

import time

from parsers.sections import SIZE, Block, cut, sections


def test_cutting_loses_nothing() -> None:
    text = "".join(f"Paragraph {n}. " + "word " * (n % 90) + "\n\n" * (n % 3) for n in range(800))
    pieces = cut(text)
    assert "".join(pieces) == text
    assert len(pieces) > 10
    assert all(0 < len(piece) <= SIZE for piece in pieces)


def test_a_piece_ends_where_a_paragraph_does() -> None:
    text = ("x" * 79 + "\n") * 9 + "\n" + ("y" * 79 + "\n") * 9
    assert cut(text, size=1000) == [("x" * 79 + "\n") * 9 + "\n", ("y" * 79 + "\n") * 9]


def test_a_piece_ends_at_a_line_then_at_a_word_then_anywhere() -> None:
    assert cut("aaaa aaaa\nbbbb", size=12) == ["aaaa aaaa\n", "bbbb"]
    assert cut("aaaa bbbb cccc", size=12) == ["aaaa bbbb ", "cccc"]
    assert cut("x" * 25, size=10) == ["x" * 10, "x" * 10, "x" * 5]


def test_a_short_text_is_one_section() -> None:
    assert cut("short") == ["short"]


def test_a_section_begins_at_every_heading_but_not_between_two() -> None:
    blocks = [
        Block("Preface"),
        Block("Part I", level=1),
        Block("Chapter 1", level=1),
        Block("Call me Ishmael."),
        Block("Chapter 2", level=1),
        Block("I stuffed a shirt."),
    ]
    assert [page.text for page in sections(blocks)] == [
        "Preface",
        "Part I\n\nChapter 1\n\nCall me Ishmael.",
        "Chapter 2\n\nI stuffed a shirt.",
    ]


def test_headings_and_anchors_stand_where_their_text_does() -> None:
    blocks = [
        Block("One", level=1, anchor="one"),
        Block("Text  \n"),
        Block("Two", level=3),
        Block("End", anchor="end"),
    ]
    [page] = sections(blocks)
    assert [(page.text[mark.start :][:3], mark.title, mark.level, mark.anchor) for mark in page.marks] == [
        ("One", "One", 1, "one"),
        ("Two", "Two", 3, None),
        ("End", "", 0, "end"),
    ]


def test_a_long_chapter_is_several_sections() -> None:
    chapter = [Block("Chapter", level=1), *(Block("word " * 100) for _ in range(20))]
    assert len(sections(chapter)) > 2


def test_marks_in_a_long_chapter_are_in_the_piece_they_stand_in() -> None:
    chapter = [Block(f"Paragraph {n} " + "word " * 30, anchor=f"a{n}") for n in range(200)]
    places = [
        (page.text[mark.start :].split()[1], mark.anchor) for page in sections(chapter) for mark in page.marks
    ]
    assert places == [(str(n), f"a{n}") for n in range(200)]


def test_one_long_chapter_takes_about_as_long_as_many_short_ones() -> None:
    def seconds(chapter: int) -> float:
        begin = time.process_time()
        assert sections(Block("A line. " * 50, level=int(n % chapter == 0)) for n in range(8_000))
        return time.process_time() - begin

    short = min(seconds(chapter=50) for _ in range(3))
    assert seconds(chapter=8_000) < 8 * short
