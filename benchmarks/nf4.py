"""How fast is a product of few rows with NF4 weights? Run: python -m benchmarks.nf4 [--json FILE]

1. is it right: every shape of program against fp64;
2. the fastest program for each layer shape of GLM-4-9B-Chat-1M;
3. all linear layers of one decode step of that model in one CUDA graph, for several numbers of rows;
4. dequantizing all of them to bf16.

Weights are random; every layer has its own, so no cache serves them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from worker.engine.kernels import nf4 as kernels
from worker.engine.kernels.nf4 import PROGRAM, Program
from worker.engine.nf4 import FUSED_ROWS, NF4Linear

LAYERS = 40
SHAPES = {  # outputs, inputs, bias
    "q, k, v": (5120, 4096, True),
    "o": (4096, 4096, False),
    "gate_up": (27392, 4096, False),
    "down": (4096, 13696, False),
}
PROGRAMS = [
    Program(32, 4, 4),
    Program(16, 8, 8),
    Program(16, 4, 4),
    Program(16, 16, 16),
    Program(32, 4, 8),
    Program(64, 2, 4),
    Program(32, 2, 2),
    Program(32, 4, 4, early=False),
    Program(16, 8, 8, early=False),
]
SECONDS = 70
BEGIN = time.perf_counter()


def late(part: float = 1.0) -> bool:
    return time.perf_counter() - BEGIN > SECONDS * part


class Weights:
    """Random packed weights of one shape, several copies in turns."""

    def __init__(self, outputs: int, inputs: int, copies: int, bias: bool = False) -> None:
        padded, blocks = -(-outputs // 64) * 64, -(-inputs // 256)
        self.outputs, self.inputs = outputs, inputs
        self.copies = [
            (
                torch.randint(-(2**15), 2**15, (blocks, padded, 64), dtype=torch.int16, device="cuda"),
                (torch.rand(blocks, padded, 4, device="cuda") * 0.02 + 0.01).half(),
            )
            for _ in range(copies)
        ]
        self.bias = torch.randn(outputs, device="cuda").bfloat16() if bias else None

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in self.copies[0])

    def product(self, x: Tensor, copy: int, how: Program) -> Tensor:
        codes, scales = self.copies[copy % len(self.copies)]
        return kernels.product(x, codes, scales, self.bias, self.outputs, how)


def graph_ms(run: Callable[[], object], rounds: int = 15) -> float:
    """Median milliseconds of one replay of `run`, captured."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return float(statistics.median(times))


def one_product_us(weights: Weights, rows: int, how: Program) -> float:
    """Microseconds of one product, launch included, among many in one graph."""
    x = torch.randn(rows, weights.inputs, device="cuda").bfloat16()
    calls = max(16, len(weights.copies))
    return graph_ms(lambda: [weights.product(x, i, how) for i in range(calls)]) / calls * 1e3


def error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


def right(figures: dict[str, Any]) -> None:
    """Every program against fp64, and the promises of `NF4Linear`."""
    import bitsandbytes.functional as bnb

    torch.manual_seed(0)
    for outputs, inputs in ((200, 320), (5120, 4096), (4096, 13696)):
        weight = (torch.randn(outputs, inputs, device="cuda") * 0.02).bfloat16()
        bias = torch.randn(outputs, device="cuda").bfloat16()
        layer = NF4Linear.from_weight(weight, bias)
        theirs = bnb.dequantize_4bit(
            *bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        )
        told = figures.setdefault(f"{outputs} x {inputs}", {})
        try:
            own = kernels.dequantize(layer.codes, layer.scales, outputs, inputs)
            told["dequantizing equals torch"] = bool((own == layer.dequantize().bfloat16()).all())
        except Exception:
            told["dequantizing equals torch"] = traceback.format_exc()[-1500:]
        x = torch.randn(FUSED_ROWS, inputs, device="cuda").bfloat16()
        exact = x.double() @ layer.dequantize().double().T
        loose = x.double() @ theirs.double().T + bias.double()
        for how in PROGRAMS:
            try:
                product = kernels.product(x[:8], layer.codes, layer.scales, None, outputs, how)
                told[str(tuple(how))] = error(product, exact[:8])
            except Exception:
                told[str(tuple(how))] = traceback.format_exc()[-1500:]
        try:
            all_rows = [layer(x[:rows]) for rows in (1, 2, 8, 9, 16, 17, 33, 64)]
            told["layer"] = error(all_rows[-1], exact + bias.double())
            told["layer against bitsandbytes"] = error(all_rows[-1], loose)
            told["bits do not depend on other rows"] = all(
                bool((y == all_rows[-1][: len(y)]).all()) for y in all_rows
            )
        except Exception:
            told["layer"] = traceback.format_exc()[-1500:]


def compiled(figures: dict[str, Any]) -> None:
    layer = NF4Linear.from_weight((torch.randn(4096, 4096, device="cuda") * 0.02).bfloat16())
    x = torch.randn(8, 4096, device="cuda").bfloat16()
    twice = torch.compile(lambda x: layer(layer(x).relu() * 2), fullgraph=True)
    figures["equals eager"] = bool((twice(x) == layer(layer(x).relu() * 2)).all())


def programs(figures: list[dict[str, Any]]) -> None:
    for shape, (outputs, inputs, _) in SHAPES.items():
        weights = Weights(outputs, inputs, copies=max(6, 2**28 // (outputs * inputs // 2)))
        for how in PROGRAMS:
            if late(0.75):
                break
            row: dict[str, Any] = {"shape": shape, "program": how}
            figures.append(row)
            try:
                row["us"] = one_product_us(weights, 8, how)
                row["TB/s"] = weights.bytes / row["us"] / 1e6
            except Exception:
                row["error"] = traceback.format_exc()[-1500:]


def whole_step(figures: dict[str, Any], chosen: dict[str, Program]) -> None:
    layers = {s: Weights(outputs, inputs, LAYERS, bias) for s, (outputs, inputs, bias) in SHAPES.items()}
    figures["GB"] = sum(LAYERS * weights.bytes for weights in layers.values()) / 1e9

    def step(inputs: dict[int, Tensor], programs: dict[str, Program]) -> None:
        for layer in range(LAYERS):
            for shape, weights in layers.items():
                weights.product(inputs[weights.inputs], layer, programs.get(shape, PROGRAM))

    for name, how in (("default, ms", {}), ("fastest, ms", chosen)):
        told = figures.setdefault(name, {})
        for rows in (8, 1, 4, 16, 32, FUSED_ROWS) if not how else (8, 1):
            if late():
                return
            try:
                inputs = {n: torch.randn(rows, n, device="cuda").bfloat16() for n in (4096, 13696)}
                told[f"{rows} rows"] = graph_ms(partial(step, inputs, how))
            except Exception:
                told[f"{rows} rows"] = traceback.format_exc()[-1500:]

    def all_dequantized() -> None:
        for weights in layers.values():
            for codes, scales in weights.copies:
                kernels.dequantize(codes, scales, weights.outputs, weights.inputs)

    try:
        figures["dequantizing, ms"] = graph_ms(all_dequantized, rounds=5)
    except Exception:
        figures["dequantizing, ms"] = traceback.format_exc()[-1500:]


def fastest(rows: list[dict[str, Any]]) -> dict[str, Program]:
    good = sorted((row for row in rows if "us" in row), key=lambda row: -row["us"])
    return {row["shape"]: row["program"] for row in good}


@torch.inference_mode()
def measure() -> Iterator[dict[str, Any]]:
    """Figures, growing."""
    figures: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }

    def attempt(name: str, kind: type, run: Callable[[Any], Any]) -> None:
        figures[name] = kind()
        try:
            run(figures[name])
        except Exception:
            figures[f"{name}: error"] = traceback.format_exc()[-2000:]
        figures[f"{name}: until, s"] = time.perf_counter() - BEGIN

    attempt("right", dict, right)
    yield figures
    attempt("programs", list, programs)
    yield figures
    attempt("whole step", dict, lambda told: whole_step(told, fastest(figures["programs"])))
    yield figures
    if not late():
        attempt("compiled", dict, compiled)
    yield figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(os.environ.get("OUT", ".")) / "nf4.json")
    arguments = parser.parse_args()
    for figures in measure():
        arguments.json.write_text(json.dumps(figures, indent=1))
    print(json.dumps({k: v for k, v in figures.items() if k != "programs"}, indent=1))
    print("8 rows; program: columns, parts, warps, early")
    for row in sorted(figures["programs"], key=lambda r: (r["shape"], r.get("us", 1e9))):
        told = (
            f"{row['us']:6.1f} us {row['TB/s']:5.2f} TB/s" if "us" in row else row["error"].splitlines()[-1]
        )
        print(f"{row['shape']:8} {tuple(row['program'])!s:24} {told}")


if __name__ == "__main__":
    main()
