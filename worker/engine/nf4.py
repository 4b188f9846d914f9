"""Linear layers with NF4 weights (QLoRA, arXiv:2305.14314), laid out for products with few rows.

The numbers are bitsandbytes' own: its 4-bit codes in another order, its level times its absmax of 64 inputs.
A level is held as the bf16 nearest to 1.18881 of it, a factor at which all sixteen lie within 0.16 % of a
bf16 number (0.31 % without it), and absmax as fp16 over that factor: a weight is within one rounding to bf16
of bitsandbytes' fp32 product.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.engine.errors import ModelLoadError

logger = logging.getLogger(__name__)

GROUP = 64  # inputs that share an absmax
BLOCK = 256  # inputs of one block of the layout, four groups
FUSED_ROWS = 64  # more rows are faster through a dequantized weight
_TOLERANCE = 2e-2  # relative, beside bitsandbytes' own product in bf16
_TILE = 64  # outputs are padded to a multiple of this
_PLANES, _PAIRS = 4, 32
_SHARING = "q_proj", "k_proj", "v_proj"

# bitsandbytes' code of each of our codes: levels in the places where the kernel's tables want them.
ORDER = (0, 4, 1, 5, 8, 11, 9, 13, 3, 6, 2, 7, 10, 15, 12, 14)
# The level of each of our codes, times FACTOR; all are bf16 numbers.
FACTOR = 1.18881
LEVELS = (
    *(-1.1875, -0.337890625, -0.828125, -0.2197265625, 0.0947265625, 0.40234375, 0.19140625, 0.66796875),
    *(-0.46875, -0.1083984375, -0.625, 0.0, 0.29296875, 1.1875, 0.5234375, 0.859375),
)


def pack(indices: Tensor, absmax: Tensor) -> tuple[Tensor, Tensor]:
    """bitsandbytes' codes, uint8 (outputs, inputs), and absmax, (outputs, inputs / 64), laid out.

    Returns codes int16 (blocks, outputs, 64) and scales fp16 (blocks, outputs, 4), as `kernels.nf4` describes
    them; outputs are padded to a multiple of 64, inputs to whole blocks, both with weights of zero.
    """
    outputs, inputs = indices.shape
    peak = float(absmax.max())
    if not 2.0**-10 <= peak <= 2.0**14:
        raise ModelLoadError(f"A layer's largest weight, {peak:g}, is out of the range that NF4 layers hold.")
    pad_outputs, pad_inputs = -outputs % _TILE, -inputs % BLOCK
    ours = torch.empty(16, dtype=torch.uint8, device=indices.device)
    ours[list(ORDER)] = torch.arange(16, dtype=torch.uint8, device=indices.device)
    codes = F.pad(ours[indices.int()], (0, pad_inputs, 0, pad_outputs))
    codes = codes.view(outputs + pad_outputs, -1, _PLANES, _PAIRS, 2)
    words = torch.zeros_like(codes[:, :, 0, :, 0], dtype=torch.int32)
    for plane in range(_PLANES):
        for odd in range(2):
            words |= codes[:, :, plane, :, odd].int() << 8 * plane + 4 * odd
    scales = F.pad((absmax.float() / FACTOR).half(), (0, pad_inputs // GROUP, 0, pad_outputs))
    return (
        words.transpose(0, 1).contiguous().view(torch.int16),
        scales.view(outputs + pad_outputs, -1, _PLANES).transpose(0, 1).contiguous(),
    )


def unpack(codes: Tensor, scales: Tensor, outputs: int, inputs: int) -> Tensor:
    """The weight, fp32 (outputs, inputs), in plain torch."""
    words = codes.view(torch.int32).transpose(0, 1)[:outputs]
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=codes.device).view(_PLANES, 1, 2)
    nibbles = words[:, :, None, :, None] >> shifts & 15
    levels = torch.tensor(LEVELS, device=codes.device)[nibbles]
    groups = levels * scales.transpose(0, 1)[:outputs, :, :, None, None]
    return groups.reshape(outputs, -1)[:, :inputs]


@torch.library.custom_op("unabridged::nf4_linear", mutates_args=(), device_types="cuda")
def nf4_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """`x @ weight.T + bias` for x (..., inputs)."""
    from worker.engine.kernels import nf4 as kernels  # Triton is there where CUDA is

    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] > FUSED_ROWS:
        product = F.linear(rows, kernels.dequantize(codes, scales, outputs, rows.shape[1]), bias)
    else:
        product = kernels.product(rows.contiguous(), codes, scales, bias, outputs)
    return product.view(*x.shape[:-1], outputs)


@nf4_linear.register_kernel("cpu")
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return F.linear(x, unpack(codes, scales, outputs, x.shape[-1]).to(x.dtype), bias)


@nf4_linear.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


class NF4Linear(nn.Module):
    """A linear layer over packed NF4 weights: (..., inputs) -> (..., outputs); bf16 on CUDA.

    On CUDA a row's result has the same bits whatever the other rows, up to 64 of them.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, indices: Tensor, absmax: Tensor, bias: Tensor | None = None) -> None:
        """`indices`: bitsandbytes' codes, uint8 (outputs, inputs); `absmax`: (outputs, inputs / 64)."""
        super().__init__()
        self.out_features, self.in_features = indices.shape
        codes, scales = pack(indices, absmax)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)

    @classmethod
    def from_linear4bit(cls, module: Any) -> NF4Linear:
        """Takes over a `bitsandbytes.nn.Linear4bit` that has been quantized (moved to its device)."""
        state = module.weight.quant_state
        bias = None if module.bias is None else module.bias.detach()
        return cls(*_codes_of(module.weight.data, state), bias)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> NF4Linear:
        """Quantizes a plain weight (outputs, inputs), as bitsandbytes does with nested statistics."""
        from bitsandbytes import functional

        packed, state = functional.quantize_4bit(
            weight, blocksize=GROUP, quant_type="nf4", compress_statistics=True
        )
        return cls(*_codes_of(packed, state), bias)

    @classmethod
    def joined(cls, layers: Sequence[NF4Linear]) -> NF4Linear:
        """One layer that gives the outputs of all, one after another; each has a multiple of 64."""
        joined = cls.__new__(cls)
        nn.Module.__init__(joined)
        joined.in_features = layers[0].in_features
        joined.out_features = sum(layer.out_features for layer in layers)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        joined.register_buffer("codes", torch.cat([layer.codes for layer in layers], dim=1))
        joined.register_buffer("scales", torch.cat([layer.scales for layer in layers], dim=1))
        joined.register_buffer("bias", torch.cat(biases) if biases else None)
        return joined

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = nf4_linear(x, self.codes, self.scales, self.bias, self.out_features)
        return product

    def dequantize(self) -> Tensor:
        """The weight, fp32 (outputs, inputs)."""
        return unpack(self.codes, self.scales, self.out_features, self.in_features)


class Share(nn.Module):
    """Some outputs of an `NF4Linear` that several layers share: (..., inputs) -> (..., outputs), a view.

    The layers are called one after another with one x: the first computes all outputs, the last forgets them.
    Calls in another order, or with another x, are right too, but not faster.
    """

    def __init__(self, whole: NF4Linear, kept: Kept, place: slice, last: bool) -> None:
        super().__init__()
        self.whole, self.kept = whole, kept
        self.place, self.last = place, last

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept
        product = kept.product if kept.x is x else None
        if product is None:
            product = self.whole(x)
        kept.x, kept.product = (None, None) if self.last else (x, product)
        return product[..., self.place]


class Kept:
    """The last x and its whole product, between the calls of shares."""

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.product: Tensor | None = None


def adopt(model: nn.Module) -> int:
    """Puts an `NF4Linear` in the place of every `Linear4bit` of `model`; returns how many there were.

    Queries, keys and values of an attention layer become shares of one. Where the kernels do not run, or are
    wrong, bitsandbytes' own layers stay.
    """
    from bitsandbytes.nn.modules import Linear4bit

    found = [module for module in model.modules() if isinstance(module, Linear4bit)]
    kinds = {(layer.in_features, layer.out_features, layer.bias is None): layer for layer in found}
    if fault := next(filter(None, map(_fault, kinds.values())), None):
        logger.warning("Products with 4-bit weights are left to bitsandbytes, which is slower: %s", fault)
        return len(found)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear4bit):
                setattr(parent, name, NF4Linear.from_linear4bit(child))
        _share(parent)
    return len(found)


@torch.inference_mode()
def _fault(module: Any) -> str | None:
    """Why the kernels cannot take the place of a `Linear4bit`, whose own product is the measure."""
    device = module.weight.device
    generator = torch.Generator(device).manual_seed(0)
    try:
        layer = NF4Linear.from_linear4bit(module)
        dtype = torch.bfloat16 if layer.bias is None else layer.bias.dtype
        for rows in (1, FUSED_ROWS, FUSED_ROWS + 1):
            x = torch.randn(rows, layer.in_features, device=device, generator=generator).to(dtype)
            got, want = layer(x).float(), module(x).float()
            if not (error := float((got - want).norm() / want.norm())) <= _TOLERANCE:
                return f"the kernel for {rows} rows is off by {error:.2g}"
    except ModelLoadError:
        raise
    except Exception as exc:  # no compiler, or a card that Triton does not know
        return str(exc)
    return None


def _share(parent: nn.Module) -> None:
    """Makes an attention's `_SHARING` layers shares of one, if they are NF4 layers that fit together."""
    layers = [getattr(parent, name, None) for name in _SHARING]
    if not all(isinstance(layer, NF4Linear) and layer.out_features % _TILE == 0 for layer in layers):
        return
    parts = cast("list[NF4Linear]", layers)
    if len({(part.in_features, part.bias is None) for part in parts}) > 1:
        return
    whole, kept, first = NF4Linear.joined(parts), Kept(), 0
    for name, part in zip(_SHARING, parts, strict=True):
        place = slice(first, first + part.out_features)
        setattr(parent, name, Share(whole, kept, place, last=name == _SHARING[-1]))
        first = place.stop


def _codes_of(packed: Tensor, state: Any) -> tuple[Tensor, Tensor]:
    """bitsandbytes' codes (outputs, inputs) and absmax (outputs, inputs / 64) in fp32, un-nested."""
    from bitsandbytes import functional

    outputs, inputs = state.shape
    if state.quant_type != "nf4" or state.blocksize != GROUP or inputs % GROUP:
        raise ModelLoadError(
            f"A layer of {outputs} x {inputs} is not NF4 in blocks of 64 inputs; load the model in nf4."
        )
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    # The first of two codes is in a byte's upper half.
    data = packed.contiguous().view(torch.uint8).flatten()
    indices = torch.stack((data >> 4, data & 15), dim=-1).view(outputs, inputs)
    return indices, absmax.view(outputs, inputs // GROUP).float()
