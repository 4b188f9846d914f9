"""Compare: what differs between documents, or was changed in one, with passages from each side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from jobs.params import CompareParams
from worker import revision
from worker.assignment import Answer, Assignment, Result, wish
from worker.citations import Citation, at, quotations, unique, verify
from worker.dictation import dictate
from worker.engine import Turn
from worker.errors import NothingToCompare
from worker.section import Section
from worker.source import Source

#: A model lists differences under this schema, so that each can be given its passages.
DIFFERENCES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "differences": {
            "type": "array",
            "maxItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"enum": ["added", "removed", "changed", "contradicting"]},
                    "difference": {"type": "string", "minLength": 1, "maxLength": 400},
                },
                "required": ["kind", "difference"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["differences"],
    "additionalProperties": False,
}
#: Passages that the answer itself carries; the changes in `data` have them all.
QUOTED = 40
#: Characters of a side of a change that the model is shown.
SHOWN = 300


def run(job: Assignment) -> Result:
    """Versions of one text are aligned and the model explains the changes; else it lists the differences.

    Raises:
        NothingToCompare: there is but one document, and it keeps no changes.
    """
    if len(job.sources) == 1:
        return _tracked(job)
    revisions = [revision.compare(*pair) for pair in pairwise(job.sources)]
    if all(found.same_text for found in revisions):
        return _versions(job, revisions)
    return _documents(job)


# -- versions of one text ---------------------------------------------------------------------------------


def _tracked(job: Assignment) -> Result:
    found = revision.tracked(job.sources[0])
    if not found.changes:
        raise NothingToCompare
    return _changes(job, [(0, change) for change in found.changes], found.unchanged, "compare-tracked")


def _versions(job: Assignment, revisions: Sequence[revision.Revision]) -> Result:
    changes = [(number, change) for number, found in enumerate(revisions, 1) for change in found.changes]
    return _changes(job, changes, sum(found.unchanged for found in revisions), "compare-versions")


def _changes(
    job: Assignment, changes: Sequence[tuple[int, revision.Change]], unchanged: int, prompt: str
) -> Result:
    """One answer, and in `data` every change in order with its words and its passages on both sides.

    The number beside a change is that of the later version, before which its earlier one stands.
    """
    told = [(number, change) for number, change in changes if change.kind != "renumbered"]
    parts, explained, cut_off = [], 0, False
    for section in job.sections:
        listed = _listed(job, section, told)
        if not listed:
            continue
        explained += len(listed)
        turns = [Turn("user", _instruction(job, prompt, changes="\n".join(listed)))]
        written = job.reader.write(section, turns, job.sampling(768), draft=0)
        parts.append(written.text)
        cut_off = cut_off or written.cut_off
    job.reader.checking()
    text = "\n\n".join(parts) or _unexplained(len(told), len(changes) - len(told))
    shown = [_shown(job.sources, number, change) for number, change in changes]
    data = {
        "changes": shown,
        "unchanged": unchanged,
        "explained": min(explained, len(told)),
    }
    sides = [
        side
        for change in shown
        for side in (change["before"], change["after"])
        if side and change["kind"] != "renumbered"
    ]
    quoted = [verify(quote, job.sources) for quote in quotations(text)]
    return Result([Answer(None, text, unique(quoted + sides[:QUOTED]), cut_off=cut_off)], data, sides)


def _unexplained(told: int, renumbered: int) -> str:
    if told:
        return f"Changes found: {told:,}. The model has no room to be shown any of them."
    return f"The texts of the versions do not differ{', but for their numbering' if renumbered else ''}."


def _shown(sources: Sequence[Source], number: int, change: revision.Change) -> dict[str, Any]:
    """A change as it stands in the record; `number` is that of the later version."""
    sides = (change.before, sources[number - 1]), (change.after, sources[number])
    before, after = (side and at(source, side.page, side.start, side.end) for side, source in sides)
    return {
        "kind": change.kind,
        "before": before,
        "after": after,
        "words": [list(run) for run in change.words],
        "author": change.author,
        "date": change.date,
    }


def _listed(job: Assignment, section: Section, changes: Sequence[tuple[int, revision.Change]]) -> list[str]:
    """The changes on a section's pages, numbered as in the result, as many as there is room for."""
    pages = {(piece.source, piece.page) for piece in section.pieces}
    count = job.reader.engine.tokenizer.count
    room = job.reader.room - job.sampling(768).max_tokens - 256
    lines: list[str] = []
    for place, (number, change) in enumerate(changes, start=1):
        sides = (number - 1, change.before), (number, change.after)
        if not any(side and (source, side.page) in pages for source, side in sides):
            continue
        line = f"[{place}] {_line(change)}"
        room -= count(line) + 1
        if room < 0:
            break
        lines.append(line)
    return lines


def _line(change: revision.Change) -> str:
    """A change as the model is shown it."""
    if change.kind in {"inserted", "deleted"} and change.after:
        author = f" by {change.author}" if change.author else ""
        words, within = change.words[0][1], revision.plain(change.after.text)
        return f"{change.kind}{author}: {words[:SHOWN]}; in: {within[:SHOWN]}"
    sides = [
        f"{label}: {revision.plain(side.text)[:SHOWN]}"
        for label, side in (("before", change.before), ("after", change.after))
        if side
    ]
    return f"{change.kind}; {'; '.join(sides[-1:] if change.kind == 'moved' else sides)}"


# -- other documents --------------------------------------------------------------------------------------


def _documents(job: Assignment) -> Result:
    """One answer, and in `data` each difference with a passage of every document that has one to it."""
    turns = [Turn("user", _instruction(job, "compare"))]
    sampling = replace(job.sampling(768), repetition_penalty=1.0)
    found: dict[str, dict[str, Any]] = {}
    for section in job.sections:
        value = dictate(job.reader, section, turns, DIFFERENCES, sampling, limit=job.params.max_tokens)
        new = [entry for entry in value.value["differences"] if entry["difference"] not in found]
        cited = job.reader.together(
            [partial(_both_sides, job, section, turns, entry["difference"]) for entry in new]
        )
        for entry, citations in zip(new, cited, strict=True):
            found[entry["difference"]] = {**entry, "citations": citations}
    job.reader.checking()
    text = "\n".join(f"- {entry['kind']}: {entry['difference']}" for entry in found.values())
    citations = unique(citation for entry in found.values() for citation in entry["citations"])
    answer = Answer(None, text or "The model names no difference.", citations, found=bool(found))
    return Result([answer], {"differences": list(found.values())})


def _both_sides(job: Assignment, section: Section, turns: Sequence[Turn], said: str) -> list[Citation]:
    sides = sorted({piece.source for piece in section.pieces})
    return [found for side in sides for found in job.quote(section, turns, said, source=side)]


def _instruction(job: Assignment, name: str, **values: str) -> str:
    params = job.params
    assert isinstance(params, CompareParams)
    return job.prompts.fill(
        name,
        names=", ".join(f"“{source.filename}”" for source in job.sources),
        focus=wish("Attend to", params.focus),
        language=wish("Language", params.language),
        **values,
    )
