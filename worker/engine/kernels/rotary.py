"""Rotary positions of neighbours, in place; `worker.engine.rotary` has the same in plain torch."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64  # tokens of a program, which turns one head


@triton.jit
def _rotate(
    words, cos, sin, tokens, row,
    HEAD: tl.constexpr, PAIRS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A word is two neighbours, the first in its lower half. `WIDTH`: the power of two that holds `PAIRS`."""
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    inside = (rows < tokens) & (columns < PAIRS)
    at = words + rows.to(tl.int64) * row + tl.program_id(1) * HEAD + columns
    word = tl.load(at, mask=inside, other=0)
    c = tl.load(cos + rows * (2 * PAIRS) + columns, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + rows * (2 * PAIRS) + columns, mask=inside, other=0.0).to(tl.float32)
    even = (word << 16).to(tl.float32, bitcast=True)
    odd = (word & -65536).to(tl.float32, bitcast=True)
    low = (even * c - odd * s).to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
    high = (odd * c + even * s).to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
    tl.store(at, low | (high << 16), mask=inside)


def rotate(product: Tensor, cos: Tensor, sin: Tensor, heads: int, dim: int) -> None:
    """Turn the first `heads` heads of `dim` of `product` (..., tokens, outputs), bf16 and contiguous."""
    outputs, width = product.shape[-1], cos.shape[-1]
    tokens = product.numel() // outputs
    pairs = width // 2
    cos, sin = (x.expand(*product.shape[:-1], width).contiguous() for x in (cos, sin))
    _rotate[triton.cdiv(tokens, _BLOCK), heads](
        product.view(torch.int32), cos, sin, tokens, outputs // 2,
        dim // 2, pairs, triton.next_power_of_2(pairs), _BLOCK,
    )  # fmt: skip
