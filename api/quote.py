"""A quote: what a job would take, from what the workers have measured and the record remembers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from api.problems import TextNotReady
from jobs.errors import DocumentFailed
from jobs.params import Work
from jobs.record import Record
from jobs.status import DocumentStatus, Status
from jobs.tables import DocumentRow, JobRow, WorkerRow
from worker.room import room_for_answers

#: Finished jobs that are looked at for what documents like these took.
REMEMBERED = 100
#: Characters a token stands for while no job of a model has been counted: few, so that it is rather too long.
CHARACTERS_PER_TOKEN = 3.0
#: Tokens of an answer while no job of its kind has been counted.
ANSWER_TOKENS = 512


class WorkerQuote(BaseModel):
    """What the job would take on one card."""

    worker_id: str
    model: str
    tokens: int = Field(description="Of the documents.")
    exact: bool = Field(description="Counted by an earlier job on them, not estimated from their length.")
    tokens_fit: int = Field(description="Tokens that can be read at once, beside the answer.")
    fits: bool = Field(description="Whether they are read whole.")
    sections: int = Field(description="Into how many they would be split; 1 if they fit.")
    already_read: bool = Field(
        description="Read since this worker started; kept as long as there is room for it."
    )
    read_s: float | None = Field(description="Seconds, at the speed measured here; null before any was.")
    write_s: float | None


class Quote(BaseModel):
    """What a job would take. Nothing is queued."""

    object: Literal["quote"] = "quote"
    document_ids: list[str]
    characters: int
    fits: bool = Field(description="Whether some card reads the documents whole.")
    ahead: int = Field(description="Jobs that wait already.")
    workers: list[WorkerQuote]


@dataclass(frozen=True)
class _History:
    """The newest completed jobs."""

    rows: Sequence[JobRow]

    def counted(self, model: str, document_ids: Sequence[str]) -> int | None:
        """Tokens that a job of this model on these very documents has counted."""
        for row in self._of(model):
            if row.document_ids == list(document_ids):
                return int((row.coverage or {})["tokens"])
        return None

    def characters_per_token(self, model: str, characters: dict[str, int]) -> float:
        """As the jobs of this model found it, for documents whose length is known."""
        known = [row for row in self._of(model) if characters.keys() >= set(row.document_ids)]
        tokens = sum((row.coverage or {})["tokens"] for row in known)
        length = sum(characters[id_] for row in known for id_ in row.document_ids)
        return length / tokens if tokens else CHARACTERS_PER_TOKEN

    def answer_tokens(self, kind: str) -> float:
        """Tokens that a job of this kind has written, on average."""
        written = [(row.usage or {}).get("tokens_written", 0) for row in self.rows if row.kind == kind]
        return sum(written) / len(written) if written else ANSWER_TOKENS

    def read_by(self, worker: WorkerRow, document_ids: Sequence[str]) -> bool:
        """Whether a worker has read these documents since it started."""
        return any(
            row.worker_id == worker.id
            and row.document_ids == list(document_ids)
            and (row.finished_at or row.created_at) >= worker.started_at
            for row in self.rows
        )

    def _of(self, model: str) -> list[JobRow]:
        return [row for row in self.rows if (row.coverage or {}).get("model") == model]


def quote(record: Record, work: Work, document_ids: Sequence[str]) -> Quote:
    """What a job would take on each card that is ready.

    Raises:
        DocumentNotFound, DocumentFailed, TextNotReady: there is no text to measure.
    """
    rows = [_readable(record.documents.get(document_id)) for document_id in document_ids]
    history = _History(record.ledger.page(limit=REMEMBERED, after=None, status=Status.COMPLETED).rows)
    others = record.documents.several({id_ for row in history.rows for id_ in row.document_ids})
    known = {row.id: row.characters or 0 for row in [*rows, *others]}
    workers = [_on(worker, history, work, document_ids, known) for worker in record.workers.ready()]
    return Quote(
        document_ids=list(document_ids),
        characters=sum(known[document_id] for document_id in document_ids),
        fits=any(worker.fits for worker in workers),
        ahead=record.ledger.counts().get(Status.QUEUED, 0),
        workers=workers,
    )


def _readable(row: DocumentRow) -> DocumentRow:
    if row.status == DocumentStatus.FAILED:
        raise DocumentFailed((row.error or {}).get("message"))
    if row.status != DocumentStatus.READY:
        raise TextNotReady
    return row


def _on(
    worker: WorkerRow,
    history: _History,
    work: Work,
    document_ids: Sequence[str],
    characters: dict[str, int],
) -> WorkerQuote:
    model = f"{worker.card.get('name')}@{worker.card.get('revision')}"
    length = sum(characters[document_id] for document_id in document_ids)
    counted = history.counted(model, document_ids)
    tokens = counted or math.ceil(length / history.characters_per_token(model, characters))
    fits = worker.capacity.get("tokens_fit") or worker.card.get("window") or 0
    budget = max(1, fits - room_for_answers(fits))
    known = history.read_by(worker, document_ids)
    read_speed, write_speed = (worker.capacity.get(f"{name}_tokens_per_s") for name in ("read", "write"))
    written = work.checked().max_tokens or history.answer_tokens(work.kind)
    return WorkerQuote(
        worker_id=worker.id,
        model=model,
        tokens=tokens,
        exact=counted is not None,
        tokens_fit=budget,
        fits=tokens <= budget,
        sections=math.ceil(tokens / budget) or 1,
        already_read=known,
        read_s=0.0 if known else round(tokens / read_speed, 1) if read_speed else None,
        write_s=round(written / write_speed, 1) if write_speed else None,
    )
