"""The Triton kernels against their references, on a CUDA card."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.centred import E4M3
from worker.engine.formats import packed_format
from worker.engine.kernels import reference
from worker.engine.kernels.plan import Group, Plan, Span, Tail, plan
from worker.engine.kv import PackedArena, Pieces, Shape, copy_pages
from worker.engine.kv import Span as Stretch
from worker.engine.page import PAGE
from worker.engine.types import Format

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

Name = Literal["fp8", "int4"]
NAMES = pytest.mark.parametrize("name", ["fp8", "int4"])
HEADS, KV_HEADS, DIM = 32, 4, 128
SCALE = DIM**-0.5
COARSE = 3e-2  #: relative error where weights are e4m3: less than packing makes


def noise(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values (tokens, KV heads, dim) in bf16; values have a mean."""
    generator = torch.Generator("cuda").manual_seed(seed)
    sizes = torch.rand(tokens, 1, 1, device="cuda", generator=generator) + 0.5
    x = torch.randn(2, tokens, KV_HEADS, DIM, device="cuda", generator=generator) * sizes
    return x[0].bfloat16(), (x[1] + 0.3).bfloat16()


def pages(name: Name, tokens: int) -> tuple[Tensor, Tensor]:
    packed = packed_format(name, KV_HEADS, DIM)
    return (
        torch.empty(packed.codes_shape(tokens // PAGE), dtype=torch.uint8, device="cuda"),
        torch.empty(packed.scales_shape(tokens // PAGE), dtype=torch.bfloat16, device="cuda"),
    )


def on_card(rows: NDArray[np.int32]) -> tuple[Tensor, Tensor]:
    return (torch.tensor(rows, device="cuda"), torch.tensor(len(rows), device="cuda", dtype=torch.int32))


def fresh_parts(cut: Plan) -> tuple[Tensor, Tensor]:
    shape = len(cut.part_counts), int(cut.part_counts.max()), HEADS
    outputs, lse = (torch.full(x, float("nan"), device="cuda") for x in ((*shape, DIM), shape))
    return outputs, lse


def error(got: Tensor, want: Tensor) -> float:
    return float((got.cpu().double() - want.cpu().double()).norm() / want.double().norm())


@NAMES
def test_packing_on_the_card_gives_the_codes_of_the_reference(name: Name) -> None:
    packed, tokens = packed_format(name, KV_HEADS, DIM), 1_024
    keys, values = noise(tokens)
    codes, scales = pages(name, tokens)
    packed.pack(keys, values, codes, scales)
    want = codes.cpu().zero_(), scales.cpu().zero_()
    packed.pack(keys.cpu(), values.cpu(), *want)
    # The order of a sum decides where an element lies between two levels, or a scale between two roundings.
    assert (codes.cpu() == want[0]).float().mean() > 0.99
    assert error(scales, want[1]) < 5e-3  # of which one scale's rounding in four bits is 7e-4


@NAMES
def test_packing_takes_keys_and_values_as_models_give_them(name: Name) -> None:
    """Parts of the rows of one product, or heads first in memory."""
    packed, tokens = packed_format(name, KV_HEADS, DIM), 2 * PAGE
    plain = noise(tokens)
    product = torch.cat(plain, 1).split(KV_HEADS, 1)
    heads_first = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in plain]
    want = pages(name, tokens)
    packed.pack(*plain, *want)
    for keys, values in (product, heads_first):
        got = pages(name, tokens)
        packed.pack(keys, values, *got)
        assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))


@NAMES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_token_that_is_not_finite_does_not_come_back_as_if_it_were(name: Name, bad: float) -> None:
    packed = packed_format(name, KV_HEADS, DIM)
    keys, values = noise(PAGE)
    for x in (keys, values):
        x[5, 0, 3] = bad
    codes, scales = pages(name, PAGE)
    packed.pack(keys, values, codes, scales)
    got = torch.empty_like(keys), torch.empty_like(values)
    packed.unpack(codes, scales, *got)
    for back in got:
        assert not back[5, 0].isfinite().all()
        assert back[:5].isfinite().all()


@NAMES
@pytest.mark.parametrize("pinned", [False, True])
def test_unpacking_gives_what_the_reference_gives_from_the_card_and_from_the_host(
    name: Name, pinned: bool
) -> None:
    packed, tokens = packed_format(name, KV_HEADS, DIM), 1_024
    codes, scales = pages(name, tokens)
    packed.pack(*noise(tokens), codes, scales)
    want = torch.empty(2, tokens, KV_HEADS, DIM)
    packed.unpack(codes.cpu(), scales.cpu(), *want)
    got = torch.empty(2, tokens, KV_HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    source = [x.cpu().pin_memory() for x in (codes, scales)] if pinned else [codes, scales]
    packed.unpack(*source, *got)
    assert error(got, want.bfloat16()) < 1e-3


@NAMES
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs a card with FP8"
)
def test_pages_become_centred_8_bit_floats_as_the_reference_makes_them(name: Name) -> None:
    """Piece by piece through two buffers; the same bits from the card, from pinned memory and from both."""
    packed, pages, each = packed_format(name, KV_HEADS, DIM), 12, 4
    shape, cuda = Shape(1, KV_HEADS, DIM), torch.device("cuda")
    card = PackedArena(shape, packed, pages, device=cuda)
    host = PackedArena(shape, packed, pages, pin_memory=True)
    means = noise(pages, seed=1)
    card.put(
        0, 0, *(x + 3 * m.repeat_interleave(PAGE, 0) for x, m in zip(noise(pages * PAGE), means, strict=True))
    )
    copy_pages(card, range(pages), host, range(pages))

    def pieces(*spans: tuple[PackedArena, int, int]) -> list[list[Tensor]]:
        found = Pieces(shape, dtype=torch.bfloat16, device=cuda, piece=each * PAGE // 2)
        cut = [Stretch(arena, start * PAGE, (end - start) * PAGE) for arena, start, end in spans]
        return [[x.clone() for x in piece] for piece in found.centred(cut, 0)]

    whole = pieces((card, 0, 12))
    for other in (
        pieces((card, 0, 5), (card, 5, 12)),
        pieces((host, 0, 12)),
        pieces((host, 0, 3), (host, 3, 5), (card, 5, 7), (host, 7, 12)),
    ):
        for ones, others in zip(whole, other, strict=True):
            for x, y in zip(ones, others, strict=True):
                assert torch.equal(x.view(torch.uint8), y.view(torch.uint8))
    for start, (keys, values, centres, descales) in zip(range(0, pages, each), whole, strict=True):
        part = card.codes[0, start : start + each].cpu(), card.scales[0, start : start + each].cpu()
        want = packed.centre([part], *torch.empty(2, each * PAGE, KV_HEADS, DIM, dtype=E4M3))
        assert error(centres, want.centres) < 1e-5
        assert error(descales, want.descales) < 1e-5
        for got, codes in ((keys, want.keys), (values, want.values)):
            assert (got.cpu().view(torch.uint8) == codes.view(torch.uint8)).float().mean() > 0.99


@pytest.mark.parametrize("name", ["exact", "fp8", "int4"])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_a_step_of_several_seats_equals_the_reference(name: Format, rows: int) -> None:
    """A group of `rows` seats on one document and one seat on another; tails end anywhere, one is empty."""
    from worker.engine.kernels import decode

    arena, document = noise(8_192), noise(64 * PAGE, seed=1)
    tails = [Tail(2_048 + 600 * seat, 600) for seat in range(rows + 1)]
    groups = [
        Group([Span("exact", 0, 328), Span(name, PAGE, 40 * PAGE)], tails[:rows]),
        Group([Span("exact", 400, PAGE), Span(name, 41 * PAGE, 3 * PAGE)], tails[rows:]),
    ]
    cut = plan(groups, {"exact": 66} | {name: 33})
    seats = rows + 1
    lengths = torch.tensor([97 * seat for seat in range(seats)], device="cuda", dtype=torch.int32)
    q = torch.randn(seats, HEADS, DIM, device="cuda").bfloat16()
    parts = [fresh_parts(cut) for _ in range(2)]
    out = torch.empty(2, seats, HEADS, DIM, device="cuda")
    work = {arena: on_card(rows) for arena, rows in cut.items.items()}
    part_counts = torch.tensor(cut.part_counts, device="cuda")
    if name != "exact":
        packed = packed_format(name, KV_HEADS, DIM)
        codes, scales = pages(name, len(document[0]))
        packed.pack(*document, codes, scales)
        read = packed, q, codes, scales, *work[name]
        decode.attend_packed(*read, *parts[0], SCALE, rows)
        reference.attend_packed(*read, *parts[1], SCALE)
    exact = q, *arena, *work["exact"], lengths
    decode.attend_exact(*exact, *parts[0], SCALE, rows)
    reference.attend_exact(*exact, *parts[1], SCALE)
    decode.merge(*parts[0], part_counts, out[0])
    reference.merge(*parts[1], part_counts, out[1])
    assert out.isfinite().all()
    assert error(out[0], out[1]) < (1e-2 if name == "exact" or rows < 8 else COARSE)


@pytest.mark.parametrize("name", ["exact", "fp8", "int4"])
@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("loud", [(), (3,), (3, 70)])
def test_queries_as_the_left_operand_give_what_the_reference_gives(
    name: Format, rows: int, loud: tuple[int, ...]
) -> None:
    """Values have a mean, which short sums lose first; one seat hears almost one token only.

    `loud`: channels that are constant and large, in turns up and down, as some models' are. FP8 cores keep
    some 14 bits of a score, which reaches 350 there; packing itself changes those outputs by 12 % and more.
    """
    from worker.engine.kernels import decode

    most = 1e-2 if name == "exact" else 0.1 if loud else COARSE
    document = noise(64 * PAGE)
    q = torch.randn(rows, HEADS, DIM, device="cuda").bfloat16()
    q[0] = 8 * document[0][777].repeat_interleave(HEADS // KV_HEADS, 0)
    for number, channel in enumerate(loud):
        q[..., channel] += 20
        document[0][..., channel] += 200 * (-1) ** number
    cut = plan([Group([Span(name, PAGE, 40 * PAGE)], [Tail(0, 0)] * rows)], {"exact": 4} | {name: 4})
    work, lengths = on_card(cut.items[name]), torch.zeros(rows, device="cuda", dtype=torch.int32)
    got, want = fresh_parts(cut), fresh_parts(cut)
    if name == "exact":
        launch = decode.Launch(per_sm=2, block=64, stages=2, warps=4, wide=True)
        decode.attend_exact(q, *document, *work, lengths, *got, SCALE, rows, launch)
        reference.attend_exact(q, *document, *work, lengths, *want, SCALE)
    else:
        launch = decode.Launch(per_sm=2, block=1, stages=2, warps=4, wide=True)
        packed = packed_format(name, KV_HEADS, DIM)
        codes, scales = pages(name, len(document[0]))
        packed.pack(*document, codes, scales)
        read = packed, q, codes, scales, *work
        decode.attend_packed(*read, *got, SCALE, rows, launch)
        reference.attend_packed(*read, *want, SCALE)
    assert error(got[0], want[0]) < most
    assert error(got[1], want[1]) < 1e-2


@NAMES
def test_the_loudest_page_may_be_the_last_of_many(name: Name) -> None:
    from worker.engine.kernels import decode

    keys, values = noise(70 * PAGE)
    values[-PAGE:] *= 100
    q = torch.randn(8, HEADS, DIM, device="cuda").bfloat16()
    cut = plan([Group([Span(name, 0, 70 * PAGE)], [Tail(0, 0)] * 8)], {"exact": 4} | {name: 1})
    launch = decode.Launch(per_sm=2, block=1, stages=2, warps=4, wide=True)
    packed = packed_format(name, KV_HEADS, DIM)
    codes, scales = pages(name, 70 * PAGE)
    packed.pack(keys, values, codes, scales)
    read = packed, q, codes, scales, *on_card(cut.items[name])
    got, want = fresh_parts(cut), fresh_parts(cut)
    decode.attend_packed(*read, *got, SCALE, 8, launch)
    reference.attend_packed(*read, *want, SCALE)
    assert error(got[0], want[0]) < COARSE
    assert error(got[1], want[1]) < 1e-2


@NAMES
def test_a_token_that_has_all_the_weight_is_heard_as_it_was_kept(name: Name) -> None:
    """Its value's scale has the four bits of e4m3, so that nothing of it is rounded."""
    from worker.engine.kernels import decode

    keys, values = noise(8 * PAGE)
    q = 8 * keys[300:308].repeat_interleave(HEADS // KV_HEADS, 1)
    cut = plan([Group([Span(name, 0, 8 * PAGE)], [Tail(0, 0)] * 8)], {"exact": 4} | {name: 1})
    packed = packed_format(name, KV_HEADS, DIM)
    codes, scales = pages(name, 8 * PAGE)
    packed.pack(keys, values, codes, scales)
    read = packed, q, codes, scales, *on_card(cut.items[name])
    got, want = fresh_parts(cut), fresh_parts(cut)
    decode.attend_packed(*read, *got, SCALE, 8)
    reference.attend_packed(*read, *want, SCALE)
    assert error(got[0], want[0]) < 3e-3


@NAMES
def test_a_seat_that_is_lost_takes_no_other_with_it(name: Name) -> None:
    from worker.engine.kernels import decode

    cut = plan([Group([Span(name, 0, 8 * PAGE)], [Tail(0, 0)] * 8)], {"exact": 4} | {name: 1})
    packed = packed_format(name, KV_HEADS, DIM)
    codes, scales = pages(name, 8 * PAGE)
    packed.pack(*noise(8 * PAGE), codes, scales)
    q = torch.randn(8, HEADS, DIM, device="cuda").bfloat16()
    q[0] = math.inf
    read = packed, q, codes, scales, *on_card(cut.items[name])
    got, want = fresh_parts(cut), fresh_parts(cut)
    decode.attend_packed(*read, *got, SCALE, 8)
    reference.attend_packed(*read, *want, SCALE)
    assert not got[0][0].isfinite().any()
    assert error(got[0][1:], want[0][1:]) < COARSE


@pytest.mark.parametrize("rows", [1, 8])
def test_the_test_at_the_start_finds_every_kernel_right(rows: int) -> None:
    from worker.engine.kernels.selftest import worst_error

    for packed in (None, packed_format("fp8", KV_HEADS, DIM), packed_format("int4", KV_HEADS, DIM)):
        worst = worst_error(packed, Shape(1, KV_HEADS, DIM), HEADS, rows, torch.device("cuda"))
        assert worst < (1e-2 if packed is None or rows < 8 else COARSE)


def test_a_step_in_a_graph_follows_the_tails_as_they_grow() -> None:
    from worker.engine.kernels import decode

    keys, values = noise(1_024)
    cut = plan([Group([Span("exact", 0, PAGE)], [Tail(PAGE, 800)])], {"exact": 66})
    work, parts = on_card(cut.items["exact"]), fresh_parts(cut)
    part_counts = torch.tensor(cut.part_counts, device="cuda")
    lengths = torch.zeros(1, device="cuda", dtype=torch.int32)
    slots = torch.zeros(1, device="cuda", dtype=torch.int64)
    q, out = torch.randn(2, 1, HEADS, DIM, device="cuda").bfloat16().unbind()
    k, v = noise(1, seed=2)

    def step() -> None:
        decode.append(k, v, slots, keys, values)
        decode.attend_exact(q, keys, values, *work, lengths, *parts, SCALE, 1)
        decode.merge(*parts, part_counts, out)

    slots.fill_(-1)
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for length in (1, 2, 511, 512, 513, 800):
        lengths.fill_(length)
        slots.fill_(PAGE + length - 1)
        graph.replay()
        queries = q[0].double().reshape(KV_HEADS, -1, DIM)
        seen = slice(0, PAGE + length)
        weights = (torch.einsum("kgd,nkd->kgn", queries, keys[seen].double()) * SCALE).softmax(-1)
        want = torch.einsum("kgn,nkd->kgd", weights, values[seen].double()).flatten(0, 1)
        assert torch.equal(keys[PAGE + length - 1], k[0])
        assert error(out[0], want) < 1e-2


def test_tokens_are_appended_from_within_wider_rows() -> None:
    from worker.engine.kernels import decode

    rows = torch.randn(3, 5, KV_HEADS, DIM, device="cuda").bfloat16()
    keys, values = torch.zeros(2, 9, KV_HEADS, DIM, device="cuda", dtype=torch.bfloat16).unbind()
    slots = torch.tensor([4, -1, 2], device="cuda")
    decode.append(rows[:, 1], rows[:, 3], slots, keys, values)
    want = torch.zeros_like(keys), torch.zeros_like(values)
    reference.append(rows[:, 1], rows[:, 3], slots, *want)
    assert torch.equal(keys, want[0])
    assert torch.equal(values, want[1])


def test_a_seat_without_parts_gets_zeros() -> None:
    from worker.engine.kernels import decode

    out = torch.ones(2, HEADS, DIM, device="cuda")
    parts = torch.full((2, 3, HEADS, DIM), float("nan"), device="cuda")
    lse = torch.full((2, 3, HEADS), float("-inf"), device="cuda")
    decode.merge(parts, lse, torch.tensor([0, 0], device="cuda", dtype=torch.int32), out)
    assert not out.any()
