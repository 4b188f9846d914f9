"""Does the engine cost anything, and does it remember? Run: python -m benchmarks.engine [--json FILE]

The small default model on the CPU, two threads, fp32, in one process:

1. the engine against transformers' own `generate()` (sdpa, same weights, same prompt, greedy), in turns:
   the same tokens, and the ratio of the total times;
2. a second question on a document that was just read: its time to the first token against the first's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks import report
from settings import Settings
from worker.engine import Engine, Finished, Request, Sampling, TextDelta, Turn, default_model, load_engine

THREADS = 2
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


@torch.inference_mode()
def generate(model: Any, engine: Engine, request: Request) -> tuple[float, str]:
    ids = torch.tensor([[*request.prefix, *request.suffix]])
    begin = time.perf_counter()
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.sampling.max_tokens, do_sample=False
    )
    seconds = time.perf_counter() - begin
    return seconds, engine.tokenizer.decode(output[0, ids.shape[1] :].tolist())


def against_generate(engine: Engine, model: Any, tokens: int, rounds: int) -> dict[str, Any]:
    """Each round another document, so that nothing is reused; who goes first alternates."""
    ours, theirs, prompts, written = [], [], [], []
    for number in range(rounds):
        request = prompt(engine, log(engine, tokens, seed=number), QUESTION)
        if number % 2:
            reference = generate(model, engine, request)
        seconds, answer, last = ask(engine, request)
        if not number % 2:
            reference = generate(model, engine, request)
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
    torch.set_num_threads(THREADS)
    cache = Settings().cache
    folder, _ = default_model.prepare(cache)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    engine = load_engine(cache_dir=cache, device="cpu")
    try:
        ask(engine, warm := prompt(engine, log(engine, 600, seed=-1), QUESTION, max_tokens=4))
        generate(model, engine, warm)
        return {
            "model": engine.card.name,
            "weights": engine.card.weights,
            "threads": THREADS,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "load_average": os.getloadavg(),  # above the threads: something else was running
            "against_generate": [against_generate(engine, model, n, rounds) for n in PROMPT_TOKENS],
            "second_question": [second_question(engine, n, rounds) for n in PROMPT_TOKENS],
        }
    finally:
        engine.close()


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
        shutil.copyfile(saved, options.json)


if __name__ == "__main__":
    main()
