"""A needle in a haystack: is one sentence found again, however deep in however long a text it lies?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from api.client import Client, Job
from jobs.status import Kind, Status

Outcome = Literal["cited", "found", "missed", "failed"]

QUESTION = "What is the password of the harbour master?"
#: Characters of a token of the hay, about; each trial tells how many tokens there were.
CHARACTERS_PER_TOKEN = 4.6
_WHO = ["The keeper", "A pilot", "The crew", "An engineer", "The inspector", "A carpenter", "The clerk"]
_DID = ["repaired", "measured", "painted", "opened", "watched", "described", "cleaned", "replaced"]
_WHAT = ["the north pump", "an old valve", "the long pier", "a boiler", "the river gate", "the signal lamp"]
_WHEN = ["before the storm", "in the early morning", "after the harvest", "on a quiet day", "late in winter"]
_CODE = ["amber", "cobalt", "crimson", "ivory", "saffron", "scarlet", "silver", "violet"]

#: Colours of the plot, told apart by shape as well.
_SHOWN: dict[Outcome, tuple[str, str]] = {
    "cited": ("#2e7d32", "✓"),
    "found": ("#f9a825", "~"),
    "missed": ("#c62828", "✗"),
    "failed": ("#757575", "!"),
}


@dataclass(frozen=True, slots=True)
class Haystack:
    """A text, and the words that answer `QUESTION`."""

    text: str
    password: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One text that was read. `cited`: the password was given, with the sentence as a verified quotation."""

    asked_tokens: int
    depth: float  #: 0.0 the beginning, 1.0 the end
    outcome: Outcome
    tokens: int | None
    read_s: float | None
    said: str


def haystack(tokens: int, depth: float, seed: int) -> Haystack:
    """Made-up sentences of about so many tokens, no two texts alike, with the needle at a depth of 0 to 1."""
    rng = random.Random(f"{tokens} {depth} {seed}")
    password = f"{rng.choice(_CODE)}-{rng.randint(1_000, 9_999)}"
    hay: list[str] = []
    left = tokens * CHARACTERS_PER_TOKEN
    while left > 0:
        parts = (rng.choice(words) for words in (_WHO, _DID, _WHAT, _WHEN))
        hay.append(f"{' '.join(parts)} of {rng.randint(1_800, 1_999)}.")
        left -= len(hay[-1]) + 1
    hay.insert(round(depth * len(hay)), f"The password of the harbour master is {password}.")
    lines = [" ".join(hay[at : at + 8]) for at in range(0, len(hay), 8)]
    return Haystack("\n\n".join(lines), password)


def depths(count: int) -> list[float]:
    """So many depths from the beginning to the end."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def trials(
    client: Client, tokens: Sequence[int], count: int, *, seed: int, wait: Callable[[str], Job]
) -> Iterator[Trial]:
    """Read a text of each length for each depth, whole or not at all; `wait(job_id)` awaits a job's end."""
    for length in tokens:
        for depth in depths(count):
            stack = haystack(length, depth, seed)
            name = f"needle-{length}-{depth:.2f}-{seed}.txt"
            document = client.upload(stack.text.encode(), filename=name)
            params = {"question": QUESTION, "reading": "whole", "max_tokens": 64}
            job = client.create_job(Kind.ASK, [document["id"]], params=params)
            yield judged(length, depth, stack, wait(job["id"]))


def judged(length: int, depth: float, stack: Haystack, job: Job) -> Trial:
    """What a finished job found."""
    if job["status"] != Status.COMPLETED or not job["result"]:
        said = job["error"]["message"] if job["error"] else job["status"]
        return Trial(length, depth, "failed", None, None, said)
    [answer] = job["result"]["answers"]
    cited = any(quote["verified"] and stack.password in quote["quote"] for quote in answer["citations"])
    told = stack.password in answer["text"]
    outcome: Outcome = "missed" if not told else "cited" if cited else "found"
    tokens = job["coverage"]["tokens"] if job["coverage"] else None
    read_s = job["usage"]["read_s"] if job["usage"] else None
    return Trial(length, depth, outcome, tokens, read_s, answer["text"])


def plot(done: Sequence[Trial]) -> str:
    """The trials as an SVG: lengths across, depths down, a mark and a colour for each outcome."""
    lengths = sorted({trial.asked_tokens for trial in done})
    rows = sorted({trial.depth for trial in done})
    width, height = 90 + 70 * len(lengths), 80 + 26 * len(rows)
    cells = [
        f'<g><rect x="{80 + 70 * lengths.index(trial.asked_tokens)}" y="{30 + 26 * rows.index(trial.depth)}" '
        f'width="68" height="24" fill="{_SHOWN[trial.outcome][0]}"/>'
        f'<text x="{114 + 70 * lengths.index(trial.asked_tokens)}" y="{47 + 26 * rows.index(trial.depth)}" '
        f'text-anchor="middle" fill="white">{_SHOWN[trial.outcome][1]}</text></g>'
        for trial in done
    ]
    across = [
        f'<text x="{114 + 70 * place}" y="20" text-anchor="middle">{length:,}</text>'
        for place, length in enumerate(lengths)
    ]
    down = [
        f'<text x="70" y="{47 + 26 * place}" text-anchor="end">{depth:.0%}</text>'
        for place, depth in enumerate(rows)
    ]
    legend = "   ".join(f"{mark} {outcome}" for outcome, (_, mark) in _SHOWN.items())
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="12">',
            *across,
            *down,
            *cells,
            f'<text x="10" y="{height - 15}">{legend}</text>',
            "</svg>\n",
        ]
    )
