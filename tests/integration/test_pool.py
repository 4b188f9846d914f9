"""Which documents are held, where they stand, and who makes room for whom."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import pytest
import torch

from worker.engine.errors import IntegrityError
from worker.engine.formats import packed_format
from worker.engine.kv import Arena, ExactArena, PackedArena, Shape, Span, put
from worker.engine.page import MIN_END, PAGE
from worker.engine.pool import Arenas, Lease, PagePool, Prefix, body_keys
from worker.engine.runs import Run
from worker.engine.types import Format

SHAPE = Shape(layers=2, kv_heads=1, dim=32)
Packed = Literal["fp8", "int4"]
PACKED = pytest.mark.parametrize("format", ["fp8", "int4"])


def exact(pages: int) -> ExactArena:
    return ExactArena(SHAPE, pages, dtype=torch.float32)


def packed(format: Packed, pages: int) -> PackedArena:
    return PackedArena(SHAPE, packed_format(format, SHAPE.kv_heads, SHAPE.dim), pages)


def arenas(kind: Format, card: int, host: int = 0, *, exact_pages: int = 12) -> Arenas:
    """Room for bodies of `card` pages, and `host` more; of exact ones too where the bodies are packed."""
    if kind == "exact":
        return Arenas("exact", exact(card), host=exact(host) if host else None)
    return Arenas(kind, exact(exact_pages), packed(kind, card), packed(kind, host) if host else None)


def ids(tokens: int, *, begin: int = 0, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The first `begin` tokens are the same for every seed."""
    generator = np.random.default_rng(seed + 1)
    rest = generator.integers(0, 100, tokens - begin)
    return np.concatenate([np.arange(begin) % 100, rest]).astype(np.int32)


def acquire(pool: PagePool, document: np.ndarray[Any, Any], tail: int = 1) -> Lease | None:
    return pool.acquire(document, body_keys(document), tail)


def read(pool: PagePool, document: np.ndarray[Any, Any], tail: int = 1) -> Lease:
    """A request that has read its document: every key is its token, every value the token's negative."""
    lease = acquire(pool, document, tail)
    assert lease is not None
    assert lease.prefix is not None
    start = lease.prefix.read
    keys = torch.tensor(document[start:], dtype=torch.float32)[:, None, None].expand(-1, 1, SHAPE.dim)
    for layer in range(SHAPE.layers):
        put(lease.prefix.spans(start, len(document)), layer, keys + layer, -keys)
    pool.advance(lease.prefix, len(document) - start)
    return lease


def keep(pool: PagePool, document: np.ndarray[Any, Any], tail: int = 1) -> Prefix:
    """A document that was read and that no request uses any more."""
    lease = read(pool, document, tail)
    pool.release(lease)
    assert lease.prefix is not None
    return lease.prefix


def assert_whole(prefix: Prefix) -> None:
    """Every token's keys and values stand where the prefix says, within the rounding of fp8."""
    tokens = torch.tensor(prefix.ids, dtype=torch.float32)
    for layer in range(SHAPE.layers):
        position = 0
        for span in prefix.spans(0, len(prefix.ids)):
            keys, values = torch.empty(2, span.tokens, 1, SHAPE.dim)
            span.arena.get(layer, span.start, keys, values)
            want = tokens[position : position + span.tokens, None, None].expand_as(keys)
            torch.testing.assert_close(keys, want + layer, rtol=1e-2, atol=0)
            # All elements of a token are alike here, and scales of values have four bits.
            torch.testing.assert_close(values, -want, rtol=1 / 16, atol=0)
            position += span.tokens
        assert position == len(tokens)


def tokens_in(spans: Sequence[Span]) -> Counter[Arena]:
    found: Counter[Arena] = Counter()
    for span in spans:
        found[span.arena] += span.tokens
    return found


def on_host(room: Arenas, prefix: Prefix) -> int:
    """Pages."""
    return sum(page.arena is room.host for page in prefix.pages)


def test_documents_that_begin_alike_share_whole_pages() -> None:
    pool = PagePool(arenas("exact", 40))
    first = keep(pool, ids(1_000, begin=700))
    page = pool.bytes_used // 8
    lease = read(pool, ids(1_000, begin=700, seed=1))
    assert lease.prefix is not None
    assert lease.reused_tokens == 5 * PAGE
    assert lease.prefix.pages[:5] == first.pages[:5]
    assert pool.bytes_used == (8 + 3 + 1) * page  # three of its own and a tail
    assert_whole(first)
    assert_whole(lease.prefix)
    pool.check_integrity()


def test_what_one_request_has_read_so_far_is_shared_with_the_next() -> None:
    pool = PagePool(arenas("exact", 40))
    reading = acquire(pool, ids(1_000, begin=1_000))
    assert reading is not None
    assert reading.prefix is not None
    pool.advance(reading.prefix, 2 * PAGE + 5)
    other = acquire(pool, ids(1_100, begin=1_000))
    assert other is not None
    assert other.reused_tokens == 2 * PAGE
    same = acquire(pool, ids(1_000, begin=1_000))
    assert same is not None
    assert same.prefix is reading.prefix
    assert same.reused_tokens == 2 * PAGE + 5


def test_shared_pages_outlive_the_document_that_brought_them() -> None:
    pool = PagePool(arenas("exact", 12))
    keep(pool, ids(700, begin=512))
    second = keep(pool, ids(700, begin=512, seed=1))
    keep(pool, ids(500, seed=2))  # the first makes room
    assert len(pool) == 2
    assert_whole(second)
    pool.check_integrity()


@PACKED
@pytest.mark.parametrize("tokens", [256, 257, 383, 384, 385, 511, 512, 1_000])
def test_the_first_page_and_the_end_stay_exact(format: Packed, tokens: int) -> None:
    room = arenas(format, 20)
    prefix = keep(PagePool(room), ids(tokens))
    first, end = prefix.spans(0, PAGE), prefix.spans(len(prefix.pages) * PAGE, tokens)
    assert tokens_in(first) == {room.exact: PAGE}
    assert tokens_in(end).keys() == {room.exact}
    assert MIN_END <= tokens_in(end)[room.exact] < MIN_END + PAGE
    body = tokens_in(prefix.spans(PAGE, len(prefix.pages) * PAGE))
    assert body == ({room.packed: tokens - PAGE - tokens_in(end)[room.exact]} if body else {})


@PACKED
def test_a_document_shorter_than_two_pages_is_exact_and_needs_no_packed_page(format: Packed) -> None:
    room = arenas(format, 0)
    prefix = keep(PagePool(room), ids(255))
    assert tokens_in(prefix.spans(0, 255)) == {room.exact: 255}


def test_nothing_of_another_document_is_left_behind_an_end() -> None:
    room = arenas("exact", 8)
    for x in room.exact.tensors:
        x.fill_(1)
    lease = acquire(PagePool(room), ids(PAGE + 5))
    assert lease is not None
    assert lease.prefix is not None
    (end,) = lease.prefix.end
    page = room.exact.pages(Run(end.start // PAGE, 1))
    assert not page.any()


def test_the_document_unused_for_longest_makes_room() -> None:
    pool = PagePool(arenas("exact", 13))
    first, second = ids(500, seed=1), ids(500, seed=2)
    keep(pool, first)
    keep(pool, second)
    keep(pool, first)
    keep(pool, ids(600, seed=3))  # needs five and a tail; four were free
    assert keep(pool, first).held
    lease = acquire(pool, second)
    assert lease is not None
    assert lease.reused_tokens == 0


def test_a_document_in_use_is_never_dropped() -> None:
    pool = PagePool(arenas("exact", 10))
    lease = read(pool, ids(900))
    assert acquire(pool, ids(300, seed=1)) is None
    assert lease.prefix is not None
    assert lease.prefix.held
    assert_whole(lease.prefix)
    pool.release(lease)
    assert acquire(pool, ids(300, seed=1)) is not None
    assert not lease.prefix.held


def test_nothing_is_dropped_for_a_request_that_must_wait_anyway() -> None:
    pool = PagePool(arenas("exact", 12))
    idle = keep(pool, ids(300, seed=1))
    busy = read(pool, ids(600, seed=2))
    assert acquire(pool, ids(900, seed=3)) is None
    assert idle.held
    pool.release(busy)
    assert acquire(pool, ids(900, seed=3)) is not None
    pool.check_integrity()


def test_a_tail_stands_in_adjacent_pages_whatever_lies_around() -> None:
    pool = PagePool(arenas("exact", 12))
    one, two, three = (read(pool, ids(300, seed=seed)) for seed in (1, 2, 3))
    pool.release(one)
    pool.release(three)
    long = acquire(pool, ids(0), 4 * PAGE)
    assert long is not None
    assert (long.tail.tokens, long.tail.start % PAGE) == (4 * PAGE, 0)
    assert two.prefix is not None
    assert_whole(two.prefix)
    pool.check_integrity()


def test_a_longer_answer_than_the_last_makes_its_own_document_give_way() -> None:
    """A document in the middle leaves no adjacent pages for the tail: it is read again, not waited for."""
    pool = PagePool(arenas("exact", 12))
    other = read(pool, ids(490, seed=1))
    prefix = keep(pool, ids(250, seed=2))
    pool.release(other)
    lease = acquire(pool, prefix.ids, 8 * PAGE)
    assert pool.fits(250, 8 * PAGE)
    assert lease is not None
    pool.check_integrity()


def test_only_the_document_is_dropped_that_stands_beside_enough_free_pages() -> None:
    room = arenas("exact", 16)
    pool = PagePool(room)
    first, second, third = (keep(pool, ids(250, seed=seed)) for seed in (1, 2, 3))
    assert [run.pages for run in room.exact.runs.free()] == [1, 9]
    assert acquire(pool, ids(0), 10 * PAGE) is not None
    assert [prefix.held for prefix in (first, second, third)] == [True, True, False]
    pool.check_integrity()


def test_nothing_is_dropped_for_adjacent_pages_that_cannot_be_had() -> None:
    room = arenas("exact", 16)
    pool = PagePool(room)
    idle = read(pool, ids(250, seed=1))
    busy = read(pool, ids(250, seed=2), 4 * PAGE)
    pool.release(idle)
    assert room.exact.runs.pages_free == 8
    assert acquire(pool, ids(0), 10 * PAGE) is None  # that many would be free, but not side by side
    assert idle.prefix is not None
    assert idle.prefix.held
    pool.release(busy)
    assert acquire(pool, ids(0), 10 * PAGE) is not None
    pool.check_integrity()


@pytest.mark.parametrize(("kind", "card"), [("exact", 14), ("fp8", 7)])
def test_a_small_document_is_spared_where_only_a_large_one_makes_room(kind: Format, card: int) -> None:
    pool = PagePool(arenas(kind, card))
    small, large = keep(pool, ids(400, seed=1)), keep(pool, ids(1_000, seed=2))
    keep(pool, ids(1_000, seed=3))
    assert (small.held, large.held) == (True, False)
    pool.check_integrity()


def test_the_host_drops_nothing_for_a_document_that_it_cannot_take() -> None:
    room = arenas("fp8", 10, 3)
    pool = PagePool(room)
    small, large = keep(pool, ids(600, seed=1)), keep(pool, ids(1_300, seed=2))
    keep(pool, ids(1_400, seed=3))
    assert on_host(room, small) == 2
    assert (small.held, large.held) == (True, False)
    pool.check_integrity()


@pytest.mark.parametrize(("kind", "card"), [("exact", 11), ("fp8", 5)])
def test_what_is_retired_to_the_host_comes_back_whole_on_its_next_use(kind: Format, card: int) -> None:
    room = arenas(kind, card, 12)
    pool = PagePool(room)
    first, second = (keep(pool, ids(1_000, seed=seed)) for seed in (1, 2))
    assert on_host(room, first) == len(first.pages) - (kind == "fp8")
    assert on_host(room, second) == 0
    assert_whole(first)
    lease = acquire(pool, first.ids)
    assert lease is not None
    assert (lease.prefix, lease.reused_tokens) == (first, 1_000)
    assert on_host(room, first) == 0
    assert_whole(first)
    assert_whole(second)
    pool.check_integrity()


def test_two_documents_change_places_where_neither_side_holds_both() -> None:
    """Each is larger than what is free, so that they must do so a part at a time."""
    pool = PagePool(room := arenas("fp8", 10, 9))
    documents = [ids(9 * PAGE + 128, seed=seed) for seed in (1, 2)]
    first, second = (keep(pool, document) for document in documents)
    lease = acquire(pool, documents[0])
    assert lease is not None
    pool.release(lease)
    assert first.held
    assert second.held
    assert on_host(room, second) > on_host(room, first)
    assert_whole(first)
    assert_whole(second)
    pool.check_integrity()


def test_no_more_is_retired_than_the_next_document_needs() -> None:
    room = arenas("fp8", 8, 12)
    pool = PagePool(room)
    first, second = (keep(pool, ids(1_000, seed=seed)) for seed in (1, 2))  # five packed pages each
    assert (on_host(room, first), on_host(room, second)) == (2, 0)
    assert_whole(first)


def test_a_document_comes_back_as_far_as_others_in_use_leave_room() -> None:
    room = arenas("fp8", 8, 12)
    pool = PagePool(room)
    first, second = keep(pool, ids(1_000, seed=1)), keep(pool, ids(1_000, seed=2))
    busy = read(pool, ids(1_000, seed=3))
    assert (on_host(room, first), on_host(room, second)) == (5, 2)
    lease = acquire(pool, first.ids)
    assert lease is not None
    assert (on_host(room, first), on_host(room, second)) == (2, 5)
    for prefix in (first, second, busy.prefix):
        assert prefix is not None
        assert_whole(prefix)
    pool.check_integrity()


@pytest.mark.parametrize(("kind", "card"), [("exact", 12), ("fp8", 5)])
def test_what_a_document_in_use_shares_stays_where_it_stands(kind: Format, card: int) -> None:
    """Who writes about a document remembers where its pages are."""
    room = arenas(kind, card, 20)
    pool = PagePool(room)
    first = keep(pool, ids(1_000, begin=700, seed=1))
    keep(pool, ids(1_000, seed=2))  # moves the first to the host
    assert on_host(room, first) > 3
    busy = read(pool, ids(800, begin=700, seed=3))
    before = busy.before()
    lease = acquire(pool, first.ids)
    assert lease is not None
    assert busy.before() == before
    assert on_host(room, first) > 0
    for prefix in (first, busy.prefix):
        assert prefix is not None
        assert_whole(prefix)
    pool.check_integrity()


@pytest.mark.parametrize("kind", ["exact", "fp8"])
def test_what_the_card_cannot_hold_is_read_into_the_host_and_stays_there(kind: Format) -> None:
    room = arenas(kind, 6, 10)
    pool = PagePool(room)
    prefix = keep(pool, ids(1_600))
    assert on_host(room, prefix) > 0
    assert_whole(prefix)
    lease = acquire(pool, prefix.ids)
    assert lease is not None
    assert lease.reused_tokens == 1_600
    assert_whole(prefix)
    pool.check_integrity()


def test_a_longer_answer_finds_room_on_a_card_that_its_document_fills() -> None:
    pool = PagePool(arenas("exact", 6, 20))
    prefix = keep(pool, ids(1_200), 1)
    lease = acquire(pool, prefix.ids, 3 * PAGE)
    assert lease is not None
    assert lease.reused_tokens == 1_200
    assert_whole(prefix)
    pool.check_integrity()


def test_a_card_that_a_document_overflows_keeps_pages_for_many_answers() -> None:
    """Also after the document was idle and came back from the host as far as there is room."""
    room = arenas("exact", 80, 200)
    pool = PagePool(room)
    long, short = ids(20_000), ids(300, seed=1)
    for _ in range(2):
        leases = [read(pool, document, 600) for document in (long, long, long, short)]
        leases += [lease for lease in [acquire(pool, ids(0), 600)] if lease]
        assert len(leases) == 5
        prefix = leases[0].prefix
        assert prefix is not None
        assert prefix is leases[2].prefix
        assert 0 < on_host(room, prefix) < 155 - 30
        pool.check_integrity()
        for lease in leases:
            pool.release(lease)


def test_no_page_of_the_card_is_kept_for_answers_from_a_document_that_fits() -> None:
    room = arenas("exact", 80, 200)
    prefix = keep(PagePool(room), ids(70 * PAGE))
    assert on_host(room, prefix) == 0


def test_a_document_takes_the_pages_for_answers_where_it_fits_no_other_way() -> None:
    room = arenas("exact", 80, 20)
    pool = PagePool(room)
    prefix = keep(pool, ids(97 * PAGE))
    assert room.exact.runs.pages_free + on_host(room, prefix) < 30
    assert_whole(prefix)
    pool.check_integrity()


def test_the_host_forgets_what_was_unused_for_longest() -> None:
    pool = PagePool(arenas("fp8", 6, 6))
    first, second = (keep(pool, ids(900, seed=seed)) for seed in (1, 2))
    assert first.held
    third = keep(pool, ids(900, seed=3))
    assert [prefix.held for prefix in (first, second, third)] == [False, True, True]
    assert_whole(second)
    assert_whole(third)
    pool.check_integrity()


@pytest.mark.parametrize(
    ("kind", "card", "host"), [("exact", 9, 0), ("exact", 6, 5), ("fp8", 7, 0), ("int4", 5, 4)]
)
@pytest.mark.parametrize("tail", [1, PAGE, PAGE + 1, 300])
def test_what_fits_is_what_an_empty_pool_gives(kind: Format, card: int, host: int, tail: int) -> None:
    pool = PagePool(arenas(kind, card, host))
    assert pool.fits(pool.tokens_fit - tail, tail)
    edge = pool.tokens_fit
    for tokens in chain(range(1, 2 * PAGE, 31), range(edge - 3 * PAGE, edge + 4 * PAGE, 63)):
        pool = PagePool(arenas(kind, card, host))
        lease = acquire(pool, ids(tokens), tail)
        assert (lease is not None) == pool.fits(tokens, tail)
        pool.check_integrity()


def test_what_fits_alone_is_admitted_once_the_others_are_done() -> None:
    pool = PagePool(arenas("int4", 5, 4))
    leases = [read(pool, ids(300, seed=seed)) for seed in range(3)]
    longest = max(tokens for tokens in range(2_000) if pool.fits(tokens, 1))
    assert acquire(pool, ids(longest)) is None
    for lease in leases:
        pool.release(lease)
    assert acquire(pool, ids(longest)) is not None
    pool.check_integrity()


KINDS = [("exact", 24, 0), ("exact", 12, 12), ("fp8", 20, 0), ("int4", 10, 10)]


@pytest.mark.parametrize(("kind", "card", "host"), KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_after_whatever_requests_every_page_is_free_or_held(
    kind: Format, card: int, host: int, seed: int
) -> None:
    chance = random.Random(seed)
    pool = PagePool(arenas(kind, card, host))
    documents = [ids(n, begin=begin, seed=n) for n in (90, 300, 700, 1_400) for begin in (0, 80)]
    documents += [ids(900, begin=600, seed=number) for number in range(3)]
    leases: list[Lease] = []
    admitted = 0
    for _ in range(120):
        what = chance.random()
        if what < 0.5:
            lease = acquire(pool, chance.choice(documents), chance.randint(1, 300))
            leases += [lease] if lease else []
            admitted += lease is not None
        elif what < 0.7 and leases:
            prefix = chance.choice(leases).prefix
            assert prefix is not None
            pool.advance(prefix, min(chance.randint(1, 400), len(prefix.ids) - prefix.read))
        elif leases:
            pool.release(leases.pop(chance.randrange(len(leases))))
        pool.check_integrity()
        assert all(lease.prefix is not None and lease.prefix.held for lease in leases)
    assert admitted > 10
    for lease in leases:
        pool.release(lease)
    pool.check_integrity()
    longest = max(tokens for tokens in range(PAGE, pool.tokens_fit + 1, PAGE) if pool.fits(tokens, 1))
    assert acquire(pool, ids(longest, seed=7)) is not None
    pool.check_integrity()


@pytest.mark.parametrize("seed", range(4))
def test_documents_stay_whole_while_they_move_between_card_and_host(seed: int) -> None:
    chance = random.Random(seed)
    pool = PagePool(arenas("fp8", 9, 12))
    documents = [ids(tokens, begin=400, seed=tokens) for tokens in (700, 900, 1_100)]
    for _ in range(12):
        assert_whole(keep(pool, chance.choice(documents), chance.choice([1, 200])))
    pool.check_integrity()


def test_a_page_that_is_held_and_free_is_found() -> None:
    room = arenas("exact", 10)
    pool = PagePool(room)
    lease = read(pool, ids(600))
    pool.check_integrity()
    assert lease.prefix is not None
    room.exact.runs.give([Run(lease.prefix.pages[1].index, 1)])
    with pytest.raises(IntegrityError):
        pool.check_integrity()


def test_a_page_that_nobody_holds_is_found() -> None:
    room = arenas("int4", 10)
    pool = PagePool(room)
    read(pool, ids(600))
    pool.check_integrity()
    room.body.runs.take(1)
    with pytest.raises(IntegrityError):
        pool.check_integrity()
