"""The heart of a job: beats while the job runs, keeps its lease, and hears when somebody cancels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from jobs.errors import LeaseLost

log = structlog.get_logger()


class Heart:
    """Calls `beat` every `every_s` seconds in a thread; `beat` tells whether the job is to stop.

    When it is to stop, when another worker has the job, or when nothing could be written for `lease_s` (the
    lease is gone by then), `stop` is called once; `cancelled` and `lost` say which it was.
    """

    def __init__(
        self, beat: Callable[[], bool], stop: Callable[[], None], *, every_s: float, lease_s: float
    ) -> None:
        self._beat = beat
        self._stop = stop
        self._every_s = every_s
        self._lease_s = lease_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self.cancelled = False
        self.lost = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        kept = time.monotonic()  # the lease holds from here
        while not self._done.wait(self._every_s):
            began = time.monotonic()
            try:
                self.cancelled = self._beat()
                kept = began
            except LeaseLost:
                self.lost = True
            except Exception:  # the database is away: hold on as long as the lease does
                log.warning("heartbeat_failed", exc_info=True)
                self.lost = time.monotonic() - kept >= self._lease_s
            if self.cancelled or self.lost:
                self._stop()
                return
