"""Does the engine cost anything, and does it remember? Run: python -m benchmarks.engine [--json FILE]

The small default model on the CPU, fp32, with as many threads as torch takes:

1. the engine against transformers' own `generate()` (sdpa, same weights, same prompt, greedy), in turns and
   each in a process of its own: the same tokens, and the ratio of the total times;
2. a second question on a document that was just read: its time to the first token against the first's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from settings import Settings
from worker.engine import Engine, Finished, Request, Sampling, TextDelta, Turn, default_model, load_engine

ANSWER_TOKENS = 64
PROMPT_TOKENS = (2_000, 6_000)
QUESTION = "Retell the whole log in your own words, at length."
SECOND_QUESTION = "Name one thing that was repaired."

_WORDS = """
    the a keeper pump house valve north south river harbour engine belt boiler report winter summer crew
    found repaired opened closed measured wrote said heard water steam coal iron lamp clock stone bridge
""".split()  # noqa: SIM905


def log(engine: Engine, tokens: int, seed: int) -> str:
    """Made-up text of about `tokens` tokens; another seed gives another document."""
    rng = random.Random(seed)
    text = ""
    while engine.tokenizer.count(text) < tokens:
        text += " ".join(rng.choices(_WORDS, k=12)).capitalize() + f" in {rng.randint(1800, 1999)}. "
    return text


def prompt(engine: Engine, document: str, question: str, max_tokens: int = ANSWER_TOKENS) -> Request:
    prefix = engine.tokenizer.prefix("You answer questions about a document.", document)
    suffix = engine.tokenizer.suffix([Turn("user", "\n\n" + question)])
    return Request(prefix.ids, suffix, Sampling(max_tokens))


def ask(engine: Engine, request: Request) -> tuple[float, str, Finished]:
    """Seconds, answer, last event."""
    begin = time.perf_counter()
    events = list(engine.submit(request))
    seconds = time.perf_counter() - begin
    assert isinstance(events[-1], Finished)
    return seconds, "".join(e.text for e in events if isinstance(e, TextDelta)), events[-1]


class Reference:
    """transformers' own `generate()`, in a process of its own: threads of two would disturb each other."""

    def __init__(self, folder: Path) -> None:
        self._process = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_load, initargs=(folder,)
        )

    def generate(self, engine: Engine, request: Request) -> tuple[float, str]:
        """Seconds and answer."""
        ids = [*request.prefix, *request.suffix]
        seconds, answer = self._process.submit(_generate, ids, request.sampling.max_tokens).result()
        return seconds, engine.tokenizer.decode(answer)

    def close(self) -> None:
        self._process.shutdown()


_loaded: Any = None  # of the process in which `generate()` runs


def _load(folder: Path) -> None:
    global _loaded  # noqa: PLW0603
    from transformers import AutoModelForCausalLM

    _loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="sdpa")


def _generate(prompt: list[int], max_tokens: int) -> tuple[float, list[int]]:
    import torch

    ids = torch.tensor([prompt])
    begin = time.perf_counter()
    with torch.inference_mode():
        output = _loaded.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
        )
    return time.perf_counter() - begin, output[0, len(prompt) :].tolist()


def against_generate(engine: Engine, model: Reference, tokens: int, rounds: int) -> dict[str, Any]:
    """Each round another document, so that nothing is reused; who goes first alternates."""
    ours, theirs, prompts, written = [], [], [], []
    for number in range(rounds):
        request = prompt(engine, log(engine, tokens, seed=number), QUESTION)
        if number % 2:
            reference = model.generate(engine, request)
        seconds, answer, last = ask(engine, request)
        if not number % 2:
            reference = model.generate(engine, request)
        assert answer == reference[1], "the engine and generate() wrote different answers"
        ours.append(seconds)
        theirs.append(reference[0])
        prompts.append(last.usage.prefix_tokens + last.usage.suffix_tokens)
        written.append(last.usage.completion_tokens)
    return {
        "prompt_tokens": prompts,
        "written_tokens": written,
        "engine_s": ours,
        "generate_s": theirs,
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def second_question(engine: Engine, tokens: int, rounds: int) -> dict[str, Any]:
    first: list[float] = []
    second: list[float] = []
    for number in range(rounds):
        document = log(engine, tokens, seed=1_000 + number)
        for question, times in ((QUESTION, first), (SECOND_QUESTION, second)):
            _, _, last = ask(engine, prompt(engine, document, question, max_tokens=4))
            times.append(last.usage.first_token_s)
    return {
        "document_tokens": tokens,
        "first_s": first,
        "second_s": second,
        "ratio": statistics.median(b / a for a, b in zip(first, second, strict=True)),
    }


def measure(rounds: int) -> dict[str, Any]:
    cache = Settings().cache
    folder, _ = default_model.prepare(cache)
    model = Reference(folder)
    engine = load_engine(cache_dir=cache, device="cpu")
    import torch
    import transformers

    try:
        ask(engine, warm := prompt(engine, log(engine, 600, seed=-1), QUESTION, max_tokens=4))
        model.generate(engine, warm)
        return {
            "model": engine.card.name,
            "weights": engine.card.weights,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "load_average": os.getloadavg(),  # above the threads: something else was running
            "against_generate": [against_generate(engine, model, n, rounds) for n in PROMPT_TOKENS],
            "second_question": [second_question(engine, n, rounds) for n in PROMPT_TOKENS],
        }
    finally:
        engine.close()
        model.close()


def tabulate(figures: dict[str, Any]) -> Table:
    table = Table("measured", "tokens", "engine", "compared with", "ratio (median)", title="Engine, CPU")
    for row in figures["against_generate"]:
        tokens = f"{max(row['prompt_tokens']):,} + {max(row['written_tokens'])}"
        ours, theirs = statistics.median(row["engine_s"]), statistics.median(row["generate_s"])
        table.add_row(
            "whole answer", tokens, f"{ours:.2f} s", f"generate() {theirs:.2f} s", f"{row['ratio']:.2f}"
        )
    for row in figures["second_question"]:
        second, first = statistics.median(row["second_s"]), statistics.median(row["first_s"])
        compared = f"first question {first:.2f} s"
        table.add_row(
            "first token", f"{row['document_tokens']:,}", f"{second:.2f} s", compared, f"{row['ratio']:.3f}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = measure(options.rounds)
    Console().print(tabulate(figures))
    saved = report.save("engine", figures)
    if options.json:
        options.json.write_bytes(saved.read_bytes())


if __name__ == "__main__":
    main()
