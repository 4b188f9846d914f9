"""One token of every seat in one CUDA graph: layers compiled, attention by our own kernels.

The graph has a fixed number of seats and takes what changes from memory: the seats' tokens, how long their
tails are, and which keys they must see (`kernels.plan`). It counts tokens and lengths on by itself: while
every seat goes on with its likeliest token, a step is started before the last one's tokens are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine import passes
from worker.engine.decoder import Decoder
from worker.engine.kernels import decode
from worker.engine.kernels.plan import COLUMNS, Group, Plan, Tail, plan
from worker.engine.kernels.plan import Span as Stretch
from worker.engine.kv import ExactArena, PackedArena, Span
from worker.engine.passes import Seat
from worker.engine.pool import Arenas
from worker.engine.writer import PlainWriter, Writer, Written

_MOST_PARTS = 1_024


class GraphWriter:
    """Writes through graphs; what none can do, the plain way."""

    def __init__(self, decoder: Decoder, arenas: Arenas, seats: int) -> None:
        """`seats`: how many requests write at once. Layers should be compiled before."""
        self._decoder = decoder
        self._plain: Writer = PlainWriter(decoder)
        self._state = _State(decoder, arenas, seats)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        self._layout: list[tuple[int, Sequence[Span], Span]] = []
        self._rows = 1
        self._ahead: list[Seat] = []  # what the step that runs already was started for

    def warm_up(self) -> None:
        """Capture all graphs, so that no answer waits for it."""
        rows = 1
        while rows <= self._state.seats:
            self._graphs[rows] = self._capture(rows)
            rows *= 2

    def write(self, seats: Sequence[Seat]) -> Written:
        if not self._seated(seats):
            return self._plain.write(seats)
        if not self._is_ahead(seats):
            self._state.load(seats)
            self._replay()
        written = self._state.written(len(seats))
        self._ahead = []
        if all(seat.greedy for seat in seats):  # a step ahead overwrites logits, which the others need
            self._ahead = [after(seat, token) for seat, token in zip(seats, written.likeliest, strict=True)]
            self._replay()
        return written

    def _is_ahead(self, seats: Sequence[Seat]) -> bool:
        """Whether the step that runs already is theirs, and not of one that left and whose tail they got."""
        return list(seats) == self._ahead and all(
            seat.tail is other.tail for seat, other in zip(seats, self._ahead, strict=True)
        )

    def _seated(self, seats: Sequence[Seat]) -> bool:
        """Make the plan for these seats, unless it stands; False where they do not fit the graph."""
        layout = [(seat.shared, seat.before, seat.tail) for seat in seats]
        if layout != self._layout:
            self._layout, self._ahead = [], []
            groups = [list(group) for _, group in groupby(seats, lambda seat: seat.shared)]
            self._rows = 1 << (max(map(len, groups)) - 1).bit_length()
            planned = plan([self._state.group(group) for group in groups], self._state.programs(self._rows))
            if not self._state.fits(planned):
                return False
            self._state.seat(seats, planned)
            self._layout = layout
        return True

    def _replay(self) -> None:
        if self._rows not in self._graphs:
            self._graphs[self._rows] = self._capture(self._rows)
        self._graphs[self._rows].replay()
        self._state.started()

    def _capture(self, rows: int) -> torch.cuda.CUDAGraph:
        state = self._state
        held = state.counters.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles what is not compiled yet
            for _ in range(2):
                state.step(rows)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            state.step(rows)
        state.counters.copy_(held)
        return graph


def after(seat: Seat, token: int) -> Seat:
    """The seat when `token` was written behind its last one."""
    return seat._replace(token=token, length=seat.length + 1, position=seat.position + 1)


class _Items(NamedTuple):
    """What one kernel is to read (`kernels.plan`)."""

    rows: Tensor
    valid: Tensor


class _Parts(NamedTuple):
    """What the kernels found for each seat."""

    outputs: Tensor
    lse: Tensor
    of_seat: Tensor


class _State:
    """The memory that graphs read and write, and the step itself."""

    def __init__(self, decoder: Decoder, arenas: Arenas, seats: int) -> None:
        assert isinstance(arenas.exact, ExactArena)
        self.seats = seats
        self._decoder, self._arenas, self._exact = decoder, arenas, arenas.exact
        device = decoder.device
        # Tokens, positions and lengths are counted on by the graph; starts and capacities are the tails'.
        self.counters = torch.zeros(5, seats, dtype=torch.int64, device=device)
        self._tokens, self._positions, self._lengths, self._starts, self._capacities = self.counters
        self._items = {name: _no_items(device) for name in self._names()}
        size = (seats, _MOST_PARTS, decoder.heads)
        self._parts = _Parts(
            torch.empty(*size, decoder.shape.dim, device=device),
            torch.empty(size, device=device),
            torch.zeros(seats, dtype=torch.int32, device=device),
        )
        self._logits = torch.empty(seats, decoder.vocabulary, device=device)
        self._found = torch.zeros(2, seats, dtype=torch.int64, device=device)
        self._found_host = torch.zeros(2, seats, dtype=torch.int64, pin_memory=True)
        self._slots = torch.zeros(seats, dtype=torch.int64, device=device)
        self._tail_lengths = torch.zeros(seats, dtype=torch.int32, device=device)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._rows, self._layer = 1, 0

    def _names(self) -> list[str]:
        return [name for name in ("exact", "packed", "host") if getattr(self._arenas, name) is not None]

    def programs(self, rows: int) -> dict[str, int]:
        """For each arena, how many programs of its kernel run at a time for one KV head."""
        group = self._decoder.heads // self._decoder.shape.kv_heads
        formats = {name: getattr(getattr(self._arenas, name), "format", None) for name in self._names()}
        return {
            name: decode.programs(format, rows, group, self._decoder.device) // self._decoder.shape.kv_heads
            for name, format in formats.items()
        }

    def group(self, seats: Sequence[Seat]) -> Group:
        """Seats about one document, as a plan takes them."""
        names = {id(getattr(self._arenas, name)): name for name in self._names()}
        spans = [Stretch(names[id(span.arena)], span.start, span.tokens) for span in seats[0].before]
        return Group(spans, [Tail(seat.tail.start, seat.tail.tokens) for seat in seats])

    def fits(self, planned: Plan) -> bool:
        return (
            len(planned.part_counts) <= self.seats
            and int(planned.part_counts.max()) <= _MOST_PARTS
            and all(len(items) <= len(self._items[name].rows) for name, items in planned.items.items())
        )

    def seat(self, seats: Sequence[Seat], planned: Plan) -> None:
        """Take over who sees what."""
        for name, items in planned.items.items():
            self._items[name].rows[: len(items)].copy_(torch.from_numpy(items))
            self._items[name].valid.fill_(len(items))
        self._parts.of_seat.zero_()
        self._parts.of_seat[: len(seats)].copy_(torch.from_numpy(planned.part_counts))
        self._starts.fill_(self._exact.scratch)
        self._capacities.fill_(1)
        self._set(3, [[seat.tail.start for seat in seats], [seat.tail.tokens for seat in seats]])

    def load(self, seats: Sequence[Seat]) -> None:
        """Take over the seats' tokens and lengths."""
        self._set(0, [[s.token for s in seats], [s.position for s in seats], [s.length for s in seats]])

    def _set(self, first: int, rows: list[list[int]]) -> None:
        new = torch.tensor(rows)
        self.counters[first : first + len(rows), : new.shape[1]].copy_(new)

    def step(self, rows: int) -> None:
        """What a graph holds. `rows`: the most seats that share a document, a power of two."""
        self._rows, self._layer = rows, 0
        torch.add(self._starts, torch.minimum(self._lengths, self._capacities - 1), out=self._slots)
        self._tail_lengths.copy_(torch.minimum(self._lengths + 1, self._capacities))
        with passes.running(self):
            logits = self._decoder.logits(self._tokens[:, None], self._positions[:, None])
        self._logits.copy_(logits)
        likeliest = logits.argmax(-1)
        self._found[0].copy_(likeliest)
        self._found[1].copy_(logits.isfinite().all(-1))
        self._found_host.copy_(self._found, non_blocking=True)
        self._tokens.copy_(likeliest)
        self._positions.add_(1)
        self._lengths.add_(1)

    def started(self) -> None:
        self._done.record()

    def written(self, seats: int) -> Written:
        """What the step that was started last has found."""
        self._done.synchronize()
        likeliest, finite = self._found_host[:, :seats].tolist()
        return Written(self._logits[:seats], likeliest, [bool(row) for row in finite])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        layer, exact = self._layer, self._exact
        self._layer += 1
        q, keys, values = query.squeeze(2).contiguous(), exact.keys[layer], exact.values[layer]
        decode.append(key.squeeze(2).contiguous(), value.squeeze(2).contiguous(), self._slots, keys, values)
        here = torch.cuda.current_stream()
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):  # little work each, and much latency
            self._attend("exact", layer, q, scale)
        for name in self._names()[1:]:
            self._attend(name, layer, q, scale)
        here.wait_stream(self._beside)
        output = torch.empty_like(q)
        decode.merge(*self._parts, output)
        return output[:, None]

    def _attend(self, name: str, layer: int, q: Tensor, scale: float) -> None:
        """Find the parts of all that stands in one arena."""
        arena, items, into = (
            getattr(self._arenas, name),
            self._items[name],
            (self._parts.outputs, self._parts.lse),
        )
        if isinstance(arena, PackedArena):
            past = arena.codes[layer], arena.scales[layer]
            decode.attend_packed(arena.format, q, *past, *items, *into, scale, self._rows)
        else:
            past = arena.keys[layer], arena.values[layer]
            decode.attend_exact(q, *past, *items, self._tail_lengths, *into, scale, self._rows)


def _no_items(device: torch.device) -> _Items:
    rows = torch.zeros(4 * _MOST_PARTS, COLUMNS, dtype=torch.int32, device=device)
    return _Items(rows, torch.zeros((), dtype=torch.int32, device=device))
