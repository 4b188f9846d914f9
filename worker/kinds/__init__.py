"""The kinds of job, one file each: from an assignment to a result."""

from __future__ import annotations

from collections.abc import Callable

from jobs.status import Kind
from worker.assignment import Result
from worker.kinds import ask, chat, compare, extract, summarize

#: `run` of each kind. Chat is also given the earlier turns.
RUN: dict[Kind, Callable[..., Result]] = {
    Kind.SUMMARIZE: summarize.run,
    Kind.EXTRACT: extract.run,
    Kind.COMPARE: compare.run,
    Kind.ASK: ask.run,
    Kind.CHAT: chat.run,
}
