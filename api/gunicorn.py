"""gunicorn's configuration: `gunicorn -c python:api.gunicorn`.

One process with many threads: they wait for the disk, the database or a job far more than they compute, and
each long poll and event stream holds one.
"""

from __future__ import annotations

import signal
from typing import Any

from settings import Settings

_settings = Settings()
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

wsgi_app = "api.wsgi:app"
bind = f"{_host}:{_settings.port}"
worker_class = "gthread"
workers = 1
threads = _settings.api_threads
#: Seconds without a sign of life from the process (not the length of a request) before it is replaced.
timeout = 60
#: Seconds that requests in progress are given at the end.
graceful_timeout = 8
keepalive = 30
#: The application writes a line for each request itself.
accesslog = None
errorlog = "-"
loglevel = "warning"
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """At SIGTERM, end event streams and long polls, which would hold the process to the last moment."""
    watch = worker.wsgi.extensions["unabridged"].watch
    stop = signal.getsignal(signal.SIGTERM)

    def close(number: int, frame: Any) -> None:
        watch.close()
        stop(number, frame)  # type: ignore[operator, misc]

    signal.signal(signal.SIGTERM, close)
