"""A document goes to JSON and back, and counts what it holds."""

from __future__ import annotations

import json

import pytest

from parsers import Document, Page

LEASE = Document(
    pages=(Page(1, "Rent is due.", "i"), Page(2, "", None), Page(3, "第五条", "1")),
    title="Lease",
    media_type="application/pdf",
    paged=True,
    warnings=("Something was repaired.",),
    parser="pdf/1",
)


def test_a_document_survives_json() -> None:
    assert Document.from_json(json.loads(json.dumps(LEASE.to_json()))) == LEASE


def test_a_document_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        Document.from_json({**LEASE.to_json(), "version": 99})


def test_a_document_counts_its_characters_and_its_pages_without_text() -> None:
    assert LEASE.characters == len("Rent is due.") + len("第五条")
    assert len(LEASE.blank_pages) == 1
