"""Memory for a card to read in place: as much as was asked for, locked for as long as somebody holds it."""

from __future__ import annotations

import pytest
import torch

from worker.engine import pinned
from worker.engine.kv import ExactArena, Shape


class Locks:
    """Knows what is locked, and locks so many bytes at most."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.held: dict[int, int] = {}
        self._most = most

    def lock(self, address: int, size: int) -> None:
        if size > self._most:
            raise RuntimeError("too much")
        self.held[address] = size

    def unlock(self, address: int) -> None:
        del self.held[address]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_no_more_is_locked_than_was_asked_for(dtype: torch.dtype) -> None:
    locks = Locks()
    x = pinned.empty((3, 1_000, 7), dtype, locks)
    assert (x.shape, x.dtype) == ((3, 1_000, 7), dtype)
    assert locks.held == {x.data_ptr(): x.nbytes}


def test_memory_is_locked_while_a_view_of_it_is_held() -> None:
    locks = Locks()
    x = pinned.empty((4, 5_000), torch.int32, locks)
    x.copy_(torch.arange(20_000).view(4, 5_000))
    view = x[2, 10:20]
    del x
    assert len(locks.held) == 1
    assert view.tolist() == list(range(10_010, 10_020))
    del view
    assert not locks.held


def test_what_cannot_be_locked_or_had_is_an_error() -> None:
    locks = Locks(most=10_000)
    with pytest.raises(RuntimeError, match="too much"):
        pinned.empty((10_001,), torch.uint8, locks)
    with pytest.raises(OSError, match="memory"):
        pinned.empty((1 << 61,), torch.uint8, locks)
    assert not locks.held


def test_arenas_beside_a_card_are_pinned() -> None:
    """Without a card, that fails."""
    if torch.cuda.is_available():
        assert ExactArena(Shape(1, 1, 32), 3, dtype=torch.float32, pin_memory=True).keys.is_pinned()
    else:
        with pytest.raises((RuntimeError, AssertionError)):
            ExactArena(Shape(1, 1, 32), 3, dtype=torch.float32, pin_memory=True)
