"""Room: what is kept free of a model's window."""

from __future__ import annotations


def room_for_answers(fits: int) -> int:
    """Tokens for instruction and answer; the same for every job, so that all share one reading."""
    return min(max(fits // 4, 256), 16_384)
