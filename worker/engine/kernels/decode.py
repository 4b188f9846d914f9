"""Attention of a few queries over many keys, split over the keys.

One token of each seat is written in a step. What its query must see is cut into items (see `plan`); an item's
output and log-sum-exp are a part of each seat that shares it, and `merge` makes the softmax over a seat's
parts (Flash-Decoding). A unit of work is one item and KV head: its keys and values are read once, for every
query head of the group and every seat of the item.

For few queries scores are taken transposed, keys by queries, and so are outputs, dim by queries: keys and
values are then the left operand of the tensor cores, dequantized in registers and never written back, and the
queries are the narrow right one. From some 32 queries on it can be better to have them as the left operand
(`Launch.wide`), so that probabilities stay in registers. Scales belong to tokens, so keys' scales multiply
scores and values' scales probabilities.

`reference` has the same functions in torch. Every launch has a fixed grid and allocates nothing, so that a
step can be captured in a CUDA graph.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment,misc"

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.formats import PackedFormat
from worker.engine.kernels.plan import COLUMNS
from worker.engine.page import PAGE

_PAGE = tl.constexpr(PAGE)
_COLUMNS = tl.constexpr(COLUMNS)
_AT_ONCE = tl.constexpr(64)  # pages whose scales are loaded together, lest each wait for the one before
_MERGED_AT_ONCE = 128  # parts: more than a document on an H200 has for a seat
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
FP8_LIFT = tl.constexpr(2.0**120)
_ONE_SQUARED = tl.constexpr(2 * 0x3F800000)  # less the bits of a power of two: those of its inverse


# For each plane: one code of two words in a register, put where 128.0 has room for it: 128 + code.
_INT4_PLANES = tl.constexpr(
    tuple(
        f"{{ .reg .b32 t; shr.b32 t, $1, {4 * plane}; lop3.b32 $0, t, 0x000F000F, 0x43004300, 0xEA; }}"
        for plane in range(4)
    )
)
INT4_ZERO = tl.constexpr(128 + 7.5)  # there, the value between the two middle codes
# e4m3's sign, exponent and mantissa under bf16's wider exponent: the value is 2**120 too small.
_FP8_PLANES = tl.constexpr(
    tuple(
        "{ .reg .b32 t, u; "
        + ("shl.b32 t, $1, 8; shl.b32 u, $1, 4;" if plane == 0 else "mov.b32 t, $1; shr.b32 u, $1, 4;")
        + " and.b32 u, u, 0x07F007F0; lop3.b32 $0, t, 0x80008000, u, 0xEA; }"
        for plane in range(2)
    )
)
# Four words, in two registers: each 4-bit code c becomes the sign of 2c - 15 and, in three bits, the half of
# its size; bytes that hold the same two planes are gathered; each half of them is spread over e4m3's sign and
# lowest bits, the last of which is 1.
_E4M3_OF_INT4 = tl.constexpr(
    "{ .reg .b32 a, b, t, u, v; "
    + "".join(
        f"lop3.b32 t, {word}, 0x88888888, 0, 0x0C; shr.b32 u, t, 3; sub.u32 u, t, u;"
        f" lop3.b32 {signed}, {word}, u, 0x88888888, 0x96; "
        for signed, word in (("a", "$4"), ("b", "$5"))
    )
    + "".join(
        f"prmt.b32 t, a, b, {bytes_};"
        " shl.b32 u, t, 1; lop3.b32 u, u, 0x0E0E0E0E, 0x01010101, 0xEA;"
        f" shl.b32 v, t, 4; lop3.b32 ${plane}, v, 0x80808080, u, 0xEA;"
        " shr.b32 u, t, 3; lop3.b32 u, u, 0x0E0E0E0E, 0x01010101, 0xEA;"
        f" lop3.b32 ${plane + 1}, t, 0x80808080, u, 0xEA; "
        for plane, bytes_ in ((0, "0x6420"), (2, "0x7531"))
    )
    + "}"
)
# Two numbers, at most 448, as the sums of two e4m3 each: one is rounded to e4m3's four bits and the other is
# what is left.
_HALVES = tl.constexpr(
    "{ .reg .b32 t, u; cvt.rn.f16x2.f32 u, $3, $2;"
    " add.u32 t, u, 0x00400040; and.b32 t, t, 0xFF80FF80; cvt.rn.satfinite.e4m3x2.f16x2 $0, t;"
    " sub.rn.f16x2 u, u, t; cvt.rn.satfinite.e4m3x2.f16x2 $1, u; }"
)
# Both scales of a pair at a time; the third operand is -0.0.
_MULTIPLY_BF16 = tl.constexpr("{ .reg .b32 t; mov.b32 t, 0x80008000; fma.rn.bf16x2 $0, $1, $2, t; }")
# Two numbers in fp16 at a time.
_TO_F16 = tl.constexpr("cvt.rn.f16x2.f32 $0, $2, $1;")
_MAX_F16 = tl.constexpr("max.f16x2 $0, $1, $2;")
_ADD_F16 = tl.constexpr("add.rn.f16x2 $0, $1, $2;")
_MULTIPLY_F16 = tl.constexpr("mul.rn.f16x2 $0, $1, $2;")
_EXP2_F16 = tl.constexpr("{ .reg .b32 t; sub.rn.f16x2 t, $1, $2; ex2.approx.f16x2 $0, t; }")


@triton.jit
def plane_of(words, plane: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr):
    """One code of each 16-bit word, in bf16: a 4-bit code plus 128, or e4m3 times 2**-120."""
    if ASM:
        table: tl.constexpr = _INT4_PLANES if PLANES == 4 else _FP8_PLANES
        codes = tl.inline_asm_elementwise(
            table[plane], "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    elif PLANES == 4:
        codes = (((words >> (4 * plane)) & 15) + 128).to(tl.float32).to(tl.bfloat16)
    else:
        byte = (words >> (8 * plane)) & 0xFF
        codes = (((byte & 0x80) << 8) | ((byte & 0x7F) << 4)).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return codes


@triton.jit
def _low(pair):
    """The keys' scales of loaded pairs."""
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _high(pair):
    """The values' scales of loaded pairs."""
    return (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def walsh(rows, DIM: tl.constexpr):
    """Those rows of the Walsh-Hadamard matrix, before its division by sqrt(dim)."""
    both = rows[:, None] & tl.arange(0, DIM)[None, :]
    both ^= both >> 4
    both ^= both >> 2
    both ^= both >> 1
    return (
        (0x3F80 | ((both & 1) << 15)).to(tl.int16).to(tl.bfloat16, bitcast=True)
    )  # 1.0, or with its sign bit


@triton.jit
def _tokens(row, lengths):
    """How many tokens an item of the exact arena holds at present."""
    tokens = tl.load(row + 1)
    tail_seat = tl.load(row + 5)
    if tail_seat >= 0:
        left = tl.load(lengths + tail_seat).to(tl.int32) - tl.load(row + 6)
        tokens = tl.minimum(tl.maximum(left, 0), tokens)
    return tokens


@triton.jit
def _queries(
    q, row, kv_head, dims,
    HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Those elements of an item's queries (len(dims), N); zeros where there is no query."""
    column = tl.arange(0, N)
    seat = tl.load(row + 2) + column // GROUP
    head = kv_head * GROUP + column % GROUP
    at = (seat * HEADS + head) * DIM
    held = column < tl.load(row + 3) * GROUP
    return tl.load(q + at[None, :] + dims[:, None], mask=held[None, :], other=0.0)


@triton.jit
def _write(
    x, dims, row, kv_head, parts, max_parts,
    HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Those elements of an item's outputs, x (len(dims), N), into its part of each seat."""
    column = tl.arange(0, N)
    seat = tl.load(row + 2) + column // GROUP
    head = kv_head * GROUP + column % GROUP
    at = ((seat.to(tl.int64) * max_parts + tl.load(row + 4)) * HEADS + head) * DIM
    held = column < tl.load(row + 3) * GROUP
    tl.store(parts + at[None, :] + dims[:, None], x, mask=held[None, :])


@triton.jit
def _write_lse(peak, total, row, kv_head, parts_lse, max_parts, HEADS, GROUP: tl.constexpr, N: tl.constexpr):
    column = tl.arange(0, N)
    seat = tl.load(row + 2) + column // GROUP
    head = kv_head * GROUP + column % GROUP
    at = (seat * max_parts + tl.load(row + 4)) * HEADS + head
    lse = tl.where(total > 0, (peak + tl.log2(total)) * _LN_2, float("-inf"))
    tl.store(parts_lse + at, lse, mask=column < tl.load(row + 3) * GROUP)


@triton.jit
def _write_packed(
    out, row, kv_head, parts, max_parts,
    HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """As `_write`, of outputs (DIM, N) in the format's basis."""
    if PLANES == 4:  # rotate back, 16 bits at a time
        SLICE: tl.constexpr = DIM // PLANES
        high = out.to(tl.bfloat16)
        low = (out - high.to(tl.float32)).to(tl.bfloat16)
        for dim in range(0, DIM, SLICE):
            dims = dim + tl.arange(0, SLICE)
            matrix = walsh(dims, DIM)
            part = tl.dot(matrix, low, tl.dot(matrix, high)) * DIM**-0.5
            _write(part, dims, row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM)
    else:
        _write(out, tl.arange(0, DIM), row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["items", "count", "lengths"])
def _attend_exact(
    q, keys, values, items, count, lengths, parts, parts_lse, scale, max_parts,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    HEADS: tl.constexpr = KV_HEADS * GROUP
    STRIDE: tl.constexpr = KV_HEADS * DIM
    units = tl.load(count) * KV_HEADS
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        row = items + (unit // KV_HEADS) * _COLUMNS
        kv_head = unit % KV_HEADS
        tokens = _tokens(row, lengths)
        begin = tl.load(row).to(tl.int64) * STRIDE + kv_head * DIM
        dims = tl.arange(0, DIM)
        query = _queries(q, row, kv_head, dims, HEADS, GROUP, N, DIM)
        peak = tl.full([N], float("-inf"), tl.float32)
        total = tl.zeros([N], tl.float32)
        out = tl.zeros([DIM, N], tl.float32)
        at = tl.arange(0, BLOCK)
        for start in tl.range(0, tokens, BLOCK, num_stages=STAGES):
            held = start + at < tokens
            tokens_at = begin + (start + at).to(tl.int64) * STRIDE
            k = tl.load(keys + tokens_at[:, None] + dims[None, :], mask=held[:, None], other=0.0)
            s = tl.dot(k, query) * (scale * _LOG2_E)
            s = tl.where(held[:, None], s, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(s, 0))
            p = tl.exp2(s - new_peak[None, :])
            fade = tl.exp2(peak - new_peak)
            total = total * fade + tl.sum(p, 0)
            v = tl.load(values + tokens_at[None, :] + dims[:, None], mask=held[None, :], other=0.0)
            out = tl.dot(v, p.to(v.dtype), out * fade[None, :])
            peak = new_peak
        out = out / tl.where(total > 0, total, 1.0)[None, :]
        _write(out, dims, row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM)
        _write_lse(peak, total, row, kv_head, parts_lse, max_parts, HEADS, GROUP, N)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["items", "count"])
def _attend_packed(
    q, codes, scales, items, count, parts, parts_lse, scale, max_parts,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr,
    PAGES: tl.constexpr, STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    HEADS: tl.constexpr = KV_HEADS * GROUP
    WORDS: tl.constexpr = DIM // PLANES  # of a token's keys
    TOKENS: tl.constexpr = _PAGE // PLANES  # in a plane of a page; a dim's values have as many words
    SIDE: tl.constexpr = KV_HEADS * _PAGE * WORDS
    units = tl.load(count) * KV_HEADS
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        row = items + (unit // KV_HEADS) * _COLUMNS
        kv_head = unit % KV_HEADS
        first = tl.load(row) // _PAGE
        pages = tl.load(row + 1) // _PAGE
        factor = scale * _LOG2_E
        words = tl.arange(0, WORDS)
        dims = tl.arange(0, DIM)
        queries = ()
        zero = tl.zeros([N], tl.float32)  # what 4-bit codes of no size would score
        for plane in tl.static_range(PLANES):
            if PLANES == 4:
                whole = _queries(q, row, kv_head, dims, HEADS, GROUP, N, DIM)
                # The zero is read anew for each unit, lest the matrix be kept in registers across them.
                part = tl.dot(walsh(plane * WORDS + tl.load(row + 7) + words, DIM), whole) * (2 * DIM**-0.5)
                zero += INT4_ZERO * tl.sum(part.to(tl.bfloat16).to(tl.float32), 0)
            else:
                part = _queries(q, row, kv_head, plane * WORDS + words, HEADS, GROUP, N, DIM).to(tl.float32)
                part *= FP8_LIFT / 1024  # 1024: queries up to 2**17 stay finite
            queries = queries + (part.to(tl.bfloat16),)
        if PLANES == 2:
            factor *= 1024
        peak = tl.full([N], float("-inf"), tl.float32)
        total = tl.zeros([N], tl.float32)
        out = tl.zeros([DIM, N], tl.float32)
        at = tl.arange(0, TOKENS * PAGES)
        for start in tl.range(0, pages, PAGES, num_stages=STAGES):
            page = start + at // TOKENS
            held = page < pages
            if PAGES > 1:
                page = tl.minimum(page, pages - 1)
            page = (first + page).to(tl.int64)
            at_codes = codes + page * (2 * SIDE) + kv_head * (_PAGE * WORDS)
            at_scales = scales + (page * KV_HEADS + kv_head) * _PAGE + at % TOKENS
            v = tl.load((at_codes + SIDE + at % TOKENS)[None, :] + dims[:, None] * TOKENS)
            scores = ()
            weights = ()
            for group in tl.static_range(PLANES):
                k = tl.load((at_codes + (group * TOKENS + at % TOKENS) * WORDS)[:, None] + words[None, :])
                s = tl.zeros([TOKENS * PAGES, N], tl.float32) - zero[None, :]
                for plane in tl.static_range(PLANES):
                    s = tl.dot(plane_of(k, plane, PLANES, ASM), queries[plane], s)
                pair = tl.load(at_scales + group * TOKENS)
                s *= (_low(pair) * factor)[:, None]
                if PAGES > 1:
                    s = tl.where(held[:, None], s, float("-inf"))
                scores = scores + (s,)
                weight = _high(pair)
                weights = weights + (weight * FP8_LIFT if PLANES == 2 else weight,)
            highest = scores[0]
            for group in tl.static_range(1, PLANES):
                highest = tl.maximum(highest, scores[group])
            new_peak = tl.maximum(peak, tl.max(highest, 0))
            fade = tl.exp2(peak - new_peak)
            out *= fade[None, :]
            sums = tl.zeros([TOKENS * PAGES, N], tl.float32)
            weighted = tl.zeros([TOKENS * PAGES, N], tl.float32)
            probabilities = ()
            for group in tl.static_range(PLANES):
                p = tl.exp2(scores[group] - new_peak[None, :])
                sums += p
                p = (p * weights[group][:, None]).to(tl.bfloat16)
                weighted += p.to(tl.float32)
                probabilities = probabilities + (p,)
            if PLANES == 4:  # at each step, lest the sums grow large beside what is left of them
                out -= (INT4_ZERO * tl.sum(weighted, 0))[None, :]
            for group in tl.static_range(PLANES):
                out = tl.dot(plane_of(v, group, PLANES, ASM), probabilities[group], out)
            total = total * fade + tl.sum(sums, 0)
            peak = new_peak
        out *= (PLANES // 2 / tl.where(total > 0, total, 1.0))[None, :]
        _write_packed(out, row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM, PLANES)
        _write_lse(peak, total, row, kv_head, parts_lse, max_parts, HEADS, GROUP, N)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["items", "count", "lengths"])
def _attend_exact_wide(
    q, keys, values, items, count, lengths, parts, parts_lse, scale, max_parts,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`_attend_exact` with queries as the left operand."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    STRIDE: tl.constexpr = KV_HEADS * DIM
    units = tl.load(count) * KV_HEADS
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        row = items + (unit // KV_HEADS) * _COLUMNS
        kv_head = unit % KV_HEADS
        tokens = _tokens(row, lengths)
        begin = tl.load(row).to(tl.int64) * STRIDE + kv_head * DIM
        factor = scale * _LOG2_E
        dims = tl.arange(0, DIM)
        query = tl.trans(_queries(q, row, kv_head, dims, HEADS, GROUP, N, DIM))
        peak = tl.full([N], float("-inf"), tl.float32)
        total = tl.zeros([N], tl.float32)
        out = tl.zeros([N, DIM], tl.float32)
        at = tl.arange(0, BLOCK)
        for start in tl.range(0, tokens, BLOCK, num_stages=STAGES):
            held = start + at < tokens
            block = (begin + (start + at).to(tl.int64) * STRIDE)[:, None] + dims[None, :]
            k = tl.load(keys + block, mask=held[:, None], other=0.0)
            v = tl.load(values + block, mask=held[:, None], other=0.0)
            s = tl.dot(query, tl.trans(k))
            s = tl.where(held[None, :], s, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(s, 1) * factor)
            p = tl.exp2(s * factor - new_peak[:, None])
            fade = tl.exp2(peak - new_peak)
            total = total * fade + tl.sum(p, 1)
            out = tl.dot(p.to(v.dtype), v, out * fade[:, None])
            peak = new_peak
        out = out / tl.where(total > 0, total, 1.0)[:, None]
        _write(tl.trans(out), dims, row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM)
        _write_lse(peak, total, row, kv_head, parts_lse, max_parts, HEADS, GROUP, N)


@triton.jit
def _codes(at, row, column, PLANES: tl.constexpr, ASM: tl.constexpr):
    """A page's codes of one side, in e4m3: rows along one axis, a row's words in their order.

    Element e of n in a row is element e // planes + n / planes * (e % planes) of what was packed.
    """
    if PLANES == 2:
        codes = tl.load(at + row[:, None] * column.shape[0] + column[None, :])
    else:
        WORDS: tl.constexpr = column.shape[0] // PLANES
        words = tl.load(at + row[:, None] * WORDS + tl.arange(0, WORDS)[None, :])
        a, b, c, d = _four_of(words, ASM)
        codes = tl.join(tl.join(a, c), tl.join(b, d)).reshape(row.shape[0], column.shape[0])
    return codes


@triton.jit
def _halves(x, ASM: tl.constexpr):
    """x in fp32, at most 448, as the sum of two e4m3: eight bits, as bf16 has."""
    if ASM:
        high, low = tl.inline_asm_elementwise(
            _HALVES, "=h,=h,r,r", [x], dtype=(tl.float8e4nv, tl.float8e4nv), is_pure=True, pack=2
        )
    else:
        rounded = _rounded(x)
        high, low = rounded.to(tl.float8e4nv), _rounded(x - rounded).to(tl.float8e4nv)
    return high, low


@triton.jit
def _to_e4m3(x, ASM: tl.constexpr):
    return x.to(tl.float8e4nv) if ASM else _rounded(x.to(tl.float32)).to(tl.float8e4nv)


@triton.jit
def _rounded(x):
    """To the four bits of e4m3, which Triton's interpreter would cut off."""
    return ((x.to(tl.int32, bitcast=True) + 0x80000) & -0x100000).to(tl.float32, bitcast=True)


@triton.jit
def _power(x):
    """The largest power of two that is not above x, as its bits."""
    return x.to(tl.int32, bitcast=True) & 0x7F800000


@triton.jit
def _times(pair, powers, ASM: tl.constexpr):
    """Loaded pairs of scales, each times its half of `powers`: exact, as those are powers of two."""
    if ASM:
        pair = tl.inline_asm_elementwise(
            _MULTIPLY_BF16, "=r,r,r", [pair, powers], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        low = (_low(pair) * _low(powers)).to(tl.int32, bitcast=True)
        high = (_high(pair) * _high(powers)).to(tl.int32, bitcast=True)
        pair = ((low >> 16) & 0xFFFF) | high
    return pair


@triton.jit
def _f16(x, ASM: tl.constexpr):
    if ASM:
        y = tl.inline_asm_elementwise(_TO_F16, "=r,r,r", [x], dtype=tl.float16, is_pure=True, pack=2)
    else:
        y = x.to(tl.float16)
    return y


@triton.jit
def _pairs(a, b, INSTRUCTION: tl.constexpr):
    """`INSTRUCTION` of fp16 tensors, two elements at a time."""
    return tl.inline_asm_elementwise(INSTRUCTION, "=r,r,r", [a, b], dtype=tl.float16, is_pure=True, pack=2)


@triton.jit
def _multiply(a, b, ASM: tl.constexpr):
    return _pairs(a, b, _MULTIPLY_F16) if ASM else a * b


@triton.jit
def _exp2_of_difference(a, b, ASM: tl.constexpr):
    return _pairs(a, b, _EXP2_F16) if ASM else tl.exp2((a - b).to(tl.float32)).to(tl.float16)


@triton.jit
def _largest(x, ASM: tl.constexpr):
    """Of each row of x (n, page) in fp16; fp32."""
    a, b = _folded(x)
    a, b = _folded(_pairs(a, b, _MAX_F16) if ASM else tl.maximum(a, b))
    a, b = _folded(_pairs(a, b, _MAX_F16) if ASM else tl.maximum(a, b))
    a, b = _folded(_pairs(a, b, _MAX_F16) if ASM else tl.maximum(a, b))
    return tl.max((_pairs(a, b, _MAX_F16) if ASM else tl.maximum(a, b)).to(tl.float32), 1)


@triton.jit
def _sum(x, ASM: tl.constexpr):
    """Of each row of x (n, page) in fp16, by sixteen there and then in fp32."""
    a, b = _folded(x)
    a, b = _folded(_pairs(a, b, _ADD_F16) if ASM else a + b)
    a, b = _folded(_pairs(a, b, _ADD_F16) if ASM else a + b)
    a, b = _folded(_pairs(a, b, _ADD_F16) if ASM else a + b)
    return tl.sum((_pairs(a, b, _ADD_F16) if ASM else a + b).to(tl.float32), 1)


@triton.jit
def _folded(x):
    """The halves of each row: a thread that has an element of one has that of the other."""
    return x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def _four_of(words, ASM: tl.constexpr):
    """The four 4-bit codes of each 16-bit word in e4m3, as odd integers times 2**-9."""
    if ASM:
        codes = tl.inline_asm_elementwise(
            _E4M3_OF_INT4, "=r,=r,=r,=r,r,r", [words],
            dtype=(tl.float8e4nv, tl.float8e4nv, tl.float8e4nv, tl.float8e4nv), is_pure=True, pack=4,
        )  # fmt: skip
        a, b, c, d = codes
    else:
        a, b, c, d = _e4m3_of(words), _e4m3_of(words >> 4), _e4m3_of(words >> 8), _e4m3_of(words >> 12)
    return a, b, c, d


@triton.jit
def _e4m3_of(code):
    return ((2 * (code & 15) - 15).to(tl.float32) * 2.0**-9).to(tl.float8e4nv)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["items", "count"])
def _attend_packed_wide(
    q, codes, scales, items, count, parts, parts_lse, scale, max_parts,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, N: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr,
    STAGES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`_attend_packed` with queries as the left operand, a page at a time, on the FP8 tensor cores.

    Codes go there as they are, a query as two e4m3, and a probability, times its value's scale, as one: as
    coarse as 8-bit values are (`benchmarks.coarse_weights`), but exact where it is 1, for such scales have
    four bits (see `formats`). Those cores keep some 14 bits of a sum, so a page is summed there
    and pages in fp32; a score is as good as 14 bits of its largest term.
    Dims of keys and tokens of values are taken in the order of their codes, and queries follow suit. Keys are
    taken in an order that leaves each thread with those probabilities that it has to give to the next product
    (FlashAttention-3, arXiv:2407.08608, section 3.3).

    Between the products the card's other cores are what limits: so scores are taken from the largest of the
    pages before, and go two at a time in fp16. That is good to 0.3 % of a weight that counts; of a page that
    rises far above those before it, to half of fp16's last place in its rise: 0.5 % at 2**16, 2 % at 2**64.
    """
    HEADS: tl.constexpr = KV_HEADS * GROUP
    BYTES: tl.constexpr = PLANES // 2  # elements of `codes` are bytes of e4m3, or words of four codes
    SIDE: tl.constexpr = KV_HEADS * _PAGE * DIM // (BYTES * BYTES)
    UNIT: tl.constexpr = 2.0**9 if PLANES == 4 else 1.0
    units = tl.load(count) * KV_HEADS
    for unit in range(tl.program_id(0), units, tl.num_programs(0)):
        row = items + (unit // KV_HEADS) * _COLUMNS
        kv_head = unit % KV_HEADS
        first = tl.load(row) // _PAGE
        pages = tl.load(row + 1) // _PAGE
        dims = tl.arange(0, DIM)
        order = dims // PLANES + DIM // PLANES * (dims % PLANES)
        at = tl.arange(0, _PAGE)
        code = at // 16 * 16 + at // 2 % 4 * 4 + at // 8 % 2 * 2 + at % 2
        token = code // PLANES + _PAGE // PLANES * (code % PLANES)
        if PLANES == 4:
            whole = tl.trans(_queries(q, row, kv_head, dims, HEADS, GROUP, N, DIM))
            query = tl.dot(whole, tl.trans(walsh(order + tl.load(row + 7), DIM))) * DIM**-0.5
        else:
            query = tl.trans(_queries(q, row, kv_head, order, HEADS, GROUP, N, DIM)).to(tl.float32)
        query *= scale * _LOG2_E * UNIT
        # An infinite one is of a seat that is lost, and must not take the others with it.
        sizes = tl.where(tl.abs(query) < float("inf"), tl.abs(query), 0.0)
        lift = _power(256 / tl.maximum(tl.max(tl.max(sizes, 1), 0), 1e-30))
        query, rest = _halves(query * lift.to(tl.float32, bitcast=True), ASM)
        # The values' largest scale becomes some 256: probabilities times scales use all of e4m3.
        largest = tl.full([_AT_ONCE * _PAGE], 2.0**-60, tl.float32)
        spot = tl.arange(0, _AT_ONCE * _PAGE)
        for number in range(0, pages, _AT_ONCE):
            held = number + spot // _PAGE < pages
            page = (first + number + spot // _PAGE).to(tl.int64)
            pair = tl.load(scales + (page * KV_HEADS + kv_head) * _PAGE + spot % _PAGE, mask=held, other=0)
            largest = tl.maximum(largest, _high(pair))
        raised = _power(256 / tl.max(largest, 0))
        powers = raised | ((_ONE_SQUARED - lift) >> 16)
        # The first page's largest score.
        at_codes = codes + first.to(tl.int64) * (2 * SIDE) + kv_head * (SIDE // KV_HEADS)
        pair = tl.load(scales + (first.to(tl.int64) * KV_HEADS + kv_head) * _PAGE + token)
        k = tl.trans(_codes(at_codes, token, dims, PLANES, ASM))
        s = tl.dot(rest, k, tl.dot(query, k))
        peak = tl.max(s * _low(_times(pair, powers, ASM))[None, :], 1)
        total = tl.zeros([N], tl.float32)
        out = tl.zeros([N, DIM], tl.float32)
        for number in tl.range(0, pages, num_stages=STAGES):
            page = (first + number).to(tl.int64)
            at_codes = codes + page * (2 * SIDE) + kv_head * (SIDE // KV_HEADS)
            pair = _times(tl.load(scales + (page * KV_HEADS + kv_head) * _PAGE + token), powers, ASM)
            k = tl.trans(_codes(at_codes, token, dims, PLANES, ASM))
            v = tl.trans(_codes(at_codes + SIDE, dims, at, PLANES, ASM))
            of_key = tl.broadcast_to(_low(pair)[None, :], (N, _PAGE))
            of_value = tl.broadcast_to(_high(pair)[None, :], (N, _PAGE))
            s = tl.dot(rest, k, tl.dot(query, k))
            x = _f16(tl.fma(s, of_key, tl.broadcast_to(-peak[:, None], (N, _PAGE))), ASM)
            grown = tl.maximum(_largest(x, ASM), 0.0)
            peak += grown
            fade = tl.exp2(-grown)
            p = _exp2_of_difference(x, tl.broadcast_to(grown.to(tl.float16)[:, None], (N, _PAGE)), ASM)
            total = total * fade + _sum(p, ASM)
            p = _multiply(p, _f16(of_value, ASM), ASM)
            p = p.reshape(N, _PAGE // 16, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(N, _PAGE)
            out = tl.fma(out, tl.broadcast_to(fade[:, None], (N, DIM)), tl.dot(_to_e4m3(p, ASM), v))
        out *= (UNIT / raised.to(tl.float32, bitcast=True) / tl.where(total > 0, total, 1.0))[:, None]
        _write_packed(tl.trans(out), row, kv_head, parts, max_parts, HEADS, GROUP, N, DIM, PLANES)
        _write_lse(peak, total, row, kv_head, parts_lse, max_parts, HEADS, GROUP, N)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["counts"])
def _merge(
    parts, parts_lse, counts, out, out_lse, max_parts,
    HEADS: tl.constexpr, DIM: tl.constexpr, SLICE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seat = tl.program_id(0)
    head = tl.program_id(1)
    dims = tl.program_id(2) * SLICE + tl.arange(0, SLICE)
    count = tl.load(counts + seat)
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros([SLICE], tl.float32)
    for start in range(0, count, BLOCK):
        part = start + tl.arange(0, BLOCK)
        row = (seat.to(tl.int64) * max_parts + part) * HEADS + head
        lse = tl.load(parts_lse + row, mask=part < count, other=float("-inf"))
        x = tl.load(parts + row[:, None] * DIM + dims[None, :], mask=(part < count)[:, None], other=0.0)
        new_peak = tl.maximum(peak, tl.max(lse, 0))
        safe = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weight = tl.exp(lse - safe)
        fade = tl.exp(peak - safe)
        total = total * fade + tl.sum(weight, 0)
        acc = acc * fade + tl.sum(x * weight[:, None], 0)
        peak = new_peak
    acc = acc / tl.where(total > 0, total, 1.0)
    tl.store(out + (seat * HEADS + head) * DIM + dims, acc.to(out.dtype.element_ty))
    if out_lse is not None:
        tl.store(out_lse + seat * HEADS + head, peak + tl.log(total))  # the same from every slice


@triton.jit(do_not_specialize_on_alignment=["k", "v", "slots"])
def _append(k, v, k_stride, v_stride, slots, keys, values, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    seat = tl.program_id(0)
    slot = tl.load(slots + seat).to(tl.int64)
    at = tl.arange(0, BLOCK)
    held = (at < SIZE) & (slot >= 0)
    tl.store(keys + slot * SIZE + at, tl.load(k + seat * k_stride + at, mask=held), mask=held)
    tl.store(values + slot * SIZE + at, tl.load(v + seat * v_stride + at, mask=held), mask=held)


@dataclass(frozen=True, slots=True)
class Launch:
    """How one kernel is cut; what is fastest differs with the format and the number of queries."""

    per_sm: int  #: programs for each multiprocessor
    block: int  #: keys a step: tokens of the exact arena, pages of a packed one
    stages: int  #: blocks in flight
    warps: int
    wide: bool = False  #: queries are the left operand; for packed arenas on the FP8 tensor cores


#: (planes of a word, queries of a KV head): measured on an H200; planes 1 is the exact arena.
LAUNCHES = {
    (1, 8): Launch(per_sm=1, block=128, stages=3, warps=4),
    (1, 16): Launch(per_sm=2, block=64, stages=3, warps=4),
    (1, 32): Launch(per_sm=2, block=64, stages=3, warps=4),
    (1, 64): Launch(per_sm=2, block=64, stages=3, warps=4, wide=True),
    (1, 128): Launch(per_sm=1, block=64, stages=3, warps=8),
    (2, 8): Launch(per_sm=3, block=1, stages=3, warps=4),
    (2, 16): Launch(per_sm=4, block=1, stages=2, warps=2),
    (2, 32): Launch(per_sm=2, block=1, stages=3, warps=4),
    (2, 64): Launch(per_sm=2, block=1, stages=3, warps=4, wide=True),
    (2, 128): Launch(per_sm=1, block=1, stages=2, warps=8),
    (4, 8): Launch(per_sm=3, block=2, stages=3, warps=4),
    (4, 16): Launch(per_sm=4, block=2, stages=2, warps=2),
    (4, 32): Launch(per_sm=2, block=2, stages=3, warps=4),
    (4, 64): Launch(per_sm=2, block=1, stages=3, warps=4, wide=True),
    (4, 128): Launch(per_sm=1, block=1, stages=2, warps=8),
}


def most_rows(group: int) -> int:
    """The most seats that one item may have, a power of two: for more a document is read again."""
    rows, most = 1, max(columns for _, columns in LAUNCHES)
    while queries(2 * rows, group) <= most:
        rows *= 2
    return rows


def queries(rows: int, group: int) -> int:
    """Columns of the kernels' right operand for up to `rows` seats on one document."""
    return max(8, int(triton.next_power_of_2(rows * group)))


def _columns(rows: int, group: int, launch: Launch) -> int:
    """As `queries`; a left operand has at least 64 rows."""
    return max(64 if launch.wide else 8, queries(rows, group))


def launch_on(device: torch.device, planes: int, columns: int) -> Launch:
    """The launch of `LAUNCHES`, or what runs in its place on a card that has less than an H200."""
    launch = LAUNCHES[planes, columns]
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        small = card.shared_memory_per_multiprocessor < 160 * 1024
        if planes == 1 and small:
            launch = replace(launch, block=launch.block // 2)
        if planes > 1 and launch.wide and (small or (card.major, card.minor) < (8, 9)):  # without e4m3
            launch = Launch(per_sm=1, block=1, stages=2, warps=8)
    return launch


def is_coarse(packed: PackedFormat, rows: int, group: int, device: torch.device) -> bool:
    """Whether so many seats' queries go to the FP8 tensor cores, and weights with them, as e4m3."""
    return launch_on(device, packed.planes, queries(rows, group)).wide


def programs(packed: PackedFormat | None, rows: int, group: int, device: torch.device) -> int:
    """Programs that one launch runs at a time, for `plan.plan` divided by the KV heads."""
    launch = launch_on(device, packed.planes if packed else 1, queries(rows, group))
    return launch.per_sm * multiprocessors(device)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def attend_exact(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    items: Tensor,
    count: Tensor,
    lengths: Tensor,
    parts: Tensor,
    parts_lse: Tensor,
    scale: float,
    rows: int,
    launch: Launch | None = None,
) -> None:
    """Write the parts of the items of an exact arena, on the card or in pinned host memory.

    q (seats, heads, dim), bf16 and contiguous; keys, values (tokens, KV heads, dim), one layer; items int32
    (most items, `COLUMNS`), of which `count`, an int32 scalar, are valid; lengths int32 (seats) of the tails;
    parts fp32 (seats, most parts, heads, dim) and parts_lse fp32 (seats, most parts, heads), -inf where
    an item has no keys; `rows`: most seats of an item.
    """
    kv_heads, dim = keys.shape[1:]
    group = q.shape[1] // kv_heads
    launch = launch or launch_on(q.device, 1, queries(rows, group))
    n = _columns(rows, group, launch)
    kernel = _attend_exact_wide if launch.wide else _attend_exact
    kernel[launch.per_sm * multiprocessors(q.device),](
        q, keys, values, items, count, lengths, parts, parts_lse, scale, parts.shape[1],
        KV_HEADS=kv_heads, GROUP=group, N=n, DIM=dim, BLOCK=launch.block, STAGES=launch.stages,
        num_warps=launch.warps,
    )  # fmt: skip


def attend_packed(
    packed: PackedFormat,
    q: Tensor,
    codes: Tensor,
    scales: Tensor,
    items: Tensor,
    count: Tensor,
    parts: Tensor,
    parts_lse: Tensor,
    scale: float,
    rows: int,
    launch: Launch | None = None,
) -> None:
    """Write the parts of the items of a packed arena, on the card or in pinned host memory.

    codes, scales: one layer; the rest as in `attend_exact`. Outputs are in the original basis.
    """
    group = q.shape[1] // packed.kv_heads
    launch = launch or launch_on(q.device, packed.planes, queries(rows, group))
    n = _columns(rows, group, launch)
    grid = (launch.per_sm * multiprocessors(q.device),)
    work = scales.view(torch.int32), items, count, parts, parts_lse, scale, parts.shape[1]
    shape = {"KV_HEADS": packed.kv_heads, "GROUP": group, "N": n, "DIM": packed.dim, "PLANES": packed.planes}
    how = {"STAGES": launch.stages, "ASM": not triton.knobs.runtime.interpret, "num_warps": launch.warps}
    if launch.wide:
        words = codes.view(torch.float8_e4m3fn if packed.bits == 8 else torch.int16)
        _attend_packed_wide[grid](q, words, *work, **shape, **how)
    else:
        _attend_packed[grid](q, codes.view(torch.int16), *work, **shape, PAGES=launch.block, **how)


def merge(
    parts: Tensor, parts_lse: Tensor, part_counts: Tensor, out: Tensor, out_lse: Tensor | None = None
) -> None:
    """Softmax over each seat's first `part_counts` (int32) parts, into out (seats, heads, dim).

    out_lse, where it is wanted: fp32 (seats, heads), -inf where there are no parts.
    """
    seats, most, heads, dim = parts.shape
    piece = min(32, dim)
    _merge[seats, heads, dim // piece](
        parts, parts_lse, part_counts, out, out_lse, most,
        HEADS=heads, DIM=dim, SLICE=piece, BLOCK=_MERGED_AT_ONCE, num_warps=4,
    )  # fmt: skip


def append(k: Tensor, v: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write each seat's k, v (seats, KV heads, dim) to its row of the exact arena, unless that is below 0.

    They may be parts of wider rows.
    """
    seats, heads, dim = k.shape
    k, v = (x if x.stride()[1:] == (dim, 1) else x.contiguous() for x in (k, v))
    _append[seats,](
        k, v, k.stride(0), v.stride(0), slots, keys, values,
        SIZE=heads * dim, BLOCK=triton.next_power_of_2(heads * dim), num_warps=4,
    )  # fmt: skip
