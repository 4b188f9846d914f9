"""Keys and values into pages of codes and back, on the card; `formats` is the reference.

A program packs or unpacks one side of one page and head. Input in other types than bf16 is rounded to bf16.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.formats import FP8_TOP, INT4_REACH, PackedFormat
from worker.engine.kernels.decode import FP8_LIFT, INT4_ZERO, plane_of, walsh
from worker.engine.page import PAGE

_PAGE = tl.constexpr(PAGE)
_INT4_REACH = tl.constexpr(INT4_REACH)
_FP8_TOP = tl.constexpr(FP8_TOP)


@triton.jit
def _scales(largest, PLANES: tl.constexpr):
    """The scales, as they are kept, of heads whose largest elements are given."""
    return (largest / (_INT4_REACH if PLANES == 4 else _FP8_TOP)).to(tl.bfloat16)


@triton.jit
def _quantize(x, scales, PLANES: tl.constexpr):
    """Codes (tokens, n), in int32, of x (tokens, n)."""
    scales = scales.to(tl.float32)
    x *= tl.where(scales > 0, 1.0 / scales, 0.0)[:, None]
    if PLANES == 4:
        codes = tl.minimum(tl.maximum(tl.floor(x / 2) + 8, 0.0), 15.0).to(tl.int32)
    else:
        codes = _e4m3(tl.minimum(tl.maximum(x, -_FP8_TOP), _FP8_TOP))
    return codes


@triton.jit
def _e4m3(x):
    """Bytes, in int32, of x within e4m3's range, rounded to nearest, ties to even.

    By hand: ptxas 12.8 loses every other byte where the card's own conversion is taken apart again.
    """
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2**-6 the last place is 2**-9; adding 1.5 * 2**23 rounds to whole ones.
    subnormal = (tl.abs(x) * 512 + 12582912.0).to(tl.int32, bitcast=True) & 15
    return ((bits >> 24) & 0x80) | tl.where(size < 0x3C800000, subnormal, normal)


@triton.jit
def _pack_keys(keys, codes, scales, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr):
    WORDS: tl.constexpr = DIM // PLANES
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token = tl.arange(0, _PAGE)
    rows = keys + ((page * _PAGE + token) * KV_HEADS + head) * DIM
    largest = tl.zeros([_PAGE], tl.float32)
    planes = ()
    for plane in tl.static_range(PLANES):
        if PLANES == 4:
            whole = tl.load(rows[:, None] + tl.arange(0, DIM)[None, :]).to(tl.bfloat16)
            x = tl.dot(whole, tl.trans(walsh(plane * WORDS + tl.arange(0, WORDS), DIM))) * DIM**-0.5
        else:
            x = tl.load(rows[:, None] + plane * WORDS + tl.arange(0, WORDS)[None, :])
            x = x.to(tl.bfloat16).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        planes = planes + (x,)
    scale = _scales(largest, PLANES)
    words = tl.zeros([_PAGE, WORDS], tl.int32)
    for plane in tl.static_range(PLANES):
        words |= _quantize(planes[plane], scale, PLANES) << (16 // PLANES * plane)
    at = codes + (page * 2 * KV_HEADS + head) * (_PAGE * WORDS)
    tl.store(at + token[:, None] * WORDS + tl.arange(0, WORDS)[None, :], words.to(tl.int16))
    tl.store(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2, scale)


@triton.jit
def _pack_values(values, codes, scales, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr):
    TOKENS: tl.constexpr = _PAGE // PLANES
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims = tl.arange(0, DIM)
    words = tl.zeros([TOKENS, DIM], tl.int32)
    for plane in tl.static_range(PLANES):
        token = plane * TOKENS + tl.arange(0, TOKENS)
        rows = values + ((page * _PAGE + token) * KV_HEADS + head)[:, None] * DIM
        x = tl.load(rows + dims[None, :]).to(tl.bfloat16)
        if PLANES == 4:
            x = tl.dot(x, walsh(dims, DIM)) * DIM**-0.5
        x = x.to(tl.float32)
        scale = _scales(tl.max(tl.abs(x), 1), PLANES)
        words |= _quantize(x, scale, PLANES) << (16 // PLANES * plane)
        tl.store(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2 + 1, scale)
    at = codes + ((page * 2 + 1) * KV_HEADS + head) * (TOKENS * DIM)
    tl.store(at + tl.arange(0, TOKENS)[:, None] + dims[None, :] * TOKENS, words.to(tl.int16))


@triton.jit
def _zero(DIM: tl.constexpr):
    """What 4-bit codes of no size are once rotated."""
    return tl.where(tl.arange(0, DIM) == 0, INT4_ZERO * DIM, 0.0)


@triton.jit
def _unpack_keys(
    codes, scales, keys, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr
):
    WORDS: tl.constexpr = DIM // PLANES
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token = tl.arange(0, _PAGE)
    at = codes + (page * 2 * KV_HEADS + head) * (_PAGE * WORDS)
    words = tl.load(at + token[:, None] * WORDS + tl.arange(0, WORDS)[None, :])
    scale = tl.load(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2).to(tl.float32)[:, None]
    rows = keys + ((page * _PAGE + token) * KV_HEADS + head)[:, None] * DIM
    if PLANES == 4:
        x = tl.zeros([_PAGE, DIM], tl.float32) - _zero(DIM)[None, :]
        for plane in tl.static_range(PLANES):
            x = tl.dot(
                plane_of(words, plane, PLANES, ASM), walsh(plane * WORDS + tl.arange(0, WORDS), DIM), x
            )
        x *= scale * (2 * DIM**-0.5)
        tl.store(rows + tl.arange(0, DIM)[None, :], x.to(keys.dtype.element_ty))
    else:
        for plane in tl.static_range(PLANES):
            x = plane_of(words, plane, PLANES, ASM).to(tl.float32) * FP8_LIFT * scale
            tl.store(rows + plane * WORDS + tl.arange(0, WORDS)[None, :], x.to(keys.dtype.element_ty))


@triton.jit
def _unpack_values(
    codes, scales, values, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr
):
    TOKENS: tl.constexpr = _PAGE // PLANES
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims = tl.arange(0, DIM)
    at = codes + ((page * 2 + 1) * KV_HEADS + head) * (TOKENS * DIM)
    words = tl.load(at + tl.arange(0, TOKENS)[:, None] + dims[None, :] * TOKENS)
    for plane in tl.static_range(PLANES):
        token = plane * TOKENS + tl.arange(0, TOKENS)
        scale = tl.load(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2 + 1).to(tl.float32)[:, None]
        x = plane_of(words, plane, PLANES, ASM)
        if PLANES == 4:
            x = tl.dot(x, walsh(dims, DIM), tl.zeros([TOKENS, DIM], tl.float32) - _zero(DIM)[None, :])
            x *= scale * (2 * DIM**-0.5)
        else:
            x = x.to(tl.float32) * FP8_LIFT * scale
        rows = values + ((page * _PAGE + token) * KV_HEADS + head)[:, None] * DIM
        tl.store(rows + dims[None, :], x.to(values.dtype.element_ty))


def pack(packed: PackedFormat, keys: Tensor, values: Tensor, codes: Tensor, scales: Tensor) -> None:
    """As `PackedFormat.pack`; every tensor is contiguous."""
    grid = len(codes), packed.kv_heads
    words = codes.view(torch.int16)
    shape = {"KV_HEADS": packed.kv_heads, "DIM": packed.dim, "PLANES": packed.planes}
    _pack_keys[grid](keys, words, scales, **shape, num_warps=8)
    _pack_values[grid](values, words, scales, **shape, num_warps=4)


def unpack(packed: PackedFormat, codes: Tensor, scales: Tensor, keys: Tensor, values: Tensor) -> None:
    """As `PackedFormat.unpack`; every tensor is contiguous."""
    grid = len(codes), packed.kv_heads
    words = codes.view(torch.int16)
    shape = {"KV_HEADS": packed.kv_heads, "DIM": packed.dim, "PLANES": packed.planes}
    asm = not triton.knobs.runtime.interpret
    _unpack_keys[grid](words, scales, keys, **shape, ASM=asm, num_warps=4)
    _unpack_values[grid](words, scales, values, **shape, ASM=asm, num_warps=4)
