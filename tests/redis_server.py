"""A broker that tests start, stop and start again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from api.broker import Broker


class Server:
    """A broker that can be stopped and started again."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self.broker.command, cwd=self.broker.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self.broker.answers)

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()


def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)
