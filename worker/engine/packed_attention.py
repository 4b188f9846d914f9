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

from worker.engine.kernels import decode
from worker.engine.kernels.plan import Group, Tail, plan
from worker.engine.kernels.plan import Span as Stretch
from worker.engine.kernels.selftest import worst_error
from worker.engine.kv import PackedArena, Shape, Span
from worker.engine.page import PAGE

# By bits: with more queries unpacking once for all of them is faster. Measured on an H200.
_MOST_QUERIES = {8: 511, 4: 96}
_TOLERANCE = 2e-2  # relative, of bf16


class PackedAttention:
    """For pages of one arena."""

    def __init__(self, arena: PackedArena, heads: int) -> None:
        self.arena = arena
        group = heads // arena.format.kv_heads
        device = arena.codes.device
        self.rows = max(1, decode.most_rows(group) // 2)  # at a time
        self.most_queries = _MOST_QUERIES[arena.format.bits]
        self.programs = decode.programs(arena.format, self.rows, group, device) // arena.format.kv_heads

    def past(self, spans: Sequence[Span]) -> PackedPast:
        """Of spans of the arena."""
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
    """Tested and warmed up; None on cards whose tensor cores do not take the pages as they are.

    Raises `RuntimeError` where the kernel is wrong on this card, and what compilers raise.
    """
    attention = PackedAttention(arena, heads)
    columns = decode.queries(attention.rows, heads // shape.kv_heads)
    if not decode.launch_on(arena.codes.device, arena.format.planes, columns).wide:
        return None
    error = worst_error(arena.format, shape, heads, attention.rows, arena.codes.device)
    if not error <= _TOLERANCE:
        raise RuntimeError(f"the kernel for {attention.rows} queries on packed pages is off by {error:.2g}")
    page = attention.past([Span(arena, 0, PAGE)])
    page.attend(torch.zeros(1, heads, 1, shape.dim, device=arena.codes.device, dtype=torch.bfloat16), 0, 1.0)
    return attention
