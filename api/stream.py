"""Server-sent events, as a client reads them (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event."""

    name: str
    data: str
    id: str


def parse_events(chunks: Iterable[str]) -> Iterator[ServerEvent]:
    """Each event of a stream (WHATWG HTML, section 9.2.6); comments are skipped."""
    name, last_id = "", ""
    data: list[str] = []
    for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(name or "message", "\n".join(data), last_id)
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines only. (`str.splitlines` would also split at characters that JSON leaves alone.)"""
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
