"""One forward pass of the model: which keys and values its layers see, and where new ones go.

transformers calls our attention function in every layer (`AttentionInterface`); it asks the pass that is
running on this thread, which counts the layers as they come. So nothing about the pass enters the model's
own code, and one compiled layer serves all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from worker.engine.attention import Attention
from worker.engine.kv import Pieces, Span, cut, put
from worker.engine.page import PAGE, whole_pages

NAME = "unabridged"

_here = threading.local()


class Pass(Protocol):
    """What the layers of one forward pass ask, in their order."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Output (sequences, queries, heads, dim), contiguous.

        `query` (sequences, heads, queries, dim); `key` and `value` (sequences, KV heads, queries, dim) are
        of the queries' own tokens and are kept.
        """
        ...


class Kept(Exception):
    """Ends a pass, and is no error: `Decoder.keep` catches it.

    What the pass was run for is kept, and nobody asks for what its last layer would still compute.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """`keys` and `values` (1, KV heads, queries, dim) of the last layer."""
        self.keys, self.values = keys, values


class Reading:
    """One sequence reads a chunk."""

    def __init__(
        self,
        attention: Attention,
        pieces: Pieces,
        past: Sequence[Span],
        new: Sequence[Span],
        last: int | None = None,
    ) -> None:
        """`last`: the layer that keeps its keys and values and raises `Kept`; else all layers attend."""
        self._attention, self._pieces, self._new, self._last = attention, pieces, new, last
        self._packed, self._past = attention.split(past, sum(span.tokens for span in new))
        self._length = sum(span.tokens for span in self._past)
        self._layer = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self._layer == self._last:
            self._put(key, value)
            raise Kept(key, value)
        start, end = self._attention.rough(query, self._length)
        seen = [*cut(self._past, 0, start), *cut(self._past, end, self._length)]
        halving, in_place = self._attention.plans(query), self._attention.most_in_place(query)
        past = self._pieces.of(seen, self._layer, halving=halving, in_place=in_place)
        rough = self._attention.rough_pieces(self._pieces, cut(self._past, start, end), self._layer)
        found = [self._packed.attend(query, self._layer, scale)] if self._packed else []
        output = self._attention.read(query, past, key, value, scale, rough=rough, found=found)
        self._put(key, value)
        self._layer += 1
        return output

    def _put(self, key: Tensor, value: Tensor) -> None:
        put(self._new, self._layer, key[0].transpose(0, 1), value[0].transpose(0, 1))


class Seat(NamedTuple):
    """One request that writes a token."""

    token: int  #: written last; its keys and values are made now
    shared: int  #: names the prefix: seats side by side with the same one read it together
    before: Sequence[Span]  #: the prefix
    tail: Span
    length: int  #: tokens of the tail before this one
    position: int  #: of `token` in the prompt
    greedy: bool = False  #: whether it always goes on with the likeliest token


class Writing:
    """Several sequences write one token each; the plain way, which every faster one is tested against."""

    def __init__(self, attention: Attention, pieces: Pieces, seats: Sequence[Seat]) -> None:
        self._attention, self._pieces, self._seats = attention, pieces, seats
        groups = [list(rows) for _, rows in groupby(range(len(seats)), lambda row: seats[row].shared)]
        self._groups = [(rows, _parts(seats[rows[0]].before)) for rows in groups]
        self._layer = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        layer, outputs = self._layer, []
        for row, seat in enumerate(self._seats):
            new = [seat.tail.part(seat.length, seat.length + 1)]
            put(new, layer, key[row].transpose(0, 1), value[row].transpose(0, 1))
        for rows, before in self._groups:
            outputs += self._attend_group(query, rows, before, layer, scale)
        self._layer += 1
        return torch.cat(outputs)

    def _attend_group(
        self, query: Tensor, rows: list[int], before: list[list[Span]], layer: int, scale: float
    ) -> list[Tensor]:
        together = query[rows].transpose(0, 2)  # (1, heads, rows, dim): the rows as if one sequence's queries
        seats = [self._seats[row] for row in rows]
        seen = chain.from_iterable(self._pieces.of(spans, layer) for spans in before)
        shared = self._attention.write(together, seen, scale)
        outputs = []
        for i, (row, seat) in enumerate(zip(rows, seats, strict=True)):
            tail = cut([seat.tail], 0, seat.length + 1)
            own = self._attention.write(query[row : row + 1], self._pieces.of(tail, layer), scale)
            parts = [(out[:, :, i : i + 1], lse[:, :, i : i + 1]) for out, lse in shared]
            output, _ = self._attention.merge([*parts, *own])
            outputs.append(output.to(query.dtype).transpose(1, 2))
        return outputs


def _parts(before: Sequence[Span]) -> list[list[Span]]:
    """A prefix's pages, often one view of memory, and its end, which stands elsewhere."""
    tokens = sum(span.tokens for span in before)
    pages = whole_pages(tokens) * PAGE
    return [cut(before, 0, pages), cut(before, pages, tokens)]


@contextmanager
def running(current: Pass) -> Iterator[None]:
    """Layers called on this thread ask `current`."""
    _here.current = current
    try:
        yield
    finally:
        del _here.current


class PromptCache:
    """What the model gets as `past_key_values`: keys and values pass through it to our attention."""

    is_compileable = False

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return keys, values

    # Positions are always given and no mask is built, so the model needs no lengths.

    def get_seq_length(self, layer: int | None = 0) -> int:
        return 0

    def get_query_offset(self, layer: int | None = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer: int | None = 0) -> tuple[int, int]:
        return query_length, 0


@torch.library.custom_op("unabridged::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """For compiled layers, which must not look inside."""
    output: Tensor = _here.current.attend(query, key, value, scale)
    return output


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    sequences, heads, queries, dim = query.shape
    return query.new_empty(sequences, queries, heads, dim)


def forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls."""
    for name in ("sliding_window", "softcap", "s_aux"):
        if options.get(name) is not None:
            raise NotImplementedError(
                f"this model's attention uses {name}, which the engine does not support"
            )
    if torch.compiler.is_compiling():
        return _attend(_tokens_outermost(query), key, value, options["scaling"]), None
    return _here.current.attend(query, key, value, options["scaling"]), None


def _tokens_outermost(query: Tensor) -> Tensor:
    """The same, so laid out in memory that attention is fastest (`attention._by_token`)."""
    query = query.transpose(1, 2)
    if query.stride(1) <= query.stride(2):
        query = query.contiguous()
    return query.transpose(1, 2)


def register() -> None:
    """Make the attention known to transformers under `NAME`; no mask is ever built for it."""
    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
