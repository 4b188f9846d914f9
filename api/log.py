"""The log: a line for each request, and the request's id on every line that belongs to it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from typing import TextIO, cast

import structlog
from apiflask import APIFlask
from flask import Response, g, request

from jobs.ids import new_id

log = structlog.get_logger()


class _Stderr:
    """Standard error, where a line that finds no room on the disk is no reason to stop."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(level: str) -> None:
    """Lines of JSON on standard error; easier to read where that is a terminal.

    Errors come with where they were raised, never with what variables held: that may be a document's text.
    """
    terminal = sys.stderr.isatty()
    traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.ExceptionRenderer(traceback)]),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if terminal
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else new_id("req")
    g.began = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        code=g.get("code"),
        ms=round(1000 * (time.perf_counter() - g.began), 1),
    )
    return response


def register(app: APIFlask) -> None:
    """Log every request to `app`."""
    app.before_request(_begin)
    app.after_request(_end)
