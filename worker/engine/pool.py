"""Which documents are held, where their pages stand, and whether one more request fits.

A prefix's whole pages are known by a hash that covers everything before them, so prefixes that begin alike
share them. Its last tokens (`MIN_END` of them or more, less than a page more) are its own and stay exact, as
do the first page and every request's suffix and answer: where few bits hurt most, none are saved.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.engine.errors import IntegrityError
from worker.engine.formats import PAGE
from worker.engine.kv import Arena, Span, copy_pages, cut, spans_of
from worker.engine.runs import joined
from worker.engine.snapshots import chain
from worker.engine.types import Format

MIN_END = 128
"""Fewest tokens at a prefix's end that stay exact."""


@dataclass(slots=True, eq=False)
class Page:
    """128 tokens of every layer."""

    arena: Arena
    index: int
    holders: int = 0  #: prefixes it belongs to


@dataclass(slots=True, eq=False)
class Prefix:
    """The beginning of a prompt, shared by every request that begins so, also while it is being read."""

    ids: NDArray[np.int32]
    keys: list[bytes]  #: of its whole pages
    pages: list[Page]
    end: list[Span]  #: the tokens behind the pages
    read: int  #: tokens whose keys and values are complete
    users: int = 0
    kept: int = 0  #: of its pages and its end, how many are stored
    held: bool = True  #: False once its memory is given back

    @property
    def complete(self) -> bool:
        return self.read == len(self.ids)

    def spans(self, start: int, end: int) -> list[Span]:
        """Where the tokens from `start` to `end` stand."""
        return cut(self._spans(), start, end)

    def _spans(self) -> Iterator[Span]:
        begin = 0
        for i in range(1, len(self.pages) + 1):
            if i == len(self.pages) or self.pages[i].arena is not self.pages[begin].arena:
                yield from spans_of(self.pages[begin].arena, (page.index for page in self.pages[begin:i]))
                begin = i
        yield from self.end


@dataclass(slots=True, eq=False)
class Lease:
    """The memory of one request in work."""

    prefix: Prefix | None  #: None for an empty prefix
    tail: Span  #: suffix and answer
    reused_tokens: int  #: of the prefix, read before this lease
    length: int = 0  #: tokens of the tail whose keys and values are complete

    @property
    def position(self) -> int:
        """Tokens before the tail."""
        return len(self.prefix.ids) if self.prefix else 0

    def before(self) -> list[Span]:
        """Where the prefix stands."""
        return self.prefix.spans(0, self.position) if self.prefix else []


@dataclass(frozen=True, slots=True)
class Arenas:
    """The memory of one engine. Without a packed format everything is exact."""

    format: Format
    exact: Arena
    packed: Arena | None = None  #: on the card
    host: Arena | None = None  #: of the same format as `body`, in the computer's memory

    @property
    def body(self) -> Arena:
        """Where a document's whole pages go."""
        return self.packed or self.exact

    def all(self) -> list[Arena]:
        return [arena for arena in (self.exact, self.packed, self.host) if arena is not None]


class _Need(NamedTuple):
    """Pages that must be free."""

    exact: int
    body: int


class PagePool:
    """Prefixes by last use, and the tails of the requests in work.

    A prefix in use is never dropped. The others move to the host's memory, and from there away, in the order
    of their last use, when room is needed.
    """

    def __init__(self, arenas: Arenas) -> None:
        self._arenas = arenas
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._pages: dict[bytes, Page] = {}  # whole and read
        self._tails: list[Lease] = []

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def bytes_total(self) -> int:
        return sum(arena.page_bytes * arena.runs.pages for arena in self._arenas.all())

    @property
    def bytes_used(self) -> int:
        return self.bytes_total - sum(
            arena.page_bytes * arena.runs.pages_free for arena in self._arenas.all()
        )

    @property
    def tokens_fit(self) -> int:
        """How long a prompt with its answer may be, if nothing else is held."""
        pages = sum(arena.runs.pages for arena in self._arenas.all())
        if self._arenas.packed is not None:
            pages -= self._arenas.exact.runs.pages
        return max(0, pages - 2) * PAGE  # the end and the tail each fill their last page in part

    def tail_fits(self, prefix_tokens: int) -> int:
        """How long a suffix with its answer may be behind such a prefix, if nothing else is held."""
        end = self._need(prefix_tokens, _whole_pages(prefix_tokens), 0, 0).exact
        return max(0, self._arenas.exact.runs.pages - end) * PAGE

    def fits(self, prefix_tokens: int, tail_tokens: int) -> bool:
        """Whether such a request fits if nothing else is held."""
        total = Counter({arena: arena.runs.pages for arena in self._arenas.all()})
        return self._fits(self._need(prefix_tokens, _whole_pages(prefix_tokens), 0, tail_tokens), total)

    def acquire(self, ids: NDArray[np.int32], keys: Sequence[bytes], tail_tokens: int) -> Lease | None:
        """Memory for a request, or None while others hold too much of it.

        `keys`: the `body_keys` of `ids`.
        """
        lease = self._acquire(ids, keys, tail_tokens)
        while lease is None and self._prefixes and not self._tails:
            # Nothing is in work: what the request would share stands in the way of the rest.
            for prefix in self._idle(None):
                self._retire(prefix, len(prefix.pages), None)
            lease = self._acquire(ids, keys, tail_tokens)
        return lease

    def _acquire(self, ids: NDArray[np.int32], keys: Sequence[bytes], tail_tokens: int) -> Lease | None:
        prefix = self._prefixes.get(ids.tobytes()) if len(ids) else None
        shared = self._shared(keys) if prefix is None else []
        self._hold(shared)  # while others are dropped
        try:
            tokens = len(ids) if prefix is None else 0
            need = self._need(tokens, len(keys) if tokens else 0, len(shared), tail_tokens)
            if not self._make_room(need, _pages(tail_tokens), keep=prefix):
                return None
            tail = self._tail(tail_tokens)
            if prefix is None and len(ids):
                prefix = self._prefixes[ids.tobytes()] = self._build(ids, keys, shared)
        finally:
            self._let_go(keys, shared)
        lease = Lease(prefix, tail, prefix.read if prefix else 0)
        if prefix is not None:
            self._prefixes.move_to_end(prefix.ids.tobytes())
            if not prefix.users:
                self._promote(prefix)
            prefix.users += 1
        self._tails.append(lease)
        return lease

    def advance(self, prefix: Prefix, tokens: int) -> None:
        """More of a prefix was read: its complete pages may be shared from now on."""
        whole = prefix.read // PAGE
        prefix.read += tokens
        for i in range(whole, min(prefix.read // PAGE, len(prefix.pages))):
            self._pages.setdefault(prefix.keys[i], prefix.pages[i])

    def release(self, lease: Lease) -> None:
        """Give a request's memory back; what was read of its prefix stays."""
        self._tails.remove(lease)
        _give(lease.tail)
        if lease.prefix is not None:
            lease.prefix.users -= 1

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless every page is free or held, and by whom it says."""
        held = Counter(page for prefix in self._prefixes.values() for page in prefix.pages)
        if wrong := [page for page, holders in held.items() if page.holders != holders]:
            raise IntegrityError(f"{len(wrong)} pages count their holders wrongly")
        if stray := [page for page in self._pages.values() if page not in held]:
            raise IntegrityError(f"{len(stray)} pages are offered for sharing and held by nobody")
        for arena in self._arenas.all():
            taken = [page.index for page in held if page.arena is arena]
            taken += [index for span in self._own_spans() if span.arena is arena for index in _indices(span)]
            free = [index for run in arena.runs.free() for index in range(run.start, run.end)]
            if sorted(taken + free) != list(range(arena.runs.pages)):
                raise IntegrityError(f"{len(taken)} pages held and {len(free)} free of {arena.runs.pages}")

    def _own_spans(self) -> Iterator[Span]:
        yield from (lease.tail for lease in self._tails)
        for prefix in self._prefixes.values():
            yield from prefix.end

    def _shared(self, keys: Sequence[bytes]) -> list[Page]:
        """The longest beginning that another prefix has read."""
        found: list[Page] = []
        for key in keys:
            if (page := self._pages.get(key)) is None:
                break
            found.append(page)
        return found

    def _need(self, tokens: int, whole: int, shared: int, tail_tokens: int) -> _Need:
        """For a new prefix of `tokens`, `whole` of its pages, of which others hold `shared`, and a tail."""
        first = bool(whole) and not shared and self._arenas.packed is not None
        return _Need(_pages(tokens - whole * PAGE) + first + _pages(tail_tokens), whole - shared - first)

    def _build(self, ids: NDArray[np.int32], keys: Sequence[bytes], shared: Sequence[Page]) -> Prefix:
        body, host = self._arenas.body, self._arenas.host
        end, pages = self._end(len(ids) - len(keys) * PAGE), list(shared)
        if keys and not shared and self._arenas.packed is not None:
            pages += _new_pages(self._arenas.exact, 1)
        pages += _new_pages(body, min(len(keys) - len(pages), body.runs.pages_free))
        if host is not None:
            pages += _new_pages(host, len(keys) - len(pages))
        self._hold(pages)
        return Prefix(ids, list(keys), pages, end, len(shared) * PAGE)

    def _tail(self, tokens: int) -> Span:
        """Adjacent exact pages, known to be free."""
        (run,) = self._arenas.exact.runs.take(_pages(tokens))
        return Span(self._arenas.exact, run.start * PAGE, tokens)

    def _end(self, tokens: int) -> list[Span]:
        exact = self._arenas.exact
        runs = exact.runs.take(_pages(tokens))
        return cut([Span(exact, run.start * PAGE, run.pages * PAGE) for run in runs], 0, tokens)

    def _make_room(self, need: _Need, adjacent: int, keep: Prefix | None) -> bool:
        """Move or drop idle prefixes, the longest unused first, until `need` is free; none if it cannot be.

        `adjacent`: how many exact pages must stand side by side.
        """
        exact, body = self._arenas.exact, self._arenas.body
        if not self._fits(need, self._free_after(self._idle(keep))):
            return False
        self._clear(need.body + (need.exact if body is exact else 0), keep)
        for prefix in self._idle(keep):
            if self._fits(need, self._free()) and exact.runs.largest >= adjacent:
                break
            self._drop(prefix)
        return self._fits(need, self._free()) and exact.runs.largest >= adjacent

    def _clear(self, pages: int, keep: Prefix | None) -> None:
        """Retire idle prefixes until so many pages are free where bodies stand on the card."""
        for prefix in self._idle(keep):
            if (missing := pages - self._arenas.body.runs.pages_free) <= 0:
                break
            if self._movable(prefix, self._arenas.body):
                self._retire(prefix, missing, keep)

    def _fits(self, need: _Need, free: Counter[Arena]) -> bool:
        """Whether `need` is free, the body's overflow on the host."""
        exact, body, host = self._arenas.exact, self._arenas.body, self._arenas.host
        for_body = free[body] - (need.exact if body is exact else 0)
        overflow = free[host] if host is not None else 0
        return free[exact] >= need.exact and for_body + overflow >= need.body

    def _free(self) -> Counter[Arena]:
        return Counter({arena: arena.runs.pages_free for arena in self._arenas.all()})

    def _free_after(self, idle: Iterable[Prefix]) -> Counter[Arena]:
        """What would be free if all of `idle` were dropped."""
        free, held = self._free(), Counter[Page]()
        for prefix in idle:
            held.update(prefix.pages)
            free[self._arenas.exact] += sum(_pages(span.tokens) for span in prefix.end)
        free.update(page.arena for page, holders in held.items() if page.holders == holders)
        return free

    def _idle(self, keep: Prefix | None) -> list[Prefix]:
        return [prefix for prefix in self._prefixes.values() if not prefix.users and prefix is not keep]

    def _is_away(self, prefix: Prefix) -> bool:
        return any(page.arena is self._arenas.host for page in prefix.pages)

    def _movable(self, prefix: Prefix, source: Arena) -> list[Page]:
        """Its own pages in `source`: those that it shares may be in use where they stand."""
        return [page for page in prefix.pages if page.arena is source and page.holders == 1]

    def _retire(self, prefix: Prefix, pages: int, keep: Prefix | None) -> None:
        """Its last `pages` to the host, where those unused for longer make room, else all of it away."""
        if not prefix.held:
            return
        host, movable = self._arenas.host, self._movable(prefix, self._arenas.body)[-pages:]
        if host is not None and prefix.complete and movable:
            for other in self._idle(keep):
                if host.runs.pages_free < len(movable) and other is not prefix and self._is_away(other):
                    self._drop(other)
            if host.runs.pages_free >= len(movable):
                self._move(movable, host)
                return
        self._drop(prefix)

    def _promote(self, prefix: Prefix) -> None:
        """Bring pages back from the host as far as the card has room."""
        host = self._arenas.host
        if host is not None and prefix.complete and (away := self._movable(prefix, host)):
            self._clear(len(away), prefix)
            self._move(away[: self._arenas.body.runs.pages_free], self._arenas.body)

    def _move(self, pages: Sequence[Page], target: Arena) -> None:
        if not pages:
            return
        source = pages[0].arena
        new = [index for run in target.runs.take(len(pages)) for index in range(run.start, run.end)]
        copy_pages(source, [page.index for page in pages], target, new)
        source.runs.give(joined(sorted(page.index for page in pages)))
        for page, index in zip(pages, new, strict=True):
            page.arena, page.index = target, index

    def _drop(self, prefix: Prefix) -> None:
        del self._prefixes[prefix.ids.tobytes()]
        prefix.held = False
        for span in prefix.end:
            _give(span)
        self._let_go(prefix.keys, prefix.pages)

    def _hold(self, pages: Iterable[Page]) -> None:
        for page in pages:
            page.holders += 1

    def _let_go(self, keys: Sequence[bytes], pages: Sequence[Page]) -> None:
        unheld: list[Page] = []
        for key, page in zip(keys, pages, strict=False):
            page.holders -= 1
            if page.holders:
                continue
            unheld.append(page)
            if self._pages.get(key) is page:
                del self._pages[key]
        for arena in self._arenas.all():
            arena.runs.give(joined(sorted(page.index for page in unheld if page.arena is arena)))


def body_keys(ids: NDArray[np.int32]) -> list[bytes]:
    """The hashes of a prefix's pages: all but its end."""
    return chain(ids[: _whole_pages(len(ids)) * PAGE], PAGE)


def _whole_pages(tokens: int) -> int:
    return max(0, tokens - MIN_END) // PAGE


def _new_pages(arena: Arena, pages: int) -> list[Page]:
    return [Page(arena, i) for run in arena.runs.take(pages) for i in range(run.start, run.end)]


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


def _indices(span: Span) -> range:
    return range(span.start // PAGE, span.start // PAGE + _pages(span.tokens))


def _give(span: Span) -> None:
    indices = _indices(span)
    span.arena.runs.give(joined(indices))
