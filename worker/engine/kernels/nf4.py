"""Products with NF4 weights (QLoRA, arXiv:2305.14314, appendix E) that are decoded in registers.

Layout, made once at load by `worker.engine.nf4.pack`. The inputs of a weight are cut into blocks of 256:

    codes   int16 [blocks, outputs, 64]   two int16, one 32-bit word: inputs j and j+1 of four planes of
                                          64 inputs; nibbles, lowest first: plane 0 of j, of j+1, plane 1
                                          of j, ...
    scales  fp16  [blocks, outputs, 4]    one for each plane

so a plane is one operand of a matrix product, made from words that are loaded where it wants them: no weight
goes through shared memory or another lane. The scale multiplies the sum of a plane's products, not its
weights.

A byte is two codes; the two levels, bf16, are read from a table in shared memory that has a copy for each
lane of a warp, in its own bank. The table is made by byte permutation (`prmt`), which picks each byte of its
result from eight by the low three bits of a nibble. Bit 3 makes it spread the picked byte's top bit instead,
so a table of eight levels gives 0x00 or 0xff where the other table holds the level. Levels in the same place
of both tables have that bit in common, and the tables are written so that the exclusive or of what both give
is the level. `worker.engine.nf4.LEVELS` lists the levels by code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

BLOCK = tl.constexpr(256)
PLANE = tl.constexpr(64)

# The levels of the codes in byte `shift / 8` of $1.
_DECODE = """{{
.reg .b32 a, b, low, high, other;
shr.u32   a, $1, {shift};
xor.b32   b, a, 0x88888888;
prmt.b32  low, 0x61545267, 0x2b44313d, a;
prmt.b32  other, 0x020def0, 0x5c069896, b;
xor.b32   low, low, other;
prmt.b32  high, 0x41404140, 0x3f3e3e3d, a;
prmt.b32  other, 0x80bfbdbe, 0x3f3f3f3e, b;
xor.b32   high, high, other;
prmt.b32  $0, low, high, 0x5140;
}}"""
_DECODE_0, _DECODE_1, _DECODE_2, _DECODE_3 = (tl.constexpr(_DECODE.format(shift=8 * i)) for i in range(4))

_RESERVE = tl.constexpr(".shared .align 128 .b8 nf4_pairs[32768]; mov.b32 $0, 0;")
_FILL = tl.constexpr("""{
.reg .b32 at;
mov.b32 at, nf4_pairs;
add.u32 at, at, $1;
st.shared.v4.b32 [at], {$2, $2, $2, $2};
mov.b32 $0, 0;
}""")
_BARRIER = tl.constexpr("bar.sync 0; mov.b32 $0, 0;")
_LOOK_UP = """{{
.reg .b32 table, lane, byte;
mov.u32 lane, %laneid;
mov.u32 table, nf4_pairs;
mad.lo.u32 table, lane, 4, table;
prmt.b32 byte, $1, 0, {select};
mad.lo.u32 byte, byte, 128, table;
ld.shared.b32 $0, [byte];
}}"""
_LOOK_UP_0, _LOOK_UP_1, _LOOK_UP_2, _LOOK_UP_3 = (
    tl.constexpr(_LOOK_UP.format(select=hex(0x4440 + i))) for i in range(4)
)


@gluon.jit
def _fill_table():
    """256 rows of 128 bytes; a thread writes 16 bytes, the next thread the next 16."""
    gl.inline_asm_elementwise(_RESERVE, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    at = gl.arange(0, 2048, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    pair = gl.inline_asm_elementwise(_DECODE_0, "=&r,r", [at // 8], dtype=gl.int32, is_pure=True, pack=1)
    gl.inline_asm_elementwise(_FILL, "=&r,r,r", [at * 16, pair], dtype=gl.int32, is_pure=False, pack=1)
    gl.inline_asm_elementwise(_BARRIER, "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _scaled(words, scales, x, i: gl.constexpr, look_up: gl.constexpr, layout: gl.constexpr):
    """Plane i's products with x, summed, times its scale: fp32 of `layout`."""
    levels = gl.inline_asm_elementwise(look_up, "=r,r", [words], dtype=gl.bfloat16, is_pure=True, pack=2)
    zero = gl.zeros((words.shape[0], words.shape[1], x.shape[2]), gl.float32, layout)
    scale = (scales >> (16 * i)).to(gl.int16).to(gl.float16, bitcast=True).to(gl.float32)
    return mma_v2(levels, x, zero) * scale[:, :, None]


@gluon.jit(do_not_specialize=["rows", "blocks"])
def _product(
    x,  # [rows, inputs], bf16
    codes,
    scales,  # four fp16 in one int64
    bias,  # [outputs], bf16, or nothing
    out,  # [rows, outputs], bf16
    rows,
    outputs,
    padded_outputs,
    inputs,
    blocks,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    PARTS: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    EARLY: gl.constexpr,
):
    """One [ROWS, COLUMNS] tile of `x @ weights.T + bias`.

    Weights are the left operand, so that eight rows need no padding. Of PARTS successive blocks of inputs
    each goes to warps of its own; at the end their sums are added. A warp loads its next block, straight into
    the operand's registers, while it works on one. With EARLY the program starts while the kernel before it
    still runs, and reads x when that is done (programmatic dependent launch).
    """
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [PARTS, gl.num_warps() // PARTS, 1], [1, 16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 8)  # [PARTS, COLUMNS, PLANE], 16 bytes a lane
    right: gl.constexpr = gl.DotOperandLayout(1, mma, 8)  # [PARTS, PLANE, ROWS]
    column = gl.program_id(0) * COLUMNS
    first_row = gl.program_id(1) * ROWS

    part = gl.arange(0, PARTS, gl.SliceLayout(1, gl.SliceLayout(2, left)))[:, None, None]
    place = gl.arange(0, PLANE, gl.SliceLayout(0, gl.SliceLayout(1, left)))[None, None, :]
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(0, gl.SliceLayout(2, left)))[None, :, None]
    code_at = codes + (part * padded_outputs + columns).to(gl.int64) * PLANE + place

    scale_part = gl.arange(0, PARTS, gl.SliceLayout(1, gl.SliceLayout(2, mma)))[:, None]
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(0, gl.SliceLayout(2, mma)))[None, :]
    scale_at = scales + scale_part * padded_outputs + columns

    x_part = gl.arange(0, PARTS, gl.SliceLayout(1, gl.SliceLayout(2, right)))[:, None, None]
    x_place = gl.arange(0, PLANE, gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None]
    row = first_row + gl.arange(0, ROWS, gl.SliceLayout(0, gl.SliceLayout(1, right)))[None, None, :]
    k = x_part * BLOCK + x_place
    x_at = x + row * inputs + k
    there = row < rows

    words = gl.load(code_at, mask=part < blocks, other=0, cache_modifier=".cg")
    scale = gl.load(scale_at, mask=scale_part < blocks, other=0)
    _fill_table()
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    total = gl.zeros((PARTS, COLUMNS, ROWS), gl.float32, mma)
    for block in range(0, blocks, PARTS):
        rest = inputs - block * BLOCK
        x0 = gl.load(x_at, mask=there & (k < rest), other=0.0)
        x1 = gl.load(x_at + 64, mask=there & (k + 64 < rest), other=0.0)
        x2 = gl.load(x_at + 128, mask=there & (k + 128 < rest), other=0.0)
        x3 = gl.load(x_at + 192, mask=there & (k + 192 < rest), other=0.0)
        x_at += PARTS * BLOCK
        code_at += (PARTS * padded_outputs).to(gl.int64) * PLANE
        scale_at += PARTS * padded_outputs
        rest = blocks - block - PARTS
        next_words = gl.load(code_at, mask=part < rest, other=0, cache_modifier=".cg")
        next_scale = gl.load(scale_at, mask=scale_part < rest, other=0)
        total += _scaled(words, scale, x0, 0, _LOOK_UP_0, mma)
        total += _scaled(words, scale, x1, 1, _LOOK_UP_1, mma)
        total += _scaled(words, scale, x2, 2, _LOOK_UP_2, mma)
        total += _scaled(words, scale, x3, 3, _LOOK_UP_3, mma)
        words = next_words
        scale = next_scale

    result = gl.sum(total, axis=0)
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(1, result.type.layout))
    row = first_row + gl.arange(0, ROWS, gl.SliceLayout(0, result.type.layout))
    if HAS_BIAS:
        result += gl.load(bias + columns, mask=columns < outputs, other=0.0).to(gl.float32)[:, None]
    at = row[None, :] * outputs + columns[:, None]
    stored = (row < rows)[None, :] & (columns < outputs)[:, None]
    gl.store(out + at, result.to(gl.bfloat16), mask=stored)


@triton.jit
def _store_plane(to, mask, words, scale_at, i: tl.constexpr, decode: tl.constexpr):
    levels = tl.inline_asm_elementwise(decode, "=&r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2)
    scale = tl.load(scale_at + i).to(tl.float32)[:, None]
    tl.store(to + i * 64, (levels.to(tl.float32) * scale).to(tl.bfloat16), mask=mask)


@triton.jit
def _dequantize(
    codes,
    scales,
    out,  # [outputs, inputs], bf16
    outputs,
    padded_outputs,
    inputs,
    COLUMNS: tl.constexpr,
):
    """One block of inputs of COLUMNS outputs, as bf16."""
    block = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.arange(0, PLANE)
    at = block * padded_outputs + column
    words = tl.load(codes + at[:, None].to(tl.int64) * PLANE + place[None, :])
    to = out + column[:, None].to(tl.int64) * inputs + block * BLOCK + place[None, :]
    scale_at = scales + at * 4
    there = (column < outputs)[:, None]
    rest = inputs - block * BLOCK
    _store_plane(to, there, words, scale_at, 0, _DECODE_0)
    _store_plane(to, there & (rest > 64), words, scale_at, 1, _DECODE_1)
    _store_plane(to, there & (rest > 128), words, scale_at, 2, _DECODE_2)
    _store_plane(to, there & (rest > 192), words, scale_at, 3, _DECODE_3)


class Program(NamedTuple):
    """How one product is cut."""

    columns: int  # outputs of one program, 16 or 32 for each of its warps that share inputs
    parts: int  # of the inputs, each with its own warps
    warps: int
    early: bool = True  # where the card can: from compute capability 9.0 on


#: Within a few percent of the fastest for every layer of GLM-4-9B. The same for all numbers of rows, so that
#: the order of a row's sums is, too.
PROGRAM = Program(columns=32, parts=4, warps=8)


def product(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    outputs: int,
    how: Program = PROGRAM,
) -> Tensor:
    """`x @ weight.T + bias` for contiguous bf16 x (rows, inputs); returns bf16 (rows, outputs)."""
    rows, inputs = x.shape
    blocks, padded, _ = codes.shape
    block_rows = 8 if rows <= 8 else 16
    early = how.early and torch.cuda.get_device_capability(x.device) >= (9, 0)
    out = x.new_empty(rows, outputs)
    _product[triton.cdiv(outputs, how.columns), triton.cdiv(rows, block_rows)](
        x,
        codes,
        scales.view(torch.int64),
        x if bias is None else bias,
        out,
        rows,
        outputs,
        padded,
        inputs,
        blocks,
        ROWS=block_rows,
        COLUMNS=how.columns,
        PARTS=how.parts,
        HAS_BIAS=bias is not None,
        EARLY=early,
        num_warps=how.warps,
        maxnreg=128 if how.warps > 4 else None,  # so that two such programs fit on a processor
        launch_pdl=early,
    )
    return out


def dequantize(codes: Tensor, scales: Tensor, outputs: int, inputs: int) -> Tensor:
    """The weight, bf16 (outputs, inputs)."""
    out = torch.empty(outputs, inputs, dtype=torch.bfloat16, device=codes.device)
    blocks, padded, _ = codes.shape
    _dequantize[blocks, triton.cdiv(outputs, 64)](codes, scales, out, outputs, padded, inputs, COLUMNS=64)
    return out
