"""Pages of a card's arena go to disk and come back as the same bits, at other places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import extents
import pytest
import torch
from torch import Tensor

from worker.engine.errors import SnapshotDamaged
from worker.engine.snapshots import SnapshotStore, chain

LAYERS, PAGES, KV_HEADS, DIM = 3, 8, 2, 16
IDENTITY = replace(extents.IDENTITY, layers=LAYERS, kv_heads=KV_HEADS, dim=DIM)


def arena() -> tuple[Tensor, Tensor]:
    """Codes and scales of random pages; the scales hold NaN and infinity too, being any bits."""
    codes = torch.randint(256, (LAYERS, PAGES, 2, KV_HEADS, 128 * DIM // 2), dtype=torch.uint8)
    bits = torch.randint(-(2**15), 2**15, (LAYERS, PAGES, 2, KV_HEADS, 128), dtype=torch.int16)
    return codes, bits.view(torch.bfloat16)


def views(tensors: tuple[Tensor, Tensor], start: int, stop: int) -> list[memoryview]:
    """The bytes of adjacent pages, layer by layer, without a copy."""
    return [
        tensor[layer, start:stop].view(torch.uint8).numpy().data
        for tensor in tensors
        for layer in range(LAYERS)
    ]


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path, identity=IDENTITY, capacity_bytes=1 << 30)


def test_packed_pages_come_back_bit_for_bit_at_another_place(store: SnapshotStore) -> None:
    source, target = arena(), arena()
    keys = chain(range(3 * 128))
    assert store.save(keys, 0, 3, views(source, 2, 5))
    assert store.flush(30)
    store.load(store.find(keys)[0], views(target, 4, 7))
    for old, new in zip(source, target, strict=True):
        assert torch.equal(old.view(torch.uint8)[:, 2:5], new.view(torch.uint8)[:, 4:7])
    store.close()


def test_pages_around_the_target_stay_as_they_were(store: SnapshotStore) -> None:
    source, target = arena(), arena()
    before = [tensor.clone() for tensor in target]
    keys = chain(range(2 * 128))
    assert store.save(keys, 0, 2, views(source, 0, 2))
    assert store.flush(30)
    store.load(store.find(keys)[0], views(target, 3, 5))
    with pytest.raises(SnapshotDamaged):
        store.load(store.find(keys)[0], views(target, 0, 3))  # one page too many
    for old, new in zip(before, target, strict=True):
        for pages in (slice(0, 3), slice(5, PAGES)):
            assert torch.equal(old.view(torch.uint8)[:, pages], new.view(torch.uint8)[:, pages])
    store.close()
