"""How keys and values of what was read are kept: exactly, in 8 bits or in 4.

Packed keys and values lie in pages of `PAGE` tokens, one layer of an arena being

    codes   uint8  (pages, 2, KV heads, PAGE * dim * bits / 8)     side 0 holds keys, side 1 values
    scales  bf16   (pages, KV heads, PAGE, 2)                      one a token, head and side

Scales of values have four bits, as e4m3 has: where one token has all the weight, the FP8 tensor cores see its
weight times its scale unrounded (see `kernels.decode`). Those of pages stored by earlier versions have eight.

A page's codes are 16-bit words in the order in which the decode kernels take them. Keys are (tokens, dim) and
values (dim, tokens), so that both are contracted along their last axis; of an axis of n words, word w holds
elements w, w + n, w + 2n, ..., the first in the lowest bits.

The torch code here is the reference; on CUDA `kernels.pack` does the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from worker.engine.centred import E4M3, E4M3_TOP, Centred, encoded
from worker.engine.page import PAGE
from worker.engine.types import Format

INT4_REACH = (
    16.5  #: times the scale is a token's largest element: the least square error on Gaussian heads of 128
)

PackedPages = tuple[Tensor, Tensor]
"""Codes and scales of some pages of one layer."""


class PackedFormat(ABC):
    """Codes of `bits` bits, and a scale for each token, head and side."""

    name: ClassVar[Format]
    bits: ClassVar[int]

    def __init__(self, kv_heads: int, dim: int) -> None:
        """Raises `ValueError` where the format cannot hold heads of `dim`."""
        self.kv_heads = kv_heads
        self.dim = dim

    @property
    def planes(self) -> int:
        """Codes in a 16-bit word."""
        return 16 // self.bits

    @property
    def page_bytes(self) -> int:
        """Codes of one page, head and side."""
        return PAGE * self.dim * self.bits // 8

    def bytes_per_token(self, layers: int) -> int:
        """Codes and scales of one token, in all layers."""
        return layers * 2 * self.kv_heads * (self.dim * self.bits // 8 + torch.bfloat16.itemsize)

    def codes_shape(self, pages: int) -> tuple[int, int, int, int]:
        """Of one layer, uint8."""
        return pages, 2, self.kv_heads, self.page_bytes

    def scales_shape(self, pages: int) -> tuple[int, int, int, int]:
        """Of one layer, bf16."""
        return pages, self.kv_heads, PAGE, 2

    def pack(self, keys: Tensor, values: Tensor, codes: Tensor, scales: Tensor) -> None:
        """Write keys and values (n, KV heads, dim) into n / `PAGE` pages of one layer."""
        if keys.is_cuda:
            from worker.engine.kernels import pack

            pack.pack(self, keys, values, codes, scales)
            return
        for side, x in enumerate((keys, values)):
            pages = x.float().reshape(-1, PAGE, self.kv_heads, self.dim).transpose(1, 2)
            quantized, scale = self._quantize(pages, scale_bits=4 if side else 8)
            codes[:, side] = self._to_words(quantized.mT if side else quantized).flatten(2)
            scales[..., side] = scale

    def unpack(self, codes: Tensor, scales: Tensor, keys: Tensor, values: Tensor) -> None:
        """The inverse of `pack`, into buffers (n, KV heads, dim) of any float dtype.

        On CUDA `codes` and `scales` may lie in pinned host memory.
        """
        if keys.is_cuda:
            from worker.engine.kernels import pack

            pack.unpack(self, codes, scales, keys, values)
            return
        for side, x in enumerate((keys, values)):
            rows = self.dim if side else PAGE
            quantized = self._from_words(
                codes[:, side].reshape(-1, self.kv_heads, rows, self.page_bytes // rows)
            )
            pages = self._dequantize(quantized.mT if side else quantized, scales[..., side].float())
            x.copy_(pages.transpose(1, 2).flatten(0, 1))

    def centre(self, pages: Sequence[PackedPages], keys: Tensor, values: Tensor) -> Centred:
        """Encode packed pages anew, as 8-bit floats in `keys` and `values` (n, KV heads, dim), e4m3.

        Their codes are read twice. How the pages are grouped does not change a bit.
        """
        if keys.is_cuda:
            from worker.engine.kernels import pack

            return pack.centre(self, pages, keys, values)
        exact = torch.empty(2, *keys.shape)
        position = 0
        for codes, scales in pages:
            start, position = position, position + len(codes) * PAGE
            self.unpack(codes, scales, *exact[:, start:position])
        centres = exact.mean(1)
        largest = self._bound(exact, torch.cat([scales for _, scales in pages]))
        reach = largest[..., None] + centres.abs()
        reach[0] = 2 * largest[0].max()
        piece = encoded(exact[0], exact[1], centres, reach)
        return piece._replace(keys=keys.copy_(piece.keys), values=values.copy_(piece.values))

    @abstractmethod
    def _quantize(self, x: Tensor, scale_bits: int) -> tuple[Tensor, Tensor]:
        """Codes, in int32, and scales, in bf16 of `scale_bits` bits, of x (..., dim) in fp32."""

    @abstractmethod
    def _dequantize(self, codes: Tensor, scales: Tensor) -> Tensor: ...

    @abstractmethod
    def _bound(self, x: Tensor, scales: Tensor) -> Tensor:
        """What no element of x (2, tokens, KV heads, dim), unpacked, is larger than: (2, KV heads)."""

    def _to_words(self, codes: Tensor) -> Tensor:
        """Codes (..., m) as bytes (..., m * bits / 8)."""
        planes = codes.chunk(self.planes, dim=-1)
        words = sum(plane << self.bits * number for number, plane in enumerate(planes))
        return torch.as_tensor(words).to(torch.uint16).contiguous().view(torch.uint8)

    def _from_words(self, codes: Tensor) -> Tensor:
        words = codes.contiguous().view(torch.uint16).int()
        mask = (1 << self.bits) - 1
        return torch.cat([words >> self.bits * number & mask for number in range(self.planes)], dim=-1)


class Fp8(PackedFormat):
    """e4m3, scaled so that a token's largest element becomes the largest code."""

    name = "fp8"
    bits = 8

    def _quantize(self, x: Tensor, scale_bits: int) -> tuple[Tensor, Tensor]:
        scales = _scales(x.abs().amax(-1) / E4M3_TOP, scale_bits, up=True)  # nothing is cut off
        scaled = (x * _inverse(scales)).clamp(-E4M3_TOP, E4M3_TOP)
        return scaled.to(E4M3).view(torch.uint8).int(), scales

    def _dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        return codes.to(torch.uint8).view(E4M3).float() * scales[..., None]

    def _bound(self, x: Tensor, scales: Tensor) -> Tensor:
        return E4M3_TOP * scales.float().amax((0, 2)).T


class Int4(PackedFormat):
    """The odd integers from -15 to 15 times a scale, after a rotation by the Walsh-Hadamard matrix.

    The rotation spreads single large elements over the head, so that one scale fits all of it (QuaRot,
    arXiv:2404.00456). It is orthonormal: rotated queries score rotated keys as the plain ones would.
    """

    name = "int4"
    bits = 4

    def __init__(self, kv_heads: int, dim: int) -> None:
        super().__init__(kv_heads, dim)
        if dim < 32 or dim & (dim - 1):
            raise ValueError(
                f"The 4-bit format needs heads of 32, 64, 128 or 256; this model's have {dim}. Choose fp8."
            )

    def _quantize(self, x: Tensor, scale_bits: int) -> tuple[Tensor, Tensor]:
        x = x @ walsh(self.dim, x.device)
        scales = _scales(x.abs().amax(-1) / INT4_REACH, scale_bits)
        return ((x * _inverse(scales) / 2).floor() + 8).clamp(0, 15).int(), scales

    def _dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        return (2 * codes - 15) * scales[..., None] @ walsh(self.dim, codes.device)

    def _bound(self, x: Tensor, scales: Tensor) -> Tensor:
        norms: Tensor = x.norm(dim=-1)  # rotation keeps them
        return norms.amax(1)


def _scales(x: Tensor, bits: int, *, up: bool = False) -> Tensor:
    """x, positive, rounded to `bits` of the 8 bits of bf16; what is not a number stays so."""
    place = 1 << 8 - bits
    scales = x.bfloat16()
    rounded = (scales.view(torch.int16) + (place - 1 if up else place // 2) & -place).view(torch.bfloat16)
    return torch.where(scales.isnan(), scales, rounded)  # its bits would overflow to those of 0


def _inverse(scales: Tensor) -> Tensor:
    """1 / scale, over the elements of a head; 0 for a head of zeros."""
    scales = scales.float()[..., None]
    return torch.where(scales > 0, 1 / scales, 0)


def walsh(dim: int, device: torch.device) -> Tensor:
    """The orthonormal, symmetric Walsh-Hadamard matrix (dim, dim) in fp32; dim is a power of two."""
    matrix = torch.ones(1, 1, device=device)
    while len(matrix) < dim:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(dim)


def packed_format(name: Literal["fp8", "int4"], kv_heads: int, dim: int) -> PackedFormat:
    """Raises `ValueError` where the format cannot hold heads of `dim`."""
    return {"fp8": Fp8, "int4": Int4}[name](kv_heads, dim)
