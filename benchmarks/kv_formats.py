"""What do packed keys and values cost in quality? Run: python -m benchmarks.kv_formats [--json FILE]

The small default model on the CPU, in fp32, reads real text (the Python language reference, from the standard
library) in chunks, as the engine does: a chunk's own keys and values are exact, and after it was read the
whole pages behind it, but the first, are packed and unpacked; at least `PAGE` tokens at the end stay exact.

1. perplexity over whole windows of the model, and its change against exact keys and values;
2. the needle: a number stated at one of ten depths of a text, asked for at its end; found if every token of
   the right answer is the most likely one.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from benchmarks import report
from settings import Settings
from worker.engine import default_model
from worker.engine.formats import PackedFormat, packed_format
from worker.engine.page import PAGE

THREADS = 2
CHUNK = 512
DEPTHS = 10
NEEDLE = "\n\nNote: the access code of the northern archive is 73914. Keep it.\n\n"
QUESTION = (
    "\n\nQuestion: What is the access code of the northern archive?"
    "\nAnswer: The access code of the northern archive is"
)
ANSWER = " 73914"


def real_text() -> str:
    """The Python language reference, from the standard library."""
    return "\n\n".join(topics[name] for name in sorted(topics))


class PackedReader:
    """A model reading one text, whose past goes through a format."""

    def __init__(self, model: Any, packed: PackedFormat | None) -> None:
        self._model = model
        self._packed = packed
        self._cache = DynamicCache(config=model.config)
        self._pages = 1  # the first stays exact

    def read(self, ids: Tensor) -> Tensor:
        """Logits (n, vocabulary) of the tokens (n)."""
        logits: Tensor = self._model(input_ids=ids[None], past_key_values=self._cache, use_cache=True).logits[
            0
        ]
        if self._packed:
            self._pack_past(self._packed)
        return logits

    def _pack_past(self, packed: PackedFormat) -> None:
        pages = self._cache.get_seq_length() // PAGE - 1
        if pages <= self._pages:
            return
        past = slice(self._pages * PAGE, pages * PAGE)
        layer: Any  # holds keys and values, as every layer of attention does
        for layer in self._cache.layers:
            keys, values = (x[0, :, past].transpose(0, 1).contiguous() for x in (layer.keys, layer.values))
            codes = torch.empty(packed.codes_shape(pages - self._pages), dtype=torch.uint8)
            scales = torch.empty(packed.scales_shape(pages - self._pages), dtype=torch.bfloat16)
            packed.pack(keys, values, codes, scales)
            packed.unpack(codes, scales, keys, values)
            layer.keys[0, :, past], layer.values[0, :, past] = keys.transpose(0, 1), values.transpose(0, 1)
        self._pages = pages


def negative_log_likelihood(reader: PackedReader, ids: Tensor) -> float:
    """Of ids[1:], in nats, together."""
    total = 0.0
    for start in range(0, len(ids) - 1, CHUNK):
        targets = ids[start + 1 : start + 1 + CHUNK]
        logits = reader.read(ids[start : start + len(targets)])
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total


def finds(reader: PackedReader, text: Tensor, question: Tensor, answer: Tensor) -> bool:
    for start in range(0, len(text), CHUNK):
        reader.read(text[start : start + CHUNK])
    logits = reader.read(torch.cat([question, answer[:-1]]))
    return bool((logits[-len(answer) :].argmax(-1) == answer).all())


@torch.inference_mode()
def measure(names: Sequence[str], windows: int, window: int, needle_tokens: int) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    folder, fingerprint = default_model.prepare(Settings().cache)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(text: str) -> Tensor:
        return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    text = encode(real_text())
    hay, question, answer = text[:needle_tokens], encode(QUESTION), encode(ANSWER)
    shape = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    found: dict[str, Any] = {}
    for name in names:
        packed = None if name == "exact" else packed_format(name, *shape)  # type: ignore[arg-type]
        nats = [
            negative_log_likelihood(
                PackedReader(model, packed), text[number * window : (number + 1) * window]
            )
            for number in range(windows)
        ]
        needles = []
        for depth in range(DEPTHS):
            at = PAGE + (needle_tokens - 3 * PAGE) * depth // (DEPTHS - 1)
            told = torch.cat([hay[:at], encode(NEEDLE), hay[at:]])
            needles.append(finds(PackedReader(model, packed), told, question, answer))
        found[name] = {
            "perplexity": math.exp(sum(nats) / (windows * (window - 1))),
            "nats": nats,
            "needles": needles,
            "bytes_per_token": packed.bytes_per_token(model.config.num_hidden_layers) if packed else None,
        }
    return {
        "model": default_model.NAME,
        "weights": fingerprint,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "windows": windows,
        "window_tokens": window,
        "needle_tokens": needle_tokens,
        "formats": found,
    }


def tabulate(figures: dict[str, Any]) -> Table:
    table = Table("format", "perplexity", "against exact", "needles found", title="Keys and values, CPU")
    exact = figures["formats"]["exact"]["perplexity"]
    for name, row in figures["formats"].items():
        change = f"{100 * (row['perplexity'] / exact - 1):+.2f} %"
        table.add_row(
            name, f"{row['perplexity']:.4f}", change, f"{sum(row['needles'])} of {len(row['needles'])}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--window", type=int, default=8_192, help="tokens")
    parser.add_argument("--needle", type=int, default=2_048, help="tokens of the text that hides it")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = measure(["exact", "fp8", "int4"], options.windows, options.window, options.needle)
    Console().print(tabulate(figures))
    saved = report.save("kv_formats", figures)
    if options.json:
        shutil.copyfile(saved, options.json)


if __name__ == "__main__":
    main()
