"""A bare Celery application: the least a job can cost on a broker."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("noop", broker=os.environ["UNABRIDGED_REDIS_URL"], backend=os.environ["UNABRIDGED_REDIS_URL"])
app.conf.task_default_queue = "noop"
app.conf.worker_hijack_root_logger = False


@app.task  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    """Nothing."""
    return number
