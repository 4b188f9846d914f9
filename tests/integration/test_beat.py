"""Celery's beat with a real broker: it ends in order, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from redis import Redis
from redis_server import Server, until

ROOT = Path(__file__).parents[2]


def test_beat_ends_in_order_in_the_middle_of_a_message(server: Server, tmp_path: Path) -> None:
    environment = os.environ | {"UNABRIDGED_REDIS_URL": server.broker.url, "UNABRIDGED_SWEEP_S": "0.05"}
    schedule = str(tmp_path / "schedule")
    command = [sys.executable, "-m", "celery", "-A", "worker.tasks", "beat", "-s", schedule, "--pidfile="]
    with (
        Redis.from_url(server.broker.url.replace("redis+socket", "unix").partition("?")[0]) as redis,
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
