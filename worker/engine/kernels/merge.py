"""Parts of attention over different keys made one, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 32


@triton.jit
def _merge(
    parts,
    lses,
    head_strides,
    token_strides,
    out,
    out_lse,
    tokens,
    heads: tl.constexpr,
    dim: tl.constexpr,
    count: tl.constexpr,
    block: tl.constexpr,
):
    rows = tl.program_id(0) * block + tl.arange(0, block)
    head = tl.program_id(1)
    columns = tl.arange(0, dim)
    inside = rows < tokens
    peak = tl.full((block,), float("-inf"), tl.float32)
    for i in tl.static_range(count):
        lse = tl.load(lses[i] + head * tokens + rows, mask=inside, other=float("-inf"))
        peak = tl.maximum(peak, lse)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.zeros((block,), tl.float32)
    acc = tl.zeros((block, dim), tl.float32)
    for i in tl.static_range(count):
        lse = tl.load(lses[i] + head * tokens + rows, mask=inside, other=float("-inf"))
        weight = tl.exp(lse - peak)
        at = head * head_strides[i] + rows[:, None] * token_strides[i] + columns[None, :]
        acc += weight[:, None] * tl.load(parts[i] + at, mask=inside[:, None], other=0.0).to(tl.float32)
        total += weight
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    at = rows[:, None] * (heads * dim) + head * dim + columns[None, :]
    tl.store(out + at, acc, mask=inside[:, None])
    tl.store(out_lse + head * tokens + rows, peak + tl.log(total), mask=inside)


def merge(
    parts: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """`attention.merge` for parts (1, heads, queries, dim) on a card; tokens outermost in the output."""
    if len(parts) == 1:
        return parts[0]
    _, heads, tokens, dim = parts[0][0].shape
    out = torch.empty(1, tokens, heads, dim, dtype=dtype, device=parts[0][0].device)
    lse = torch.empty(1, heads, tokens, dtype=torch.float32, device=out.device)
    _merge[(triton.cdiv(tokens, _BLOCK), heads)](
        tuple(part for part, _ in parts),
        tuple(part_lse.contiguous() for _, part_lse in parts),
        tuple(part.stride(1) for part, _ in parts),
        tuple(part.stride(2) for part, _ in parts),
        out,
        lse,
        tokens,
        heads,
        dim,
        len(parts),
        _BLOCK,
    )
    return out.transpose(1, 2), lse
