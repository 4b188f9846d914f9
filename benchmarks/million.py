"""How near one card comes to its limits: reading, writing and keeping a million tokens.

Random weights in the architecture of GLM-4-9B-Chat-1M. The JSON file is rewritten after each part, so that a
run that is cut short loses nothing.

    python -m benchmarks.million --json out.json ceilings read:131072:exact write:1048576:int4 ...
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.glm import NAME, glm
from worker.engine import Finished, MemoryOptions, ReadProgress, Request, Sampling
from worker.engine.assembly import build
from worker.engine.attention import Kernel, kernels
from worker.engine.chunk import whole_waves
from worker.engine.fake import fake_tokenizer
from worker.engine.kv import Shape, put
from worker.engine.local import LocalEngine
from worker.engine.memory import bytes_per_token
from worker.engine.pool import Prefix, body_keys

GIB = 2**30
CHUNK = 8_192  # tokens that this benchmark itself fills at once
_TAIL_ROOM = 3 << 29
_EXACT_ROOM = 5 << 30  # at most, of a packed budget (`memory`)
_CONTEXT = 3 << 28  # what CUDA itself takes of a card
_WORKING = 9 << 29  # activations, buffers, graphs
_SHAPE = Shape(40, 4, 128)


class Bench:
    """One model, and an engine for each part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "transformers": transformers.__version__,
            "model": NAME,
        }
        # A window a little longer than the model's, so that whole questions fit behind a million tokens.
        self.model = glm(max_position_embeddings=(1 << 20) + 4_096)

    def record(self, name: str, part: Callable[[], Any]) -> None:
        begin = time.perf_counter()
        try:
            self._found[name] = part()
        except Exception as exc:  # the other parts are worth having
            traceback.print_exc()
            self._found[name] = {"error": repr(exc)}
        torch.cuda.empty_cache()
        print(f"{name} ({time.perf_counter() - begin:.0f} s): {json.dumps(self._found[name])}", flush=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")

    @contextmanager
    def engine(self, format: str, tokens: int, documents: int = 1, **options: Any) -> Iterator[LocalEngine]:
        """With room for documents of so many tokens."""
        options = {"host_bytes": 0} | options
        fp8 = options.pop("fp8", False)
        body = bytes_per_token(_SHAPE, torch.bfloat16, format)  # type: ignore[arg-type]
        room = documents * tokens * body
        room += _TAIL_ROOM if format == "exact" else min(_EXACT_ROOM, room // 7) + (1 << 28)
        engine = build(
            self.model,
            fake_tokenizer(stop_ids=[-1]),  # no answer ends before its time
            name="glm",
            revision="random",
            memory=MemoryOptions(format, card_bytes=options.pop("card_bytes", room), **options),  # type: ignore[arg-type]
            fp8_attention=fp8,
        )
        try:
            yield engine
        finally:
            engine.close()
            del engine
            gc.collect()
            torch.cuda.empty_cache()


def chunk() -> int:
    """How many tokens the engine reads at once on this card."""
    return whole_waves(torch.cuda.get_device_properties(0).multi_processor_count, 32)


def document(tokens: int, seed: int = 1) -> list[int]:
    return list(map(int, np.random.default_rng(seed).integers(300, 151_000, tokens)))


def fill(engine: LocalEngine, ids: Sequence[int]) -> Prefix:
    """As if `ids` had been read: random keys and values of unit variance."""
    array = np.asarray(ids, np.int32)
    with torch.inference_mode():
        lease = engine.pool.acquire(array, body_keys(array), 1)
        assert lease is not None
        assert lease.prefix is not None
        for start in range(0, len(ids), CHUNK):
            end = min(start + CHUNK, len(ids))
            for layer in range(40):
                k, v = torch.randn(2, end - start, 4, 128, device="cuda", dtype=torch.bfloat16)
                put(lease.prefix.spans(start, end), layer, k, v)
        engine.pool.advance(lease.prefix, len(ids))
        engine.pool.release(lease)
        torch.cuda.synchronize()
        return lease.prefix


def ask(engine: LocalEngine, ids: Sequence[int], question: int, tokens: int) -> dict[str, Any]:
    suffix = document(24, seed=1_000 + question)
    progress: list[tuple[float, int]] = []
    begin = time.perf_counter()
    for event in engine.submit(Request(ids, suffix, Sampling(max_tokens=tokens))):
        if isinstance(event, ReadProgress):
            progress.append((round(time.perf_counter() - begin, 3), event.tokens_read))
        if isinstance(event, Finished):
            usage = event.usage
    written = {
        "tokens": usage.completion_tokens,
        "write_s": usage.write_s,
        "tokens_per_s": (usage.completion_tokens - 1) / usage.write_s if usage.write_s else None,
        "first_token_s": usage.first_token_s,
        "read_s": usage.read_s,
        "reused_tokens": usage.reused_tokens,
    }
    return written | ({"progress": progress} if len(progress) > 3 else {})


def ask_together(engine: LocalEngine, prefixes: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
    """Questions at the same time, one on each of `prefixes` (which may be the same)."""
    found: list[dict[str, Any]] = [{}] * len(prefixes)

    def one(number: int) -> None:
        found[number] = ask(engine, prefixes[number], number, tokens)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(prefixes))]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    total = sum(answer["tokens"] for answer in found)
    first = max(answer["first_token_s"] for answer in found)
    return {
        "tokens": total,
        "wall_s": wall,
        "tokens_per_s_with_first_tokens": total / wall,
        "last_first_token_s": first,
        "tokens_per_s_together": total / (wall - first),
        "steady_tokens_per_s": engine.capacity().write_tokens_per_s,
    }


def read(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    with bench.engine(format, tokens) as engine:
        torch.cuda.reset_peak_memory_stats()
        ids = document(tokens)
        first = ask(engine, ids, 0, 64)
        peak = torch.cuda.max_memory_allocated() / GIB
        second = ask(engine, ids, 0, 64)
        third = ask(engine, ids, 1, 256)
        return {"first": first, "peak_gib": peak, "next": second, "longer": third}


def capped(bench: Bench, tokens: int, gib: int, attention: str = "exact") -> dict[str, Any]:
    """A card of so many GiB, and not a byte more: what does not fit stands in the computer's memory."""
    cap = gib * GIB - _CONTEXT
    card_bytes = cap - torch.cuda.memory_allocated() - _WORKING
    missing = tokens * bytes_per_token(_SHAPE, torch.bfloat16, "int4") - card_bytes * 7 // 8
    host_bytes = max(0, missing) + (1 << 28)
    torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.mem_get_info()[1])
    try:
        with bench.engine(
            "int4", tokens, card_bytes=card_bytes, host_bytes=host_bytes, fp8=attention == "fp8"
        ) as engine:
            torch.cuda.reset_peak_memory_stats()
            ids = document(tokens)
            found = {"first": ask(engine, ids, 0, 16), "next": ask(engine, ids, 1, 16)}
            free, total = torch.cuda.mem_get_info()
            return found | {
                "peak_gib": torch.cuda.max_memory_allocated() / GIB,
                "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
                "card_used_gib": (total - free) / GIB,
                "host_gib": host_bytes / GIB,
            }
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def write(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    with bench.engine(format, tokens) as engine:
        ids = document(tokens)
        fill(engine, ids)
        torch.cuda.reset_peak_memory_stats()
        ask(engine, ids, 0, 16)
        one = ask(engine, ids, 0, 256)
        ask_together(engine, [ids] * 8, 16)
        eight = ask_together(engine, [ids] * 8, 256)
        return {"one": one, "eight": eight, "peak_gib": torch.cuda.max_memory_allocated() / GIB}


def three(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    with bench.engine(format, tokens, documents=3) as engine:
        documents = [document(tokens, seed) for seed in range(3)]
        for ids in documents:
            fill(engine, ids)
        ask_together(engine, documents, 16)
        found = ask_together(engine, documents, 128)
        return found | {"peak_gib": torch.cuda.max_memory_allocated() / GIB}


def tiers(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    """First token when the pages are on the card, on the host, and on disk after a restart."""
    folder = Path("/tmp/unabridged-snapshots")
    body = bytes_per_token(_SHAPE, torch.bfloat16, format)  # type: ignore[arg-type]
    options: Any = {"host_bytes": tokens * body + (1 << 30), "disk_folder": folder, "disk_bytes": 1 << 40}
    ids, other = document(tokens), document(tokens, seed=2)
    found: dict[str, Any] = {}
    with bench.engine(format, tokens, **options) as engine:
        found["host_locked_gib"], found["host_asked_gib"] = locked() / GIB, options["host_bytes"] / GIB
        prefix = fill(engine, ids)
        begin = time.perf_counter()
        ask(engine, ids, 0, 2)  # has it stored, too
        found["card"] = ask(engine, ids, 0, 2)
        while prefix.kept <= len(prefix.pages) and not engine.failed:
            time.sleep(0.1)
        found["stored_s"] = time.perf_counter() - begin
        found["stored_gib"] = sum(file.stat().st_size for file in folder.rglob("*.kv")) / GIB
        fill(engine, other)  # moves the first to the host
        ask(engine, other, 0, 2)
        found["host"] = ask(engine, ids, 0, 2)
        found["again"] = ask(engine, ids, 0, 2)
    os.sync()
    with suppress(OSError):  # else the next read comes from the computer's memory
        Path("/proc/sys/vm/drop_caches").write_text("3")
    with bench.engine(format, tokens, disk_folder=folder, disk_bytes=1 << 40) as engine:
        found["disk"] = ask(engine, ids, 0, 2)
    shutil.rmtree(folder)
    return found


def locked() -> int:
    """Bytes of shared memory that this process holds: what cards read in place stands there."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssShmem:"))
    return int(line.split()[1]) * 1_024


def killed(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    """How much is read again after a reader of its own process was killed at 60 %."""
    folder = Path("/tmp/unabridged-killed")
    mark = folder / "read"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.million", "--json", os.devnull, f"die:{tokens}:{format}"]
    status = subprocess.run(command, check=False).returncode
    assert status == -signal.SIGKILL
    at = int(mark.read_text())
    with bench.engine(format, tokens, disk_folder=folder, disk_bytes=1 << 40) as engine:
        answer = ask(engine, document(tokens), 0, 2)
    shutil.rmtree(folder)
    reused = answer["reused_tokens"]
    return {"killed_at": at, "read_again": (at - reused) / tokens, "after": answer}


def die(bench: Bench, tokens: int, format: str) -> None:
    """The reader that is killed: by itself, without any warning, at 60 %."""
    folder = Path("/tmp/unabridged-killed")
    with bench.engine(format, tokens, disk_folder=folder, disk_bytes=1 << 40) as engine:
        for event in engine.submit(Request(document(tokens), document(24), Sampling(max_tokens=2))):
            if isinstance(event, ReadProgress) and event.tokens_read >= 0.6 * tokens:
                (folder / "read").write_text(str(event.tokens_read))
                os.kill(os.getpid(), signal.SIGKILL)


def profile(bench: Bench, tokens: int, format: str) -> dict[str, Any]:
    """Where the time of a whole chunk and of a few written tokens goes, by kernel, in ms."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    new = chunk()
    tokens = min(tokens, (1 << 20) - new)
    tokens -= tokens % new
    with bench.engine(format, tokens + 2 * new) as engine:
        ids = document(tokens + new)
        fill(engine, ids[:tokens])
        ask(engine, ids, 0, 2)
        found: dict[str, Any] = {"past": tokens, "chunk": new}
        ids = ids[:tokens] + document(new, seed=5)
        steps: dict[str, Callable[[], object]] = {
            "chunk and 2 tokens": lambda: ask(engine, ids, 0, 2),
            "32 tokens more": lambda: ask(engine, ids, 0, 34),
            "34 tokens of eight": lambda: ask_together(engine, [ids] * 8, 34),
        }
        for name, step in steps.items():
            with profiler(activities=[ProfilerActivity.CUDA]) as seen:
                step()
            averages = seen.key_averages()
            rows = sorted(averages, key=lambda row: -row.device_time_total)[:22]
            spans = [event.time_range for event in seen.events()]
            found[name] = {
                "from first to last": (max(x.end for x in spans) - min(x.start for x in spans)) / 1e3,
                "busy": sum(row.device_time_total for row in averages) / 1e3,
                # Not by name: two kernels may differ beyond what is shown of theirs.
                "kernels": [[row.key[:70], row.count, round(row.device_time_total / 1e3, 2)] for row in rows],
            }
        return found


def ceilings(bench: Bench) -> dict[str, Any]:
    """What the card can do at most, measured the plain way."""
    found = {}
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    found["gemm_tflops"] = 2 * 8192**3 / seconds(lambda: a @ b) / 1e12
    x = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    y = torch.empty_like(x)
    found["copy_tb_s"] = 2 * x.nbytes / seconds(lambda: y.copy_(x)) / 1e12
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    half = x[: 1 << 30]
    found["host_to_card_gb_s"] = host.nbytes / seconds(lambda: half.copy_(host, non_blocking=True)) / 1e9
    found["card_to_host_gb_s"] = host.nbytes / seconds(lambda: host.copy_(half, non_blocking=True)) / 1e9
    queries = chunk()
    q = torch.randn(1, queries, 32, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    k, v = torch.randn(2, 1, 65_536, 4, 128, device="cuda", dtype=torch.bfloat16).transpose(2, 3)
    flop = 4 * 32 * queries * 65_536 * 128
    for kernel in kernels(q.device):

        def attend(kernel: Kernel = kernel) -> object:
            return kernel(q, k, v, 1.0, False)

        time.sleep(1)  # a burst each, and then what the card can keep up
        found[f"attention_tflops{kernel.__name__}"] = flop / seconds(attend) / 1e12
        found[f"attention_tflops{kernel.__name__}_sustained"] = flop / seconds(attend, times=400) / 1e12
    return found


def seconds(call: Callable[[], object], times: int = 10) -> float:
    for _ in range(3):
        call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return float(np.median([a.elapsed_time(b) for a, b in pairwise(events)])) / 1e3


PARTS: dict[str, Callable[..., Any]] = {
    "ceilings": ceilings,
    "profile": profile,
    "read": read,
    "capped": capped,
    "write": write,
    "three": three,
    "tiers": tiers,
    "killed": killed,
    "die": die,
}


def main(arguments: Sequence[str]) -> None:
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA card.")
        return
    path, parts = Path(arguments[1]), arguments[2:]
    bench = Bench(path)
    for part in parts:
        name, *options = part.split(":")
        values = [int(option) if option.isdecimal() else option for option in options]
        bench.record(part, lambda name=name, values=values: PARTS[name](bench, *values))  # type: ignore[misc]


if __name__ == "__main__":
    main(sys.argv[1:])
