"""`unabridged parse`: the text of a file, which a child process reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli import main

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def long_parse(run: CliRunner) -> list[str]:
    """A command that says more than a pipe holds; its folder is the working folder."""
    Path("long.txt").write_text("All of it. " * 100_000)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from api.cli import main; main()"
    return [sys.executable, "-c", code, "parse", "long.txt"]


def test_an_answer_that_cannot_be_written_is_told(long_parse: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(long_parse, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert "(file_unusable)" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_a_reader_who_has_enough_ends_the_command(long_parse: list[str]) -> None:
    with subprocess.Popen(long_parse, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 141
