"""Keys and values into pages of codes and back, on the card; `formats` is the reference.

A program packs or unpacks one side of one page and head. Input in other types than bf16 is rounded to bf16.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment,misc"

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker.engine.centred import E4M3_TOP, NO_REACH, Centred
from worker.engine.formats import INT4_REACH, PackedFormat, PackedPages
from worker.engine.kernels.decode import FP8_LIFT, INT4_ZERO, plane_of, walsh
from worker.engine.page import PAGE

_PAGE = tl.constexpr(PAGE)
_INT4_REACH = tl.constexpr(INT4_REACH)
_E4M3_TOP = tl.constexpr(E4M3_TOP)
_NO_REACH = tl.constexpr(NO_REACH)


@triton.jit
def _largest(x):
    """Bits of the largest size in each row of x; compared as integers, as `tl.max` drops NaN."""
    return tl.max(tl.abs(x).to(tl.int32, bitcast=True), 1)


@triton.jit
def _scales(largest, PLANES: tl.constexpr, BITS: tl.constexpr):
    """The scales, as they are kept, of heads by `_largest`."""
    largest = largest.to(tl.float32, bitcast=True)
    PLACE: tl.constexpr = 1 << (8 - BITS)
    MORE: tl.constexpr = PLACE // 2 if PLANES == 4 else PLACE - 1  # to the nearest, or up
    scales = (largest / (_INT4_REACH if PLANES == 4 else _E4M3_TOP)).to(tl.bfloat16)
    rounded = ((scales.to(tl.int16, bitcast=True) + MORE) & -PLACE).to(tl.bfloat16, bitcast=True)
    return tl.where(largest <= float("inf"), rounded, scales)  # what is not a number would overflow to 0


@triton.jit
def _quantize(x, scales, PLANES: tl.constexpr):
    """Codes (tokens, n), in int32, of x (tokens, n)."""
    scales = scales.to(tl.float32)
    x *= tl.where(scales > 0, 1.0 / scales, 0.0)[:, None]
    if PLANES == 4:
        codes = tl.minimum(tl.maximum(tl.floor(x / 2) + 8, 0.0), 15.0).to(tl.int32)
    else:
        codes = _e4m3(tl.minimum(tl.maximum(x, -_E4M3_TOP), _E4M3_TOP))
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
    largest = tl.zeros([_PAGE], tl.int32)
    planes = ()
    for plane in tl.static_range(PLANES):
        if PLANES == 4:
            whole = tl.load(rows[:, None] + tl.arange(0, DIM)[None, :]).to(tl.bfloat16)
            x = tl.dot(whole, tl.trans(walsh(plane * WORDS + tl.arange(0, WORDS), DIM))) * DIM**-0.5
        else:
            x = tl.load(rows[:, None] + plane * WORDS + tl.arange(0, WORDS)[None, :])
            x = x.to(tl.bfloat16).to(tl.float32)
        largest = tl.maximum(largest, _largest(x))
        planes = planes + (x,)
    scale = _scales(largest, PLANES, 8)
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
        scale = _scales(_largest(x), PLANES, 4)
        words |= _quantize(x, scale, PLANES) << (16 // PLANES * plane)
        tl.store(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2 + 1, scale)
    at = codes + ((page * 2 + 1) * KV_HEADS + head) * (TOKENS * DIM)
    tl.store(at + tl.arange(0, TOKENS)[:, None] + dims[None, :] * TOKENS, words.to(tl.int16))


@triton.jit
def _zero(DIM: tl.constexpr):
    """What 4-bit codes of no size are once rotated."""
    return tl.where(tl.arange(0, DIM) == 0, INT4_ZERO * DIM, 0.0)


@triton.jit
def _numbers(words, plane: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr):
    """One code of each word as the number that its token's scale multiplies, in the format's basis."""
    codes = plane_of(words, plane, PLANES, ASM).to(tl.float32)
    return (codes - INT4_ZERO) * 2 if PLANES == 4 else codes * FP8_LIFT


@triton.jit
def _about(x, centres, descales, at, CENTRED: tl.constexpr):
    """x (tokens, n) as it is, or as codes of those channels."""
    if CENTRED:
        x = (x - tl.load(centres + at)[None, :]) * (1.0 / tl.load(descales + at))[None, :]
    return x


@triton.jit
def _unpack_keys(
    codes, scales, keys, centres, descales,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr, CENTRED: tl.constexpr,
):  # fmt: skip
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
        dims = tl.arange(0, DIM)
        x = _about(x * (scale * (2 * DIM**-0.5)), centres, descales, head * DIM + dims, CENTRED)
        tl.store(rows + dims[None, :], x.to(keys.dtype.element_ty))
    else:
        for plane in tl.static_range(PLANES):
            dims = plane * WORDS + tl.arange(0, WORDS)
            x = _numbers(words, plane, PLANES, ASM) * scale
            x = _about(x, centres, descales, head * DIM + dims, CENTRED)
            tl.store(rows + dims[None, :], x.to(keys.dtype.element_ty))


@triton.jit
def _unpack_values(
    codes, scales, values, centres, descales,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr, CENTRED: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = _PAGE // PLANES
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dims = tl.arange(0, DIM)
    at = codes + ((page * 2 + 1) * KV_HEADS + head) * (TOKENS * DIM)
    words = tl.load(at + tl.arange(0, TOKENS)[:, None] + dims[None, :] * TOKENS)
    for plane in tl.static_range(PLANES):
        token = plane * TOKENS + tl.arange(0, TOKENS)
        scale = tl.load(scales + ((page * KV_HEADS + head) * _PAGE + token) * 2 + 1).to(tl.float32)[:, None]
        if PLANES == 4:
            x = plane_of(words, plane, PLANES, ASM)
            x = tl.dot(x, walsh(dims, DIM), tl.zeros([TOKENS, DIM], tl.float32) - _zero(DIM)[None, :])
            x *= scale * (2 * DIM**-0.5)
        else:
            x = _numbers(words, plane, PLANES, ASM) * scale
        x = _about(x, centres, descales, (KV_HEADS + head) * DIM + dims, CENTRED)
        rows = values + ((page * _PAGE + token) * KV_HEADS + head)[:, None] * DIM
        tl.store(rows + dims[None, :], x.to(values.dtype.element_ty))


@triton.jit
def _sum_keys(codes, scales, sums, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr):
    """Store the sum of a page's tokens, in the format's basis; a bound of their elements."""
    WORDS: tl.constexpr = DIM // PLANES
    token = tl.arange(0, _PAGE)
    word = tl.arange(0, WORDS)
    words = tl.load(codes + token[:, None] * WORDS + word[None, :])
    scale = tl.load(scales + token * 2).to(tl.float32)
    squares = tl.zeros([_PAGE], tl.float32)
    for plane in tl.static_range(PLANES):
        x = _numbers(words, plane, PLANES, ASM) * scale[:, None]
        squares += tl.sum(x * x, 1)
        tl.store(sums + plane * WORDS + word, tl.sum(x, 0))
    return _bound(squares, scale, PLANES)


@triton.jit
def _sum_values(codes, scales, sums, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr):
    TOKENS: tl.constexpr = _PAGE // PLANES
    token = tl.arange(0, TOKENS)
    dims = tl.arange(0, DIM)
    words = tl.load(codes + token[:, None] + dims[None, :] * TOKENS)
    total = tl.zeros([DIM], tl.float32)
    largest = 0.0
    for plane in tl.static_range(PLANES):
        scale = tl.load(scales + (plane * TOKENS + token) * 2).to(tl.float32)
        x = _numbers(words, plane, PLANES, ASM) * scale[:, None]
        largest = tl.maximum(largest, _bound(tl.sum(x * x, 1), scale, PLANES))
        total += tl.sum(x, 0)
    tl.store(sums + dims, total)
    return largest


@triton.jit
def _bound(squares, scale, PLANES: tl.constexpr):
    """Of tokens' elements: in 4 bits their largest norm, which rotation keeps; in 8 their largest code."""
    return tl.sqrt(tl.max(squares, 0)) if PLANES == 4 else _E4M3_TOP * tl.max(scale, 0)


@triton.jit(do_not_specialize_on_alignment=["bounds"])
def _sum_pages(
    codes, scales, sums, bounds,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    page = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    side = tl.program_id(2)
    row = (page * 2 + side) * KV_HEADS + head
    codes += row * (_PAGE * DIM // PLANES)
    scales += (page * KV_HEADS + head) * (_PAGE * 2) + side
    sums += row * DIM
    if side == 0:
        largest = _sum_keys(codes, scales, sums, DIM, PLANES, ASM)
    else:
        largest = _sum_values(codes, scales, sums, DIM, PLANES, ASM)
    tl.store(bounds + row, largest)


@triton.jit(do_not_specialize=["pages"])
def _centre(
    sums, bounds, pages, centres, descales,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Centres and descales from what `_sum_pages` found in all pages; `HEADS` is a power of two."""
    head = tl.program_id(0)
    side = tl.program_id(1)
    dims = tl.arange(0, DIM)
    other = tl.arange(0, HEADS)
    asked = (other < KV_HEADS) & ((other == head) | (side == 0))
    total = tl.zeros([DIM], tl.float32)
    largest = 0.0
    for start in range(0, pages, BLOCK):
        page = start + tl.arange(0, BLOCK)
        row = ((page * 2 + side) * KV_HEADS)[:, None]
        held = (page < pages)[:, None]
        total += tl.sum(tl.load(sums + (row + head) * DIM + dims[None, :], mask=held, other=0.0), 0)
        found = tl.load(bounds + row + other[None, :], mask=held & asked[None, :], other=0.0)
        largest = tl.maximum(largest, tl.max(tl.max(found, 1), 0))
    mean = total / (pages * _PAGE)
    if PLANES == 4:
        mean = tl.sum(mean[:, None] * walsh(dims, DIM).to(tl.float32), 0) * DIM**-0.5
    reach = largest + tl.where(side == 0, largest, tl.abs(mean))  # of keys one number for all
    at = (side * KV_HEADS + head) * DIM + dims
    tl.store(centres + at, mean)
    tl.store(descales + at, tl.maximum(reach, _NO_REACH) / _E4M3_TOP)


def pack(packed: PackedFormat, keys: Tensor, values: Tensor, codes: Tensor, scales: Tensor) -> None:
    """As `PackedFormat.pack`; codes and scales are contiguous."""
    keys, values = keys.contiguous(), values.contiguous()  # a model gives parts of wider rows
    grid = len(codes), packed.kv_heads
    words, shape = codes.view(torch.int16), _shape(packed)
    _pack_keys[grid](keys, words, scales, **shape, num_warps=8)
    _pack_values[grid](values, words, scales, **shape, num_warps=4)


def unpack(packed: PackedFormat, codes: Tensor, scales: Tensor, keys: Tensor, values: Tensor) -> None:
    """As `PackedFormat.unpack`; every tensor is contiguous."""
    grid = len(codes), packed.kv_heads
    words, how = codes.view(torch.int16), _shape(packed) | _how() | {"CENTRED": False}
    _unpack_keys[grid](words, scales, keys, None, None, **how)
    _unpack_values[grid](words, scales, values, None, None, **how)


def centre(packed: PackedFormat, pages: Sequence[PackedPages], keys: Tensor, values: Tensor) -> Centred:
    """As `PackedFormat.centre`; every tensor is contiguous."""
    heads, count = packed.kv_heads, len(keys) // PAGE
    sums = torch.empty(count, 2, heads, packed.dim, device=keys.device)
    bounds = sums.new_empty(sums.shape[:3])
    centres, descales = sums.new_empty(2, *sums.shape[1:])
    shape, how = _shape(packed), _shape(packed) | _how()
    ends = accumulate(len(codes) for codes, _ in pages)
    parts = [
        (codes.view(torch.int16), scales, slice(end - len(codes), end))
        for (codes, scales), end in zip(pages, ends, strict=True)
    ]
    for words, scales, here in parts:
        _sum_pages[len(words), heads, 2](words, scales, sums[here], bounds[here], **how)
    block = {"BLOCK": 128, "HEADS": triton.next_power_of_2(heads)}
    _centre[heads, 2](sums, bounds, count, centres, descales, **shape, **block, num_warps=8)
    how["CENTRED"] = True
    for words, scales, here in parts:
        for kernel, x in ((_unpack_keys, keys), (_unpack_values, values)):
            rows = x.unflatten(0, (-1, PAGE))[here]
            kernel[len(words), heads](words, scales, rows, centres, descales, **how)
    return Centred(keys, values, centres, descales)


def _shape(packed: PackedFormat) -> dict[str, int]:
    return {"KV_HEADS": packed.kv_heads, "DIM": packed.dim, "PLANES": packed.planes}


def _how() -> dict[str, int]:
    return {"ASM": not triton.knobs.runtime.interpret, "num_warps": 4}
