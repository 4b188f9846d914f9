"""A mention is a whole word or number, not characters that happen to stand in a row."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from worker.mention import mentioned, mentions_all


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It employs 1,204 people.", 1204),
        ("It employs 1204 people.", 1204),
        ("a margin of 12.5 percent", 12.5),
        ("a margin of 12,50 %", 12.5),
        ("Miete: 1.250,00 EUR", 1250),
        ("un loyer de 1\u202f250 €", 1250),
        ("CHF 1'250.–", 1250),
        ("a loss of (1,250.50)", -1250.5),
        ("audited by Holm &\nPartners", "Holm & Partners"),
        ("a well-known\nport", "well known port"),
        ("公司共有员工", "员工"),
        ("Oslo and Bergen", ["Bergen", "Rome"]),
    ],
)
def test_a_stated_value_is_found(text: str, value: JsonValue) -> None:
    assert mentioned(text, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It employs 1,204 people.", 0),
        ("It employs 1,204 people.", 204),
        ("It employs 1,204 people.", 1),
        ("a margin of 12.5 percent", 12),
        ("a margin of 12,5 %", 12),
        ("the 15 plants", -5),
        ("EUR 1,250.05", 1250),
        ("the employees", "employee"),
        ("anything", None),
        ("true", True),
        ("anything", ""),
        ("anything", []),
    ],
)
def test_what_is_only_part_of_something_else_is_not(text: str, value: JsonValue) -> None:
    assert not mentioned(text, value)


def test_all_parts_must_be_stated() -> None:
    assert mentions_all("Oslo and Bergen", ["Bergen", "Oslo"])
    assert not mentions_all("Oslo and Bergen", {"a": "Bergen", "b": "Rome"})
    assert not mentions_all("Oslo and Bergen", [])
