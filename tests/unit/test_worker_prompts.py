"""Prompts are files; their fingerprint tells which wording made a result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.status import Kind
from worker.prompts import FOLDER, Prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "prompts"))


def test_every_kind_has_a_prompt() -> None:
    assert {kind.value for kind in Kind} <= {path.stem for path in FOLDER.glob("*.md")}


def test_the_fingerprint_changes_with_the_words(folder: Path) -> None:
    before = Prompts(folder)
    (folder / "ask.md").write_text("Other words: $question")
    after = Prompts(folder)
    assert after.fingerprint("ask") != before.fingerprint("ask")
    assert after.fingerprint("summarize") == before.fingerprint("summarize")
    (folder / "system.md").write_text("Another reader.")
    assert Prompts(folder).fingerprint("summarize") != before.fingerprint("summarize")


def test_dollar_signs_in_a_question_stay_as_they_are() -> None:
    assert "Is $5 or $focus enough?" in Prompts().fill("ask", question="Is $5 or $focus enough?", absent="X")


def test_a_forgotten_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        Prompts().fill("ask")
