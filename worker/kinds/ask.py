"""Ask: many questions answered from a single reading, together."""

from __future__ import annotations

from jobs.params import AskParams
from worker.assignment import ABSENT, Assignment, Question, Result
from worker.engine import Turn


def run(job: Assignment) -> Result:
    """One answer for each question, in their order."""
    params = job.params
    assert isinstance(params, AskParams)
    questions = [
        Question(
            [Turn("user", job.prompts.fill("ask", question=question, absent=ABSENT))],
            job.sampling(256),
            title=question,
        )
        for question in params.questions
    ]
    return Result(job.answers(questions))
