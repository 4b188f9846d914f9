"""The catalogue of errors: every class of every error tree, with its code, status and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from api.problems import ApiError, ServerError, status_of
from jobs.errors import LeaseLost, RecordError
from parsers.errors import ParseError
from worker.engine.errors import EngineError
from worker.errors import JobError

ROOMS: dict[str, type[Exception]] = {
    "Requests": ApiError,
    "The record": RecordError,
    "Parsing a document": ParseError,
    "Doing a job": JobError,
    "The model": EngineError,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One error. `status` is None for those that only appear in the `error` of a document or job."""

    room: str
    code: str
    status: int | None
    remedy: str


def entries() -> list[Entry]:
    """Every error, by room."""
    return [_entry(room, kind) for room, root in ROOMS.items() for kind in _tree(root)]


def _entry(room: str, kind: type[Exception]) -> Entry:
    told = kind is ServerError or status_of(kind) != 500
    return Entry(room, vars(kind)["code"], int(status_of(kind)) if told else None, inspect.getdoc(kind) or "")


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    if kind is not LeaseLost:
        yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
