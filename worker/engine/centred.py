"""Tokens in 8-bit floats, each channel about its centre: what FP8 attention sees of a past."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_TOP = 448.0  #: the largest
NO_REACH = 1e-30  #: stands for it where nothing is left of any token


class Centred(NamedTuple):
    """`codes * descale + centre` is what is meant; side 0 is keys', side 1 values'."""

    keys: Tensor  #: codes (tokens, KV heads, dim), e4m3
    values: Tensor  #: as `keys`
    centres: Tensor  #: (2, KV heads, dim), fp32: each channel's mean
    descales: Tensor  #: (2, KV heads, dim), fp32; for keys one number, as the kernel takes no more


def centred(keys: Tensor, values: Tensor) -> Centred:
    """Of tokens (tokens, KV heads, dim), as precisely as codes can be."""
    sides = keys, values
    centres = torch.stack([x.mean(0, dtype=torch.float32) for x in sides])
    reach = [torch.maximum(x.amax(0) - c, c - x.amin(0)) for x, c in zip(sides, centres, strict=True)]
    return encoded(keys, values, centres, torch.stack([reach[0].amax().expand_as(reach[1]), reach[1]]))


def encoded(keys: Tensor, values: Tensor, centres: Tensor, reach: Tensor) -> Centred:
    """About these centres, where `reach` (2, KV heads, dim) bounds what is left of each channel.

    A bound may be loose by some powers of two, over 15 of which e4m3 keeps its precision. That of values
    should be tight: what the kernel returns, a mean over many of them, is rounded to e4m3 too.
    """
    descales = reach.clamp_min(NO_REACH) / E4M3_TOP
    key_codes, value_codes = (
        ((x - centre) / descale).to(E4M3)
        for x, centre, descale in zip((keys, values), centres, descales, strict=True)
    )
    return Centred(key_codes, value_codes, centres, descales)
