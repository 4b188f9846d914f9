"""Parts of attention over different keys made one, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.centred import Centred
from worker.engine.fp8_attention import OUTPUT_SCALE

_BLOCK = 32
_STEPS = 9  # of a piece, at most: 131,072 keys, the last of them in shorter steps
_OUTPUT_SCALE = tl.constexpr(OUTPUT_SCALE)


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


@triton.jit(do_not_specialize=["steps"])
def _merge_steps(
    q, codes, lses, steps, before, before_lse, centres, descales, out, out_lse, scale, tokens,
    q_head, q_token, code_head, code_token,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    MOST: tl.constexpr, FOUND: tl.constexpr,
):  # fmt: skip
    """`WIDTH` is the power of two that holds `DIM`."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    columns = tl.arange(0, WIDTH)
    inside = rows < tokens
    held = inside[:, None] & (columns < DIM)[None, :]
    channels = head // GROUP * DIM + columns
    key_centre = tl.load(centres + channels, mask=columns < DIM, other=0.0)
    at = head * q_head + rows[:, None] * q_token + columns[None, :]
    shift = tl.sum(tl.load(q + at, mask=held, other=0.0).to(tl.float32) * key_centre[None, :], 1) * scale
    at_lse = head * tokens + rows
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    for i in tl.static_range(MOST):
        peak = tl.maximum(peak, tl.load(lses[i] + at_lse, mask=inside & (i < steps), other=float("-inf")))
    peak += shift
    if FOUND:
        found_lse = tl.load(before_lse + at_lse, mask=inside, other=0.0)
        peak = tl.maximum(peak, found_lse)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, WIDTH), tl.float32)
    at = head * code_head + rows[:, None] * code_token + columns[None, :]
    for i in tl.static_range(MOST):
        lse = tl.load(lses[i] + at_lse, mask=inside & (i < steps), other=float("-inf"))
        weight = tl.exp(lse + shift - peak)
        step = tl.load(codes[i] + at, mask=held & (i < steps), other=0.0)
        acc += weight[:, None] * step.to(tl.float32)
        total += weight
    channels += HEADS // GROUP * DIM
    value_descale = tl.load(descales + channels, mask=columns < DIM, other=0.0)
    value_centre = tl.load(centres + channels, mask=columns < DIM, other=0.0)
    acc = acc * (value_descale / _OUTPUT_SCALE)[None, :] + total[:, None] * value_centre[None, :]
    at = rows[:, None] * (HEADS * DIM) + head * DIM + columns[None, :]
    if FOUND:
        weight = tl.exp(found_lse - peak)
        acc += weight[:, None] * tl.load(before + at, mask=held, other=0.0)
        total += weight
    tl.store(out + at, acc / total[:, None], mask=held)
    tl.store(out_lse + at_lse, peak + tl.log(total), mask=inside)


def merge_steps(
    q: Tensor,
    parts: Sequence[tuple[Tensor, Tensor]],
    piece: Centred,
    scale: float,
    found: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """What `fp8_attention` makes of a piece's steps and what was `found` before, in one pass over memory."""
    _, heads, tokens, dim = q.shape
    out = torch.empty(1, tokens, heads, dim, device=q.device)
    lse = torch.empty(1, heads, tokens, device=q.device)
    some = [*parts, *[parts[0]] * (_STEPS - len(parts))]  # those beyond are not looked at
    codes, lses = zip(*some, strict=True)
    _merge_steps[triton.cdiv(tokens, _BLOCK), heads](
        q, codes, lses, len(parts), *(found or (out, lse)), piece.centres, piece.descales,
        out, lse, scale, tokens, *q.stride()[1:3], *codes[0].stride()[1:3],
        heads, heads // piece.centres.shape[1], dim, triton.next_power_of_2(dim), _BLOCK, _STEPS,
        found is not None,
    )  # fmt: skip
    return out.transpose(1, 2), lse
