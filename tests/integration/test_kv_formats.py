"""Packed keys and values, and attention over them, in plain torch."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from worker.engine.formats import PackedFormat, packed_format, walsh
from worker.engine.kernels import reference
from worker.engine.kernels.plan import Group, Span, Tail, plan
from worker.engine.page import PAGE

KV_HEADS = 2
PAGES = 3

Name = Literal["fp8", "int4"]
NAMES = pytest.mark.parametrize("name", ["fp8", "int4"])


def noise(tokens: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values (tokens, KV heads, dim), every token of another size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(tokens, 1, 1, generator=generator) + 0.5
    return (
        torch.randn(tokens, KV_HEADS, dim, generator=generator) * sizes,
        torch.randn(tokens, KV_HEADS, dim, generator=generator) * sizes,
    )


def packed_pages(packed: PackedFormat, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    pages = len(keys) // PAGE
    codes = torch.empty(packed.codes_shape(pages), dtype=torch.uint8)
    scales = torch.empty(packed.scales_shape(pages), dtype=torch.bfloat16)
    packed.pack(keys, values, codes, scales)
    return codes, scales


def round_trip(packed: PackedFormat, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    back = torch.empty_like(keys), torch.empty_like(values)
    packed.unpack(*packed_pages(packed, keys, values), *back)
    return back


def loss(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(("name", "most"), [("fp8", 0.03), ("int4", 0.12)])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_what_is_packed_comes_back_nearly_the_same(name: Name, most: float, dim: int) -> None:
    keys, values = noise(PAGES * PAGE, dim)
    back = round_trip(packed_format(name, KV_HEADS, dim), keys, values)
    assert 0 < loss(back[0], keys) < most
    assert 0 < loss(back[1], values) < most


@NAMES
def test_scales_of_values_are_e4m3_times_a_power_of_two(name: Name) -> None:
    """So a key that has all the weight is heard unrounded, where weights go to the FP8 tensor cores."""
    _, scales = packed_pages(packed_format(name, KV_HEADS, 64), *noise(PAGES * PAGE, 64))
    mantissas = scales[..., 1].float().frexp().mantissa
    assert torch.equal(mantissas.to(torch.float8_e4m3fn).float(), mantissas)


def test_fp8_makes_the_largest_value_of_a_head_no_smaller_on_the_whole() -> None:
    """What a model says loudest would else be said a little more softly in every token."""
    _, values = noise(PAGES * PAGE, 128)
    _, back = round_trip(packed_format("fp8", KV_HEADS, 128), values, values)
    at = values.abs().argmax(-1, keepdim=True)
    kept = back.gather(-1, at) / values.gather(-1, at)
    assert abs(float(kept.mean()) - 1) < 2e-3
    assert float(kept.min()) > 0.95


@NAMES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_token_that_is_not_finite_does_not_come_back_as_if_it_were(name: Name, bad: float) -> None:
    """Or an answer that is broken would pass for a good one."""
    keys, values = noise(PAGE, 64)
    for x in (keys, values):
        x[5, 0] = bad
    for back in round_trip(packed_format(name, KV_HEADS, 64), keys, values):
        assert not back[5, 0].isfinite().any()
        assert back[:5].isfinite().all()


@NAMES
def test_packing_what_came_back_changes_it_no_more_than_once(name: Name) -> None:
    packed = packed_format(name, KV_HEADS, 64)
    once = round_trip(packed, *noise(PAGE, 64))
    twice = round_trip(packed, *once)
    assert loss(twice[0], once[0]) < loss(once[0], noise(PAGE, 64)[0])


@NAMES
def test_packing_is_deterministic(name: Name) -> None:
    packed = packed_format(name, KV_HEADS, 64)
    first, second = (packed_pages(packed, *noise(PAGES * PAGE, 64)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@NAMES
def test_a_page_is_packed_alone_as_among_others(name: Name) -> None:
    packed = packed_format(name, KV_HEADS, 64)
    keys, values = noise(PAGES * PAGE, 64)
    codes, scales = packed_pages(packed, keys, values)
    second = slice(PAGE, 2 * PAGE)
    alone = packed_pages(packed, keys[second], values[second])
    assert torch.equal(alone[0], codes[1:2])
    assert torch.equal(alone[1], scales[1:2])


@NAMES
def test_zeros_stay_zeros(name: Name) -> None:
    keys = values = torch.zeros(PAGE, KV_HEADS, 64)
    back = round_trip(packed_format(name, KV_HEADS, 64), keys, values)
    assert not back[0].any()
    assert not back[1].any()


def test_fp8_keeps_its_own_codes_exactly() -> None:
    packed = packed_format("fp8", KV_HEADS, 64)
    x = torch.tensor([448.0, -0.5, 3.25, 0.0]).repeat(PAGE, KV_HEADS, 16)
    assert torch.equal(round_trip(packed, x, -x)[1], -x)


def test_int4_spreads_one_large_element_over_the_head() -> None:
    packed = packed_format("int4", KV_HEADS, 128)
    keys, values = noise(PAGE, 128)
    keys[:, :, 5] += 40
    back, _ = round_trip(packed, keys, values)
    assert (
        loss(back[:, :, :5], keys[:, :, :5]) < 0.6
    )  # a plain 4-bit scale would leave nothing of the small ones


def test_bytes_per_token_count_codes_and_scales() -> None:
    assert packed_format("fp8", 4, 128).bytes_per_token(40) == 40 * 2 * 4 * 130
    assert packed_format("int4", 4, 128).bytes_per_token(40) == 40 * 2 * 4 * 66


@NAMES
def test_an_arena_holds_as_many_bytes_as_its_tokens_take(name: Name) -> None:
    packed = packed_format(name, KV_HEADS, 64)
    codes = torch.empty(packed.codes_shape(PAGES), dtype=torch.uint8)
    scales = torch.empty(packed.scales_shape(PAGES), dtype=torch.bfloat16)
    assert codes.nbytes + scales.nbytes == PAGES * PAGE * packed.bytes_per_token(layers=1)


@pytest.mark.parametrize("dim", [16, 80, 96])
def test_int4_refuses_heads_that_it_cannot_rotate(dim: int) -> None:
    with pytest.raises(ValueError, match=f"have {dim}"):
        packed_format("int4", KV_HEADS, dim)


def test_the_walsh_matrix_is_orthonormal_and_symmetric() -> None:
    matrix = walsh(64, torch.device("cpu"))
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix @ matrix, torch.eye(64), atol=1e-6)


@NAMES
def test_attention_in_items_equals_attention_over_what_each_seat_sees(name: Name) -> None:
    """Two seats share a document, a third has its own; one tail is still empty."""
    dim, heads, scale = 32, 6, 0.3
    packed = packed_format(name, KV_HEADS, dim)
    keys, values = noise(4 * PAGE, dim)
    codes, scales = packed_pages(packed, keys, values)
    back = torch.empty_like(keys), torch.empty_like(values)
    packed.unpack(codes, scales, *back)
    arena = noise(4_096, dim, seed=1)
    lengths = torch.tensor([40, 550, 0], dtype=torch.int32)
    cut = plan(
        [
            Group([Span("exact", 0, 128), Span(name, 128, 384)], [Tail(1_000, 600), Tail(1_600, 600)]),
            Group([Span("exact", 400, 200), Span(name, 0, 128)], [Tail(3_000, 30)]),
        ],
        {"exact": 5, name: 3},
    )
    q = torch.randn(3, heads, dim, generator=torch.Generator().manual_seed(2))
    shape = 3, int(cut.part_counts.max()), heads
    parts = torch.empty(*shape, dim), torch.empty(shape)
    work = {arena: (torch.tensor(rows), torch.tensor(len(rows))) for arena, rows in cut.items.items()}
    reference.attend_exact(q, *arena, *work["exact"], lengths, *parts, scale)
    reference.attend_packed(packed, q, codes, scales, *work[name], *parts, scale)
    out = torch.empty_like(q)
    reference.merge(*parts, torch.tensor(cut.part_counts), out)

    seen = [
        [(arena, 0, 128), (back, 128, 384), (arena, 1_000, 40)],
        [(arena, 0, 128), (back, 128, 384), (arena, 1_600, 550)],
        [(arena, 400, 200), (back, 0, 128)],
    ]
    for seat, ranges in enumerate(seen):
        k, v = (
            torch.cat([source[side][start : start + n] for source, start, n in ranges]) for side in (0, 1)
        )
        want = torch.nn.functional.scaled_dot_product_attention(
            q[seat][None, :, None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            scale=scale,
            enable_gqa=True,
        )
        torch.testing.assert_close(out[seat], want[0, :, 0], rtol=1e-4, atol=1e-5)


def test_a_seat_without_parts_gets_zeros() -> None:
    out = torch.ones(1, 2, 4)
    reference.merge(torch.ones(1, 3, 2, 4), torch.ones(1, 3, 2), torch.tensor([0]), out)
    assert not out.any()


def test_an_appended_token_stands_in_its_slot_and_an_idle_seat_writes_nothing() -> None:
    k, v = noise(2, 8)
    keys, values = torch.zeros(2, 5, KV_HEADS, 8).unbind()
    reference.append(k, v, torch.tensor([3, -1]), keys, values)
    assert torch.equal(keys[3], k[0])
    assert torch.equal(values[3], v[0])
    assert keys.any(-1).any(-1).tolist() == [False, False, False, True, False]
