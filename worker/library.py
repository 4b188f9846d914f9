"""The library: documents laid out for the model, kept at hand for the next job on them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.record import Record
from parsers import Document
from worker.engine import PromptTokenizer
from worker.errors import TextMissing
from worker.section import Section, plan
from worker.source import Source

#: Layouts kept, the last used last. One of a million tokens takes about 100 MB.
KEPT = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """The documents of a job, and the sections they are read in."""

    sources: Sequence[Source]
    sections: Sequence[Section]
    parse_s: float

    @property
    def tokens(self) -> int:
        """Tokens of all sections; counted on first use, seconds for a long document."""
        return sum(section.tokens for section in self.sections)


class Library:
    """Lays documents out, and remembers. Safe to share between threads."""

    def __init__(self, record: Record, tokenizer: PromptTokenizer, *, system: str) -> None:
        self._record = record
        self._tokenizer = tokenizer
        self._system = system
        self._layouts: OrderedDict[tuple[tuple[str, ...], int, bool], Layout] = OrderedDict()
        self._lock = threading.Lock()

    def lay_out(self, document_ids: Sequence[str], *, budget: int, side_by_side: bool) -> Layout:
        """Documents in sections of at most `budget` tokens (`worker.section.plan`).

        Raises:
            TextMissing: a document's text is gone.
            DoesNotFit: a section would hold next to nothing.
        """
        key = (tuple(document_ids), budget, side_by_side)
        with self._lock:
            if key in self._layouts:
                self._layouts.move_to_end(key)
                return self._layouts[key]
        layout = self._new(document_ids, budget, side_by_side=side_by_side)
        with self._lock:
            self._layouts[key] = layout
            if len(self._layouts) > KEPT:
                self._layouts.popitem(last=False)
        return layout

    @property
    def document_ids(self) -> set[str]:
        """Of the layouts kept."""
        with self._lock:
            return {document_id for documents, *_ in self._layouts for document_id in documents}

    def forget(self, document_ids: Collection[str]) -> None:
        """Drop the layouts of any of these documents."""
        with self._lock:
            for key in [key for key in self._layouts if not set(key[0]).isdisjoint(document_ids)]:
                del self._layouts[key]

    def _new(self, document_ids: Sequence[str], budget: int, *, side_by_side: bool) -> Layout:
        rows = [self._record.documents.get(document_id) for document_id in document_ids]
        sources = []
        for row in rows:
            text = self._record.files.text(row.sha256, row.parser_version or "")
            if text is None:
                raise TextMissing
            sources.append(Source(row.id, row.filename, Document.from_json(json.loads(text))))
        sections = plan(
            sources, self._tokenizer, system=self._system, budget=budget, side_by_side=side_by_side
        )
        return Layout(sources, sections, sum(row.parse_s or 0.0 for row in rows))
