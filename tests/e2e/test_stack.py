"""The embedded stack with the fake engine: it starts, heals, and leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest

from api.client import Client, Job
from api.stack import LOG_LIMIT, AlreadyRunning, Child, DatabaseUnusable, Stack, running
from jobs.status import Kind, Status
from settings import Settings

QUESTION = {"questions": ["Is it so?"]}
_numbers = itertools.count()


def quick(data: Path, **more: object) -> Settings:
    """Settings under which everything that waits waits briefly."""
    brief = Settings(
        _env_file=None,
        data=data,
        engine="fake",
        port=0,
        heartbeat_s=0.2,
        lease_s=3,
        sweep_s=1,
        ring_again_s=1,
    )
    return brief.model_copy(update=more)


@pytest.fixture(scope="module")
def told() -> Queue[str]:
    return Queue()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, told: Queue[str]) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack") / "a folder, 数据"
    with Stack(quick(folder), tell=told.put) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, patience_s=60) as client:
        yield client


def ask(client: Client) -> Job:
    """A job on a document that nobody has read yet."""
    document = client.upload(f"The tower has {next(_numbers)} steps.".encode(), filename="tower.txt")
    return client.create_job(Kind.ASK, [document["id"]], params=QUESTION)


def until(met: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something that nobody tells of becomes so in time."""
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.05)
    return met()


def family(pid: int) -> set[int]:
    """A process's children, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_goes_through_every_process(client: Client) -> None:
    job = client.wait(ask(client)["id"])

    assert job["status"] == Status.COMPLETED
    assert job["coverage"] is not None
    assert job["coverage"]["documents"][0]["pages_read"] == 1


def test_other_commands_find_the_stack(stack: Stack) -> None:
    data = Path(stack.children[0].log).parents[1]

    assert running(data) == stack.url


def test_what_a_killed_stack_wrote_down_is_not_taken_for_one_that_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (tmp_path / "stack.json").write_text(json.dumps({"url": url, "pid": os.getpid()}))

    assert running(tmp_path) is None


def test_a_second_stack_on_the_same_folder_is_refused(stack: Stack) -> None:
    data = Path(stack.children[0].log).parents[1]

    with pytest.raises(AlreadyRunning, match=stack.url), Stack(quick(data)):
        pass

    assert running(data) == stack.url


@pytest.mark.parametrize(
    "names",
    [["broker"], ["api"], ["cpu-worker"], ["quick-worker"], ["model-worker-0"], ["beat"], ["broker", "beat"]],
    ids=", ".join,
)
def test_what_is_killed_is_started_again(stack: Stack, client: Client, names: list[str]) -> None:
    children = [child for child in stack.children if child.name in names]
    before = [child.pid for child in children]

    for pid in before:
        os.killpg(pid or 0, signal.SIGKILL)

    assert client.wait(ask(client)["id"])["status"] == Status.COMPLETED
    assert until(lambda: all(child.pid not in before for child in children))


def test_a_job_outlives_the_worker_that_reads_it(stack: Stack, client: Client) -> None:
    [worker] = [child for child in stack.children if child.name == "model-worker-0"]
    os.killpg(worker.pid or 0, signal.SIGSTOP)
    job = ask(client)

    os.killpg(worker.pid or 0, signal.SIGKILL)

    assert client.wait(job["id"])["status"] == Status.COMPLETED


def test_a_lost_job_is_found_and_told_of_while_every_parser_is_busy(stack: Stack, client: Client) -> None:
    document = client.upload(f"The tower has {next(_numbers)} steps.".encode(), filename="tower.txt")
    assert until(lambda: client.document(document["id"])["status"] == "ready")
    [parser] = [child for child in stack.children if child.name == "cpu-worker"]
    [worker] = [child for child in stack.children if child.name == "model-worker-0"]
    os.killpg(parser.pid or 0, signal.SIGSTOP)
    try:
        os.killpg(worker.pid or 0, signal.SIGSTOP)
        job = client.create_job(Kind.ASK, [document["id"]], params=QUESTION, webhook_url="https://a.invalid/")
        os.killpg(worker.pid or 0, signal.SIGKILL)

        assert until(lambda: client.job(job["id"])["status"] == Status.COMPLETED, 60)
        assert until(lambda: bool(client.deliveries(job["id"])[0]["tries"]))
    finally:
        os.killpg(parser.pid or 0, signal.SIGCONT)


def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    missing = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"

    with (
        pytest.raises(DatabaseUnusable, match="UNABRIDGED_DATABASE_URL"),
        Stack(quick(tmp_path, database_url=missing)),
    ):
        pass

    assert running(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_taken_port_is_told_and_nothing_outlives_a_killed_server(stack: Stack, tmp_path: Path) -> None:
    taken = stack.url.rpartition(":")[2]
    command = [sys.executable, "-m", "api.cli", "serve", "--json", "--port", taken, "--data", str(tmp_path)]
    environment = os.environ | {"UNABRIDGED_ENGINE": "fake", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        ready = json.loads(server.stdout.readline())
        children = family(server.pid)
        with Client(ready["url"]) as client:
            assert client.capacity()["workers"]

        server.kill()
        said = server.stderr.read()

    assert f"127.0.0.1:{taken} cannot be had" in said
    assert ready["url"] != stack.url
    assert len(children) >= 10
    assert until(lambda: not any(alive(pid) for pid in children))
    assert running(tmp_path) is None


def test_a_document_stays_with_one_of_two_cards(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.cli", "serve", "--json", "--port", "0", "--data", str(tmp_path)]
    environment = os.environ | {
        "UNABRIDGED_ENGINE": "fake",
        "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            with Client(json.loads(server.stdout.readline())["url"], patience_s=60) as client:
                assert until(lambda: len(client.capacity()["workers"]) == 2)
                documents = [client.upload(f"Tower {n}".encode())["id"] for n in range(3)]
                for document in 4 * documents:
                    job = client.create_job(Kind.ASK, [document], params=QUESTION)
                    assert client.wait(job["id"])["status"] == Status.COMPLETED
                for document in documents:
                    cards = client.quote(Kind.ASK, [document], params=QUESTION)["workers"]
                    assert sorted(card["already_read"] for card in cards) == [False, True]
                batch = client.create_batch(Kind.ASK, 50 * documents, params=QUESTION)["id"]
                assert until(lambda: client.batch(batch)["status"] == "finished")
                started = [job["started_at"] or "" for job in client.jobs(batch_id=batch)]  # newest first
                assert max(started[-10:]) < min(started[:50])  # what is passed on is not taken last
        finally:
            server.terminate()


def test_a_stopped_stack_leaves_nothing(tmp_path: Path) -> None:
    others = family(os.getpid())
    with Stack(quick(tmp_path)) as stack:
        children = family(os.getpid()) - others
        address = ("127.0.0.1", int(stack.url.rpartition(":")[2]))

    assert len(children) >= 10
    assert not any(alive(pid) for pid in children)
    assert running(tmp_path) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


class Watched:
    """A child that writes a byte into a pipe whenever it starts."""

    def __init__(self, folder: Path, program: str) -> None:
        self.deaths: Queue[str] = Queue()
        self._starts, self._write_end = os.pipe()
        self.child = Child(
            "watched",
            [sys.executable, "-c", f"import os, sys, time\nos.write({self._write_end}, b'.')\n{program}"],
            log=folder / "watched.log",
            folder=folder,
            environment=dict(os.environ),
            keep_open=[self._write_end],
            on_death=lambda _child, how: self.deaths.put(how),
        )
        self.child.start()

    def wait_for_start(self) -> None:
        assert os.read(self._starts, 1) == b"."

    def close(self) -> None:
        self.child.stop()
        os.close(self._starts)
        os.close(self._write_end)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[str], Watched]]:
    made: list[Watched] = []

    def watch(program: str) -> Watched:
        made.append(Watched(tmp_path, program))
        return made[-1]

    yield watch
    for watched in made:
        watched.close()


def test_a_child_that_ends_is_started_again_and_its_end_is_told(watch: Callable[[str], Watched]) -> None:
    watched = watch("print('I give up', flush=True); sys.exit(3)")

    watched.wait_for_start()
    watched.wait_for_start()

    assert watched.deaths.get(timeout=10) == "ended with status 3"
    assert "I give up" in watched.child.last_words()


def test_a_killed_child_is_started_again(watch: Callable[[str], Watched]) -> None:
    watched = watch("time.sleep(600)")
    watched.wait_for_start()

    os.killpg(watched.child.pid or 0, signal.SIGKILL)
    watched.wait_for_start()

    assert watched.deaths.get(timeout=10) == "was killed by SIGKILL"


def test_a_child_that_cannot_be_started_is_told_and_tried_again(
    tmp_path: Path, watch: Callable[[str], Watched]
) -> None:
    log = tmp_path / "watched.log"
    log.mkdir()
    watched = watch("time.sleep(600)")

    assert watched.deaths.get(timeout=10).startswith("could not be started: [Errno 21]")
    assert watched.child.last_words() == ""
    log.rmdir()
    watched.wait_for_start()


def test_a_long_log_is_put_aside_when_its_child_starts_again(watch: Callable[[str], Watched]) -> None:
    watched = watch("time.sleep(600)")
    watched.wait_for_start()
    os.truncate(watched.child.log, LOG_LIMIT + 1)

    os.killpg(watched.child.pid or 0, signal.SIGKILL)
    watched.wait_for_start()

    assert watched.child.log.stat().st_size == 0
    assert Path(f"{watched.child.log}.1").stat().st_size == LOG_LIMIT + 1


def test_a_stopped_child_is_not_started_again(watch: Callable[[str], Watched]) -> None:
    watched = watch("time.sleep(600)")
    watched.wait_for_start()
    pid = watched.child.pid or 0

    watched.child.stop()

    assert not alive(pid)
    assert watched.deaths.empty()


def test_a_child_takes_its_own_children_along(watch: Callable[[str], Watched]) -> None:
    watched = watch("import subprocess; subprocess.Popen(['sleep', '600']); time.sleep(600)")
    watched.wait_for_start()
    pid = watched.child.pid or 0
    assert until(lambda: len(family(pid)) == 2)
    everyone = family(pid) | {pid}

    os.kill(pid, signal.SIGKILL)

    assert until(lambda: not any(alive(one) for one in everyone))
