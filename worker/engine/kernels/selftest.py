"""Are the kernels for writing right on this card? Asked once, before the first answer."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.engine.centred import E4M3
from worker.engine.formats import PackedFormat
from worker.engine.kernels import decode, reference
from worker.engine.kernels.plan import Group, Span, Tail, plan
from worker.engine.kv import Shape
from worker.engine.page import PAGE

_TAIL = 64  # tokens; seats hold from 1 of them on
_PAGES = 16  # of the document, all in one item: so that loops reach their steady state


def worst_error(
    packed: PackedFormat | None, shape: Shape, heads: int, rows: int, device: torch.device
) -> float:
    """The largest relative error of what `rows` seats on one document get, against `reference`; maybe NaN."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=generator).bfloat16()

    document = Span("packed" if packed else "exact", 0, _PAGES * PAGE)
    tails = [Tail((_PAGES + 1) * PAGE + seat * _TAIL, _TAIL) for seat in range(rows)]
    keys, values = noise(2, tails[-1].start + _TAIL, shape.kv_heads, shape.dim).unbind()
    cut = plan(
        [Group([document, Span("exact", _PAGES * PAGE, PAGE)], tails)],
        {"exact": 1, "packed": 1},
    )
    work = {
        name: (torch.tensor(items, device=device), torch.tensor(len(items), dtype=torch.int32, device=device))
        for name, items in cut.items.items()
    }
    part_counts = torch.tensor(cut.part_counts, device=device)
    lengths = torch.arange(1, rows + 1, dtype=torch.int32, device=device)
    q, scale = noise(rows, heads, shape.dim), shape.dim**-0.5
    size = rows, int(part_counts.max()), heads
    outs = []
    for kernels, own in ((decode, (rows,)), (reference, ())):
        parts = torch.zeros(*size, shape.dim, device=device), torch.zeros(size, device=device)
        kernels.attend_exact(q, keys, values, *work["exact"], lengths, *parts, scale, *own)
        if packed is not None:
            pages = _pages(packed, keys, values)
            kernels.attend_packed(packed, q, *pages, *work["packed"], *parts, scale, *own)
        outs.append(torch.zeros(rows, heads, shape.dim, device=device))
        kernels.merge(*parts, part_counts, outs[-1])
    got, want = outs
    return float(((got - want).norm(dim=(1, 2)) / want.norm(dim=(1, 2))).max())


def packing_error(packed: PackedFormat, shape: Shape, device: torch.device) -> float:
    """The relative error of packing and unpacking on the card, against the same on the computer."""
    generator = torch.Generator(device).manual_seed(0)
    heads, size = shape.kv_heads, (2, _PAGES * PAGE, shape.kv_heads, shape.dim)
    # Parts of one product's rows, as a model gives them.
    product = torch.randn(size[1], 2 * heads, shape.dim, device=device, generator=generator).bfloat16()
    on_card, on_host = (torch.empty(size, dtype=product.dtype, device=place) for place in (device, "cpu"))
    for x, unpacked in ((product, on_card), (product.cpu(), on_host)):
        packed.unpack(*_pages(packed, *x.split(heads, dim=1)), *unpacked)
    return float((on_card.cpu().float() - on_host.float()).norm() / on_host.float().norm())


def centring_error(packed: PackedFormat, shape: Shape, device: torch.device) -> float:
    """The relative error of `PackedFormat.centre` on the card, against the same on the computer."""
    generator = torch.Generator(device).manual_seed(0)
    size = 2, _PAGES * PAGE, shape.kv_heads, shape.dim
    noise = torch.randn(size, device=device, generator=generator)
    means, sizes = torch.randn(2, 2, 1, *size[2:], device=device, generator=generator)
    pages = _pages(packed, *(noise * sizes.abs().clamp_min(0.1) + 3 * means).bfloat16())
    meant = []
    for codes, scales in (pages, [x.cpu() for x in pages]):
        room = torch.empty(size, dtype=E4M3, device=codes.device)
        found = packed.centre([(codes, scales)], *room)
        meant.append(room.float() * found.descales[:, None] + found.centres[:, None])
    return float((meant[0].cpu() - meant[1]).norm() / meant[1].norm())


def _pages(packed: PackedFormat, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    codes = torch.empty(packed.codes_shape(_PAGES), dtype=torch.uint8, device=keys.device)
    scales = torch.empty(packed.scales_shape(_PAGES), dtype=torch.bfloat16, device=keys.device)
    packed.pack(keys[: _PAGES * PAGE], values[: _PAGES * PAGE], codes, scales)
    return codes, scales
