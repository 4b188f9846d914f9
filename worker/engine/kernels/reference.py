"""What `decode` computes, in plain torch and fp64, on any device: slow, and right."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.engine.formats import PackedFormat
from worker.engine.page import PAGE


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
) -> None:
    """As `decode.attend_exact`."""
    for start, tokens, first, seats, part, tail_seat, skip, _ in items[: int(count)].tolist():
        seen = tokens if tail_seat < 0 else min(max(int(lengths[tail_seat]) - skip, 0), tokens)
        shared = slice(first, first + seats)
        span = slice(start, start + seen)
        output, lse = _attend(q[shared], keys[span], values[span], scale)
        parts[shared, part], parts_lse[shared, part] = output.float(), lse.float()


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
) -> None:
    """As `decode.attend_packed`."""
    for start, tokens, first, seats, part, *_ in items[: int(count)].tolist():
        pages = slice(start // PAGE, (start + tokens) // PAGE)
        shared = slice(first, first + seats)
        keys, values = torch.empty(2, tokens, packed.kv_heads, packed.dim, device=q.device).unbind()
        packed.unpack(codes[pages], scales[pages], keys, values)
        output, lse = _attend(q[shared], keys, values, scale)
        parts[shared, part], parts_lse[shared, part] = output.float(), lse.float()


def merge(parts: Tensor, parts_lse: Tensor, part_counts: Tensor, out: Tensor) -> None:
    """As `decode.merge`, without log-sum-exp."""
    for seat, count in enumerate(part_counts.tolist()):
        weights = parts_lse[seat, :count].double().softmax(0).nan_to_num()[..., None]
        out[seat] = (weights * parts[seat, :count].double()).sum(0)


def append(k: Tensor, v: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """As `decode.append`."""
    held = slots >= 0
    keys[slots[held].long()], values[slots[held].long()] = k[held], v[held]


def _attend(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Outputs (seats, heads, dim) and log-sum-exp (seats, heads)."""
    queries = q.double().unflatten(1, (keys.shape[1], -1))
    scores = torch.einsum("skgd,nkd->skgn", queries, keys.double()) * scale
    lse = scores.logsumexp(-1)
    output = torch.einsum("skgn,nkd->skgd", (scores - lse[..., None]).exp(), values.double())
    return output.flatten(1, 2), lse.flatten(1, 2)
