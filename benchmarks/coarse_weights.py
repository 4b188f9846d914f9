"""What does it cost that several questions' weights are rounded to e4m3? python -m benchmarks.coarse_weights

Eight seats on packed pages take the FP8 tensor cores (`worker.engine.kernels.decode`): a query as the sum of
two e4m3, and the weight of a key, times its value's scale, as one. Here the small default model reads real
text, and every token sees what stands some pages before its chunk as it is packed, with exact weights, with
those, and with queries in one e4m3 as well. By plain torch; a kernel takes its weights from the largest score
that it has met, this from the largest there is. Each is compared with the model as it is: the divergence
(Kullback-Leibler) of what the next token may be, and perplexity.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer

from benchmarks import report
from benchmarks.kv_formats import CHUNK, THREADS, real_text
from settings import Settings
from worker.engine import default_model
from worker.engine.centred import E4M3
from worker.engine.formats import PackedFormat, packed_format
from worker.engine.page import PAGE

NAME = "coarse_weights"
_EXACT_END = 2 * PAGE  # tokens behind the packed ones, as in the engine


@dataclass(frozen=True, slots=True)
class Way:
    """How packed pages are seen."""

    packed: PackedFormat | None
    weights: bool = False  #: in e4m3
    queries: bool = False  #: in one e4m3

    def scored(self, q: Tensor, keys: Tensor) -> Tensor:
        """Scores (..., keys) of q (..., dim)."""
        if self.queries:
            unit = q.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 256
            q = (q / unit).to(E4M3).float() * unit
        return q @ keys.mT

    def heard(self, weights: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        """The sum of values (keys, dim) by weights (..., keys) in [0, 1]; scales (keys) are the values'."""
        if self.weights:
            factors = scales * 2.0 ** math.floor(math.log2(256 / float(scales.max())))
            factors = factors.clamp_min(1e-30)  # of a head of zeros
            weights = (weights * factors).to(E4M3).float() / factors
        return weights @ values


class _Seen(NamedTuple):
    """Of one KV head."""

    keys: Tensor  #: (tokens, dim)
    values: Tensor  #: as `keys`
    scales: Tensor  #: (tokens); the values'


@dataclass(slots=True)
class Watcher:
    """Attention of a whole text at once, by `way`."""

    way: Way

    def __call__(
        self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: object, *, scaling: float, **_: object
    ) -> tuple[Tensor, None]:
        """As `AttentionInterface` has it: q (1, heads, tokens, dim) to (1, tokens, heads, dim)."""
        out = torch.empty_like(q[0])
        group, tokens = q.shape[1] // k.shape[1], q.shape[2]
        for head in range(k.shape[1]):
            heads = slice(head * group, (head + 1) * group)
            exact = _Seen(k[0, head], v[0, head], torch.empty(0))
            packed = self._packed(exact.keys, exact.values)
            for start in range(0, tokens, CHUNK):
                here = slice(start, min(start + CHUNK, tokens))
                out[heads, here] = self._chunk(q[0, heads, here] * scaling, exact, packed, here)
        return out.transpose(0, 1)[None], None

    def _packed(self, keys: Tensor, values: Tensor) -> _Seen:
        """Keys and values (tokens, dim) as they come back."""
        if (packed := self.way.packed) is None:
            return _Seen(keys, values, torch.ones(len(keys)))
        one = type(packed)(1, packed.dim)
        whole = len(keys) // PAGE * PAGE
        codes = torch.empty(one.codes_shape(whole // PAGE), dtype=torch.uint8)
        scales = torch.empty(one.scales_shape(whole // PAGE), dtype=torch.bfloat16)
        one.pack(keys[:whole, None], values[:whole, None], codes, scales)
        back = torch.empty(2, whole, 1, packed.dim)
        one.unpack(codes, scales, *back)
        return _Seen(back[0, :, 0], back[1, :, 0], scales[..., 1].flatten().float())

    def _chunk(self, q: Tensor, exact: _Seen, packed: _Seen, here: slice) -> Tensor:
        """Of q (group, chunk, dim): what was packed before the chunk is seen by `way`, all else as it is."""
        end = max(PAGE, (here.start - _EXACT_END) // PAGE * PAGE) if self.way.packed else PAGE
        past = slice(PAGE, end)
        later = torch.arange(here.start, here.stop)[:, None] < torch.arange(here.stop)
        scores = (q @ exact.keys[: here.stop].mT).masked_fill(later, -math.inf)
        values = exact.values[: here.stop]
        if end == PAGE:
            return scores.softmax(-1) @ values
        scores[..., past] = self.way.scored(q, packed.keys[past])
        lse = scores.logsumexp(-1, keepdim=True)
        peak = scores[..., past].amax(-1, keepdim=True)
        weights = (scores[..., past] - peak).exp()
        heard = self.way.heard(weights, packed.values[past], packed.scales[past]) * (peak - lse).exp()
        scores[..., past] = -math.inf
        return heard + (scores - lse).exp() @ values


@torch.inference_mode()
def measure(windows: int, window: int) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    folder, fingerprint = default_model.prepare(Settings().cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    watcher = Watcher(Way(None))
    AttentionInterface.register(NAME, watcher)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=NAME)
    ids = torch.tensor(tokenizer(real_text(), add_special_tokens=False, verbose=False).input_ids)
    texts = ids[: windows * window].view(windows, window)
    shape = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    ways = {"exact": Way(None)}
    for name in ("fp8", "int4"):
        packed = packed_format(name, *shape)
        ways[name] = Way(packed)
        ways[f"{name}, weights in e4m3"] = Way(packed, weights=True)
        ways[f"{name}, weights and queries in e4m3"] = Way(packed, weights=True, queries=True)
    exact: list[Tensor] = []
    rows = []
    for label, way in ways.items():
        watcher.way = way
        found = [model(input_ids=text[None], use_cache=False).logits[0].log_softmax(-1) for text in texts]
        exact = exact or found
        pairs = zip(exact, found, strict=True)
        divergence = sum(float((p.exp() * (p - q)).sum()) for p, q in pairs) / texts.numel()
        nats = -sum(
            float(q[:-1].gather(1, text[1:, None]).sum()) for q, text in zip(found, texts, strict=True)
        )
        rows.append(
            {"way": label, "divergence": divergence, "perplexity": math.exp(nats / windows / (window - 1))}
        )
    return {
        "model": default_model.NAME,
        "weights": fingerprint,
        "windows": windows,
        "window": window,
        "rows": rows,
    }


def tabulate(figures: dict[str, Any]) -> Table:
    exact = figures["rows"][0]["perplexity"]
    table = Table("keys and values", "divergence, nats a token", "perplexity", title="Coarse weights, CPU")
    for row in figures["rows"]:
        change = f"{row['perplexity']:.4f} ({100 * (row['perplexity'] / exact - 1):+.3f} %)"
        table.add_row(row["way"], f"{row['divergence']:.3e}", change)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--window", type=int, default=4_096, help="tokens")
    options = parser.parse_args()
    figures = measure(options.windows, options.window)
    Console().print(tabulate(figures))
    report.save(NAME, figures)


if __name__ == "__main__":
    main()
