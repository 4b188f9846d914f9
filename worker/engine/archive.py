"""Between the arenas and the disk: what was read is kept for later, and fetched instead of being read again.

An extent holds the pages of one chunk, and the last one the document's end too, so that a read goes on
exactly where the interrupted one would have.
"""

from __future__ import annotations

import logging
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, takewhile

import torch
from torch import Tensor

from worker.engine import pinned
from worker.engine.errors import SnapshotDamaged
from worker.engine.kv import Arena
from worker.engine.page import PAGE
from worker.engine.pool import Arenas, PagePool, Prefix
from worker.engine.runs import Run, joined
from worker.engine.snapshots import ExtentRef, SnapshotStore

logger = logging.getLogger(__name__)

_SHORTEST = 1_024  # tokens; below this, reading again costs nothing
_LOADED_AHEAD = 3
_PATIENCE_S = 0.05
_PAGES_AT_ONCE = 16  # their copy on the card is small beside what it holds anyway


@dataclass(slots=True, eq=False)
class _Fetching:
    """A prefix on its way from the store to the arenas."""

    refs: deque[ExtentRef]
    loading: deque[tuple[ExtentRef, Tensor, Future[None]]] = field(default_factory=deque)
    pins: ExitStack = field(default_factory=ExitStack)  #: what is stored meanwhile takes the place of others


class Archive:
    """Called by the engine's thread only; extents are written and read by others."""

    def __init__(
        self, store: SnapshotStore, pool: PagePool, arenas: Arenas, *, extent_pages: int, pinned: bool
    ) -> None:
        """`extent_pages`: how many are stored at once. `pinned`: whether the pages stand on a card."""
        self._store = store
        self._pool = pool
        self._extent_pages = extent_pages
        # The first page and the end, which may fill two, are exact.
        self._room_bytes = extent_pages * arenas.body.page_bytes + 3 * arenas.exact.page_bytes
        self._pinned = pinned
        self._keeping: list[Prefix] = []
        self._fetching: dict[Prefix, _Fetching] = {}
        self._rooms: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._rooms_made, self._rooms_most = 0, _LOADED_AHEAD + 1
        self._loaders = ThreadPoolExecutor(_LOADED_AHEAD, "archive")

    def keep(self, prefix: Prefix) -> None:
        """Have `prefix` stored, as far as it is read and while it is held.

        What could not be written, or was given up since, is tried again with the next call.
        """
        if prefix not in self._keeping and len(prefix.ids) >= _SHORTEST:
            self._keeping.append(prefix)
            stored = self._store.find(prefix.members)
            prefix.kept = stored[-1].stop if stored else 0

    def work(self, *, patient: bool = False) -> bool:
        """Take the next small step of storing; False when there is nothing to do until more is read.

        `patient`: wait a moment for memory that is still being written to the disk.
        """
        self._forget_unwanted()
        self._keeping = [
            prefix for prefix in self._keeping if prefix.held and prefix.kept < len(prefix.members)
        ]
        return any(self._store_next(prefix, _PATIENCE_S if patient else 0) for prefix in self._keeping)

    def fetch(self, prefix: Prefix) -> int | None:
        """Bring the next stored part of an incomplete prefix; None when nothing is stored.

        Returns how many tokens: 0 while the disk is still busy with them, for which others need not wait.
        """
        if prefix not in self._fetching:
            self._forget_unwanted()
            refs = self._stored(prefix) if len(prefix.ids) >= _SHORTEST else []
            self._fetching[prefix] = _Fetching(deque(refs))
            self._fetching[prefix].pins.enter_context(self._store.pin(refs))
        fetching = self._fetching[prefix]
        self._skip(fetching, prefix.read)
        while len(fetching.loading) < _LOADED_AHEAD and fetching.refs and (room := self._room()) is not None:
            ref = fetching.refs.popleft()
            view = _bytes(room, ref.extent.payload_bytes)
            fetching.loading.append((ref, room, self._loaders.submit(self._store.load, ref, view)))
        if not fetching.loading or fetching.loading[0][0].start * PAGE > prefix.read:
            return None
        if not wait([fetching.loading[0][-1]], _PATIENCE_S).done:
            return 0
        ref, room, loaded = fetching.loading.popleft()
        try:
            loaded.result()
            return self._place(prefix, ref, room)
        except SnapshotDamaged:  # when it has been read, what follows is still good
            prefix.kept = min(prefix.kept, ref.start)
            return None
        except RuntimeError:  # the card lacks memory for it, and without it what follows is of no use
            self._give_up(fetching)
            self._drain()
            raise
        finally:
            self._rooms.put(room)

    def close(self) -> None:
        """Store what is on its way."""
        self._loaders.shutdown()
        self._store.close()

    def _store_next(self, prefix: Prefix, wait_s: float) -> bool:
        """Hand over the next extent, if it is read, as soon as there is room; it may still be copied."""
        start, pages = prefix.kept, len(prefix.pages)
        stop = min((start // self._extent_pages + 1) * self._extent_pages, pages)
        if stop == pages and prefix.complete:
            stop += 1  # the end
        elif stop * PAGE > prefix.read or stop == pages:
            return False
        if not self._store.wait_for_room(self._room_bytes, wait_s) or (room := self._room(wait_s)) is None:
            return wait_s > 0 and self._rooms_most > 0
        try:
            size = self._fill(room, prefix, start, stop)
        except RuntimeError as exc:  # the card lacks memory for a few pages more
            logger.warning("A part of what is read is not stored for later: %s", exc)
            self._drain()
            self._rooms.put(room)
            self._give_up_storing(prefix)
            return False
        until_filled, data = self._waiter(), _bytes(room, size)

        def done(stored: bool) -> None:
            until_filled()
            self._rooms.put(room)

        if not self._store.save(
            prefix.members, start, stop, data, done, wait_until_filled=until_filled, owners=prefix.owners
        ):
            done(stored=False)
            self._give_up_storing(prefix)  # the pages before these are not stored
            return False
        prefix.kept = stop
        return True

    def _give_up_storing(self, prefix: Prefix) -> None:
        self._keeping = [other for other in self._keeping if other is not prefix]

    def _fill(self, room: Tensor, prefix: Prefix, start: int, stop: int) -> int:
        """Begin to copy those members; how many bytes they take."""
        size = 0
        for arena, run in _runs(prefix, start, stop):
            data = room[size : size + run.pages * arena.page_bytes]
            data.copy_(arena.pages(run).flatten(), non_blocking=True)
            size += len(data)
        return size

    def _waiter(self) -> Callable[[], object]:
        """Waits, on any thread, for what is being copied now."""
        if not self._pinned:
            return lambda: None
        copied = torch.cuda.current_stream().record_event()

        def until_filled() -> None:
            with torch.cuda.device(copied.device):  # else a new thread takes memory of the first card
                copied.synchronize()

        return until_filled

    def _drain(self) -> None:
        """Wait until nothing is copied to or from rooms any more."""
        if self._pinned:
            torch.cuda.current_stream().synchronize()

    def _place(self, prefix: Prefix, ref: ExtentRef, room: Tensor) -> int:
        """Copy what was loaded to where it belongs, but for pages that were read: others may see them."""
        before, extent = prefix.read, ref.extent
        first = min(max(before // PAGE, extent.start), len(prefix.pages))
        position = sum(run.pages * arena.page_bytes for arena, run in _runs(prefix, extent.start, first))
        for arena, run in _runs(prefix, first, ref.stop):
            data = room[position : position + run.pages * arena.page_bytes]
            arena.set_pages(run, data.view(run.pages, -1))
            position += len(data)
        self._drain()  # `room` is filled again
        end = len(prefix.ids) if ref.stop > len(prefix.pages) else ref.stop * PAGE
        self._pool.advance(prefix, end - before)
        return end - before

    def _stored(self, prefix: Prefix) -> list[ExtentRef]:
        """Its stored beginning, as far as its parts fit a room: others may store larger ones."""
        refs = self._store.find(prefix.members)
        return list(takewhile(lambda ref: ref.extent.payload_bytes <= self._room_bytes, refs))

    def _skip(self, fetching: _Fetching, read: int) -> None:
        """Parts that were read meanwhile. Rooms are free as soon as nothing is loaded into them any more."""
        while fetching.loading and fetching.loading[0][0].stop * PAGE <= read:
            _, room, loading = fetching.loading.popleft()
            loading.add_done_callback(partial(_put_back, self._rooms, room))
        while fetching.refs and fetching.refs[0].stop * PAGE <= read:
            fetching.refs.popleft()

    def _give_up(self, fetching: _Fetching) -> None:
        self._skip(fetching, sys.maxsize)
        fetching.pins.close()

    def _forget_unwanted(self) -> None:
        for prefix in [prefix for prefix in self._fetching if not prefix.users or prefix.complete]:
            self._give_up(self._fetching.pop(prefix))

    def _room(self, wait_s: float = 0) -> Tensor | None:
        """Memory for one extent; None while all of it is in use."""
        try:
            made = self._rooms_made >= self._rooms_most
            return self._rooms.get(block=made and wait_s > 0, timeout=wait_s or None)
        except queue.Empty:
            if made:
                return None
        size = (self._room_bytes,)
        try:
            room = pinned.empty(size, torch.uint8) if self._pinned else torch.empty(size, dtype=torch.uint8)
        except (OSError, RuntimeError) as exc:  # nothing here fails a request
            self._rooms_most = self._rooms_made
            logger.warning("Little or nothing of what is read can be stored for later: %s", exc)
            return None
        self._rooms_made += 1
        return room


def _put_back(rooms: queue.SimpleQueue[Tensor], room: Tensor, _: Future[None]) -> None:
    rooms.put(room)


def _runs(prefix: Prefix, start: int, stop: int) -> Iterator[tuple[Arena, Run]]:
    """Where the members of a prefix's chain stand, in order, a few pages at a time."""
    for arena, pages in groupby(prefix.pages[start:stop], lambda page: page.arena):
        for run in joined(page.index for page in pages):
            for first in range(run.start, run.end, _PAGES_AT_ONCE):
                yield arena, Run(first, min(_PAGES_AT_ONCE, run.end - first))
    if stop > len(prefix.pages):
        for span in prefix.end:
            yield span.arena, Run(span.start // PAGE, -(-span.tokens // PAGE))


def _bytes(room: Tensor, size: int) -> memoryview:
    return memoryview(room[:size].numpy())  # type: ignore[arg-type]
