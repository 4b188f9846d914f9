"""Own: a kind of job that a prompt file of the server's owner makes."""

from __future__ import annotations

from jobs.params import OwnParams
from worker.assignment import Assignment, Question, Result, wish
from worker.engine import Turn


def run(job: Assignment, kind: str) -> Result:
    """One answer."""
    params = job.params
    assert isinstance(params, OwnParams)
    instruction = job.prompts.fill(
        kind,
        instruction=params.instruction or "",
        focus=wish("Attend to", params.focus),
        language=wish("Language", params.language),
    )
    return Result([job.answer(Question([Turn("user", instruction)], job.sampling(768)))])
