"""Reading in FP8 without a card that can: a plain model of the kernel, few bits and all, is put behind it."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from worker.engine.attention import Attention, merge, reference
from worker.engine.centred import E4M3, E4M3_TOP
from worker.engine.errors import ModelLoadError
from worker.engine.formats import packed_format
from worker.engine.fp8_attention import OUTPUT_SCALE, WEIGHT_SCALE, Codes, Fp8Attention, Shape, check
from worker.engine.kv import ExactArena, PackedArena, Pieces, Span, put
from worker.engine.kv import Shape as Layers
from worker.engine.page import PAGE
from worker.engine.passes import Reading

HEADS, KV_HEADS, DIM, QUERIES = 4, 2, 32, 4
SCALE = DIM**-0.5
STEP = 16_384
Name = Literal["fp8", "int4"]
NAMES = pytest.mark.parametrize("name", ["fp8", "int4"])
SMALL = Shape(HEADS, KV_HEADS, DIM, QUERIES)


def add_aligned(total: Tensor, products: Tensor) -> Tensor:
    """Add along the next to last axis as the card does: all are cut where the largest ends, after 13 bits.

    total (..., dim), products (..., keys, dim).
    """
    largest = torch.maximum(total.abs(), products.abs().amax(-2))
    grid = torch.exp2(largest.log2().floor().clamp_min(-100) - 13)
    return ((total / grid).trunc() + (products / grid[..., None, :]).trunc().sum(-2)) * grid


def one_level(q: Codes, k: Codes, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The kernel's numerics: e4m3 in and out, and one running sum over the keys, 32 at a time.

    Values of mean one come out as 0.81 over 16,384 keys and 0.56 over 65,536 keys, here as on the card.
    """
    groups = q.data.shape[1] // k.data.shape[1]
    keys, values = (x.float().repeat_interleave(groups, 1) for x in (k.data, v))
    scores = q.data.float() @ keys.transpose(-1, -2) * (q.descale * k.descale * scale)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    codes = (weights * WEIGHT_SCALE).to(E4M3).float()
    output = torch.zeros(q.data.shape)
    for some, their in zip(codes.split(32, -1), values.split(32, -2), strict=True):
        output = add_aligned(output, some[..., None] * their[:, :, None])
    output *= OUTPUT_SCALE / WEIGHT_SCALE / weights.sum(-1, keepdim=True)
    return output.to(E4M3), scores.logsumexp(-1)


class Recorded:
    """`one_level`, and how many keys each of its calls saw."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, q: Codes, k: Codes, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        self.lengths.append(k.data.shape[2])
        return one_level(q, k, v, scale)


def zeros(q: Codes, k: Codes, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A kernel that computes nothing."""
    return torch.zeros_like(q.data), torch.zeros(q.data.shape[:3])


def tokens(n: int, *means: float, seed: int = 0) -> list[Tensor]:
    """One tensor (n, KV heads, dim) in bf16 for each mean."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, KV_HEADS, DIM, generator=generator) + mean).bfloat16() for mean in means]


def questions(seed: int = 1) -> Tensor:
    return torch.randn(1, HEADS, QUERIES, DIM, generator=torch.Generator().manual_seed(seed)).bfloat16()


def exactly(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return reference(q.float(), keys[None].transpose(1, 2), values[None].transpose(1, 2), SCALE, False)


def off(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_codes_and_their_centre_give_the_tokens_back_to_half_a_code() -> None:
    keys, values = tokens(64, 3.0, -5.0)
    values[:, 0] *= 1_000  # a loud head and a silent channel must not cost the others their precision
    values[:, 1, 0] = 0
    piece = Fp8Attention(one_level, step=64).prepare(keys, values)
    for codes, descale, centre, want in zip(
        (piece.keys, piece.values), piece.descales, piece.centres, (keys, values), strict=True
    ):
        error = (codes.float() * descale + centre - want).abs()
        half_a_code = (want - centre).abs() * 2**-4 + descale * 2**-10
        assert bool((error <= half_a_code * 1.001).all())


def test_values_of_mean_one_come_out_short_of_the_kernel_and_whole_of_the_reader() -> None:
    keys, values = tokens(STEP, 0.0, 1.0)
    q = questions()
    one = torch.ones(())
    k, v = (x.to(E4M3)[None].transpose(1, 2) for x in (keys, values))
    alone, _ = one_level(Codes(q.to(E4M3), one), Codes(k, one), v, SCALE)
    assert 0.75 < float(alone.float().mean()) / OUTPUT_SCALE < 0.85
    attention = Fp8Attention(one_level, STEP)
    output, _ = attention.attend(attention.prepare_queries(q), attention.prepare(keys, values), SCALE)
    assert abs(float(output.mean()) - 1) < 1e-3


def test_what_all_keys_share_moves_the_log_sum_exp_and_nothing_else() -> None:
    keys, values = (x.float() for x in tokens(256, 0.0, 0.0))
    shared = 10 * torch.randn(KV_HEADS, DIM, generator=torch.Generator().manual_seed(2))
    attention = Fp8Attention(one_level, step=256)
    q = attention.prepare_queries(questions())
    output, lse = attention.attend(q, attention.prepare(keys, values), SCALE)
    moved, moved_lse = attention.attend(q, attention.prepare(keys + shared, values), SCALE)
    by = (q.exact * shared.repeat_interleave(HEADS // KV_HEADS, 0)[:, None]).sum(-1) * SCALE
    assert off(moved, output) < 0.02  # a few codes fall on their other side
    torch.testing.assert_close(moved_lse, lse + by, atol=0.01, rtol=1e-3)


def test_pieces_with_other_means_merge_with_each_other_and_with_an_exact_piece() -> None:
    attention = Fp8Attention(one_level, step=128)
    q = questions()
    pieces = [tokens(256, 2.0, 1.0), tokens(384, -1.0, 0.5, seed=3), tokens(100, 0.0, 0.0, seed=4)]
    prepared = [attention.prepare(keys, values) for keys, values in pieces[:2]]
    parts = [attention.attend(attention.prepare_queries(q), piece, SCALE) for piece in prepared]
    output, lse = merge([*parts, exactly(q, *pieces[2])])
    want, want_lse = exactly(q, *(torch.cat(x) for x in zip(*pieces, strict=True)))
    assert off(output, want) < 0.03
    assert float((lse - want_lse).abs().max()) < 0.05


def test_the_kernel_as_measured_passes_the_self_test() -> None:
    check(Fp8Attention(one_level, step=1_024), SMALL, torch.device("cpu"))


def test_a_loud_first_token_belongs_to_an_exact_piece() -> None:
    """Beside a key that takes most of the weight and has a small value, what the others add is cut off."""
    keys, values = (x.float() for x in tokens(4_096, 0.0, 0.5))
    q = questions().float()
    q[..., 0], keys[..., 0] = 8, 0
    attention = Fp8Attention(one_level, step=4_096)
    errors = []
    for score in (0, 10):
        keys[0], values[0] = 0, values[0] * 0.05
        keys[0, :, 0] = score
        output, _ = attention.attend(attention.prepare_queries(q), attention.prepare(keys, values), SCALE)
        errors.append(off(output, exactly(q, keys, values)[0]))
    quiet, loud = errors
    assert quiet < 0.01
    assert loud > 0.05


def packed_past(name: Name, tokens: int) -> tuple[list[Span], list[Tensor]]:
    """A first page as it is and `tokens` packed ones in two places, and all as they come back, in fp32.

    The first token draws most of the weight of queries whose first channel is about 4, and says little.
    """
    layers = Layers(1, KV_HEADS, DIM)
    exact = ExactArena(layers, 1, dtype=torch.bfloat16)
    packed = PackedArena(layers, packed_format(name, KV_HEADS, DIM), tokens // PAGE)
    half = tokens // 2 // PAGE * PAGE
    past = [Span(exact, 0, PAGE), Span(packed, tokens - half, half), Span(packed, 0, tokens - half)]
    keys, values = tokens_of(PAGE + tokens)
    keys[0, :, 0] += 16
    values[0] *= 0.05
    put(past, 0, keys, values)
    kept = torch.empty(2, PAGE + tokens, KV_HEADS, DIM)
    position = 0
    for span in past:
        span.arena.get(0, span.start, *kept[:, position : position + span.tokens])
        position += span.tokens
    return past, list(kept)


def tokens_of(n: int) -> list[Tensor]:
    """Keys with a mean and one loud channel, values with another mean and one loud token in a thousand."""
    keys, values = tokens(n, 1.0, 0.5, seed=7)
    keys[:, 0, 3] += 10
    values[500::1_000] *= 4
    return [keys, values]


@NAMES
@pytest.mark.parametrize("piece", [512, 2_048])
def test_packed_pages_are_read_in_8_bit_floats_as_precisely_as_unpacked_ones(name: Name, piece: int) -> None:
    """A past of a first page, which is loud, steps of every length in several pieces, and a rest."""
    kernel = Recorded()
    fp8 = Fp8Attention(kernel, step=1_024)
    past, kept = packed_past(name, 3 * 1_024 + 512 + 256 + PAGE)
    attention = Attention(reference, reference, merge, fp8, QUERIES)
    own = torch.randn(3, 1, HEADS, QUERIES, DIM, generator=torch.Generator().manual_seed(8))
    own[0, ..., 0] += 4
    q, k, v = own[0], own[1, :, :KV_HEADS], own[2, :, :KV_HEADS]
    new = Span(ExactArena(Layers(1, KV_HEADS, DIM), 1, dtype=torch.bfloat16), 0, QUERIES)
    pieces = Pieces(Layers(1, KV_HEADS, DIM), dtype=torch.bfloat16, piece=piece)
    got = Reading(attention, pieces, past, [new]).attend(q, k, v, SCALE)
    assert kernel.lengths == [1_024, 1_024, 1_024, 512, 256]
    want, _ = merge([exactly(q, *kept), reference(q, k, v, SCALE, True)])
    start, end = PAGE, PAGE + 3 * 1_024 + 512 + 256
    unpacked = fp8.prepare(*(x[start:end].bfloat16() for x in kept))
    parts = [
        fp8.attend(fp8.prepare_queries(q), unpacked, SCALE),
        exactly(q, *(torch.cat([x[:start], x[end:]]) for x in kept)),
        reference(q, k, v, SCALE, True),
    ]
    through_bf16 = off(merge(parts)[0], want)
    assert through_bf16 / 2 < off(got.transpose(1, 2), want) < 1.2 * through_bf16


@NAMES
def test_where_pages_stand_changes_no_bit_of_what_is_seen_of_them(name: Name) -> None:
    past, _ = packed_past(name, 5 * PAGE)
    assert isinstance(past[1].arena, PackedArena)
    together = PackedArena(Layers(1, KV_HEADS, DIM), past[1].arena.format, 5)
    position = 0
    for _, start, count in past[1:]:
        for x, y in zip(together.at(0, position, count), past[1].arena.at(0, start, count), strict=True):
            x.copy_(y)
        position += count
    found = [
        next(Pieces(Layers(1, KV_HEADS, DIM), dtype=torch.bfloat16, piece=5 * PAGE).centred(spans, 0))
        for spans in (past[1:], [Span(together, 0, 5 * PAGE)])
    ]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@NAMES
def test_codes_of_packed_pages_give_them_back_to_half_a_code(name: Name) -> None:
    past, kept = packed_past(name, 8 * PAGE)
    pieces = Pieces(Layers(1, KV_HEADS, DIM), dtype=torch.bfloat16, piece=8 * PAGE)
    found = next(pieces.centred(past[1:], 0))
    body = [x[PAGE:] for x in kept]
    for codes, centre, descale, want in zip(found[:2], found.centres, found.descales, body, strict=True):
        torch.testing.assert_close(centre, want.mean(0), atol=1e-5, rtol=1e-5)
        distance = (want - centre).abs()
        assert E4M3_TOP * descale.amax() < 16 * distance.amax()  # of 15 powers of two, few are given away
        error = (codes.float() * descale + centre - want).abs()
        assert bool((error <= (distance * 2**-4 + descale * 2**-10) * 1.001).all())


def test_a_kernel_that_computes_something_else_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="FP8 attention is wrong on this card"):
        check(Fp8Attention(zeros, step=128), SMALL, torch.device("cpu"))


def test_less_than_the_smallest_step_is_refused() -> None:
    keys, values = tokens(176, 0.0, 0.0)
    with pytest.raises(ValueError, match="multiple of 32"):
        Fp8Attention(one_level, step=128).prepare(keys, values)
