"""Where keys and values are kept: arenas of pages, and spans of tokens in them.

A page is 128 tokens of every layer. The exact arena holds keys and values as the model made them; a packed
one holds fewer bits (`formats`). Arenas stand on the card or in pinned host memory, which kernels read in
place. All memory is allocated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from worker.engine import pinned
from worker.engine.centred import E4M3, Centred
from worker.engine.formats import PackedFormat, PackedPages
from worker.engine.page import PAGE
from worker.engine.runs import Run, Runs, joined

T = TypeVar("T")

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (1, KV heads, tokens, dim), often views."""

PIECE = 65_536
"""Most tokens of a piece in bf16, where its kernel takes no more: longer calls are slower a key, or wrong."""
SMALLEST = 512
"""Tokens below which a piece is halved no further, where a kernel plans every length anew."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One token's keys, or values."""

    layers: int
    kv_heads: int
    dim: int


class Arena(Protocol):
    """Pages of one format in one place."""

    runs: Runs

    @property
    def page_bytes(self) -> int:
        """Of one page, all layers."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that is kept, each (layers, pages, ...)."""
        ...

    def pages(self, run: Run) -> Tensor:
        """A copy of pages as bytes, (pages, `page_bytes`), each with all its layers."""
        ...

    def set_pages(self, run: Run, data: Tensor) -> None:
        """The inverse of `pages`; `data` may lie elsewhere."""
        ...

    def clear(self, run: Run) -> None:
        """Leave nothing of what stood in these pages."""
        ...

    def put(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Keep keys and values (tokens, KV heads, dim) from token `start` on."""
        ...

    def get(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Fill keys and values (tokens, KV heads, dim) from token `start` on."""
        ...


class _Pages:
    """What arenas do with whole pages, whatever is in them."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @property
    def page_bytes(self) -> int:
        return sum(x[:, :1].nbytes for x in self.tensors)

    def pages(self, run: Run) -> Tensor:
        return torch.cat(
            [
                x[:, run.start : run.end].transpose(0, 1).reshape(run.pages, -1).view(torch.uint8)
                for x in self.tensors
            ],
            dim=1,
        )

    def set_pages(self, run: Run, data: Tensor) -> None:
        tensors, position = self.tensors, 0
        data = data.to(tensors[0].device, non_blocking=True)
        for x in tensors:
            target = x[:, run.start : run.end].transpose(0, 1)
            size = target[0].nbytes
            source = data[:, position : position + size]
            target.copy_(source.contiguous().view(x.dtype).view(target.shape))
            position += size

    def clear(self, run: Run) -> None:
        for x in self.tensors:
            x[:, run.start : run.end].zero_()


class ExactArena(_Pages):
    """Keys and values as they are, tokens side by side, so that adjacent pages are one view."""

    def __init__(self, shape: Shape, pages: int, **options: Any) -> None:
        """`options` (device, dtype, pin_memory) are `torch.empty`'s."""
        # One page more, which nobody holds: where graphs of fixed size write what nobody asked for.
        size = (shape.layers, (pages + 1) * PAGE, shape.kv_heads, shape.dim)
        self.keys, self.values = _empty(size, **options), _empty(size, **options)
        self.on_device = not options.get("pin_memory", False)
        self.runs = Runs(pages)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x.view(len(x), -1, PAGE, *x.shape[2:]) for x in (self.keys, self.values))

    @property
    def scratch(self) -> int:
        """The first token of the page that nobody holds."""
        return self.runs.pages * PAGE

    def view(self, layer: int, start: int, tokens: int) -> KeysValues:
        end = start + tokens
        return _heads_first(self.keys[layer, start:end]), _heads_first(self.values[layer, start:end])

    def put(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        self.keys[layer, start : start + len(keys)].copy_(keys)
        self.values[layer, start : start + len(values)].copy_(values)

    def get(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        keys.copy_(self.keys[layer, start : start + len(keys)], non_blocking=True)
        values.copy_(self.values[layer, start : start + len(values)], non_blocking=True)


class PackedArena(_Pages):
    """Keys and values in few bits, whole pages at a time."""

    def __init__(self, shape: Shape, format: PackedFormat, pages: int, **options: Any) -> None:
        """`options` (device, pin_memory) are `torch.empty`'s."""
        self.format = format
        self.codes = _empty((shape.layers, *format.codes_shape(pages)), dtype=torch.uint8, **options)
        self.scales = _empty((shape.layers, *format.scales_shape(pages)), dtype=torch.bfloat16, **options)
        self.on_device = not options.get("pin_memory", False)
        self.runs = Runs(pages)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.scales

    def put(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        self.format.pack(keys, values, *self.at(layer, start, len(keys)))

    def get(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        self.format.unpack(*self.at(layer, start, len(keys)), keys, values)

    def at(self, layer: int, start: int, tokens: int) -> PackedPages:
        """As they stand."""
        pages = slice(start // PAGE, (start + tokens) // PAGE)
        return self.codes[layer, pages], self.scales[layer, pages]


class Span(NamedTuple):
    """Consecutive tokens of a sequence that stand side by side in an arena."""

    arena: Arena
    start: int  #: in tokens
    tokens: int

    def part(self, start: int, end: int) -> Span:
        return Span(self.arena, self.start + start, end - start)


def cut(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """The spans of the tokens from `start` to `end`."""
    found: list[Span] = []
    position = 0
    for span in spans:
        low, high = max(start - position, 0), min(end - position, span.tokens)
        if low < high:
            found.append(span.part(low, high))
        position += span.tokens
    return found


def spans_of(arena: Arena, pages: Iterable[int]) -> list[Span]:
    """Pages in their order, as spans."""
    return [Span(arena, run.start * PAGE, run.pages * PAGE) for run in joined(pages)]


def put(spans: Iterable[Span], layer: int, keys: Tensor, values: Tensor) -> None:
    """Keep keys and values (tokens, KV heads, dim) where `spans` say."""
    position = 0
    for span in spans:
        new = slice(position, position + span.tokens)
        span.arena.put(layer, span.start, keys[new], values[new])
        position += span.tokens


def copy_pages(source: Arena, pages: Sequence[int], target: Arena, target_pages: Sequence[int]) -> None:
    """Copy whole pages between two arenas of the same format, all layers."""
    for run, other in _paired(pages, target_pages):
        for old, new in zip(source.tensors, target.tensors, strict=True):
            for layer in range(len(old)):  # one layer's pages are one block of memory
                new[layer, other.start : other.end].copy_(old[layer, run.start : run.end], non_blocking=True)
    for device in {x.device for x in (*source.tensors, *target.tensors) if x.is_cuda}:
        # Else the processor could read or write the host's pages before they are copied.
        torch.cuda.current_stream(device).synchronize()


def _paired(pages: Sequence[int], others: Sequence[int]) -> Iterator[tuple[Run, Run]]:
    """Runs that are adjacent on both sides."""
    begin = 0
    for i in range(1, len(pages) + 1):
        if i == len(pages) or pages[i] != pages[i - 1] + 1 or others[i] != others[i - 1] + 1:
            yield Run(pages[begin], i - begin), Run(others[begin], i - begin)
            begin = i


class Pieces:
    """A sequence's keys and values, layer by layer, in pieces that attention can take.

    What is exact and in place is given as it is; the rest goes through two buffers in turn. Where there is a
    card, they are filled on a stream of their own while attention works on the other one.
    """

    def __init__(
        self, shape: Shape, *, dtype: torch.dtype, device: torch.device | None = None, piece: int = PIECE
    ) -> None:
        self._shape, self._dtype, self._device, self._piece = shape, dtype, device, piece
        self._buffers: list[_Buffer] = []
        self._staging: PackedArena | None = None

    def of(
        self, spans: Sequence[Span], layer: int, *, halving: bool = False, in_place: int = 0
    ) -> Iterator[KeysValues]:
        """Pieces in order, each at most `piece` tokens; one is good until the next but one is asked for.

        `halving`: the last piece comes in powers of two, for kernels that plan every length anew.
        `in_place`: most tokens of a piece, if that is more, where all stand side by side and need no copy.
        """
        most = max(self._piece, in_place if spans and _in_place(spans, layer) else 0)
        cuts = _cuts(spans, most, SMALLEST if halving else most)
        return _ahead(self._plain(part, layer) for part in cuts)

    def centred(self, spans: Sequence[Span], layer: int) -> Iterator[Centred]:
        """As `of`, of packed tokens in 8-bit floats: twice as many in a piece.

        The first piece begins to fill at once; ask for no other pieces before the last of these is in use.
        """
        most = 2 * self._piece
        pieces = (self._centred(part, layer) for part in _cuts(spans, most, most))
        return _ahead(chain(list(islice(pieces, 1)), pieces))

    def _plain(self, spans: Sequence[Span], layer: int) -> _Ready[KeysValues]:
        if view := _in_place(spans, layer):
            return _Ready(view, None)
        return self._next().fill(lambda buffer: buffer.unpacked(spans, layer))

    def _centred(self, spans: Sequence[Span], layer: int) -> _Ready[Centred]:
        return self._next().fill(lambda buffer: self._encoded(spans, layer, buffer))

    def _encoded(self, spans: Sequence[Span], layer: int, buffer: _Buffer) -> Centred:
        pages, position = [], 0
        for arena, start, tokens in spans:
            assert isinstance(arena, PackedArena)
            format = arena.format
            found = arena.at(layer, start, tokens)
            if not arena.on_device:  # codes are read twice, and the bus is slow
                found = self._staged(found, format, position)
            pages.append(found)
            position += tokens
        return format.centre(pages, *buffer.codes(position))

    def stage(self, format: PackedFormat) -> PackedArena:
        """Room on the device for what `centred` sees of the computer's memory; taken once."""
        if self._staging is None:
            one = replace(self._shape, layers=1)
            self._staging = PackedArena(one, format, 2 * self._piece // PAGE, device=self._device)
        return self._staging

    def _staged(self, pages: PackedPages, format: PackedFormat, position: int) -> PackedPages:
        staged = self.stage(format).at(0, position, len(pages[0]) * PAGE)
        for target, source in zip(staged, pages, strict=True):
            target.copy_(source, non_blocking=True)
        return staged

    def buffer(self) -> KeysValues:
        """Room for a whole piece, as attention will see it."""
        buffer = self._next()
        return _heads_first(buffer.keys), _heads_first(buffer.values)

    def _next(self) -> _Buffer:
        """The one that was filled before the other."""
        if not self._buffers:
            size = self._piece, self._shape.kv_heads, self._shape.dim
            a, b, c, d = (torch.empty(size, dtype=self._dtype, device=self._device) for _ in range(4))
            stream = torch.cuda.Stream(self._device) if a.is_cuda else None
            self._buffers = [_Buffer(a, b, stream), _Buffer(c, d, stream)]
        self._buffers.reverse()
        return self._buffers[0]


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Room for one piece."""

    keys: Tensor
    values: Tensor
    stream: torch.cuda.Stream | None  #: the other buffer's too

    def fill(self, make: Callable[[_Buffer], T]) -> _Ready[T]:
        if self.stream is None:
            return _Ready(make(self), None)
        # Attention over what the buffer held (and over what was allocated here and is free again), and the
        # writing of these pages, were queued before.
        self.stream.wait_stream(torch.cuda.current_stream(self.keys.device))
        with torch.cuda.stream(self.stream):
            return _Ready(make(self), self.stream.record_event())

    def unpacked(self, spans: Sequence[Span], layer: int) -> KeysValues:
        position = 0
        for span in spans:
            part = slice(position, position + span.tokens)
            span.arena.get(layer, span.start, self.keys[part], self.values[part])
            position += span.tokens
        return _heads_first(self.keys[:position]), _heads_first(self.values[:position])

    def codes(self, tokens: int) -> KeysValues:
        """The same room for 8-bit floats, (tokens, KV heads, dim)."""
        keys, values = (x.view(E4M3).view(-1, *x.shape[1:])[:tokens] for x in (self.keys, self.values))
        return keys, values


class _Ready(NamedTuple, Generic[T]):
    """A piece, once it is `done`."""

    piece: T
    done: torch.cuda.Event | None

    def take(self) -> T:
        if self.done is not None:
            self.done.wait()
        return self.piece


def _ahead(pieces: Iterator[_Ready[T]]) -> Iterator[T]:
    waiting = next(pieces, None)
    while waiting is not None:
        ready = waiting
        waiting = next(pieces, None)  # begins to fill while `ready` is used
        yield ready.take()


def _cuts(spans: Sequence[Span], largest: int, smallest: int) -> Iterator[list[Span]]:
    ends = accumulate(sizes(_tokens(spans), largest, smallest), initial=0)
    return (cut(spans, start, end) for start, end in pairwise(ends))


def _in_place(spans: Sequence[Span], layer: int) -> KeysValues | None:
    """The piece as it stands, where it is one exact span on the device."""
    span = spans[0]
    if len(spans) > 1 or not isinstance(span.arena, ExactArena) or not span.arena.on_device:
        return None
    return span.arena.view(layer, span.start, span.tokens)


def sizes(tokens: int, largest: int, smallest: int) -> Iterator[int]:
    """`tokens` as pieces: the largest first, then halves of it down to the smallest, then the rest."""
    size = largest
    while tokens:
        if tokens < size and size > smallest:
            size //= 2
            continue
        yield min(size, tokens)
        tokens -= min(size, tokens)


def _empty(size: tuple[int, ...], *, pin_memory: bool = False, **options: Any) -> Tensor:
    return pinned.empty(size, options["dtype"]) if pin_memory else torch.empty(size, **options)


def _tokens(spans: Iterable[Span]) -> int:
    return sum(span.tokens for span in spans)


def _heads_first(x: Tensor) -> Tensor:
    """(tokens, heads, dim) seen as (1, heads, tokens, dim)."""
    return x.transpose(0, 1)[None]
