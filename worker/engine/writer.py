"""One step of writing: a token of each seat, and what is likely to follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from worker.engine.decoder import Decoder
from worker.engine.passes import Seat


class Written(NamedTuple):
    """What a step found for each seat, in their order."""

    logits: Tensor  #: (seats, vocabulary) in fp32, good until the next step, unless all seats are greedy
    likeliest: list[int]
    finite: list[bool]  #: whether a seat's logits are numbers


class Writer(Protocol):
    def write(self, seats: Sequence[Seat]) -> Written:
        """Keep each seat's token and say what follows. Seats about one document stand side by side."""
        ...


def widths(seats: int) -> list[int]:
    """For how many requests at once a step is prepared: one alone is common, and cheaper than all `seats`."""
    return sorted({1, seats})


class PlainWriter:
    """Runs the model as it is: for the CPU, and for cards that compile nothing."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def write(self, seats: Sequence[Seat]) -> Written:
        logits = self._decoder.write(seats)
        return Written(logits, logits.argmax(-1).tolist(), logits.isfinite().all(-1).tolist())
