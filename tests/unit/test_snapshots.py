"""What was read is kept on disk: whole or not at all, checked, found again, bounded, and deletable."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from extents import IDENTITY, PAGE, PAYLOAD, document, load, payload, save, stored

from worker.engine.errors import SnapshotDamaged, SnapshotError
from worker.engine.snapshots import SnapshotStore, chain, end_key


class Disk(NamedTuple):
    total: int
    free: int


class Gate:
    """A clock whose readers, who are about to name a file, wait until the gate is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> int:
        self.reached.set()
        assert self.opened.wait(30)
        return 1


Opening = Callable[..., SnapshotStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opening]:
    """Opens stores on one folder; their clock counts uses."""
    clock = count(1).__next__
    with ExitStack() as stack:

        def open_(**options: Any) -> SnapshotStore:
            chosen: dict[str, Any] = {"identity": IDENTITY, "capacity_bytes": 1 << 40, "clock_ns": clock}
            store = SnapshotStore(tmp_path / "kv", **(chosen | options))
            stack.callback(store.close)
            return store

        yield open_


def keep(store: SnapshotStore, keys: Sequence[bytes], pages: int = 2) -> None:
    """Store a whole chain, `pages` at once; every extent's payload is its place's own."""
    for start in range(0, len(keys), pages):
        assert save(store, keys, start, min(start + pages, len(keys)), payload(start))


def extent_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kv"))


def test_a_key_stands_for_every_token_up_to_its_page() -> None:
    ids = document(1, 4)
    changed = [*ids[:PAGE], ids[PAGE] + 1, *ids[PAGE + 1 :]]
    assert chain(ids)[0] == chain(changed)[0]
    assert not set(chain(ids)[1:]) & set(chain(changed))


def test_only_whole_pages_have_keys_and_the_end_has_its_own() -> None:
    ids = document(1, 3)
    assert chain(ids[:-1]) == chain(ids)[:2]
    assert chain(()) == []
    assert len({*chain(ids), end_key(ids), end_key(ids[:-1]), end_key(ids[:PAGE])}) == 6


def test_keys_are_the_same_for_arrays_and_sequences_of_ids() -> None:
    ids = document(1, 2)
    for other in (tuple(ids), np.array(ids, np.int32)):
        assert (chain(other), end_key(other)) == (chain(ids), end_key(ids))


def test_pages_come_back_byte_for_byte_after_a_restart(opened: Opening) -> None:
    keys = chain(document(1, 5))
    first = opened()
    keep(first, keys)
    first.close()
    second = opened()
    assert [(ref.start, ref.stop) for ref in second.find(keys)] == [(0, 2), (2, 4), (4, 5)]
    assert [load(second, keys, i) for i in range(3)] == [bytes(payload(start)) for start in (0, 2, 4)]


def test_a_payload_of_several_blocks_comes_back_byte_for_byte(opened: Opening) -> None:
    keys, size = chain(document(1, 1)), (20 << 20) + 77
    store, data = opened(), bytes(payload(1, size))
    assert save(store, keys, 0, 1, memoryview(data))
    assert load(store, keys, 0, size) == data


def test_what_is_still_being_filled_is_written_when_it_is_full(opened: Opening) -> None:
    store, keys, buffer = opened(), chain(document(1, 1)), np.zeros(PAYLOAD, np.uint8)
    asked, full = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert full.wait(30)

    assert store.save(keys, 0, 1, buffer.data, wait_until_filled=wait)
    assert asked.wait(30)
    buffer[:] = 7
    full.set()
    assert store.flush(30)
    assert load(store, keys, 0) == bytes(buffer)


def test_documents_that_begin_alike_share_their_pages(opened: Opening) -> None:
    store = opened()
    ids = document(1, 6)
    keep(store, chain(ids))
    other = chain(ids[: 3 * PAGE] + document(2, 3))
    assert [(ref.start, ref.stop, ref.extent.stop) for ref in store.find(other)] == [(0, 2, 2), (2, 3, 4)]
    assert save(store, other, 3, 6, payload(9))
    assert [(ref.start, ref.stop) for ref in store.find(other)] == [(0, 2), (2, 3), (3, 6)]
    assert stored(store, chain(ids)) == 6


def test_an_extent_is_entered_in_its_middle_and_the_furthest_reaching_is_taken(opened: Opening) -> None:
    store = opened()
    keys = chain(document(1, 8))
    for start, stop in ((0, 2), (0, 3), (2, 4), (1, 6), (6, 8)):
        assert save(store, keys, start, stop, payload(start))
    assert [(ref.start, ref.stop) for ref in store.find(keys)] == [(0, 3), (3, 6), (6, 8)]
    assert store.find(keys)[1].extent.start == 1


def test_a_documents_end_is_found_behind_its_pages_only(opened: Opening) -> None:
    store = opened()
    ids = document(1, 3)
    keys = [*chain(ids)[:2], end_key(ids)]
    assert not save(store, keys, 2, 3, payload(2))
    keep(store, keys)
    assert stored(store, keys) == 3
    longer = [*document(1, 3), 1]
    assert stored(store, [*chain(longer)[:2], end_key(longer)]) == 2


def test_what_is_stored_already_is_not_stored_again(opened: Opening, tmp_path: Path) -> None:
    store = opened()
    keys = chain(document(1, 4))
    keep(store, keys)
    files = extent_files(tmp_path)
    assert save(store, keys, 1, 3, payload(1))
    assert extent_files(tmp_path) == files


def test_an_extent_needs_a_page_and_a_byte(opened: Opening) -> None:
    store, keys = opened(), chain(document(1, 2))
    for start, stop, data in ((0, 0, payload(0)), (1, 3, payload(0)), (0, 2, memoryview(b""))):
        with pytest.raises(ValueError, match="at least one"):
            store.save(keys, start, stop, data)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 8, 12, 20, 30, 60, 70, 90, 100, 4_096, 7_000, -1])
def test_a_flipped_bit_is_found_and_the_extent_removed(opened: Opening, tmp_path: Path, at: int) -> None:
    store = opened()
    keys = chain(document(1, 4))
    keep(store, keys)
    broken = store.find(keys)[1].extent.path
    damage(broken, at)
    with pytest.raises(SnapshotDamaged):
        load(store, keys, 1)
    assert not broken.exists()
    assert (stored(store, keys), load(store, keys, 0)) == (2, bytes(payload(0)))
    assert save(store, keys, 2, 4, payload(2))


@pytest.mark.parametrize("size", [0, 50, 4_096, 4_097, -1])
def test_a_file_of_another_length_is_found(opened: Opening, tmp_path: Path, size: int) -> None:
    store = opened()
    keys = chain(document(1, 1))
    keep(store, keys)
    (path,) = extent_files(tmp_path)
    os.truncate(path, size if size >= 0 else path.stat().st_size + 1)
    with pytest.raises(SnapshotDamaged):
        load(store, keys)
    assert (stored(store, keys), extent_files(tmp_path)) == (0, [])


def test_a_damaged_header_is_removed_at_the_start(
    opened: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = chain(document(1, 4))
    keep(opened(), keys)
    damage(extent_files(tmp_path)[0], 40)
    assert stored(opened(), keys) == 0
    assert len(extent_files(tmp_path)) == 1
    assert "is removed" in caplog.text


def test_a_vanished_file_is_told_as_damaged(opened: Opening, tmp_path: Path) -> None:
    store = opened()
    keys = chain(document(1, 1))
    keep(store, keys)
    (ref,) = store.find(keys)
    extent_files(tmp_path)[0].unlink()
    with pytest.raises(SnapshotDamaged):
        store.load(ref, memoryview(bytearray(PAYLOAD)))
    assert stored(store, keys) == 0


def test_a_payload_of_another_size_than_its_place_is_refused(opened: Opening) -> None:
    store = opened()
    keys = chain(document(1, 1))
    keep(store, keys)
    with pytest.raises(SnapshotDamaged, match="another size"):
        load(store, keys, size=PAYLOAD + 1)
    assert stored(store, keys) == 0


def test_a_whole_extent_in_anothers_place_is_refused(opened: Opening, tmp_path: Path) -> None:
    store = opened()
    one, other = chain(document(1, 2)), chain(document(2, 2))
    keep(store, one)
    keep(store, other)
    shutil.copy(store.find(one)[0].extent.path, store.find(other)[0].extent.path)
    with pytest.raises(SnapshotDamaged):
        load(store, other)
    assert (stored(store, one), stored(store, other)) == (2, 0)


@pytest.mark.parametrize("change", [{"revision": "2"}, {"kv_format": "fp8"}, {"layers": 3}, {"layout": 2}])
def test_another_identity_finds_nothing(opened: Opening, change: dict[str, Any]) -> None:
    keys = chain(document(1, 1))
    keep(opened(), keys)
    assert stored(opened(identity=replace(IDENTITY, **change)), keys) == 0


def test_an_extent_put_into_another_identitys_folder_is_refused(opened: Opening, tmp_path: Path) -> None:
    keys = chain(document(1, 1))
    keep(opened(), keys)
    (path,) = extent_files(tmp_path)
    other = opened(identity=replace(IDENTITY, revision="2"))
    (folder,) = {file.parent for file in tmp_path.rglob("identity.json")} - {path.parent}
    shutil.copy(path, folder)
    assert stored(other, keys) == 0
    assert extent_files(tmp_path) == [path]


def capacity(extents: int) -> int:
    return extents * (4_096 + PAYLOAD)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in extent_files(folder))


def test_the_least_recently_used_document_goes_first_and_from_its_end(
    opened: Opening, tmp_path: Path
) -> None:
    store = opened(capacity_bytes=capacity(6))
    old, loaded, new = (chain(document(seed, 6)) for seed in (1, 2, 3))
    keep(store, loaded)
    keep(store, old)
    for number in range(3):
        load(store, loaded, number)
    keep(store, new[:4])
    assert [stored(store, keys) for keys in (old, loaded, new)] == [2, 6, 4]
    keep(store, new)
    assert [stored(store, keys) for keys in (old, loaded, new)] == [0, 6, 6]
    assert size(tmp_path) == capacity(6)


def test_the_order_of_use_survives_a_restart(opened: Opening) -> None:
    first = opened()
    used, unused, new = (chain(document(seed, 4)) for seed in (1, 2, 3))
    keep(first, used)
    keep(first, unused)
    for number in range(2):
        load(first, used, number)
    first.close()
    second = opened(capacity_bytes=capacity(4))
    keep(second, new)
    assert [stored(second, keys) for keys in (used, unused, new)] == [4, 0, 4]


def test_other_identities_count_and_are_given_up_like_their_own(opened: Opening, tmp_path: Path) -> None:
    before = opened(identity=replace(IDENTITY, revision="0"))
    old, new = chain(document(1, 4)), chain(document(2, 4))
    keep(before, old)
    store = opened(capacity_bytes=capacity(3))
    keep(store, new)
    assert (stored(before, old), stored(store, new)) == (2, 4)
    assert size(tmp_path) == capacity(3)


def test_a_pinned_document_is_not_given_up(opened: Opening) -> None:
    store = opened(capacity_bytes=capacity(2))
    old, new = chain(document(1, 4)), chain(document(2, 2))
    keep(store, old)
    with store.pin(store.find(old)):
        assert not save(store, new, 0, 2, payload(0))
        assert stored(store, old) == 4
    assert save(store, new, 0, 2, payload(0))
    assert stored(store, old) == 2


def test_a_document_larger_than_the_capacity_keeps_its_beginning(opened: Opening) -> None:
    store = opened(capacity_bytes=capacity(3))
    keep(store, chain(document(1, 4)))
    keys = chain(document(2, 10))
    saved = [save(store, keys, start, start + 2, payload(start)) for start in range(0, 10, 2)]
    assert saved == [True, True, True, False, False]
    assert stored(store, keys) == 6


def test_an_extent_larger_than_the_capacity_costs_nobody_its_place(opened: Opening) -> None:
    store = opened(capacity_bytes=capacity(2))
    keys = chain(document(1, 4))
    keep(store, keys)
    assert not save(store, chain(document(2, 2)), 0, 2, payload(1, 3 * PAYLOAD))
    assert stored(store, keys) == 4


def test_an_extent_that_could_not_be_reached_is_not_taken(opened: Opening) -> None:
    store = opened()
    keys = chain(document(1, 4))
    assert not save(store, keys, 2, 4, payload(2))
    assert save(store, keys, 0, 2, payload(0))
    assert save(store, keys, 2, 4, payload(2))


def test_a_full_queue_refuses_at_once_and_takes_again_when_written(opened: Opening) -> None:
    gate = Gate()
    store = opened(queue_bytes=2 * PAYLOAD, clock_ns=gate)
    keys = chain(document(1, 6))
    assert store.save(keys, 0, 2, payload(0))
    assert store.save(keys, 2, 4, payload(2))  # behind what is only queued
    assert not store.save(keys, 4, 6, payload(4))
    assert not store.wait_for_room(PAYLOAD, timeout_s=0)
    gate.opened.set()
    assert store.wait_for_room(PAYLOAD, timeout_s=30)
    assert save(store, keys, 4, 6, payload(4))
    assert stored(store, keys) == 6


def test_one_extent_may_be_larger_than_the_queue(opened: Opening) -> None:
    assert save(opened(queue_bytes=1), chain(document(1, 2)), 0, 2, payload(0))


def test_closing_writes_what_is_queued(opened: Opening) -> None:
    store = opened()
    keys = chain(document(1, 20))
    assert all(store.save(keys, i, i + 1, payload(i)) for i in range(20))
    store.close()
    assert stored(opened(), keys) == 20
    assert not store.save(chain(document(2, 1)), 0, 1, payload(0))


def test_closing_drops_what_is_not_written_in_time(opened: Opening, tmp_path: Path) -> None:
    gate, told = Gate(), threading.Semaphore(0)
    outcomes: list[bool] = []

    def done(stored: bool) -> None:
        outcomes.append(stored)
        told.release()

    store = opened(clock_ns=gate)
    keys = chain(document(1, 3))
    assert all(store.save(keys, i, i + 1, payload(i), done) for i in range(3))
    assert gate.reached.wait(30)
    store.close(timeout_s=0)
    gate.opened.set()
    assert all(told.acquire(timeout=30) for _ in range(3))
    assert False in outcomes
    assert len(extent_files(tmp_path)) == outcomes.count(True)


def test_two_stores_on_one_folder_see_each_others_extents(opened: Opening) -> None:
    one, other = opened(), opened()
    keys = chain(document(1, 4))
    assert save(one, keys, 0, 2, payload(0))
    assert stored(other, keys) == 2
    assert save(other, keys, 2, 4, payload(2))
    assert stored(one, keys) == 4
    assert load(one, keys, 1) == bytes(payload(2))


def test_what_another_store_used_lately_is_not_given_up_for_old(opened: Opening) -> None:
    one, other = opened(capacity_bytes=capacity(2)), opened()
    used, unused = chain(document(1, 2)), chain(document(2, 2))
    keep(one, used)
    keep(one, unused)
    load(other, used)
    keep(one, chain(document(3, 2)))
    assert (stored(one, used), stored(one, unused)) == (2, 0)


def test_what_another_store_gave_up_is_no_longer_found(opened: Opening) -> None:
    one, other = opened(capacity_bytes=capacity(1)), opened()
    old, new = chain(document(1, 2)), chain(document(2, 2))
    keep(one, old)
    assert stored(other, old) == 2
    keep(one, new)
    assert (stored(other, old), stored(other, new)) == (0, 2)


def test_two_stores_may_store_the_same_at_once(opened: Opening) -> None:
    gates = Gate(), Gate()
    stores = [opened(clock_ns=gate) for gate in gates]
    keys = chain(document(1, 2))
    for store, gate in zip(stores, gates, strict=True):
        assert store.save(keys, 0, 2, payload(0))
        assert gate.reached.wait(30)
    for store, gate in zip(stores, gates, strict=True):
        gate.opened.set()
        assert store.flush(30)
        assert load(store, keys) == bytes(payload(0))


def test_on_a_nearly_full_disk_snapshots_only_take_each_others_place(opened: Opening, tmp_path: Path) -> None:
    disk = Disk(total=1 << 40, free=1 << 40)
    store = opened(disk_usage=lambda folder: disk)
    keep(store, chain(document(1, 4)))
    disk = Disk(total=1 << 40, free=1 << 30)
    new = chain(document(2, 4))
    keep(store, new)
    assert (stored(store, new), size(tmp_path)) == (4, capacity(2))


@pytest.mark.parametrize("disk", [Disk(total=1 << 40, free=40 << 30), Disk(total=4 << 30, free=1 << 30)])
def test_a_nearly_full_disk_is_left_alone_and_told_once(
    opened: Opening, caplog: pytest.LogCaptureFixture, disk: Disk
) -> None:
    store = opened(disk_usage=lambda folder: disk)
    keys = chain(document(1, 1))
    assert [save(store, keys, 0, 1, payload(0)) for _ in range(3)] == [False] * 3
    assert caplog.text.count("there is no room") == 1


def test_what_writers_of_other_identities_left_is_removed_too(opened: Opening, tmp_path: Path) -> None:
    keep(opened(identity=replace(IDENTITY, revision="0")), chain(document(1, 1)))
    left = extent_files(tmp_path)[0].with_suffix(".kv.tmp")
    left.touch()
    foreign = tmp_path / "kv" / "notes.kv.tmp"
    foreign.touch()
    opened()
    assert (left.exists(), foreign.exists()) == (False, True)


def keep_of(store: SnapshotStore, keys: Sequence[bytes], *owners: str) -> None:
    """Store a whole chain as one extent."""
    assert store.save(keys, 0, len(keys), payload(0), owners=frozenset(owners))
    assert store.flush(30)


def test_a_forgotten_owners_pages_are_gone_whoever_stored_them(opened: Opening, tmp_path: Path) -> None:
    secret, other, system = (chain(document(seed, 5)) for seed in (1, 2, 3))
    keep_of(opened(identity=replace(IDENTITY, kv_format="fp8")), secret, "secret")
    store = opened()
    keep_of(store, secret, "secret")
    keep_of(opened(), other, "other")
    keep_of(store, system)
    assert store.owners() == {"secret", "other"}
    assert store.forget({"secret", "unknown"}) == capacity(2)
    assert [stored(store, keys) for keys in (secret, other, system)] == [0, 5, 5]
    assert len(extent_files(tmp_path)) == 2
    assert opened().owners() == {"other"}


def test_pages_of_several_owners_go_with_the_first_of_them(opened: Opening) -> None:
    store = opened()
    alone, both = chain(document(1, 3)), chain(document(2, 3))
    keep_of(store, alone, "one")
    keep_of(store, both, "two", "one")
    store.forget(["two"])
    assert (stored(store, alone), stored(store, both)) == (3, 0)


def test_many_owners_with_any_names_are_remembered(opened: Opening) -> None:
    owners = {f'document {number}\n"é"' for number in range(1_000)}  # a header of several blocks
    keys = chain(document(1, 2))
    keep_of(opened(), keys, *owners)
    store = opened()
    assert store.owners() == owners
    assert load(store, keys) == bytes(payload(0))
    store.forget([owners.pop()])
    assert stored(store, keys) == 0


def test_forgetting_reaches_what_is_being_written(opened: Opening, tmp_path: Path) -> None:
    gate = Gate()
    store = opened(clock_ns=gate)
    secret, owners = chain(document(1, 4)), frozenset({"secret"})
    told: list[bool] = []
    assert store.save(secret, 0, 2, payload(0), told.append, owners=owners)
    assert gate.reached.wait(30)
    assert store.save(secret, 2, 4, payload(2), told.append, owners=owners)
    assert store.owners() == owners
    store.forget(owners)  # which does not wait for the disk
    assert store.owners() == set()
    gate.opened.set()
    assert store.flush(30)
    assert (extent_files(tmp_path), stored(store, secret)) == ([], 0)
    assert told == [False, False]


def test_files_are_for_their_owner_alone(opened: Opening, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep(opened(), chain(document(1, 2)))
    finally:
        os.umask(before)
    kept = [tmp_path / "kv", *(tmp_path / "kv").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_file()} == {0o600}


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SnapshotError, match="cannot be kept"):
        SnapshotStore(tmp_path / "file" / "kv", identity=IDENTITY, capacity_bytes=1)


def test_a_folder_deleted_meanwhile_is_made_again(opened: Opening, tmp_path: Path) -> None:
    store = opened()
    keys = chain(document(1, 2))
    keep(store, keys)
    shutil.rmtree(tmp_path / "kv")
    assert stored(store, keys) == 0
    keep(store, keys)
    assert load(store, keys) == bytes(payload(0))


def test_a_failing_listener_stops_no_writer(opened: Opening, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stored: bool) -> None:
        raise RuntimeError("the reader is gone")

    store = opened(writers=1)
    keys = chain(document(1, 2))
    assert store.save(keys, 0, 1, payload(0), fail)
    assert save(store, keys, 1, 2, payload(1))
    assert "the reader failed" in caplog.text


def test_failures_are_logged_again_after_a_success(
    opened: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    disk = Disk(total=1 << 40, free=0)
    store = opened(disk_usage=lambda folder: disk)
    keys = chain(document(1, 3))
    for place, free in enumerate((0, 1 << 40, 0)):
        save(store, keys, min(place, 1), 1 + min(place, 1), payload(place))
        disk = disk._replace(free=free)
    assert caplog.text.count("no room") == 1


def test_what_two_processes_read_for_different_owners_are_two_files(opened: Opening, tmp_path: Path) -> None:
    pages = chain(document(1, 2))
    one, other = opened(), opened()
    assert one.save(pages, 0, 2, payload(0), owners=frozenset({"a"}))
    assert other.save(pages, 0, 2, payload(0), owners=frozenset({"a", "b"}))
    assert one.flush(30)
    assert other.flush(30)
    assert other.owners() == {"a", "b"}
    assert load(one, pages) == load(other, pages) == bytes(payload(0))
    one.forget({"b"})
    assert one.owners() == other.owners() == {"a"}
    assert len(extent_files(tmp_path)) == 1
