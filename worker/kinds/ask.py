"""Ask: questions answered one by one from a single reading."""

from __future__ import annotations

from jobs.params import AskParams
from worker.assignment import Assignment, Result
from worker.engine import Turn


def run(job: Assignment) -> Result:
    """One answer for each question, in their order."""
    params = job.params
    assert isinstance(params, AskParams)
    return Result(
        [
            job.answer(
                [Turn("user", job.prompts.fill("ask", question=question))], job.sampling(256), title=question
            )
            for question in params.questions
        ]
    )
