"""FP8 attention through cuDNN's front end on a Hopper card, with the head counts of GLM-4-9B-Chat-1M."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.engine.attention import reference
from worker.engine.centred import E4M3
from worker.engine.fp8_attention import (
    OUTPUT_SCALE,
    Codes,
    CudnnKernel,
    Fp8Attention,
    Shape,
    measure,
    select,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a Hopper card",
    ),
]

GLM = Shape(heads=32, kv_heads=4, dim=128, queries=8_192)
STEP = 16_384
SCALE = GLM.dim**-0.5


@pytest.fixture(scope="module")
def attention() -> Fp8Attention:
    pytest.importorskip("cudnn")
    return select(GLM, torch.device("cuda"), STEP)


def tokens(n: int, mean: float, seed: int) -> tuple[Tensor, Tensor]:
    """Keys and values (tokens, KV heads, dim)."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(2, n, GLM.kv_heads, GLM.dim, device="cuda", generator=generator) + mean
    keys, values = x.bfloat16()
    return keys, values


def questions() -> Tensor:
    """As a model gives them: token-major, seen head-major."""
    generator = torch.Generator("cuda").manual_seed(1)
    q = torch.randn(1, GLM.queries, GLM.heads, GLM.dim, device="cuda", generator=generator)
    return q.bfloat16().transpose(1, 2)


def head_major(*tensors: Tensor) -> list[Tensor]:
    return [x[None].transpose(1, 2) for x in tensors]


def test_the_kernel_alone_loses_a_mean_and_the_reader_keeps_it(attention: Fp8Attention) -> None:
    keys, values = tokens(STEP, 0.0, seed=2)
    values = values + 1
    q, one = questions(), torch.ones((), device="cuda")
    k, v = head_major(keys.to(E4M3), values.to(E4M3))
    alone, _ = CudnnKernel(torch.device("cuda"))(Codes(q.to(E4M3), one), Codes(k, one), v, SCALE)
    assert float(alone.float().mean()) / OUTPUT_SCALE < 0.95
    output, _ = attention.attend(attention.prepare_queries(q), attention.prepare(keys, values), SCALE)
    assert abs(float(output.mean()) - 1) < 2e-3


def test_pieces_with_other_means_merge_into_the_whole(attention: Fp8Attention) -> None:
    pieces = [tokens(STEP // 4, 1.0, seed=3), tokens(2 * STEP + STEP // 2, -1.0, seed=4)]
    q = questions()
    found = attention.read(q, (attention.prepare(*piece) for piece in pieces), SCALE)
    assert found is not None
    output, lse = (x[:, :, ::128] for x in found)
    keys, values = head_major(*(torch.cat(x) for x in zip(*pieces, strict=True)))
    want, want_lse = reference(q[:, :, ::128].float(), keys, values, SCALE, False)
    assert float((output - want).norm() / want.norm()) < 0.03
    assert float((lse - want_lse).abs().max()) < 0.05


def test_one_graph_serves_every_scale(attention: Fp8Attention) -> None:
    for sharpness, tolerance in ((0.5, 0.1), (2.0, 0.15)):
        assert measure(attention, GLM, torch.device("cuda"), sharpness=sharpness)["output"] < tolerance


def test_the_same_piece_gives_the_same_bits(attention: Fp8Attention) -> None:
    piece, q = tokens(STEP, 0.5, seed=5), questions()
    first, second = (
        attention.attend(attention.prepare_queries(q), attention.prepare(*piece), SCALE) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
