"""Products with NF4 weights on a CUDA card, against fp64 over bitsandbytes' own weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.engine.nf4 import FUSED_ROWS, NF4Linear

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

SHAPES = [(200, 320), (512, 4096), (4096, 4096), (4096, 13696), (27392, 4096)]


def layer_of(outputs: int, inputs: int) -> tuple[NF4Linear, Tensor]:
    """A layer, and its weight as bitsandbytes dequantizes it."""
    from bitsandbytes import functional

    torch.manual_seed(0)
    weight = (torch.randn(outputs, inputs, device="cuda") * 0.02).bfloat16()
    quantized = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    bias = torch.randn(outputs, device="cuda").bfloat16()
    return NF4Linear.from_weight(weight, bias), functional.dequantize_4bit(*quantized)


@pytest.mark.parametrize("rows", [1, 7, 8, 16, 17, 33, FUSED_ROWS, FUSED_ROWS + 1, 300])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_product_is_right(outputs: int, inputs: int, rows: int) -> None:
    layer, weight = layer_of(outputs, inputs)
    assert layer.bias is not None
    x = torch.randn(rows, inputs, device="cuda").bfloat16()
    exact = x.double() @ weight.double().T + layer.bias.double()
    assert (layer(x).double() - exact).norm() < 0.004 * exact.norm()


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_the_kernel_dequantizes_as_torch_does(outputs: int, inputs: int) -> None:
    from worker.engine.kernels import nf4 as kernels

    layer, weight = layer_of(outputs, inputs)
    own = kernels.dequantize(layer.codes, layer.scales, outputs, inputs)
    assert torch.equal(own, layer.dequantize().bfloat16())
    assert bool(((own.double() - weight.double()).abs() <= 2.0**-7 * weight.double().abs()).all())


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_rows_bits_depend_on_nothing_else(outputs: int, inputs: int) -> None:
    layer, _ = layer_of(outputs, inputs)
    x = torch.randn(FUSED_ROWS, inputs, device="cuda").bfloat16()
    expected = layer(x)
    for rows in (1, 2, 8, 16, 17, 32, 33):
        assert torch.equal(layer(x[:rows]), expected[:rows])
    for _ in range(20):
        assert torch.equal(layer(x), expected)


def test_a_product_that_waits_for_the_kernel_before_it_has_the_same_bits() -> None:
    from worker.engine.kernels import nf4 as kernels

    layer, _ = layer_of(512, 4096)
    x = torch.randn(8, 4096, device="cuda").bfloat16()
    weights = layer.codes, layer.scales, layer.bias, 512
    late = kernels.product(x, *weights, kernels.PROGRAM._replace(early=False))
    assert torch.equal(late, kernels.product(x, *weights))


def test_dependent_products_run_compiled_in_a_graph() -> None:
    layer, _ = layer_of(4096, 4096)
    chain = torch.nn.Sequential(layer, torch.nn.ReLU(), layer, layer)
    x = torch.randn(8, 4096, device="cuda").bfloat16()
    with torch.inference_mode():
        compiled = torch.compile(chain, fullgraph=True)
        compiled(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = compiled(x)
        for _ in range(3):
            x.normal_()
            graph.replay()
            assert torch.equal(captured, chain(x))
