"""Summarize: what a document says, and the passages that carry it."""

from __future__ import annotations

from jobs.params import SummarizeParams
from worker.assignment import Assignment, Question, Result, wish
from worker.engine import Turn

#: Tokens of a summary, where the user sets no limit.
LENGTH = {"overview": 512, "brief": 160, "points": 512, "sections": 2_048, "analyze": 1_536}


def run(job: Assignment) -> Result:
    """One answer."""
    params = job.params
    assert isinstance(params, SummarizeParams)
    instruction = job.prompts.fill(
        "summarize" if params.style == "overview" else f"summarize-{params.style}",
        focus=wish("Attend to", params.focus),
        language=wish("Language", params.language or "that of the text"),
    )
    question = Question([Turn("user", instruction)], job.sampling(LENGTH[params.style]), quotes=3)
    return Result([job.answer(question)])
