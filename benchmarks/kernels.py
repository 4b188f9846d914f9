"""How fast are the decode kernels, and are they right? On a card: python -m benchmarks.kernels [--json FILE]

In the shape of GLM-4-9B-Chat-1M (32 query and 4 KV heads of 128), one layer at a time, on random data. Each
figure is the median of replays of a CUDA graph that goes through several layers' buffers, so that the cache
does not serve what memory should. Correctness comes first, against fp64 over the unpacked keys and values.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from worker.engine.formats import PackedFormat, packed_format
from worker.engine.kernels import decode, pack
from worker.engine.kernels.decode import Launch
from worker.engine.kernels.plan import Group, Plan, Span, Tail, plan
from worker.engine.page import PAGE

HEADS, KV_HEADS, DIM = 32, 4, 128
GROUP = HEADS // KV_HEADS
SCALE = DIM**-0.5
SHORT, LONG = 131_072, 1_048_576
Case = tuple[str, int, Launch]  # format, seats, launch
PLANES = {"exact": 1, "fp8": 2, "int4": 4}

#: (format, seats) -> what is tried beside the default.
VARIANTS: dict[tuple[str, int], list[Launch]] = {
    ("exact", 1): [Launch(2, 64, 4, 4)],
    ("fp8", 1): [Launch(6, 1, 2, 2)],
    ("int4", 1): [Launch(4, 2, 2, 2)],
    ("fp8", 4): [Launch(2, 1, 3, 4), Launch(2, 1, 2, 4, wide=True)],
    ("int4", 4): [Launch(2, 1, 2, 4, wide=True)],
    ("exact", 8): [
        Launch(2, 64, 2, 4, wide=True), Launch(2, 32, 4, 4, wide=True), Launch(3, 32, 3, 4, wide=True),
        Launch(1, 128, 2, 4, wide=True),
    ],
    ("fp8", 8): [Launch(2, 1, 2, 4, wide=True), Launch(1, 1, 3, 4, wide=True)],
    ("int4", 8): [Launch(2, 1, 2, 4, wide=True)],
}  # fmt: skip


def cases() -> list[Case]:
    """(format, seats, launch), the default first."""
    card = torch.device("cuda")
    default = [
        (name, seats, decode.launch_on(card, PLANES[name], decode.queries(seats, GROUP)))
        for seats in (1, 2, 4, 8)
        for name in PLANES
    ]
    return default + [(*key, launch) for key, launches in VARIANTS.items() for launch in launches]


@dataclass
class Step:
    """One layer's attention for some seats on one document."""

    name: str
    seats: int
    launch: Launch
    plan: Plan
    packed: PackedFormat | None
    q: Tensor
    out: Tensor
    items: dict[str, tuple[Tensor, Tensor]]  # rows, and how many
    parts: tuple[Tensor, Tensor]  # outputs, log-sum-exp
    part_counts: Tensor
    lengths: Tensor

    @classmethod
    def on(cls, case: Case, spans: list[Span], tails: list[Tail], lengths: list[int]) -> Step:
        name, seats, launch = case
        device = torch.device("cuda")
        programs = launch.per_sm * decode.multiprocessors(device) // KV_HEADS
        exact = decode.programs(None, seats, GROUP, device) // KV_HEADS
        cut = plan([Group(spans, tails)], {"exact": exact} | {name: programs})
        most = int(cut.part_counts.max())
        return cls(
            name, seats, launch, cut,
            None if name == "exact" else packed_format(name, KV_HEADS, DIM),  # type: ignore[arg-type]
            torch.randn(seats, HEADS, DIM, device=device).bfloat16(),
            torch.empty(seats, HEADS, DIM, device=device, dtype=torch.bfloat16),
            {arena: (torch.tensor(x, device=device), number(len(x))) for arena, x in cut.items.items()},
            (
                torch.full((seats, most, HEADS, DIM), float("nan"), device=device),
                torch.full((seats, most, HEADS), float("nan"), device=device),
            ),
            torch.tensor(cut.part_counts, device=device),
            torch.tensor(lengths, device=device, dtype=torch.int32),
        )  # fmt: skip

    def exact(self, keys: Tensor, values: Tensor, launch: Launch | None = None) -> None:
        work = *self.items["exact"], self.lengths
        decode.attend_exact(self.q, keys, values, *work, *self.parts, SCALE, self.seats, launch)

    def pages(self, codes: Tensor, scales: Tensor) -> None:
        assert self.packed
        work = self.items[self.name]
        decode.attend_packed(
            self.packed, self.q, codes, scales, *work, *self.parts, SCALE, self.seats, self.launch
        )

    def merge(self) -> None:
        decode.merge(*self.parts, self.part_counts, self.out)


def number(value: int) -> Tensor:
    return torch.tensor(value, device="cuda", dtype=torch.int32)


def reference(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """fp64; q (heads, dim), keys and values (n, KV heads, dim)."""
    q = q.double().reshape(KV_HEADS, -1, q.shape[-1])
    weights = (torch.einsum("kgd,nkd->kgn", q, keys.double()) * SCALE).softmax(-1)
    return torch.einsum("kgn,nkd->kgd", weights, values.double()).flatten(0, 1)


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


def microseconds(run: Callable[[int], Any], calls: int = 6, replays: int = 7) -> float:
    """Of one `run`, which is given its number; median over replays of a graph of `calls`."""
    for number in range(calls):
        run(number)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            run(number)
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / calls)
    return float(statistics.median(times))


def keys_values(tokens: int) -> tuple[Tensor, Tensor]:
    """Tokens that differ in size, and values with a mean."""
    x = torch.randn(2, tokens, KV_HEADS, DIM, device="cuda")
    x *= torch.rand(tokens, 1, 1, device="cuda") + 0.5
    return x[0].bfloat16(), (x[1] + 0.3).bfloat16()


def pages(packed: PackedFormat, tokens: int, **options: Any) -> tuple[Tensor, Tensor]:
    n = tokens // PAGE
    return (
        torch.empty(packed.codes_shape(n), dtype=torch.uint8, **options),
        torch.empty(packed.scales_shape(n), dtype=torch.bfloat16, **options),
    )


def check_pack(name: str) -> dict[str, Any]:
    """The card's pack and unpack against torch's."""
    packed = packed_format(name, KV_HEADS, DIM)  # type: ignore[arg-type]
    k, v = keys_values(1_024)
    codes, scales = pages(packed, 1_024, device="cuda")
    pack.pack(packed, k, v, codes, scales)
    cpu_codes, cpu_scales = pages(packed, 1_024)
    packed.pack(k.cpu(), v.cpu(), cpu_codes, cpu_scales)
    got = [torch.empty_like(k), torch.empty_like(v)]
    pack.unpack(packed, codes, scales, *got)
    want = [torch.empty_like(x, device="cpu") for x in (k, v)]
    packed.unpack(codes.cpu(), scales.cpu(), *want)
    pinned = [torch.empty_like(k), torch.empty_like(v)]
    pack.unpack(packed, codes.cpu().pin_memory(), scales.cpu().pin_memory(), *pinned)
    return {
        "equal_code_bytes": float((codes.cpu() == cpu_codes).float().mean()),
        "equal_scales": float((scales.cpu() == cpu_scales).float().mean()),
        "unpack_error": max(relative(g.cpu(), w.double()) for g, w in zip(got, want, strict=True)),
        "pinned_equal": all(torch.equal(a, b) for a, b in zip(got, pinned, strict=True)),
        "loss_keys": relative(got[0], k.double()),
        "loss_values": relative(got[1], v.double()),
    }


def check(name: str, seats: int, launch: Launch) -> float:
    """Largest relative error over the seats of a document of odd length with tails of different lengths."""
    tokens, tail = 37 * PAGE, 600
    k, v = keys_values(tokens)
    arena = [
        torch.full((PAGE + 200 + seats * tail, KV_HEADS, DIM), float("nan"), device="cuda").bfloat16()
        for _ in "kv"
    ]
    lengths = [1 + 71 * seat for seat in range(seats)]
    spans = [Span("exact", 0, PAGE + 200)]
    tails = [Tail(PAGE + 200 + seat * tail, tail) for seat in range(seats)]
    own = keys_values(len(arena[0]))
    for start, size in [(0, PAGE + 200)] + [(t.start, n) for t, n in zip(tails, lengths, strict=True)]:
        for buffer, x in zip(arena, own, strict=True):
            buffer[start : start + size] = x[start : start + size]
    if name == "exact":
        spans.append(Span("exact", len(arena[0]), tokens))
        arena = [torch.cat([a, x]) for a, x in zip(arena, (k, v), strict=True)]
    else:
        spans.append(Span(name, PAGE, tokens - 2 * PAGE))
    step = Step.on((name, seats, launch), spans, tails, lengths)
    step.exact(arena[0], arena[1], launch if name == "exact" else None)
    if step.packed:
        codes, scales = pages(step.packed, tokens, device="cuda")
        step.packed.pack(k, v, codes, scales)
        step.pages(codes, scales)
        step.packed.unpack(codes, scales, k, v)
        k, v = k[PAGE : tokens - PAGE], v[PAGE : tokens - PAGE]
    step.merge()
    errors = []
    for seat in range(seats):
        ranges = [(0, PAGE + 200), (tails[seat].start, lengths[seat])]
        seen = [
            torch.cat([x, *(a[s : s + n] for s, n in ranges)]) for a, x in zip(arena, (k, v), strict=True)
        ]
        errors.append(relative(step.out[seat], reference(step.q[seat], *seen)))
    return max(errors)


def compile_case(case: Case) -> str:
    """In a process of its own, for the compiler's cache on disk."""
    try:
        check(*case)
    except Exception as exc:
        return f"{case}: {exc}"
    return ""


def attempt(found: dict[str, Any], key: str, run: Callable[[], Any]) -> None:
    try:
        found[key] = run()
    except Exception:
        found[key] = {"error": traceback.format_exc(limit=3)}
        torch.cuda.synchronize()


def random_arenas(tokens: int, layers: int) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Layers of each format, filled with noise."""
    arenas: dict[str, list[tuple[Tensor, Tensor]]] = {"exact": [], "fp8": [], "int4": []}
    for _ in range(layers):
        x = torch.empty(2, tokens, KV_HEADS, DIM, device="cuda", dtype=torch.bfloat16).normal_()
        arenas["exact"].append((x[0], x[1]))
        for name in ("fp8", "int4"):
            codes, scales = pages(packed_format(name, KV_HEADS, DIM), tokens, device="cuda")
            codes.random_(0, 120)
            scales.uniform_(0.001, 0.01)
            arenas[name].append((codes, scales))
    return arenas


def time_attend(
    name: str, seats: int, launch: Launch, tokens: int, layers: list[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """One launch over a document, without its exact ends; and its share of the memory's speed."""
    step = Step.on((name, seats, launch), [Span(name, 0, tokens)], [Tail(0, 0)] * seats, [0] * seats)

    def run(number: int) -> None:
        first, second = layers[number % len(layers)]
        if step.packed:
            step.pages(first, second)
        else:
            step.exact(first, second, launch)

    us = microseconds(run)
    size = tokens * 2 * KV_HEADS * DIM * 2 if step.packed is None else tokens * step.packed.bytes_per_token(1)
    return {"us": us, "gb_s": size / us / 1000, "parts": int(step.plan.part_counts.max())}


def fastest(found: dict[str, Any], cases: list[Case], tokens: int) -> dict[tuple[str, int], Launch]:
    """The launch that `time_attend` found best for each format and number of seats."""
    best: dict[tuple[str, int], tuple[float, Launch]] = {}
    for name, seats, launch in cases:
        us = found.get(label(name, seats, launch, tokens), {}).get("us", float("inf"))
        if us < best.get((name, seats), (float("inf"), launch))[0]:
            best[name, seats] = us, launch
    return {key: launch for key, (_, launch) in best.items()}


def time_layer(case: Case, tokens: int, arenas: dict[str, list[tuple[Tensor, Tensor]]]) -> dict[str, Any]:
    """All launches of one layer of a step: append, both attentions, merge."""
    name, seats, launch = case
    middle = Span(name, PAGE, tokens - 3 * PAGE)
    ends = [Span("exact", 0, PAGE), Span("exact", PAGE, 200)]
    tails = [Tail(1_024 + 2_048 * seat, 2_048) for seat in range(seats)]
    step = Step.on((name, seats, launch), [middle, *ends], tails, [700] * seats)
    k, v = keys_values(seats)
    slots = torch.tensor([tail.start + 699 for tail in tails], device="cuda")

    def run(number: int) -> None:
        keys, values = arenas["exact"][number % len(arenas["exact"])]
        decode.append(k, v, slots, keys, values)
        if step.packed:
            step.pages(*arenas[name][number % len(arenas[name])])
        step.exact(keys, values, launch if name == "exact" else None)
        step.merge()

    us = microseconds(run)
    merge = microseconds(lambda number: step.merge(), calls=20)
    return {
        "us": us,
        "merge_us": merge,
        "parts": int(step.plan.part_counts.max()),
        "graph_40_layers_ms": us / 25,
    }


def time_pack(name: str, tokens: int = 65_536) -> dict[str, Any]:
    packed = packed_format(name, KV_HEADS, DIM)  # type: ignore[arg-type]
    staging = [keys_values(tokens) for _ in range(2)]
    layers = [pages(packed, tokens, device="cuda") for _ in range(2)]
    found = {
        "pack_us": microseconds(lambda n: pack.pack(packed, *staging[n % 2], *layers[n % 2])),
        "unpack_us": microseconds(lambda n: pack.unpack(packed, *layers[n % 2], *staging[n % 2])),
    }
    host = pages(packed, tokens, pin_memory=True)
    for a, b in zip(host, layers[0], strict=True):
        a.copy_(b)
    found["unpack_host_us"] = microseconds(lambda n: pack.unpack(packed, *host, *staging[n % 2]), calls=2)
    launch = decode.launch_on(torch.device("cuda"), packed.planes, decode.queries(1, GROUP))
    step = Step.on((name, 1, launch), [Span(name, 0, tokens)], [Tail(0, 0)], [0])
    found["attend_host_us"] = microseconds(lambda n: step.pages(*host), calls=2)
    found["attend_host_gb_s"] = tokens * packed.bytes_per_token(1) / found["attend_host_us"] / 1000
    return found


def copy_gb_s() -> float:
    x, y = torch.empty(2, 1 << 30, device="cuda", dtype=torch.uint8)
    return float(2 * x.numel() / microseconds(lambda n: y.copy_(x)) / 1000)


def label(name: str, seats: int, launch: Launch, tokens: int) -> str:
    return f"{name} seats={seats} tokens={tokens} {'/'.join(str(x) for x in dataclasses.astuple(launch))}"


def measure() -> dict[str, Any]:
    begin = time.perf_counter()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        found["compile_failures"] = [failure for failure in pool.map(compile_case, cases()) if failure]
    found["compile_s"] = time.perf_counter() - begin
    torch.manual_seed(0)
    attempt(found, "copy_gb_s", copy_gb_s)
    for name in ("fp8", "int4"):
        attempt(found, f"check pack {name}", lambda name=name: check_pack(name))  # type: ignore[misc]
    right = []
    for case in cases():
        attempt(found, key := f"check {label(*case, 0)}", lambda case=case: check(*case))  # type: ignore[misc]
        if isinstance(found[key], float) and found[key] < 2e-2:
            right.append(case)
    arenas = random_arenas(LONG, 2)
    for tokens in (LONG, SHORT):
        # Enough layers that the cache cannot hold them.
        views = {
            name: [
                (pair[0][at : at + size], pair[1][at : at + size])
                for pair in layers
                for size in [len(pair[0]) * tokens // LONG]
                for at in range(0, len(pair[0]), size)
            ][:6]
            for name, layers in arenas.items()
        }
        for name, seats, launch in right:
            if tokens == LONG or seats in (1, 8):
                attempt(
                    found,
                    label(name, seats, launch, tokens),
                    lambda: time_attend(name, seats, launch, tokens, views[name]),  # noqa: B023 - called at once
                )
        for (name, seats), launch in fastest(found, right, tokens).items():
            attempt(
                found,
                f"layer {label(name, seats, launch, tokens)}",
                lambda: time_layer((name, seats, launch), tokens, views),  # noqa: B023
            )
    del arenas
    for name in ("fp8", "int4"):
        attempt(found, f"pack {name}", lambda name=name: time_pack(name))  # type: ignore[misc]
    found["all_s"] = time.perf_counter() - begin
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = measure()
    for key, value in figures.items():
        if isinstance(value, dict):
            shown = {k: round(v, 5) if isinstance(v, float) else v for k, v in value.items()}
            print(f"{key:60} {shown}")
        else:
            print(f"{key:60} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
