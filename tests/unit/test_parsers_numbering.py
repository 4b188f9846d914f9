"""Labels of lists are counted as Word counts them."""

from __future__ import annotations

import pytest
from data.documents import NAMESPACES
from lxml import etree

from parsers.numbering import Numbering, spell


def level(index: int, text: str, format: str = "decimal", start: int = 1, more: str = "") -> str:
    return (
        f'<w:lvl w:ilvl="{index}"><w:start w:val="{start}"/><w:numFmt w:val="{format}"/>'
        f'<w:lvlText w:val="{text}"/>{more}</w:lvl>'
    )


def numbering(xml: str) -> Numbering:
    return Numbering(etree.fromstring(f"<w:numbering {NAMESPACES}>{xml}</w:numbering>"))


def abstract(identity: int, *levels: str) -> str:
    return f'<w:abstractNum w:abstractNumId="{identity}">{"".join(levels)}</w:abstractNum>'


def num(identity: int, of: int, overrides: str = "") -> str:
    return f'<w:num w:numId="{identity}"><w:abstractNumId w:val="{of}"/>{overrides}</w:num>'


def test_a_clause_is_numbered_below_its_article() -> None:
    contract = numbering(
        abstract(0, level(0, "%1."), level(1, "%1.%2"), level(2, "(%3)", "lowerLetter")) + num(1, 0)
    )
    labels = [contract.label("1", depth) for depth in (0, 1, 1, 2, 2, 0, 1, 2)]
    assert labels == ["1.", "1.1", "1.2", "(a)", "(b)", "2.", "2.1", "(a)"]


def test_a_level_that_was_skipped_counts_from_its_start() -> None:
    assert (
        numbering(abstract(0, level(0, "%1", start=4), level(1, "%1.%2")) + num(1, 0)).label("1", 1) == "4.1"
    )


def test_lists_of_one_definition_go_on_counting_together() -> None:
    two = numbering(abstract(0, level(0, "%1.")) + num(1, 0) + num(2, 0))
    assert [two.label("1", 0), two.label("2", 0), two.label("1", 0)] == ["1.", "2.", "3."]


def test_a_list_that_says_where_it_starts_counts_alone() -> None:
    override = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>'
    two = numbering(abstract(0, level(0, "%1.")) + num(1, 0) + num(2, 0, override))
    assert [two.label("1", 0), two.label("2", 0), two.label("1", 0)] == ["1.", "7.", "2."]


def test_legal_numbering_is_decimal_throughout() -> None:
    legal = numbering(
        abstract(0, level(0, "Article %1", "upperRoman"), level(1, "%1.%2", more="<w:isLgl/>")) + num(1, 0)
    )
    assert [legal.label("1", 0), legal.label("1", 1)] == ["Article I", "1.1"]


def test_a_level_may_count_on_across_the_one_above_it() -> None:
    running = numbering(
        abstract(0, level(0, "%1"), level(1, "%1.%2"), level(2, "%3", more='<w:lvlRestart w:val="1"/>'))
        + num(1, 0)
    )
    assert [running.label("1", depth) for depth in (0, 1, 2, 1, 2, 0, 2)] == [
        "1",
        "1.1",
        "1",
        "1.2",
        "2",
        "2",
        "1",
    ]


def test_a_bullet_is_a_bullet_in_whatever_font() -> None:
    assert numbering(abstract(0, level(0, "\uf0b7", "bullet")) + num(1, 0)).label("1", 0) == "•"


def test_a_definition_may_be_that_of_a_style() -> None:
    linked = numbering(
        '<w:abstractNum w:abstractNumId="0"><w:numStyleLink w:val="Clauses"/></w:abstractNum>'
        f'<w:abstractNum w:abstractNumId="1"><w:styleLink w:val="Clauses"/>{level(0, "§ %1")}</w:abstractNum>'
        + num(1, 0)
    )
    assert linked.label("1", 0) == "§ 1"


def test_a_paragraph_of_no_list_has_no_label() -> None:
    assert Numbering(None).label("1", 0) == ""
    assert numbering(abstract(0, level(0, "%1.")) + num(1, 0)).label("0", 0) == ""


@pytest.mark.parametrize(
    ("number", "format", "spelled"),
    [
        (4, "decimal", "4"),
        (4, "decimalZero", "04"),
        (28, "lowerLetter", "bb"),
        (3, "upperLetter", "C"),
        (1994, "lowerRoman", "mcmxciv"),
        (9, "upperRoman", "IX"),
        (10, "chineseCountingThousand", "十"),
        (105, "chineseCounting", "一百零五"),
        (1260, "chineseCountingThousand", "一千二百六十"),
        (4, "somethingNew", "4"),
        (2_000_000_000, "lowerLetter", "2000000000"),
    ],
)
def test_numbers_are_spelled_as_word_spells_them(number: int, format: str, spelled: str) -> None:
    assert spell(number, format) == spelled
