"""A job's events, as a stream of server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from api.watch import Watch
from jobs.errors import JobNotFound
from jobs.ledger import Ledger
from jobs.objects import Job
from jobs.status import FINAL
from jobs.tables import JobRow

#: A silent stream says something after this many seconds, so that nothing between cuts it.
PING_S = 15.0


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a listener is: the job's version, and the characters of the draft. Written `version.offset`."""

    version: int = 0
    offset: int = 0

    @classmethod
    def parse(cls, last_event_id: str | None) -> Self:
        """The mark in the header `Last-Event-ID`; the beginning, if it is none."""
        found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", last_event_id or "")
        return cls(int(found[1]), int(found[2])) if found else cls()

    def __str__(self) -> str:
        return f"{self.version}.{self.offset}"


def events(ledger: Ledger, watch: Watch, row: JobRow, mark: Mark) -> Iterator[str]:
    """What happens to a job after `mark`: `job` at each new version, `text` for each addition to the draft.

    Ends after a final `job`, when the job is deleted, and when the server goes down.
    """
    version, sent = mark.version, (row.draft or "")[: mark.offset]
    while True:
        draft = row.draft or ""
        if not draft.startswith(sent):  # begun anew
            sent = ""
        if row.version != version:
            version = row.version
            yield _event("job", Mark(version, len(sent)), shown(ledger, row).model_dump_json())
        if added := draft[len(sent) :]:
            text = json.dumps({"offset": len(sent), "text": added}, ensure_ascii=False)
            sent = draft
            yield _event("text", Mark(version, len(sent)), text)
        if row.status in FINAL:
            return
        while (sight := watch.beyond(row.id, version, PING_S)) and sight.version == version:
            if watch.closed:
                return
            yield ": still here\n\n"
        if sight is None or watch.closed:
            return
        try:
            row = ledger.get(row.id)
        except JobNotFound:
            return


def shown(ledger: Ledger, row: JobRow) -> Job:
    """A job, and its place in the queue."""
    return Job.of(row, queue_position=ledger.queue_position(row))


def _event(name: str, mark: Mark, data: str) -> str:
    return f"event: {name}\nid: {mark}\ndata: {data}\n\n"
