"""Chat: the next turn of a conversation about documents."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.params import ChatParams
from worker.assignment import Assignment, Question, Result
from worker.engine import Turn


def run(job: Assignment, history: Sequence[tuple[str, str]] = ()) -> Result:
    """One answer. `history`: message and answer of each earlier turn, oldest first."""
    params = job.params
    assert isinstance(params, ChatParams)
    turns: list[Turn] = []
    for message, said in history:
        turns += [Turn("user", message), Turn("assistant", said)]
    turns.append(Turn("user", params.message))
    turns[0] = Turn("user", job.prompts.fill("chat", message=turns[0].text))
    return Result([job.answer(Question(turns, job.sampling(512)))])
