"""What do keys that are alike and large in a channel cost? Run: python -m benchmarks.loud_keys

The small default model reads real text, as in `benchmarks.kv_formats`, with a number added to a channel of
every layer's keys, and half of it to the one that it turns with: slowly, by a fiftieth of a circle in a whole
window. Other models have such channels by themselves. Packed as they are, and less what the engine finds that
all keys have in common (`worker.engine.offsets`), each against the same model with exact keys and values.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import report
from benchmarks.kv_formats import THREADS, PackedReader, negative_log_likelihood, real_text
from settings import Settings
from worker.engine import default_model
from worker.engine.decoder import Decoder
from worker.engine.formats import PackedFormat, packed_format

LOUD = (0, 20, 60, 200)


class OffsetReader(PackedReader):
    """Packs keys less `offsets` (layers, KV heads, dim)."""

    def __init__(self, model: Any, packed: PackedFormat, offsets: Tensor) -> None:
        super().__init__(model, packed)
        self._offsets = offsets[:, None, :, None]

    def _pack_past(self, packed: PackedFormat) -> None:
        layer: Any
        for layer, offset in zip(self._cache.layers, self._offsets, strict=True):
            layer.keys -= offset
        super()._pack_past(packed)
        for layer, offset in zip(self._cache.layers, self._offsets, strict=True):
            layer.keys += offset


def loud_model(folder: str, loud: float) -> tuple[Any, Tensor | None]:
    """The model with `loud` in its keys, and what the engine finds of it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    decoder = Decoder(model)
    dim = decoder.shape.dim
    bias = torch.zeros(decoder.shape.kv_heads, dim)
    bias[:, dim // 2 - 1], bias[:, dim - 1] = loud, loud / 2  # a pair, which turns together
    for layer in model.get_decoder().layers:
        layer.self_attn.k_proj.bias = torch.nn.Parameter(bias.flatten())
    decoder.find_offsets()
    model.set_attn_implementation("sdpa")
    return model, decoder.offsets


@torch.inference_mode()
def measure(numbers: Sequence[float], tokens: int) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    folder, fingerprint = default_model.prepare(Settings().cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(real_text(), add_special_tokens=False, verbose=False).input_ids)[:tokens]
    rows = []
    for loud in numbers:
        model, offsets = loud_model(str(folder), loud)
        shape = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
        exact = negative_log_likelihood(PackedReader(model, None), ids)
        row: dict[str, Any] = {
            "loud": loud,
            "channels": 0 if offsets is None else int(offsets.count_nonzero()),
            "exact": math.exp(exact / (len(ids) - 1)),
        }
        for name in ("fp8", "int4"):
            packed = packed_format(name, *shape)
            readers = {"as they are": PackedReader(model, packed)}
            if offsets is not None:
                readers["less offsets"] = OffsetReader(model, packed, offsets)
            for way, reader in readers.items():
                nats = negative_log_likelihood(reader, ids)
                row[f"{name}, {way}"] = math.expm1((nats - exact) / (len(ids) - 1))
        rows.append(row)
    return {"model": default_model.NAME, "weights": fingerprint, "tokens": tokens, "rows": rows}


def tabulate(figures: dict[str, Any]) -> Table:
    ways = [f"{name}, {way}" for name in ("fp8", "int4") for way in ("as they are", "less offsets")]
    table = Table("added", "channels found", "perplexity", *ways, title="Loud keys, CPU")
    for row in figures["rows"]:
        changes = [f"{100 * row[way]:+.2f} %" if way in row else "" for way in ways]
        table.add_row(str(row["loud"]), str(row["channels"]), f"{row['exact']:.3f}", *changes)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4_096)
    options = parser.parse_args()
    figures = measure(LOUD, options.tokens)
    Console().print(tabulate(figures))
    report.save("loud_keys", figures)


if __name__ == "__main__":
    main()
