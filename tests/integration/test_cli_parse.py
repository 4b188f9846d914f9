"""`unabridged parse`: the text of a file, which a child process reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_parse_shows_the_text_of_a_document(run: CliRunner) -> None:
    Path("a document, 数据.txt").write_text("All of it.")

    result = run.invoke(main, ["parse", "a document, 数据.txt"])

    assert result.exit_code == 0
    assert "── section 1 ──\nAll of it." in result.stdout


def test_parse_prints_the_document_as_json(run: CliRunner) -> None:
    Path("a.md").write_text("# Rent\n\n| Item | EUR |\n| --- | --- |\n| Rent | 900 |\n")

    shown = json.loads(run.invoke(main, ["parse", "a.md", "--json"]).stdout)

    assert shown["pages"][0]["number"] == 1
    assert shown["pages"][0]["label"] is None
    assert shown["sections"] == [{"title": "Rent", "level": 1, "page": 1, "start": 0}]
    assert shown["tables"][0]["rows"] == [["Item", "EUR"], ["Rent", "900"]]
    assert {"metadata", "warnings", "parser_version"} <= shown.keys()


def test_a_document_that_cannot_be_parsed_is_bad_input_with_a_code(run: CliRunner) -> None:
    Path("a.pdf").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))

    result = run.invoke(main, ["parse", "a.pdf"])

    assert result.exit_code == 2
    assert "(unsupported)" in " ".join(result.stderr.split())
    assert result.stdout == ""
