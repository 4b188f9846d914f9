"""Text of every parser is cleaned by one set of rules."""

from __future__ import annotations

import pytest

from parsers.clean import clean


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a\r\nb\rc\vd\fe\u2028f\x85g", "a\nb\nc\nd\ne\nf\ng"),
        ("be\x00fore\x07 and\x9f after", "before and after"),
        ("tab\tstays", "tab\tstays"),
        ("trailing   \t\nblanks\u3000\n", "trailing\nblanks"),
        ("one\n\n\n\n\ntwo", "one\n\ntwo"),
        ("  indented", "  indented"),
        ("of\ufb01ce, a\ufb04uent, \ufb02ow", "office, affluent, flow"),
        ("re\u0301sume\u0301", "résumé"),
        ("x² stays, Ⅳ stays, ① stays", "x² stays, Ⅳ stays, ① stays"),
        ("\ufeffmarked\ufeff", "marked"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("", ""),
    ],
)
def test_text_is_cleaned(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_soft_hyphens_are_gone() -> None:
    assert clean("soft\u00adhyphens van\u00ad\nish") == "softhyphens vanish"


def test_cleaning_twice_changes_nothing_more() -> None:
    raw = "\n\n  A\ufffeb \r\n\r\n\r\n\u00ad\ufb03 e\u0301 \x00\n \n\t\n中文\u3000\ufeff\n"
    assert clean(clean(raw)) == clean(raw)


def test_a_million_blanks_are_cleaned_in_linear_time() -> None:
    assert clean("a" + " " * 1_000_000 + "b\n" * 2) == "a" + " " * 1_000_000 + "b\nb"
