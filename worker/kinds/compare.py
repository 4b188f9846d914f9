"""Compare: what differs between documents, with passages from each side."""

from __future__ import annotations

from jobs.params import CompareParams
from worker.assignment import Answer, Assignment, Result, wish
from worker.citations import unique
from worker.engine import Turn


def run(job: Assignment) -> Result:
    """One answer, cited from every document it is about."""
    params = job.params
    assert isinstance(params, CompareParams)
    instruction = job.prompts.fill(
        "compare",
        names=" and ".join(f"“{source.filename}”" for source in job.sources),
        focus=wish("Attend to", params.focus),
        language=wish("Language", params.language),
    )
    turns = [Turn("user", instruction)]
    answer = job.answer(turns, job.sampling(768), quotes=0)
    citations = list(answer.citations)
    for number in range(len(job.sources)):
        section = next(s for s in job.sections if any(piece.source == number for piece in s.pieces))
        citations += job.quote(section, turns, answer.text, source=number)
    return Result([Answer(None, answer.text, unique(citations))])
