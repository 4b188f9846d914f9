"""How many tokens of a document a card reads at once.

Attention kernels give a tile of 128 queries of a head to one multiprocessor, so a chunk is read in waves.
While the last one is not full, multiprocessors wait: 8,192 tokens of 32 heads are 15.5 waves on the 132 of an
H200, and 8,448 are 16.
"""

from __future__ import annotations

from math import gcd

from worker.engine.page import PAGE

_TILE = 128  # queries
_USUAL = 8_192
_FEWEST, _MOST = 6_144, 10_240  # fewer unpack what is packed too often, more take much memory


def whole_waves(multiprocessors: int, heads: int) -> int:
    """Whole pages of about 8,192 tokens that fill every wave; 8,192 where no such number is near."""
    wave = _TILE * multiprocessors
    step = PAGE * (wave // gcd(wave, PAGE * heads))
    full = [tokens for tokens in range(step, _MOST + 1, step) if tokens >= _FEWEST]
    return min(full, key=lambda tokens: abs(tokens - _USUAL), default=_USUAL)
