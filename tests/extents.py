"""Documents and payloads for a folder of extents; a process that is to die loads nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from worker.engine.snapshots import Identity, SnapshotStore

IDENTITY = Identity(
    model="tiny",
    revision="1",
    tokenizer="letters",
    template="plain",
    kv_format="int4",
    kv_version=1,
    dtype="bfloat16",
    layers=2,
    kv_heads=1,
    dim=4,
    layout=1,
)
PAGE = IDENTITY.page_tokens
PAYLOAD = 5_000


def document(seed: int, pages: int) -> list[int]:
    return random.Random(seed).choices(range(150_000), k=pages * PAGE)


def payload(seed: int, size: int = PAYLOAD) -> memoryview:
    return memoryview(np.random.default_rng(seed).bytes(size))


def save(store: SnapshotStore, keys: Sequence[bytes], start: int, stop: int, data: memoryview) -> bool:
    """Whether it was taken and stored."""
    told: list[bool] = []
    taken = store.save(keys, start, stop, data, told.append)
    assert store.flush(30)
    return taken and told == [True]


def stored(store: SnapshotStore, keys: Sequence[bytes]) -> int:
    """How many pages of the chain are found."""
    refs = store.find(keys)
    return refs[-1].stop if refs else 0


def load(store: SnapshotStore, keys: Sequence[bytes], number: int = 0, size: int = PAYLOAD) -> bytes:
    data = bytearray(size)
    store.load(store.find(keys)[number], memoryview(data))
    return bytes(data)
