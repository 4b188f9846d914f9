"""Which documents are held, where their pages stand, and whether one more request fits.

A prefix's whole pages are known by a hash that covers everything before them, so prefixes that begin alike
share them. Its last tokens (`MIN_END` of them or more, less than a page more) are its own and stay exact, as
do the first page and every request's suffix and answer: where few bits hurt most, none are saved.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.engine.errors import IntegrityError
from worker.engine.kv import Arena, Span, copy_pages, cut, spans_of
from worker.engine.page import PAGE, whole_pages
from worker.engine.runs import joined
from worker.engine.snapshots import chain, end_key
from worker.engine.types import Format

_TAIL_PAGES = 128  # eight seats of 2,048 tokens


@dataclass(slots=True, eq=False)
class Page:
    """128 tokens of every layer."""

    arena: Arena
    index: int
    holders: int = 0  #: prefixes it belongs to


@dataclass(eq=False)
class Prefix:
    """The beginning of a prompt, shared by every request that begins so, also while it is being read."""

    ids: NDArray[np.int32]
    keys: list[bytes]  #: of its whole pages
    pages: list[Page]
    end: list[Span]  #: the tokens behind the pages
    read: int  #: tokens whose keys and values are complete
    users: int = 0
    owners: frozenset[str] = frozenset()  #: as the last request for it names them
    kept: int = 0  #: of its pages and its end, how many are stored or on their way
    held: bool = True  #: False once its memory is given back

    @property
    def complete(self) -> bool:
        return self.read == len(self.ids)

    @cached_property
    def members(self) -> list[bytes]:
        """The hashes of its pages and of its end, which take a pass over all tokens."""
        return [*self.keys, end_key(self.ids)]

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
    adjacent: int  #: of the exact ones, side by side


class _Prospect:
    """Which pages are free, and would be if some prefixes were dropped."""

    def __init__(self, arenas: Arenas) -> None:
        self._free = {arena: np.zeros(arena.runs.pages, bool) for arena in arenas.all()}
        for arena, free in self._free.items():
            for run in arena.runs.free():
                free[run.start : run.end] = True
        self._letting_go = Counter[Page]()

    def drop(self, prefix: Prefix) -> None:
        for page in prefix.pages:
            self._letting_go[page] += 1
        self._set(prefix, True)

    def spare(self, prefix: Prefix) -> None:
        """The inverse of `drop`."""
        self._set(prefix, False)
        for page in prefix.pages:
            self._letting_go[page] -= 1

    def pages(self) -> Counter[Arena]:
        return Counter({arena: int(free.sum()) for arena, free in self._free.items()})

    def largest(self, arena: Arena) -> int:
        """Pages of the largest free run."""
        bounds = np.flatnonzero(np.diff(self._free[arena], prepend=False, append=False))
        return int((bounds[1::2] - bounds[::2]).max(initial=0))

    def _set(self, prefix: Prefix, free: bool) -> None:
        for page in prefix.pages:
            if self._letting_go[page] == page.holders:
                self._free[page.arena][page.index] = free
        for span in prefix.end:
            self._free[span.arena][list(_indices(span))] = free


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
        end = self._need(prefix_tokens, 0, 0).exact
        return max(0, self._arenas.exact.runs.pages - end) * PAGE

    def fits(self, prefix_tokens: int, tail_tokens: int) -> bool:
        """Whether such a request fits if nothing else is held."""
        total = Counter({arena: arena.runs.pages for arena in self._arenas.all()})
        return self._fits(self._need(prefix_tokens, 0, tail_tokens), total)

    def acquire(
        self,
        ids: NDArray[np.int32],
        keys: Sequence[bytes],
        tail_tokens: int,
        *,
        owners: frozenset[str] = frozenset(),
    ) -> Lease | None:
        """Memory for a request, or None while others hold too much of it.

        `keys`: the `body_keys` of `ids`.
        """
        prefix = self._prefixes.get(ids.tobytes()) if len(ids) else None
        lease = self._acquire(ids, keys, tail_tokens, prefix)
        if lease is None and not self._tails and self.fits(len(ids), tail_tokens):
            # Nothing is in work: what the request would share stands in the way of the rest.
            if prefix is not None:
                self._retire(prefix, len(prefix.pages), self._idle(prefix))
                lease = self._acquire(ids, keys, tail_tokens, prefix) if prefix.held else None
                if lease is None and prefix.held:
                    self._drop(prefix)
            for share in (True, False):
                lease = lease or self._acquire(ids, keys, tail_tokens, None, share=share)
        if lease is not None and lease.prefix is not None:
            lease.prefix.owners = owners
        return lease

    def owners(self) -> set[str]:
        """Of the prefixes that are held; may be asked from any thread."""
        return {owner for prefix in list(self._prefixes.values()) for owner in prefix.owners}

    def forget(self, owners: Collection[str]) -> None:
        """Drop what is of one of `owners` and not in use."""
        for prefix in self._idle(None):
            if not prefix.owners.isdisjoint(owners):
                self._drop(prefix)

    def _acquire(
        self,
        ids: NDArray[np.int32],
        keys: Sequence[bytes],
        tail_tokens: int,
        prefix: Prefix | None,
        *,
        share: bool = True,
    ) -> Lease | None:
        shared = self._shared(keys) if prefix is None and share else []
        self._hold(shared)  # while others are dropped
        try:
            need = self._need(len(ids) if prefix is None else 0, len(shared), tail_tokens)
            if not self._make_room(need, keep=prefix):
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

    def _need(self, tokens: int, shared: int, tail_tokens: int) -> _Need:
        """For a new prefix of `tokens`, of whose pages others hold `shared`, and a tail."""
        whole, tail = whole_pages(tokens), _pages(tail_tokens)
        first = bool(whole) and not shared and self._arenas.packed is not None
        return _Need(_pages(tokens - whole * PAGE) + first + tail, whole - shared - first, tail)

    def _build(self, ids: NDArray[np.int32], keys: Sequence[bytes], shared: Sequence[Page]) -> Prefix:
        end, pages = self._end(len(ids) - len(keys) * PAGE), list(shared)
        if keys and not shared and self._arenas.packed is not None:
            pages += _new_pages(self._arenas.exact, 1)
        missing, host = len(keys) - len(pages), self._arenas.host
        on_card = max(self._card_takes(missing), missing - (host.runs.pages_free if host else 0))
        pages += _new_pages(self._arenas.body, on_card)
        if host is not None:
            pages += _new_pages(host, missing - on_card)
        self._hold(pages)
        return Prefix(ids, list(keys), pages, end, len(shared) * PAGE)

    def _card_takes(self, pages: int) -> int:
        """How many pages of a body should stand on the card: all if they fit.

        Where some must stand on the host anyway, a few more do, so that exact pages are left for the tails of
        later requests.
        """
        exact, body = self._arenas.exact, self._arenas.body
        free = body.runs.pages_free
        if pages <= free or body is not exact:
            return min(pages, free)
        return max(0, free - min(_TAIL_PAGES, exact.runs.pages // 2))

    def _tail(self, tokens: int) -> Span:
        """Adjacent exact pages, known to be free."""
        (run,) = self._arenas.exact.runs.take(_pages(tokens))
        return Span(self._arenas.exact, run.start * PAGE, tokens)

    def _end(self, tokens: int) -> list[Span]:
        exact = self._arenas.exact
        runs = exact.runs.take(_pages(tokens))
        for run in runs:
            exact.clear(run)  # stored whole: what another document left there must not be
        return cut([Span(exact, run.start * PAGE, run.pages * PAGE) for run in runs], 0, tokens)

    def _make_room(self, need: _Need, keep: Prefix | None) -> bool:
        """Move or drop idle prefixes, the longest unused first, until `need` is free, or none at all."""
        enough = partial(self._is_enough, need)
        victims = self._victims(self._idle(keep), enough)
        if victims is None:
            return False
        if self._arenas.host is not None:
            self._clear(need.body + (need.exact if self._arenas.body is self._arenas.exact else 0), keep)
            victims = self._victims(self._idle(keep), enough)
        for prefix in victims or ():
            self._drop(prefix)
        return True

    def _victims(
        self, candidates: Sequence[Prefix], is_enough: Callable[[_Prospect], bool]
    ) -> list[Prefix] | None:
        """Those to drop, the last ones spared first, none dropped without use; None if all are too few."""
        prospect, held = _Prospect(self._arenas), [prefix for prefix in candidates if prefix.held]
        if is_enough(prospect):
            return []
        for prefix in held:
            prospect.drop(prefix)
        if not is_enough(prospect):
            return None
        victims = []
        for prefix in reversed(held):
            prospect.spare(prefix)
            if not is_enough(prospect):
                prospect.drop(prefix)
                victims.append(prefix)
        return victims

    def _is_enough(self, need: _Need, prospect: _Prospect) -> bool:
        return self._fits(need, prospect.pages()) and prospect.largest(self._arenas.exact) >= need.adjacent

    def _clear(self, pages: int, keep: Prefix | None) -> None:
        """Retire idle prefixes until so many pages are free where bodies stand on the card."""
        idle = self._idle(keep)
        for number, prefix in enumerate(idle):
            if (missing := pages - self._arenas.body.runs.pages_free) <= 0:
                break
            if self._movable(prefix, self._arenas.body):
                self._retire(prefix, missing, idle[:number])

    def _fits(self, need: _Need, free: Counter[Arena]) -> bool:
        """Whether `need` is free, the body's overflow on the host."""
        exact, body, host = self._arenas.exact, self._arenas.body, self._arenas.host
        for_body = free[body] - (need.exact if body is exact else 0)
        overflow = free[host] if host is not None else 0
        return free[exact] >= need.exact and for_body + overflow >= need.body

    def _idle(self, keep: Prefix | None) -> list[Prefix]:
        return [prefix for prefix in self._prefixes.values() if not prefix.users and prefix is not keep]

    def _movable(self, prefix: Prefix, source: Arena) -> list[Page]:
        """Its own pages in `source`: those that it shares may be in use where they stand."""
        return [page for page in prefix.pages if page.arena is source and page.holders == 1]

    def _retire(self, prefix: Prefix, pages: int, others: Sequence[Prefix]) -> None:
        """Its last `pages` to the host, where idle `others` make room, else all of it away."""
        if not prefix.held:
            return
        host, movable = self._arenas.host, self._movable(prefix, self._arenas.body)[-pages:]
        if host is not None and prefix.complete and self._host_takes(host, len(movable), others):
            self._move(movable, host)
        else:
            self._drop(prefix)

    def _host_takes(self, host: Arena, pages: int, others: Sequence[Prefix]) -> bool:
        """Whether the host has room for so many pages, when as few of `others` as it takes are dropped."""
        victims = self._victims(others, lambda prospect: prospect.pages()[host] >= pages)
        for prefix in victims or ():
            self._drop(prefix)
        return victims is not None

    def _promote(self, prefix: Prefix) -> None:
        """Bring pages back from the host as far as the card has room."""
        host, body = self._arenas.host, self._arenas.body
        if host is None or not prefix.complete:
            return
        while away := self._movable(prefix, host):
            # A part at a time: what leaves the card needs the room that this one leaves on the host.
            self._clear(min(len(away), body.runs.pages_free + host.runs.pages_free) or len(away), prefix)
            if not (moving := away[: self._card_takes(len(away))]):
                return
            self._move(moving, body)

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
    return chain(ids[: whole_pages(len(ids)) * PAGE])


def _new_pages(arena: Arena, pages: int) -> list[Page]:
    return [Page(arena, i) for run in arena.runs.take(pages) for i in range(run.start, run.end)]


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


def _indices(span: Span) -> range:
    return range(span.start // PAGE, span.start // PAGE + _pages(span.tokens))


def _give(span: Span) -> None:
    indices = _indices(span)
    span.arena.runs.give(joined(indices))
