"""Which prefixes are held, and whether one more request fits into the memory for keys and values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.engine.kv import KVBuffer


@dataclass(slots=True, eq=False)
class Prefix:
    """The beginning of a prompt, shared by every request that begins so, also while it is being read."""

    ids: NDArray[np.int32]
    kv: KVBuffer
    users: int = 0

    @property
    def complete(self) -> bool:
        return self.kv.length == len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """The memory of one request in work."""

    prefix: Prefix | None  #: None for an empty prefix
    tail: KVBuffer  #: suffix and answer
    tail_tokens: int
    reused_tokens: int  #: of the prefix, read before this lease
    before: list[KVBuffer] = field(default_factory=list)  #: what stands before the tail


class KVPool:
    """Prefixes by last use, and the tails of the requests in work, within one budget.

    A prefix in use is never dropped; the others go in the order of their last use when room is needed.
    """

    def __init__(self, tokens: int, new_buffer: Callable[[int], KVBuffer]) -> None:
        """`tokens`: how many the memory holds."""
        self.tokens = tokens
        self.tokens_used = 0
        self._new_buffer = new_buffer
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def acquire(self, ids: NDArray[np.int32], tail_tokens: int) -> Lease | None:
        """Memory for a request, or None while others hold too much of it."""
        key = ids.tobytes()
        prefix = self._prefixes.get(key)
        missing = len(ids) if prefix is None else 0
        if not self._make_room(tail_tokens + missing, keep=prefix):
            return None
        tail = self._new_buffer(tail_tokens)
        if prefix is None and missing:
            prefix = self._prefixes[key] = Prefix(ids, self._new_buffer(missing))
        self.tokens_used += tail_tokens + missing
        if prefix is None:
            return Lease(None, tail, tail_tokens, 0)
        self._prefixes.move_to_end(key)
        prefix.users += 1
        return Lease(prefix, tail, tail_tokens, prefix.kv.length, [prefix.kv])

    def release(self, lease: Lease) -> None:
        """Give a request's memory back; what was read of its prefix stays."""
        self.tokens_used -= lease.tail_tokens
        if lease.prefix is not None:
            lease.prefix.users -= 1

    def drop_idle(self) -> None:
        """Drop every prefix that no request uses."""
        for key, prefix in list(self._prefixes.items()):
            if not prefix.users:
                self._drop(key)

    def _make_room(self, tokens: int, keep: Prefix | None) -> bool:
        """Drop idle prefixes, the longest unused first, until `tokens` fit; drop none if they cannot."""
        idle = [
            (key, len(prefix.ids))
            for key, prefix in self._prefixes.items()
            if not prefix.users and prefix is not keep
        ]
        missing = self.tokens_used + tokens - self.tokens
        if missing > sum(size for _, size in idle):
            return False
        for key, size in idle:
            if missing <= 0:
                break
            self._drop(key)
            missing -= size
        return True

    def _drop(self, key: bytes) -> None:
        self.tokens_used -= len(self._prefixes.pop(key).ids)
