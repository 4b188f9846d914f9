"""How fast does attention run on this card, beside what the card can do? Run: python -m benchmarks.attention

With the head counts of GLM-4-9B-Chat-1M (32 and 4 heads of 128) and random tokens, in this order:

1. ceilings: matrix products, copies on the card and over the bus;
2. a chunk of 8,192 queries over its past in bf16, heads of a group folded: cuDNN through torch, for keys that
   lie token by token and head by head, and the first call at each length;
3. the chunk over itself, causal: cuDNN and flash, heads shared by strides and repeated;
4. cuDNN through its own front end in bf16, heads grouped by itself;
5. FP8 attention: encoding, kernel and whole, in steps of 8,192 to 65,536 keys, and its errors against fp32;
6. a question of 64 queries over long documents: flash.

The figures are written as they come; a section that fails says so and the next begins.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from worker.engine.attention import reference
from worker.engine.centred import E4M3
from worker.engine.fp8_attention import (
    OUTPUT_SCALE,
    Codes,
    CudnnKernel,
    Fp8Attention,
    Shape,
    check,
    measure,
)

GLM = Shape(heads=32, kv_heads=4, dim=128, queries=8_192)
GROUP = GLM.heads // GLM.kv_heads
SCALE = GLM.dim**-0.5
PIECE = 65_536
CUDA = torch.device("cuda")

Figures = dict[str, Any]


def milliseconds(call: Callable[..., object], *args: Any) -> float:
    """Median time of a call on the card, after two that are not counted."""
    once = [_timed(call, *args) for _ in range(2)][-1]
    return statistics.median(_timed(call, *args) for _ in range(max(3, min(20, int(250 / once)))))


def _timed(call: Callable[..., object], *args: Any) -> float:
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    call(*args)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def first_call(call: Callable[..., object], *args: Any) -> float:
    """Milliseconds that pass, planning and all."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call(*args)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3


def speed(queries: int, keys: int, ms: float) -> Figures:
    return {"ms": ms, "tflops": 4 * queries * keys * GLM.heads * GLM.dim / ms / 1e9}


def rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return float(f"{x:.4g}") if isinstance(x, float) else x


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def head_major(x: Tensor) -> Tensor:
    """(tokens, heads, dim) seen as (1, heads, tokens, dim)."""
    return x[None].transpose(1, 2)


def folded(q: Tensor) -> Tensor:
    return q.reshape(1, GLM.kv_heads, -1, GLM.dim)


def cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=SCALE
    )[0]
    return out


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=SCALE
    )[0]
    return out


def ceilings() -> Figures:
    a, b = random(8_192, 8_192), random(8_192, 8_192)
    a8, b8, one = a.to(E4M3), b.to(E4M3).t(), torch.ones((), device="cuda")
    source, target = torch.empty(2, 4 << 30, dtype=torch.uint8, device="cuda")
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    small = target[: host.nbytes]

    def product() -> Tensor:
        return a @ b

    def fp8_product() -> Tensor:
        return torch._scaled_mm(a8, b8, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    def copy(to: Tensor, what: Tensor) -> None:
        to.copy_(what, non_blocking=True)

    flop = 2 * 8_192**3
    return {
        "bf16 product, TFLOP/s": flop / milliseconds(product) / 1e9,
        "fp8 product, TFLOP/s": flop / milliseconds(fp8_product) / 1e9,
        "copy on the card, read and write, TB/s": 2
        * source.nbytes
        / milliseconds(copy, target, source)
        / 1e9,
        "pinned host to card, GB/s": host.nbytes / milliseconds(copy, small, host) / 1e6,
        "card to pinned host, GB/s": host.nbytes / milliseconds(copy, host, small) / 1e6,
    }


def past_in_bf16() -> Figures:
    q = folded(random(1, GLM.heads, GLM.queries, GLM.dim))
    arena = random(2, PIECE, GLM.kv_heads, GLM.dim)
    figures: Figures = {}
    for n in (8_192, 16_384, 32_768, PIECE, 40_960, 40_961):
        layouts = {"token-major": [head_major(x[:n]) for x in arena]}
        layouts["head-major"] = [x.contiguous() for x in layouts["token-major"]]
        for name, (k, v) in layouts.items():
            planned = first_call(cudnn, q, k, v)
            ms = milliseconds(cudnn, q, k, v)
            figures[f"{name}, {n}"] = speed(GLM.queries, n, ms) | {"first_ms": planned}
    return figures


def chunk_over_itself() -> Figures:
    """TFLOP/s count the half that is not masked."""
    q = random(1, GLM.queries, GLM.heads, GLM.dim).transpose(1, 2)
    k, v = (head_major(x) for x in random(2, GLM.queries, GLM.kv_heads, GLM.dim))
    want = reference(q[:, :, :1_024].float(), k[:, :, :1_024], v[:, :, :1_024], SCALE, True)[0]

    def repeated(x: Tensor) -> Tensor:
        return x.repeat_interleave(GROUP, 1)

    # KV heads as the batch and their groups as the heads: shared by a stride of zero.
    batch = (GLM.kv_heads, GROUP, GLM.queries, GLM.dim)
    shared_q = q.reshape(batch)
    shared_k, shared_v = (x.transpose(0, 1).expand(batch) for x in (k, v))
    calls: dict[str, Callable[[], Tensor]] = {
        "cuDNN, repeated heads": lambda: cudnn(q, repeated(k), repeated(v), True),
        "cuDNN, shared heads": lambda: cudnn(shared_q, shared_k, shared_v, True),
        "flash, repeated heads": lambda: flash(q, repeated(k), repeated(v), True),
        "flash, grouped": lambda: flash(q, k, v, True),
        "flash, shared heads": lambda: flash(shared_q, shared_k, shared_v, True),
    }
    figures: Figures = {}
    for name, call in calls.items():
        try:
            planned = first_call(call)
            got = call().reshape(q.shape)[:, :, :1_024].float()
            error = float((got - want).norm() / want.norm())
            ms = milliseconds(call)
        except RuntimeError as exc:
            figures[name] = str(exc)[:300]
            continue
        figures[name] = speed(GLM.queries, GLM.queries // 2, ms) | {"first_ms": planned, "error": error}
    return figures


class FrontEnd:
    """cuDNN's bf16 attention through its own front end, for one shape."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
        self.cudnn: Any = importlib.import_module("cudnn")
        kinds = self.cudnn.data_type
        self.handle = self.cudnn.create_handle()
        self.graph = self.cudnn.pygraph(
            io_data_type=kinds.BFLOAT16,
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self.handle,
        )
        inputs = [
            self.graph.tensor(dim=x.shape, stride=x.stride(), data_type=kinds.BFLOAT16) for x in (q, k, v)
        ]
        output, lse = self.graph.sdpa(*inputs, attn_scale=SCALE, use_causal_mask=causal, generate_stats=True)
        output.set_output(True).set_dim(q.shape).set_stride(q.stride()).set_data_type(kinds.BFLOAT16)
        rows = (*q.shape[:3], 1), (q.shape[1] * q.shape[2], q.shape[2], 1, 1)
        lse.set_output(True).set_dim(rows[0]).set_stride(rows[1]).set_data_type(kinds.FLOAT)
        self.graph.build([self.cudnn.heur_mode.A])
        self.output = torch.empty_like(q)
        tensors = q, k, v, self.output, torch.empty(rows[0], device="cuda")
        self.pack = dict(zip((*inputs, output, lse), tensors, strict=True))
        self.workspace = torch.empty(self.graph.get_workspace_size(), dtype=torch.uint8, device="cuda")

    def __call__(self) -> Tensor:
        self.cudnn.set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
        self.graph.execute(self.pack, self.workspace, handle=self.handle)
        return self.output


def front_end_in_bf16() -> Figures:
    q = random(1, GLM.queries, GLM.heads, GLM.dim).transpose(1, 2)
    k, v = (head_major(x) for x in random(2, PIECE, GLM.kv_heads, GLM.dim))
    short = k[:, :, : GLM.queries], v[:, :, : GLM.queries]
    figures: Figures = {}
    cases: dict[str, tuple[Tensor, Tensor, Tensor, bool, int]] = {
        "past, grouped": (q, k, v, False, PIECE),
        "past, folded": (folded(q), k, v, False, PIECE),
        "itself, grouped": (q, *short, True, GLM.queries // 2),
    }
    for name, (queries, keys, values, causal, counted) in cases.items():
        begin = time.perf_counter()
        call = FrontEnd(queries, keys, values, causal)
        planned = (time.perf_counter() - begin) * 1e3
        figures[name] = speed(GLM.queries, counted, milliseconds(call)) | {"build_ms": planned}
    return figures


def past_in_fp8() -> Figures:
    """A piece of 65,536 keys. The error of the output is relative to its distance from the values' mean."""
    kernel = CudnnKernel(CUDA)
    q = random(1, GLM.queries, GLM.heads, GLM.dim).transpose(1, 2)
    keys, values = random(2, PIECE, GLM.kv_heads, GLM.dim)
    figures: Figures = {}
    for step in (8_192, 16_384, 32_768, PIECE):
        attention = Fp8Attention(kernel, step, compiled=True)
        begin = time.perf_counter()
        prepared, piece = attention.prepare_queries(q), attention.prepare(keys, values)
        attention.attend(prepared, piece, SCALE)
        torch.cuda.synchronize()
        told: Figures = {"first_s": time.perf_counter() - begin}
        told["encode_queries_ms"] = milliseconds(attention.prepare_queries, q)
        told["encode_piece_ms"] = milliseconds(attention.prepare, keys, values)
        k, v = (head_major(x[:step]) for x in (piece.keys, piece.values))
        codes = Codes(k, piece.descales[0, 0, 0])
        one = milliseconds(kernel, prepared.codes, codes, v, SCALE)
        told["kernel"] = speed(GLM.queries, step, one)
        whole = milliseconds(attention.attend, prepared, piece, SCALE)
        told["attend"] = speed(GLM.queries, PIECE, whole)
        for mean in (0.0, 1.0):
            told[f"errors, values of mean {mean}"] = measure(
                attention, GLM, CUDA, steps=PIECE // step, mean=mean
            )
        told["errors, sharp scores"] = measure(
            attention, GLM, CUDA, steps=PIECE // step, mean=0.0, sharpness=4.0
        )
        told["kernel alone, not centred: 1.0 becomes"] = alone(kernel, q, step)
        figures[f"steps of {step}"] = told
    figures["layouts and batches"] = arrangements(kernel, q, keys, values)
    check(Fp8Attention(kernel, 16_384, compiled=True), GLM, CUDA)
    figures["self-test"] = "passed"
    return figures


def alone(kernel: CudnnKernel, q: Tensor, step: int) -> float:
    """What the kernel makes of values of mean one that are not centred."""
    one = torch.ones((), device="cuda")
    k, v = (head_major(x) for x in random(2, step, GLM.kv_heads, GLM.dim))
    output, _ = kernel(Codes(q.to(E4M3), one), Codes(k.to(E4M3), one), (v + 1).to(E4M3), SCALE)
    return float(output.float().mean()) / OUTPUT_SCALE


def arrangements(kernel: CudnnKernel, q: Tensor, keys: Tensor, values: Tensor) -> Figures:
    """The kernel on 65,536 keys: queries and keys token-major and head-major, steps as a batch."""
    one = torch.ones((), device="cuda")
    q8, k8, v8 = q.to(E4M3), head_major(keys.to(E4M3)), head_major(values.to(E4M3))
    figures: Figures = {}

    def add(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
        try:
            ms = milliseconds(kernel, Codes(q, one), Codes(k, one), v, SCALE)
            figures[name] = speed(GLM.queries, PIECE, ms)
        except Exception as exc:  # the next arrangement is tried
            figures[name] = str(exc)[:300]

    add("token-major", q8, k8, v8)
    add("queries head-major", q8.contiguous(), k8, v8)
    add("keys head-major", q8, k8.contiguous(), v8.contiguous())
    add("folded", folded(q8), k8, v8)
    for step in (8_192, 16_384):
        batch = PIECE // step
        some = (
            x.view(batch, step, GLM.kv_heads, GLM.dim).transpose(1, 2)
            for x in (keys.to(E4M3), values.to(E4M3))
        )
        add(f"steps of {step} as a batch", q8.repeat(batch, 1, 1, 1), *some)
    return figures


def suffix() -> Figures:
    q = folded(random(1, GLM.heads, 64, GLM.dim))
    arena = random(2, 1_048_576, GLM.kv_heads, GLM.dim)
    figures: Figures = {}
    for n in (131_072, 1_048_576):
        layouts = {"token-major": [head_major(x[:n]) for x in arena]}
        layouts["head-major"] = [x.contiguous() for x in layouts["token-major"]]
        for name, (k, v) in layouts.items():
            ms = milliseconds(flash, q, k, v)
            read = 2 * n * GLM.kv_heads * GLM.dim * 2
            figures[f"{name}, {n}"] = speed(64, n, ms) | {"tb_s": read / ms / 1e9}
    return figures


SECTIONS: dict[str, Callable[[], Figures]] = {
    "ceilings": ceilings,
    "past, bf16": past_in_bf16,
    "itself, bf16": chunk_over_itself,
    "front end, bf16": front_end_in_bf16,
    "past, fp8": past_in_fp8,
    "suffix": suffix,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("Attention is measured on a CUDA card, and there is none.")
        return
    torch.manual_seed(0)
    figures: Figures = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    for name, section in SECTIONS.items():
        begin = time.perf_counter()
        try:
            with torch.inference_mode():
                figures[name] = rounded(section())
        except Exception as exc:  # the other sections still have something to say
            figures[name] = f"{type(exc).__name__}: {exc}"
        torch.cuda.empty_cache()
        print(
            f"{name} ({time.perf_counter() - begin:.0f} s)", json.dumps(figures[name], indent=1), flush=True
        )
        saved = report.save("attention", figures)
        if options.json:
            shutil.copyfile(saved, options.json)


if __name__ == "__main__":
    main()
