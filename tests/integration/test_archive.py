"""What was read is found again: after a restart, after a stop in the middle, after a kill."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny import (
    CHUNK,
    DIM,
    KV_HEADS,
    LAYERS,
    Permits,
    Record,
    Tiny,
    ask,
    document,
    finish,
    tiny_model,
)

from worker.engine import EngineStopped, MemoryOptions, ModelCard, Request
from worker.engine.archive import Archive
from worker.engine.decoder import Decoder
from worker.engine.fake import fake_tokenizer
from worker.engine.kv import ExactArena, Shape, put
from worker.engine.local import LocalEngine
from worker.engine.memory import allocate
from worker.engine.page import PAGE
from worker.engine.pool import Arenas, Lease, PagePool, Prefix, body_keys
from worker.engine.runs import Run
from worker.engine.snapshots import ExtentRef, Identity, SnapshotStore
from worker.engine.types import Format
from worker.engine.writer import PlainWriter

Open = Callable[..., Tiny]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens engines on one folder."""
    engines: list[Tiny] = []

    def make(format: Format = "exact", **options: Any) -> Tiny:
        engines.append(Tiny(format, disk=tmp_path, **options))
        return engines[-1]

    yield make
    for each in engines:
        each.engine.close()


def extents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kv"), key=lambda path: path.name)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in extents(folder))


def wait_for_extents(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(extents(folder)) < count:
        assert time.monotonic() < deadline, f"{len(extents(folder))} of {count} extents were stored"
        time.sleep(0.005)


def assert_same_answer(one: Tiny, other: Tiny) -> None:
    """Bit for bit, the eight tokens that both have written last."""
    for pair in zip(one.logits[-8:], other.logits[-8:], strict=True):
        assert torch.equal(*pair)


@pytest.mark.parametrize("format", ["exact", "fp8", "int4"])
def test_a_document_is_not_read_again_after_a_restart(format: Format, opened: Open, tmp_path: Path) -> None:
    ids = document(2_500)
    before = opened(format)
    first = Record()
    finish(before.engine.submit(ask(ids, mask=first)))
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    after, second = opened(format), Record()
    usage = finish(after.engine.submit(ask(ids, mask=second))).usage
    assert usage.reused_tokens == 2_500
    assert sum(after.passes) == usage.suffix_tokens + usage.completion_tokens - 1
    assert second.tokens == first.tokens
    assert_same_answer(after, before)


@pytest.mark.parametrize("format", ["exact", "fp8"])
def test_a_read_that_was_stopped_goes_on_from_its_last_chunk(
    format: Format, opened: Open, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    ids = document(8 * CHUNK + 77)
    whole = Tiny(format)
    finish(whole.engine.submit(ask(ids)))
    whole.engine.close()
    permits = threading.Semaphore(0)
    first = opened(format, permits=permits)
    answer = first.engine.submit(ask(ids))
    for chunk in range(1, 6):
        permits.release()
        wait_for_extents(tmp_path, chunk)
    closed = background.submit(first.engine.close)
    permits.release(100)
    closed.result()
    with pytest.raises(EngineStopped):
        list(answer)
    second = opened(format)
    usage = finish(second.engine.submit(ask(ids))).usage
    assert usage.reused_tokens >= 5 * CHUNK
    read = sum(first.passes) + sum(second.passes)
    assert read - sum(whole.passes) <= CHUNK
    assert_same_answer(second, whole)


def test_every_chunk_is_stored_while_the_next_is_read(opened: Open, tmp_path: Path) -> None:
    permits = threading.Semaphore(0)
    tiny = opened(permits=permits)
    answer = tiny.engine.submit(ask(document(10 * CHUNK)))
    for chunk in range(1, 9):
        permits.release()
        wait_for_extents(tmp_path, chunk)
    permits.release(100)
    finish(answer)


def test_a_chunk_however_long_is_stored_as_one(opened: Open, tmp_path: Path) -> None:
    """A read that goes on elsewhere than at a chunk's end would not compute the same bits."""
    tiny = opened(chunk=100 * PAGE)
    finish(tiny.engine.submit(ask(document(100 * PAGE))))
    tiny.engine.close()
    assert len(extents(tmp_path)) == 1


@pytest.mark.parametrize(("number", "tokens"), [(0, CHUNK), (2, CHUNK), (4, 2_500 - 4 * CHUNK)])
def test_a_damaged_part_is_noticed_and_it_alone_is_read_anew(
    number: int, tokens: int, opened: Open, tmp_path: Path
) -> None:
    ids = document(2_500)
    before = opened()
    finish(before.engine.submit(ask(ids)))
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    damaged = extents(tmp_path)[number]
    data = bytearray(damaged.read_bytes())
    data[-1_000] ^= 1
    damaged.write_bytes(data)
    after = opened()
    usage = finish(after.engine.submit(ask(ids))).usage
    assert usage.reused_tokens == len(ids) - tokens
    assert_same_answer(after, before)
    wait_for_extents(tmp_path, 5)
    after.engine.close()
    again = opened()
    assert finish(again.engine.submit(ask(ids))).usage.reused_tokens == 2_500


@pytest.mark.parametrize(("format", "revision"), [("exact", "2"), ("fp8", "1")])
def test_what_another_model_or_format_has_read_is_not_taken(
    format: Format, revision: str, opened: Open, tmp_path: Path
) -> None:
    ids = document(1_500)
    before = opened()
    finish(before.engine.submit(ask(ids)))
    wait_for_extents(tmp_path, 3)
    before.engine.close()
    other = opened(format, revision=revision)
    assert finish(other.engine.submit(ask(ids))).usage.reused_tokens == 0


def test_short_documents_are_not_stored(opened: Open, tmp_path: Path) -> None:
    tiny = opened()
    finish(tiny.engine.submit(ask(document(1_023))))
    finish(tiny.engine.submit(ask(document(1_024, seed=1))))
    wait_for_extents(tmp_path, 2)
    tiny.engine.close()
    assert len(extents(tmp_path)) == 2
    after = opened()
    reused = [
        finish(after.engine.submit(ask(ids))).usage.reused_tokens
        for ids in (document(1_023), document(1_024, seed=1))
    ]
    assert reused == [0, 1_024]


def test_another_document_takes_over_what_begins_alike(opened: Open, tmp_path: Path) -> None:
    begin = document(1_300)
    before = opened()
    finish(before.engine.submit(ask([*begin, *document(1_200, seed=1)])))
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    ids = [*begin, *document(1_200, seed=2)]
    after, alone = opened(), Tiny()
    usage = finish(after.engine.submit(ask(ids))).usage
    finish(alone.engine.submit(ask(ids)))
    alone.engine.close()
    assert usage.reused_tokens == 1_300 // 128 * 128
    torch.testing.assert_close(after.logits[-1], alone.logits[-1])


def test_a_folder_that_cannot_be_used_costs_the_memory_of_what_was_read_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    tiny = Tiny(disk=tmp_path / "file")
    finish(tiny.engine.submit(ask(document(1_500))))
    tiny.engine.close()
    assert "Documents are read again after a restart" in caplog.text


def read_as_permitted(folder: Path, ids: list[int], permits: Permits) -> None:
    """What the process does that is killed."""
    torch.set_num_threads(1)
    finish(Tiny("int4", disk=folder, permits=permits).engine.submit(ask(ids)))


def test_a_killed_read_is_continued_by_another_process(opened: Open, tmp_path: Path) -> None:
    ids = document(8 * CHUNK + 77)
    context = multiprocessing.get_context("spawn")
    permits = context.Semaphore(5)  # then the process waits in the middle of the sixth chunk
    process = context.Process(target=read_as_permitted, args=(tmp_path, ids, permits))
    process.start()
    try:
        wait_for_extents(tmp_path, 5)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -9
    after, alone = opened("int4"), Tiny("int4")
    usage = finish(after.engine.submit(ask(ids))).usage
    finish(alone.engine.submit(ask(ids)))
    alone.engine.close()
    assert usage.reused_tokens == 5 * CHUNK
    assert_same_answer(after, alone)


class Full(ExactArena):
    """On a card without memory for copies, while `full`."""

    full = False

    def pages(self, run: Run) -> torch.Tensor:
        self._check()
        return super().pages(run)

    def set_pages(self, run: Run, data: torch.Tensor) -> None:
        self._check()
        super().set_pages(run, data)

    def _check(self) -> None:
        if self.full:
            torch.empty(1 << 60)  # more than any computer has


class Shelf:
    """An archive, and the pool that it fills."""

    def __init__(self, folder: Path, *, extent_pages: int = 4, **options: Any) -> None:
        shape = Shape(layers=1, kv_heads=1, dim=8)
        self.arena = Full(shape, 400, dtype=torch.float32)
        identity = Identity("m", "1", "t", "1", "exact", 1, "float32", shape.layers, 1, shape.dim, 1)
        arenas = Arenas("exact", self.arena)
        self.pool = PagePool(arenas)
        self.store = SnapshotStore(folder, identity=identity, **({"capacity_bytes": 1 << 30} | options))
        self.archive = Archive(self.store, self.pool, arenas, extent_pages=extent_pages, pinned=False)

    def acquire(self, ids: Sequence[int]) -> tuple[Lease, Prefix]:
        array = np.asarray(ids, np.int32)
        lease = self.pool.acquire(array, body_keys(array), 1)
        assert lease is not None
        assert lease.prefix is not None
        return lease, lease.prefix

    def read(self, ids: Sequence[int], value: float) -> Prefix:
        """Keys and values are all `value`."""
        _, prefix = self.acquire(ids)
        start, end = prefix.read, len(ids)
        put(prefix.spans(start, end), 0, *torch.full((2, end - start, 1, 8), value))
        self.pool.advance(prefix, end - start)
        self.archive.keep(prefix)
        return prefix

    def fetch(self, ids: Sequence[int]) -> Prefix:
        """As much as is stored."""
        _, prefix = self.acquire(ids)
        self.fetch_rest(prefix)
        return prefix

    def fetch_rest(self, prefix: Prefix) -> None:
        while not prefix.complete and self.archive.fetch(prefix) is not None:
            pass

    def store_all(self) -> None:
        """Take steps until nothing is left to be stored."""
        deadline = time.monotonic() + 60
        while self.archive.work(patient=True):
            assert time.monotonic() < deadline, "there is no end to storing"
        assert self.store.flush(60)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Callable[..., Shelf]]:
    """Opens archives on one folder, one after the other."""
    shelves: list[Shelf] = []

    def make(**options: Any) -> Shelf:
        if shelves:
            shelves.pop().archive.close()
        shelves.append(Shelf(tmp_path, **options))
        return shelves[-1]

    yield make
    shelves.pop().archive.close()


def values(prefix: Prefix) -> set[float]:
    """All that stands in its pages."""
    found: set[float] = set()
    for span in prefix.spans(0, prefix.read):
        both = torch.empty(2, span.tokens, 1, 8)
        span.arena.get(0, span.start, *both)
        found.update(both.unique().tolist())
    return found


def test_what_others_see_already_is_not_fetched_over_it(shelf: Callable[..., Shelf]) -> None:
    begin = document(6 * PAGE)
    one, two = [*begin, *document(2_000, seed=1)], [*begin, *document(2_000, seed=2)]
    first = shelf()
    first.read(two, 1.0)
    first.store_all()
    second = shelf()
    seen = second.read(one, 2.0)
    fetched = second.fetch(two)
    assert fetched.complete
    assert fetched.pages[:6] == seen.pages[:6]
    assert values(seen) == {2.0}
    assert values(fetched) == {1.0, 2.0}


def test_what_memory_is_missing_for_is_stored_with_the_next_use(shelf: Callable[..., Shelf]) -> None:
    ids = document(2_000)
    first = shelf()
    first.arena.full = True
    prefix = first.read(ids, 1.0)
    first.store_all()
    assert prefix.kept == 0
    first.arena.full = False
    first.archive.keep(prefix)
    first.store_all()
    assert values(shelf().fetch(ids)) == {1.0}


def test_where_memory_is_missing_for_a_part_the_rest_is_read_anew(shelf: Callable[..., Shelf]) -> None:
    ids = document(3_000)
    first = shelf()
    first.read(ids, 1.0)
    first.store_all()
    second = shelf()
    _, prefix = second.acquire(ids)
    while not (fetched := second.archive.fetch(prefix)):
        pass
    second.arena.full = True
    with pytest.raises(RuntimeError):
        second.fetch_rest(prefix)
    second.arena.full = False
    assert second.archive.fetch(prefix) is None
    assert prefix.read == fetched == 4 * PAGE


class Sleepy(SnapshotStore):
    """On a disk that gives nothing before it is awake."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.awake = threading.Event()

    def load(self, ref: ExtentRef, into: memoryview) -> None:
        assert self.awake.wait(60)
        super().load(ref, into)


def test_others_are_answered_while_a_slow_disk_brings_a_document(tmp_path: Path) -> None:
    identity = Identity("tiny", "1", "t", "1", "exact", 1, "float32", LAYERS, KV_HEADS, DIM, 1)
    stores = [Sleepy(tmp_path, identity=identity, capacity_bytes=1 << 30) for _ in range(2)]

    def engine(store: SnapshotStore) -> LocalEngine:
        decoder = Decoder(tiny_model())
        return LocalEngine(
            decoder,
            fake_tokenizer(),
            ModelCard("tiny", "1", decoder.window, "cpu", "fp32", "exact", 1),
            arenas=allocate(decoder, MemoryOptions("exact"), 16 << 20),
            writer=PlainWriter(decoder),
            prefill_chunk=CHUNK,
            max_active=8,
            snapshots=store,
        )

    long = document(3_000)
    first = engine(stores[0])
    finish(first.submit(ask(long)))
    wait_for_extents(tmp_path, 6)
    first.close()
    second = engine(stores[1])
    slow = second.submit(ask(long))
    assert finish(second.submit(ask(document(600, seed=1)))).usage.completion_tokens == 8
    stores[1].awake.set()
    assert finish(slow).usage.reused_tokens == len(long)
    second.close()


def test_parts_larger_than_ones_own_are_read_anew_and_left_to_others(
    shelf: Callable[..., Shelf], tmp_path: Path
) -> None:
    ids = document(6_000)
    first = shelf(extent_pages=16)
    first.read(ids, 1.0)
    first.store_all()
    stored = extents(tmp_path)
    assert shelf(extent_pages=4).fetch(ids).read == 0
    assert extents(tmp_path) == stored
    assert values(shelf(extent_pages=16).fetch(ids)) == {1.0}


def test_a_document_read_faster_than_the_disk_takes_it_is_stored_whole(
    shelf: Callable[..., Shelf],
) -> None:
    ids = document(20_000)
    first = shelf(queue_bytes=1)  # one extent at a time
    first.read(ids, 1.0)
    first.store_all()
    assert shelf().fetch(ids).complete


class Disk:
    """Full when those writes are about to be made."""

    def __init__(self, *refused: int) -> None:
        self._refused = refused
        self._writes = 0

    def __call__(self, folder: Path) -> Usage:
        self._writes += 1
        return Usage(1 << 40, 0 if self._writes - 1 in self._refused else 1 << 39)


class Usage(NamedTuple):
    total: int
    free: int


@pytest.mark.parametrize("refused", [(0,), (5,), (38,), range(3, 60)])
def test_what_the_disk_refused_is_stored_with_the_next_request(
    refused: Sequence[int], shelf: Callable[..., Shelf]
) -> None:
    ids = document(20_000)
    first = shelf(disk_usage=Disk(*refused), writers=1)
    prefix = first.read(ids, 1.0)
    for _ in range(60):  # as many refusals, at most
        first.store_all()
        first.archive.keep(prefix)
    fetched = shelf().fetch(ids)
    assert fetched.complete
    assert values(fetched) == {1.0}


def test_a_disk_that_stays_full_ends_the_storing_and_nothing_else(
    shelf: Callable[..., Shelf], tmp_path: Path
) -> None:
    first = shelf(disk_usage=lambda folder: Usage(1 << 40, 0))
    prefix = first.read(document(20_000), 1.0)
    for _ in range(3):
        first.store_all()
        first.archive.keep(prefix)
    assert not extents(tmp_path)


def test_what_is_stored_meanwhile_never_takes_the_place_of_what_is_being_fetched(
    shelf: Callable[..., Shelf], tmp_path: Path
) -> None:
    ids = document(20_000)
    first = shelf()
    first.read(ids, 1.0)
    first.store_all()
    full = size(tmp_path)
    second = shelf(capacity_bytes=full)
    _, prefix = second.acquire(ids)
    while not second.archive.fetch(prefix):
        pass
    second.read(document(10_000, seed=1), 2.0)
    second.store_all()
    second.fetch_rest(prefix)
    assert prefix.complete
    second.read(document(10_000, seed=2), 3.0)  # what was fetched may go
    second.store_all()
    assert size(tmp_path) <= full
    assert shelf().fetch(document(10_000, seed=2)).complete


def named(ids: Sequence[int], *owners: str, **options: Any) -> Request:
    return ask(ids, owners=frozenset(owners), **options)


def forget(tiny: Tiny, owner: str) -> None:
    """As a worker does: again until nothing is left."""
    deadline = time.monotonic() + 60
    while owner in tiny.engine.owners():
        assert time.monotonic() < deadline, f"{owner} is not forgotten"
        tiny.engine.forget({owner})
        time.sleep(0.005)


def test_what_was_read_of_a_forgotten_owner_leaves_memory_and_disk(opened: Open, tmp_path: Path) -> None:
    secret, other = document(2_500), document(2_500, seed=1)
    before = opened()
    finish(before.engine.submit(named(secret, "secret")))
    finish(before.engine.submit(named([*other, *secret], "other", "secret")))
    finish(before.engine.submit(named(other, "other")))
    wait_for_extents(tmp_path, 11)
    assert before.engine.owners() == {"secret", "other"}
    forget(before, "secret")
    assert before.engine.capacity().prefixes_held == 1
    assert finish(before.engine.submit(named(other, "other"))).usage.reused_tokens == 2_500
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    after = opened()
    assert after.engine.owners() == {"other"}
    assert finish(after.engine.submit(named(other, "other"))).usage.reused_tokens == 2_500
    assert finish(after.engine.submit(named(secret, "secret"))).usage.reused_tokens == 0


def test_an_owner_may_be_forgotten_after_a_restart_and_under_another_model(
    opened: Open, tmp_path: Path
) -> None:
    before = opened()
    finish(before.engine.submit(named(document(2_500), "secret")))
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    after = opened(revision="2")
    assert after.engine.owners() == {"secret"}
    after.engine.forget({"secret"})
    assert not extents(tmp_path)


def test_what_is_in_use_is_forgotten_when_it_is_no_longer(opened: Open, tmp_path: Path) -> None:
    permits = threading.Semaphore(0)
    tiny = opened(permits=permits)
    answer = tiny.engine.submit(named(document(2_500), "secret"))
    permits.release(3)
    wait_for_extents(tmp_path, 2)
    tiny.engine.forget({"secret"})
    permits.release(100)
    assert finish(answer).reason == "length"
    forget(tiny, "secret")
    assert tiny.engine.capacity().prefixes_held == 0
    assert not extents(tmp_path)


def test_a_document_whose_beginning_went_with_another_is_stored_again(opened: Open, tmp_path: Path) -> None:
    begin = document(1_300)
    secret, other = [*begin, *document(1_200, seed=1)], [*begin, *document(1_200, seed=2)]
    before = opened()
    finish(before.engine.submit(named(secret, "secret")))
    wait_for_extents(tmp_path, 5)
    finish(before.engine.submit(named(other, "other")))
    wait_for_extents(tmp_path, 8)
    forget(before, "secret")
    assert finish(before.engine.submit(named(other, "other"))).usage.reused_tokens == 2_500
    wait_for_extents(tmp_path, 5)
    before.engine.close()
    after = opened()
    assert finish(after.engine.submit(named(other, "other"))).usage.reused_tokens == 2_500
    assert_same_answer(after, before)
