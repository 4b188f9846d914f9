"""One token of every seat in one CUDA graph: layers compiled, attention by our own kernels.

A graph has a fixed number of seats and takes what changes from memory: the seats' tokens, how long their
tails are, and which keys they must see (`kernels.plan`). It counts tokens and lengths on by itself: while
every seat goes on with its likeliest token, the next step is started before this one is waited for, so that
the card never waits for the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine.decoder import Decoder
from worker.engine.formats import PackedFormat
from worker.engine.kernels import decode
from worker.engine.kernels.plan import COLUMNS, Group, Plan, Tail, plan
from worker.engine.kernels.plan import Span as Stretch
from worker.engine.kernels.selftest import worst_error
from worker.engine.kv import Arena, ExactArena, PackedArena, Span
from worker.engine.passes import Seat
from worker.engine.pool import Arenas
from worker.engine.writer import PlainWriter, Writer, Written, widths

_MOST_PARTS = 1_024
_TOLERANCE = 2e-2  # relative, of bf16
_COARSE_TOLERANCE = 5e-2  # of weights in e4m3, where values have no mean


class GraphWriter:
    """Writes through graphs, once they are warmed up; what none can do, the plain way."""

    def __init__(self, decoder: Decoder, arenas: Arenas, seats: int) -> None:
        """`seats`: how many requests write at once. Layers should be compiled for `widths` before."""
        self._plain: Writer = PlainWriter(decoder)
        self._state = _State(decoder, arenas, seats)
        self._widths = widths(seats)
        self._most_rows = decode.most_rows(decoder.heads // decoder.shape.kv_heads)
        self._graphs: dict[_Form, torch.cuda.CUDAGraph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        self._layout: list[tuple[int, Sequence[Span], Span]] = []
        self._fits = False
        self._form = _Form(1, 1)
        self._ahead: _Ahead | None = None

    def warm_up(self) -> None:
        """Test the kernels and capture all graphs, so that no answer waits for it.

        Raises `RuntimeError` where a kernel is wrong on this card, and what compilers raise.
        """
        for seats in self._widths:
            rows = 1
            while rows < 2 * min(seats, self._most_rows):
                self._state.check(rows)
                form = _Form(seats, rows)
                self._graphs[form] = self._capture(form)
                rows *= 2

    def write(self, seats: Sequence[Seat]) -> Written:
        if not self._seated(seats):
            return self._plain.write(seats)
        step = self._running(seats) or self._start(seats)
        # A step ahead overwrites logits, which only those who go on with the likeliest token do not need.
        next_step = self._replay() if all(seat.greedy for seat in seats) else None
        written = self._state.written(step, len(seats))
        if next_step is not None:
            expected = [after(seat, token) for seat, token in zip(seats, written.likeliest, strict=True)]
            self._ahead = _Ahead(expected, next_step)
        return written

    def _running(self, seats: Sequence[Seat]) -> _Step | None:
        """The step that runs already, if it is theirs and not of one that left and whose tail they got."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or list(seats) != ahead.seats:
            return None
        same = all(seat.tail is other.tail for seat, other in zip(seats, ahead.seats, strict=True))
        return ahead.step if same else None

    def _start(self, seats: Sequence[Seat]) -> _Step:
        self._state.load(seats)
        return self._replay()

    def _seated(self, seats: Sequence[Seat]) -> bool:
        """Make the plan for these seats, unless it stands; False where they do not fit the graph."""
        layout = [(seat.shared, seat.before, seat.tail) for seat in seats]
        if layout != self._layout:
            self._layout, self._ahead = [], None
            most = self._most_rows
            asking = [list(group) for _, group in groupby(seats, lambda seat: seat.shared)]
            groups = [group[at : at + most] for group in asking for at in range(0, len(group), most)]
            rows = 1 << (max(map(len, groups)) - 1).bit_length()
            planned = plan([self._state.group(group) for group in groups], self._state.programs(rows))
            self._fits = self._state.fits(planned)
            if self._fits:
                self._form = _Form(next(width for width in self._widths if width >= len(seats)), rows)
                self._state.seat(seats, planned)
            self._layout = layout
        return self._fits

    def _replay(self) -> _Step:
        self._graphs[self._form].replay()
        return self._state.started()

    def _capture(self, form: _Form) -> torch.cuda.CUDAGraph:
        state = self._state
        held = state.counters.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles what is not compiled yet
            for _ in range(2):
                state.step(form)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            state.step(form)
        state.counters.copy_(held)
        return graph


def after(seat: Seat, token: int) -> Seat:
    """The seat when `token` was written behind its last one."""
    return seat._replace(token=token, length=seat.length + 1, position=seat.position + 1)


class _Form(NamedTuple):
    """What a graph is made for."""

    seats: int
    rows: int  #: the most seats that share a document, a power of two


class _Step(NamedTuple):
    """A step that was started."""

    found: Tensor  #: (2, seats) in pinned memory: likeliest tokens, and whether logits are finite
    done: torch.cuda.Event  #: before it, `found` is not there yet


class _Ahead(NamedTuple):
    """A step that runs already, and what it was started for."""

    seats: list[Seat]
    step: _Step


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
        self._decoder, self._exact = decoder, arenas.exact
        device = decoder.device
        # Tokens, positions and lengths are counted on by the graph; starts and capacities are the tails'.
        self.counters = torch.zeros(5, seats, dtype=torch.int64, device=device)
        self._tokens, self._positions, self._lengths, self._starts, self._capacities = self.counters
        named = {"exact": arenas.exact, "packed": arenas.packed, "host": arenas.host}
        self._named = {name: arena for name, arena in named.items() if arena is not None}
        self._items = {name: _no_items(device) for name in self._named}
        size = (seats, _MOST_PARTS, decoder.heads)
        self._parts = _Parts(
            torch.empty(*size, decoder.shape.dim, device=device),
            torch.empty(size, device=device),
            torch.zeros(seats, dtype=torch.int32, device=device),
        )
        self._logits = torch.empty(seats, decoder.vocabulary, device=device)
        self._found = torch.zeros(2, seats, dtype=torch.int64, device=device)
        self._steps = [_new_step(seats) for _ in range(2)]  # one may be read while the other runs
        self._slots = torch.zeros(seats, dtype=torch.int64, device=device)
        self._tail_lengths = torch.zeros(seats, dtype=torch.int32, device=device)
        self._beside = torch.cuda.Stream()
        self._form, self._layer = _Form(1, 1), 0

    def check(self, rows: int) -> None:
        """Raises `RuntimeError` where the kernels for so many seats on a document are wrong."""
        decoder = self._decoder
        group = decoder.heads // decoder.shape.kv_heads
        for format in {_format(arena) for arena in self._named.values()}:
            error = worst_error(format, decoder.shape, decoder.heads, rows, decoder.device)
            coarse = format is not None and decode.is_coarse(format, rows, group, decoder.device)
            if not error <= (_COARSE_TOLERANCE if coarse else _TOLERANCE):
                raise RuntimeError(f"the kernels for {rows} seats on one document are off by {error:.2g}")

    def programs(self, rows: int) -> dict[str, int]:
        """For each arena, how many programs of its kernel run at a time for one KV head."""
        group = self._decoder.heads // self._decoder.shape.kv_heads
        return {
            name: decode.programs(_format(arena), rows, group, self._decoder.device)
            // self._decoder.shape.kv_heads
            for name, arena in self._named.items()
        }

    def group(self, seats: Sequence[Seat]) -> Group:
        """Seats about one document, as a plan takes them."""
        names = {id(arena): name for name, arena in self._named.items()}
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

    def step(self, form: _Form) -> None:
        """What a graph holds: a token of each of the first seats."""
        self._form, self._layer = form, 0
        here = slice(form.seats)
        lengths, capacities = self._lengths[here], self._capacities[here]
        torch.add(self._starts[here], torch.minimum(lengths, capacities - 1), out=self._slots[here])
        self._tail_lengths[here].copy_(torch.minimum(lengths + 1, capacities))
        with self._decoder.running(self):
            logits = self._decoder.logits(self._tokens[here, None], self._positions[here, None])
        self._logits[here].copy_(logits)
        likeliest = logits.argmax(-1)
        self._found[0, here].copy_(likeliest)
        self._found[1, here].copy_(logits.isfinite().all(-1))
        self._tokens[here].copy_(likeliest)
        self._positions[here].add_(1)
        lengths.add_(1)

    def started(self) -> _Step:
        """Behind the step that was started last, have what it finds copied to the host."""
        self._steps.reverse()
        step = self._steps[0]
        step.found.copy_(self._found, non_blocking=True)
        step.done.record()
        return step

    def written(self, step: _Step, seats: int) -> Written:
        """What a step has found; the logits are those of the step that was started last."""
        step.done.synchronize()
        likeliest, finite = step.found[:, :seats].tolist()
        return Written(self._logits[:seats], likeliest, [bool(row) for row in finite])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        layer, exact = self._layer, self._exact
        self._layer += 1
        q, keys, values = query.squeeze(2).contiguous(), exact.keys[layer], exact.values[layer]
        here = torch.cuda.current_stream()
        self._beside.wait_stream(here)
        with torch.cuda.stream(self._beside):  # little work each, and much latency
            decode.append(key.squeeze(2), value.squeeze(2), self._slots, keys, values)
            self._attend("exact", layer, q, scale)
        for name in self._named.keys() - {"exact"}:
            self._attend(name, layer, q, scale)
        here.wait_stream(self._beside)
        output = torch.empty_like(q)
        parts = _Parts(*(part[: self._form.seats] for part in self._parts))
        decode.merge(parts.outputs, parts.lse, parts.of_seat, output)
        return output[:, None]

    def _attend(self, name: str, layer: int, q: Tensor, scale: float) -> None:
        """Find the parts of all that stands in one arena."""
        arena, items, into = self._named[name], self._items[name], (self._parts.outputs, self._parts.lse)
        rows = self._form.rows
        if isinstance(arena, PackedArena):
            past = arena.codes[layer], arena.scales[layer]
            decode.attend_packed(arena.format, q, *past, *items, *into, scale, rows)
        elif isinstance(arena, ExactArena):
            past = arena.keys[layer], arena.values[layer]
            decode.attend_exact(q, *past, *items, self._tail_lengths, *into, scale, rows)


def _format(arena: Arena) -> PackedFormat | None:
    return arena.format if isinstance(arena, PackedArena) else None


def _new_step(seats: int) -> _Step:
    found = torch.zeros(2, seats, dtype=torch.int64, pin_memory=True)
    return _Step(found, torch.cuda.Event())


def _no_items(device: torch.device) -> _Items:
    rows = torch.zeros(4 * _MOST_PARTS, COLUMNS, dtype=torch.int32, device=device)
    return _Items(rows, torch.zeros((), dtype=torch.int32, device=device))
