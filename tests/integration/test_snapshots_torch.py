"""Pages of an arena go to disk and come back as the same bits, at other places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import extents
import torch

from worker.engine.formats import packed_format
from worker.engine.kv import PackedArena, Shape
from worker.engine.runs import Run
from worker.engine.snapshots import SnapshotStore, chain

SHAPE, PAGES = Shape(layers=3, kv_heads=2, dim=32), 8
IDENTITY = replace(extents.IDENTITY, layers=SHAPE.layers, kv_heads=SHAPE.kv_heads, dim=SHAPE.dim)


def filled() -> PackedArena:
    """An arena of random pages; their scales hold NaN and infinity too, being any bits."""
    arena = PackedArena(SHAPE, packed_format("int4", SHAPE.kv_heads, SHAPE.dim), PAGES)
    for x in arena.tensors:
        x.view(torch.uint8).random_()
    return arena


def bits(arena: PackedArena) -> list[torch.Tensor]:
    return [x.view(torch.uint8).clone() for x in arena.tensors]


def test_packed_pages_come_back_bit_for_bit_and_leave_those_around_them_alone(tmp_path: Path) -> None:
    source, target, keys = filled(), filled(), chain(range(3 * 128))
    expected = bits(target)
    for old, new in zip(bits(source), expected, strict=True):
        new[:, 4:7] = old[:, 2:5]
    pages = source.pages(Run(2, 3))
    room = torch.empty_like(pages)
    store = SnapshotStore(tmp_path, identity=IDENTITY, capacity_bytes=1 << 30)
    assert store.save(keys, 0, 3, memoryview(pages.numpy()))  # type: ignore[arg-type]
    assert store.flush(30)
    store.load(store.find(keys)[0], memoryview(room.numpy()))  # type: ignore[arg-type]
    store.close()
    target.set_pages(Run(4, 3), room)
    assert all(map(torch.equal, bits(target), expected))
