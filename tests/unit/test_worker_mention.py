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
