"""Few queries over packed pages where they stand on the card: nothing is unpacked.

The tokens of a question all see the whole document, as seats that share it do when they write a token each,
so the same kernel takes them, some at a time. For a short question that is a few launches a layer, where
unpacking takes several for each piece of the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.attention import reference, relative_error
from worker.engine.formats import PackedFormat
from worker.engine.kernels import decode
from worker.engine.kernels.plan import Group, Tail, plan
from worker.engine.kernels.plan import Span as Stretch
from worker.engine.kv import PIECE, PackedArena, Shape, Span
from worker.engine.page import PAGE

# By bits: with more queries unpacking once for all is faster. Measured on an H200 at a million tokens.
_MOST_QUERIES = {8: 511, 4: 96}
_QUERIES_A_PIECE = 32  # nor more than these: a short document is unpacked in a few launches
_MOST_ITEMS = 1_024  # pages that lie far apart would take memory for the parts of each
_TEST_PAGES = 20
_TOLERANCE = 5e-2  # relative: weights in e4m3 are off by 0.03 where values have no mean


class PackedAttention:
    """For pages of one arena."""

    def __init__(self, arena: PackedArena, heads: int) -> None:
        self.arena = arena
        group = heads // arena.format.kv_heads
        device = arena.codes.device
        self.rows = max(1, decode.most_rows(group) // 2)  # at a time
        self.programs = decode.programs(arena.format, self.rows, group, device) // arena.format.kv_heads

    def past(self, spans: Sequence[Span], queries: int) -> PackedPast | None:
        """Of spans of the arena; None where unpacking them suits so many queries better."""
        pieces = -(-sum(span.tokens for span in spans) // PIECE)
        if queries > min(_MOST_QUERIES[self.arena.format.bits], pieces * _QUERIES_A_PIECE):
            return None
        past = self.seen(spans)
        return past if len(past.items) <= _MOST_ITEMS else None

    def seen(self, spans: Sequence[Span]) -> PackedPast:
        """Of spans of the arena, for any number of queries."""
        stretches = [Stretch("packed", span.start, span.tokens) for span in spans]
        planned = plan([Group(stretches, [Tail(0, 0)] * self.rows)], {"packed": self.programs})
        device = self.arena.codes.device
        items = torch.from_numpy(planned.items["packed"]).to(device)
        count = torch.tensor(len(items), dtype=torch.int32, device=device)
        return PackedPast(self, items, count, torch.from_numpy(planned.part_counts).to(device))


@dataclass(frozen=True, slots=True)
class PackedPast:
    """What one pass sees of the arena."""

    attention: PackedAttention
    items: Tensor  #: see `kernels.plan`; each for as many seats as are taken at a time
    count: Tensor
    part_counts: Tensor

    def attend(self, q: Tensor, layer: int, scale: float) -> tuple[Tensor, Tensor]:
        """Output, as q (1, heads, queries, dim), and log-sum-exp (1, heads, queries) in fp32."""
        arena, rows = self.attention.arena, self.attention.rows
        _, heads, queries, dim = q.shape
        padded = -(-queries // rows) * rows
        query = q.new_zeros(padded, heads, dim)
        query[:queries] = q[0].transpose(0, 1)
        output, lse = torch.empty_like(query), query.new_empty(padded, heads, dtype=torch.float32)
        parts_lse = lse.new_empty(rows, len(self.items), heads)
        parts = lse.new_empty(*parts_lse.shape, dim)
        for start in range(0, padded, rows):
            here = slice(start, start + rows)
            decode.attend_packed(
                arena.format, query[here], arena.codes[layer], arena.scales[layer], self.items, self.count,
                parts, parts_lse, scale, rows,
            )  # fmt: skip
            decode.merge(parts, parts_lse, self.part_counts, output[here], lse[here])
        return output[:queries].transpose(0, 1)[None], lse[:queries].T[None]


def select(arena: PackedArena, shape: Shape, heads: int) -> PackedAttention | None:
    """Tested and compiled; None on cards whose tensor cores do not take the pages as they are.

    Raises `RuntimeError` where the kernel is wrong on this card, and what compilers raise.
    """
    attention = PackedAttention(arena, heads)
    if not decode.is_coarse(arena.format, attention.rows, heads // shape.kv_heads, arena.codes.device):
        return None
    error = _error(arena.format, shape, heads, arena.codes.device)
    if error > _TOLERANCE:
        raise RuntimeError(f"the kernel for few queries on packed pages is off by {error:.2g}")
    return attention


def _error(format: PackedFormat, shape: Shape, heads: int, device: torch.device) -> float:
    """The largest relative error of output and log-sum-exp against fp32 on unpacked pages."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=generator).bfloat16()

    arena = PackedArena(Shape(1, shape.kv_heads, shape.dim), format, _TEST_PAGES, device=device)
    tokens = _TEST_PAGES * PAGE
    arena.put(0, 0, *noise(2, tokens, shape.kv_heads, shape.dim))
    unpacked = torch.empty(2, tokens, shape.kv_heads, shape.dim, dtype=torch.bfloat16, device=device)
    arena.get(0, 0, *unpacked)
    attention = PackedAttention(arena, heads)
    half = tokens // 2  # in two spans, and one query more than are taken at a time
    q, scale = noise(1, heads, attention.rows + 1, shape.dim), shape.dim**-0.5
    past = attention.seen([Span(arena, half, half), Span(arena, 0, half)])
    keys, values = (x.transpose(0, 1)[None] for x in unpacked)
    return relative_error(past.attend(q, 0, scale), reference(q.float(), keys, values, scale, False))
