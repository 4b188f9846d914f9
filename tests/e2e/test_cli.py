"""The command line on a whole stack with the fake engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.cli import main
from api.client import Client
from api.stack import Stack, running
from jobs.status import Kind, Status
from settings import Settings

SCHEMA = {"type": "object", "properties": {"height": {"type": "integer"}}, "required": ["height"]}

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(Settings(_env_file=None, data=folder, engine="fake", port=0, heartbeat_s=0.2)) as stack:
        yield stack


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command in this process, on the stack that runs in its data folder."""
    runner = CliRunner(env={"UNABRIDGED_DATA": str(stack.children[0].log.parents[1]), "UNABRIDGED_URL": None})
    return lambda *arguments, **more: runner.invoke(main, [str(part) for part in arguments], **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents and something else."""
    folder = tmp_path / "my documents, 文件"
    (folder / "more").mkdir(parents=True)
    for name, steps in [("tower one.txt", 10), ("塔.txt", 20), ("more/tower.txt", 30)]:
        (folder / name).write_text(f"The tower of {tmp_path.name} has {steps} steps.", encoding="utf-8")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    return folder


@pytest.fixture
def document(folder: Path) -> Path:
    return folder / "塔.txt"


def answer(result: Result) -> dict[str, Any]:
    """The only thing on stdout."""
    assert result.exit_code == 0, result.output
    job: dict[str, Any] = json.loads(result.stdout)
    assert job["status"] == "completed"
    return job


def test_summarize_shows_answer_receipt_and_times(run: Run, document: Path) -> None:
    result = run("summarize", document, "--focus", "the steps")

    assert result.exit_code == 0
    assert "The tower" in result.stdout
    assert "Read 1 of 1 sections" in result.stdout
    assert "total" in result.stdout


def test_ask_answers_every_question(run: Run, document: Path) -> None:
    job = answer(run("ask", "--json", document, "How high?", "How old?"))

    assert [found["title"] for found in job["result"]["answers"]] == ["How high?", "How old?"]


def test_extract_fits_the_schema(run: Run, document: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))

    job = answer(run("extract", "--json", document, "--schema", schema))

    assert isinstance(job["result"]["data"]["height"], int)


def test_compare_reads_both(run: Run, folder: Path) -> None:
    job = answer(run("compare", "--json", folder / "塔.txt", folder / "tower one.txt"))

    assert len(job["coverage"]["documents"]) == 2


def test_chat_goes_on_from_turn_to_turn(run: Run, document: Path) -> None:
    result = run("chat", "--json", document, input="How high?\n\nAnd how old?\n")

    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert second["params"]["message"] == "And how old?"
    assert second["params"]["previous_job_id"] == first["id"]


def test_a_folder_is_answered_once(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    command = ["batch", folder, "--kind", "ask", "--question", "How high?", "--out", out, "--json"]

    first = json.loads(run(*command).stdout)
    (out / "塔.txt.json").unlink()
    second = json.loads(run(*command).stdout)
    third = json.loads(run(*command, "--again").stdout)

    assert [len(found["data"]) for found in (first, second, third)] == [3, 1, 3]
    assert second["skipped"] == 2
    assert run(*command, "--question", "How old?").exit_code == 2
    job = json.loads((out / "more" / "tower.txt.json").read_text(encoding="utf-8"))
    assert job["result"]["answers"][0]["title"] == "How high?"
    assert (out / "tower one.txt.md").read_text(encoding="utf-8").startswith("# tower one.txt\n")


def test_a_batch_goes_on_past_a_bad_file_and_says_so(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.txt").touch()
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    (folder / "unreadable.txt").symlink_to("/proc/self/mem")
    (folder / "Z\udcffrich.txt").write_text("Seven bridges.")

    result = run("batch", folder, "--kind", "summarize", "--out", tmp_path / "answers", "--json")

    ends = {Path(found["file"]).name: found["status"] for found in json.loads(result.stdout)["data"]}
    assert result.exit_code == 1
    assert ends == {
        "tower one.txt": "completed",
        "塔.txt": "completed",
        "tower.txt": "completed",
        "empty.txt": "failed",
        "broken.pdf": "failed",
        "unreadable.txt": "failed",
        "Z\udcffrich.txt": "completed",
    }
    assert not (tmp_path / "answers" / "broken.pdf.json").exists()


def test_a_question_that_is_not_text_is_bad_input(run: Run, document: Path) -> None:
    result = run("ask", document, "Wie hoch w\udce4re er?", "--json")

    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "not_text")


def test_a_batch_that_can_write_nothing_asks_nothing(run: Run, folder: Path) -> None:
    before = run("jobs").stdout

    result = run("batch", folder, "--kind", "summarize", "--out", folder / "photo.jpg" / "answers", "--json")

    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "file_unusable")
    assert run("jobs").stdout == before


def test_a_failed_job_has_its_own_exit_code(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 broken")

    result = run("summarize", broken)
    jobs = json.loads(run("jobs", "--json", "--status", "failed", "--limit", "1").stdout)["data"]

    assert result.exit_code == 1
    assert jobs[0]["id"] in result.stderr
    assert run("show", jobs[0]["id"]).exit_code == 1
    assert run("retry", jobs[0]["id"]).exit_code == 1


def test_a_finished_job_is_shown_again(run: Run, document: Path) -> None:
    job = answer(run("ask", "--json", document, "How high?"))

    assert answer(run("show", "--json", job["id"]))["result"] == job["result"]
    assert job["id"] in run("jobs").stdout


def test_what_does_not_exist_is_bad_input(run: Run) -> None:
    result = run("show", "job_nothing", "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "job_not_found"


def test_a_cancelled_job_has_its_own_exit_code(run: Run, stack: Stack, document: Path) -> None:
    with Client(stack.url) as client, paused_model(stack):
        job = client.create_job(
            Kind.ASK, [client.upload(document)["id"]], params={"questions": ["How high?"]}
        )

        assert "cancelled" in run("cancel", job["id"]).stdout

    assert run("show", job["id"]).exit_code == 4


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_cancels_the_job_that_is_waited_for(
    stack: Stack, document: Path, how: signal.Signals, code: int
) -> None:
    environment = os.environ | {"UNABRIDGED_URL": stack.url, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "api.cli", "ask", str(document), "Are you there?"]
    with Client(stack.url) as client, paused_model(stack):
        before = {job["id"] for job in client.jobs()}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            job_id = new_job(client, before)
            process.send_signal(how)
            _, said = process.communicate(timeout=30)

        assert process.returncode == code
        assert f"cancelled {job_id}" in said
        assert client.job(job_id)["status"] == Status.CANCELLED


def test_a_command_without_a_server_starts_one_and_stops_it(tmp_path: Path, document: Path) -> None:
    environment = os.environ | {
        "UNABRIDGED_DATA": str(tmp_path / "data"),
        "UNABRIDGED_ENGINE": "fake",
        "UNABRIDGED_PORT": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "api.cli", "ask", "--json", str(document), "How high?"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert "starting one for this command" in done.stderr
    assert "Bringing the database up to date." in done.stderr
    assert running(tmp_path / "data") is None

    command = [sys.executable, "-m", "api.cli", "show", json.loads(done.stdout)["id"]]
    environment |= {
        "UNABRIDGED_ENGINE": "transformers",
        "UNABRIDGED_MODEL": "/nowhere",
    }  # which cannot be loaded
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "database" not in shown.stderr  # it is up to date


def new_job(client: Client, before: set[str]) -> str:
    """The id of the job that somebody else asks for next."""
    while True:
        for job in client.jobs():
            if job["id"] not in before:
                return job["id"]
        time.sleep(0.05)


@contextmanager
def paused_model(stack: Stack) -> Iterator[None]:
    """The model worker stands still for the length of the block."""
    [group] = [child.pid or 0 for child in stack.children if child.name == "model-worker-0"]
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)
