"""NF4 layers hold bitsandbytes' numbers, on any device; here by way of plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from worker.engine.errors import ModelLoadError
from worker.engine.nf4 import LEVELS, NF4Linear, adopt

BF16_ROUNDING = 2.0**-8


def quantized(inputs: int, outputs: int, *, nested: bool = True, quant_type: str = "nf4") -> Linear4bit:
    torch.manual_seed(0)
    return Linear4bit(
        inputs, outputs, compute_dtype=torch.float32, compress_statistics=nested, quant_type=quant_type
    ).to("cpu")


def weight_of(layer: Linear4bit) -> Tensor:
    assert isinstance(layer.weight, Params4bit)
    return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def test_every_level_is_a_bf16_number() -> None:
    levels = torch.tensor(LEVELS)
    assert torch.equal(levels, levels.bfloat16().float())
    assert len(set(LEVELS)) == 16


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 1), (192, 200), (256, 128), (576, 1536)])
def test_weights_are_bitsandbytes_within_one_rounding(inputs: int, outputs: int, nested: bool) -> None:
    layer = quantized(inputs, outputs, nested=nested)
    theirs = weight_of(layer)
    ours = NF4Linear.from_linear4bit(layer).dequantize()
    assert ours.shape == theirs.shape
    assert bool(((ours - theirs).abs() <= BF16_ROUNDING * theirs.abs()).all())
    assert torch.equal(ours == 0, theirs == 0)


@pytest.mark.parametrize("shape", [(192,), (1, 192), (2, 3, 192), (100, 192), (0, 192)])
def test_a_product_is_that_of_the_dequantized_weight(shape: tuple[int, ...]) -> None:
    layer = quantized(192, 200)
    x = torch.randn(shape)
    theirs = nn.functional.linear(x, weight_of(layer), layer.bias)
    ours = NF4Linear.from_linear4bit(layer)(x)
    assert ours.shape == (*shape[:-1], 200)
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_a_plain_weight_is_quantized_as_bitsandbytes_does() -> None:
    torch.manual_seed(0)
    source = nn.Linear(256, 128)
    plain = Linear4bit(256, 128, quant_type="nf4")
    plain.load_state_dict(source.state_dict())
    plain = plain.to("cpu")
    assert torch.equal(
        NF4Linear.from_weight(source.weight.detach(), source.bias.detach()).dequantize(),
        NF4Linear.from_linear4bit(plain).dequantize(),
    )


def test_it_compiles_whole() -> None:
    layer = NF4Linear.from_linear4bit(quantized(128, 128))
    x = torch.randn(3, 128)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_the_operator_keeps_the_rules_of_torch() -> None:
    layer = NF4Linear.from_linear4bit(quantized(128, 128))
    arguments = (torch.randn(3, 128), layer.codes, layer.scales, layer.bias, 128)
    torch.library.opcheck(torch.ops.unabridged.nf4_linear.default, arguments)


def test_every_layer_of_a_model_is_adopted() -> None:
    model = nn.ModuleDict(
        {"deep": nn.Sequential(quantized(64, 128), nn.ReLU(), quantized(128, 64)), "plain": nn.Linear(64, 64)}
    )
    x = torch.randn(2, 64)
    before = model["deep"](x)
    assert adopt(model) == 2
    assert not any(isinstance(module, Linear4bit) for module in model.modules())
    assert isinstance(model["plain"], nn.Linear)
    torch.testing.assert_close(model["deep"](x), before, rtol=0.02, atol=0.02)
    assert adopt(model) == 0


class Doubled(Linear4bit):
    """Whose product is not what its weight gives."""

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = super().forward(x)
        return 2 * product


def test_layers_stay_bitsandbytes_own_where_our_products_are_not_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = quantized(64, 128)
    layer.__class__ = Doubled
    model = nn.Sequential(layer, quantized(128, 64))
    assert adopt(model) == 2
    assert all(isinstance(module, Linear4bit) for module in model)
    assert "rows is off by 0.5" in caplog.text


class Heads(nn.Module):
    """Three projections of one input, as in an attention layer."""

    def __init__(self, outputs: tuple[int, int, int]) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (quantized(128, n) for n in outputs)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x if y is None else y), self.v_proj(x)
        result: Tensor = q.sum(-1) + k.amax(-1) * v.sum(-1)
        return result


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("outputs", [(128, 64, 64), (128, 32, 32)], ids=["joined", "apart"])
def test_queries_keys_and_values_stay_what_they_were(outputs: tuple[int, int, int], rows: int) -> None:
    heads, x, y = Heads(outputs), torch.randn(rows, 128), torch.randn(rows, 128)
    parts = [(weight_of(layer), layer.bias) for layer in (heads.q_proj, heads.k_proj, heads.v_proj)]
    assert adopt(heads) == 3
    for inputs in ([x, x, x], [x, y, x], [y, y, x]):
        for layer, part, each in zip(heads.children(), parts, inputs, strict=True):
            expected = nn.functional.linear(each, *part)
            torch.testing.assert_close(layer(each), expected, rtol=0.01, atol=0.01)


def products(heads: Heads, *inputs: Tensor) -> int:
    """How many NF4 products the compiled module makes; it is checked to be right, too."""
    count = 0

    def compiler(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nonlocal count
        count += sum(node.target == torch.ops.unabridged.nf4_linear.default for node in graph.graph.nodes)
        return graph

    with torch.inference_mode():
        expected = heads(*inputs)
        compiled = torch.compile(heads, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
        torch.testing.assert_close(compiled(*inputs), expected)
        torch.testing.assert_close(compiled(*inputs), expected)
    return count


def test_queries_keys_and_values_are_one_product_when_compiled() -> None:
    heads = Heads((128, 64, 64))
    adopt(heads)
    x, y = torch.randn(2, 3, 128), torch.randn(2, 3, 128)
    assert products(heads, x) == 1
    assert products(heads, x, y) == 3


@pytest.mark.parametrize(
    "layer",
    [lambda: quantized(128, 64, quant_type="fp4"), lambda: quantized(32, 64)],
    ids=["another type", "blocks across rows"],
)
def test_what_it_cannot_hold_is_refused(layer: Callable[[], Linear4bit]) -> None:
    with pytest.raises(ModelLoadError, match="not NF4 in blocks of 64"):
        NF4Linear.from_linear4bit(layer())


def test_weights_beyond_fp16_scales_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="out of the range"):
        NF4Linear.from_weight(torch.full((64, 64), 1e6))
