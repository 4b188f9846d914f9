"""Summarize: what a document says, and the passages that carry it."""

from __future__ import annotations

from jobs.params import SummarizeParams
from worker.assignment import Assignment, Result, wish
from worker.engine import Turn


def run(job: Assignment) -> Result:
    """One answer."""
    params = job.params
    assert isinstance(params, SummarizeParams)
    instruction = job.prompts.fill(
        "summarize", focus=wish("Attend to", params.focus), language=wish("Language", params.language)
    )
    return Result([job.answer([Turn("user", instruction)], job.sampling(512), quotes=3)])
