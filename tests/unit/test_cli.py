"""The command line where it needs no server: usage, exit codes, and what it says when nobody is there."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.cli import NO_SERVER, main
from api.client import ApiProblem, ClientError
from api.stack import StackError
from parsers.sniff import BY_SUFFIX


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner(env={"UNABRIDGED_DATA": str(tmp_path / "data"), "UNABRIDGED_URL": None})


@pytest.fixture
def document() -> Path:
    path = Path("a document, 数据.txt")
    path.write_text("All of it.")
    return path


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A URL whose port is taken by somebody who does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_help_tells_the_exit_codes(run: CliRunner) -> None:
    result = run.invoke(main, ["--help"])

    assert result.exit_code == 0
    assert "130  interrupted (Ctrl-C)" in result.stdout


def test_the_version_is_told(run: CliRunner) -> None:
    assert run.invoke(main, ["--version"]).stdout == f"main {metadata.version('unabridged')}\n"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_json_and_quiet(name: str) -> None:
    assert {"--json", "--quiet"} <= {option for param in main.commands[name].params for option in param.opts}


def test_a_missing_file_is_bad_input(run: CliRunner) -> None:
    result = run.invoke(main, ["summarize", "nothing.pdf"])

    assert result.exit_code == 2
    assert "nothing.pdf" in said(result)


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["summarize", "--json"], "Missing argument 'FILE'."),
        (["summarize", "nothing.pdf", "--json"], "File 'nothing.pdf' does not exist."),
        (["jobs", "--json", "--statu", "queued"], "No such option '--statu'."),
        (["jobs", "--json", "--status", "lost"], "'lost' is not one of"),
        (["extract", ".", "--json"], "'.' is a directory"),
        (["batch", ".", "--kind", "ask", "--out", "answers", "--json"], "--kind ask needs --question."),
        (["summarise", "--json"], "No such command 'summarise'."),
        (["--json", "jobs"], "No such option '--json'."),
    ],
)
def test_a_fault_of_usage_is_json_where_json_is_asked_for(
    run: CliRunner, typed: list[str], complaint: str
) -> None:
    result = run.invoke(main, typed)

    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "bad_usage"
    assert complaint in error["message"]
    assert complaint in said(result)


def test_a_fault_of_usage_is_text_otherwise(run: CliRunner) -> None:
    result = run.invoke(main, ["summarize"])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Missing argument 'FILE'." in said(result)


def test_a_schema_that_is_not_json_is_bad_input(run: CliRunner, document: Path) -> None:
    result = run.invoke(main, ["extract", str(document), "--schema", str(document)])

    assert result.exit_code == 2
    assert "is not JSON" in said(result)


def test_a_picture_that_cannot_be_written_is_told_before_anything_is_read(
    run: CliRunner, nowhere: str
) -> None:
    typed = ["needle", "--tokens", "300", "--plot", "missing/needle.svg"]
    result = run.invoke(main, typed, env={"UNABRIDGED_URL": nowhere})

    assert result.exit_code == 2
    assert "missing/needle.svg" in said(result)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--kind", "ask"], "--kind ask needs --question"),
        (["--kind", "extract"], "--kind extract needs --schema"),
        (["--kind", "summarize", "--question", "Why?"], "--question does not go with --kind summarize"),
        (["--kind", "compare"], "'compare' is not one of"),
    ],
)
def test_a_batch_needs_the_options_of_its_kind(
    run: CliRunner, document: Path, options: list[str], complaint: str
) -> None:
    result = run.invoke(main, ["batch", ".", "--out", "answers", *options])

    assert result.exit_code == 2
    assert complaint in said(result)


def test_a_folder_without_documents_is_bad_input(run: CliRunner) -> None:
    Path("photo.jpg").touch()
    Path(".hidden.pdf").touch()

    result = run.invoke(main, ["batch", ".", "--kind", "summarize", "--out", "answers"])

    assert result.exit_code == 2
    assert "There are no documents" in said(result)


def test_a_batch_takes_every_kind_of_file_that_is_read(run: CliRunner) -> None:
    result = run.invoke(main, ["batch", ".", "--kind", "summarize", "--out", "answers"])

    assert f"({', '.join(sorted(BY_SUFFIX))})" in said(result)


def test_a_batch_says_which_kinds_of_file_it_leaves_out(run: CliRunner, document: Path) -> None:
    Path("answers").mkdir()
    Path("answers", f"{document.name}.json").touch()
    for name in ("photo.jpg", "letter.DOC", "LICENSE"):
        Path(name).touch()

    result = run.invoke(main, ["batch", ".", "--kind", "summarize", "--out", "answers"])

    assert result.exit_code == 0
    assert "left out: .doc, .jpg, LICENSE." in said(result)


def test_a_batch_with_every_answer_there_has_nothing_to_do(run: CliRunner, document: Path) -> None:
    Path("answers").mkdir()
    Path("answers", f"{document.name}.json").touch()

    result = run.invoke(main, ["batch", ".", "--kind", "summarize", "--out", "answers", "--json"])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"object": "list", "data": [], "skipped": 1}
    assert "--again" in result.stderr


def test_answers_to_another_request_are_not_taken_for_those_of_a_batch(
    run: CliRunner, document: Path
) -> None:
    Path("answers").mkdir()
    Path("answers", f"{document.name}.json").write_text('{"metadata": {"request": "another"}}')

    result = run.invoke(main, ["batch", ".", "--kind", "ask", "--question", "Why?", "--out", "answers"])

    assert result.exit_code == 2
    assert "answers has answers to another request" in said(result)


def test_nobody_there_is_told_at_once(run: CliRunner, document: Path, nowhere: str) -> None:
    result = run.invoke(main, ["ask", str(document), "Why?", "--json"], env={"UNABRIDGED_URL": nowhere})

    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "unreachable"
    assert nowhere in error["message"]
    assert said(result) == f"{error['message']} (unreachable)"
    assert "start a server" in error["message"]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("UNABRIDGED_JOBS_PER_CARD", "none", "UNABRIDGED_JOBS_PER_CARD: Input should be a valid integer"),
        ("UNABRIDGED_WEBHOOK_ALLOW", "10.0.0.0/8", "Lists are JSON"),
    ],
)
def test_wrong_settings_are_bad_input(run: CliRunner, name: str, value: str, complaint: str) -> None:
    result = run.invoke(main, ["jobs"], env={name: value})

    assert result.exit_code == 2
    assert complaint in said(result)


def test_a_data_folder_that_cannot_be_made_is_told(run: CliRunner, document: Path) -> None:
    result = run.invoke(main, ["serve", "--data", str(document / "data")])

    assert result.exit_code == 3
    assert "UNABRIDGED_DATA" in said(result)


def test_the_doctor_looks_at_everything(run: CliRunner) -> None:
    result = run.invoke(main, ["doctor", "--json"])

    states = {check["name"]: check["state"] for check in json.loads(result.stdout)["data"]}
    assert {"python", "packages", "card", "model", "server", "fits", "broker", "database", "disk"} <= set(
        states
    )
    assert result.exit_code == (3 if "fail" in states.values() else 0)


def test_the_doctor_finds_a_broker_that_does_not_answer(run: CliRunner, nowhere: str) -> None:
    result = run.invoke(main, ["doctor"], env={"UNABRIDGED_REDIS_URL": nowhere.replace("http", "redis")})

    assert result.exit_code == 3
    assert "UNABRIDGED_REDIS_URL does not answer" in result.stdout


def test_the_doctor_tells_of_a_database_that_does_not_answer_and_not_its_password(run: CliRunner) -> None:
    url = "postgresql://ann:secret@127.0.0.1:1/jobs"
    result = run.invoke(main, ["doctor"], env={"UNABRIDGED_DATABASE_URL": url})

    assert "postgresql cannot be read" in result.stdout
    assert "secret" not in result.output


def test_the_doctor_finds_a_model_folder_and_its_window(run: CliRunner) -> None:
    Path("model").mkdir()
    Path("model", "config.json").write_text(json.dumps({"max_position_embeddings": 1_048_576}))

    result = run.invoke(main, ["doctor"], env={"UNABRIDGED_MODEL": "model"})

    assert "1,048,576 tokens" in result.stdout


def test_the_doctor_tells_that_weights_are_still_to_come(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(main, ["doctor"], env={"UNABRIDGED_MODEL": "some/model", "HF_HOME": str(tmp_path)})

    assert "the first start downloads it" in result.stdout


def test_version_is_one_line(run: CliRunner) -> None:
    assert run.invoke(main, ["version"]).stdout.startswith("unabridged ")


def test_what_the_command_line_says_by_itself_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/errors.md").read_text()
    section = text.partition("\n## The command line\n")[2]
    told: list[type[ClientError | StackError]] = [*ClientError.__subclasses__(), *StackError.__subclasses__()]
    told.remove(ApiProblem)
    for kind in told:
        assert f"| `{kind.code}` | {NO_SERVER} | {kind.__doc__} |" in section
    described = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    others = {"bad_settings", "bad_usage", "file_unusable", "not_text"}
    assert set(described) == {kind.code for kind in told} | others
