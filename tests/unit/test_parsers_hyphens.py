"""Words broken at a line end are whole again."""

from __future__ import annotations

import pytest

from parsers.hyphens import Hyphens


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("func\ufffetionality", "functionality"),
        ("func\x02\ntionality", "functionality"),
        ("non\ufffeEuropean", "non-European"),
        ("ECMA\ufffe262", "ECMA-262"),
        ("the last word of a page is cut excep\ufffe", "the last word of a page is cut excep-"),
    ],
)
def test_a_broken_word_is_whole(raw: str, mended: str) -> None:
    assert Hyphens().mend(raw) == mended


def test_a_compound_of_the_document_keeps_its_hyphen() -> None:
    assert Hyphens().mend("a (dual-encoder). The dual\ufffeencoder") == "a (dual-encoder). The dual-encoder"


def test_compounds_are_remembered_from_page_to_page() -> None:
    hyphens = Hyphens()
    hyphens.mend("State-of-the-art, well-known.")
    assert hyphens.mend("state-of-the\ufffeart well\ufffeknown") == "state-of-the-art well-known"
    assert hyphens.mend("con\ufffetract") == "contract"
