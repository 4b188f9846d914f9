"""An engine around a tiny GLM with random weights, and what its model was asked and said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, GlmConfig

from worker.engine import Event, Finished, MemoryOptions, Request, Sampling
from worker.engine.assembly import build
from worker.engine.fake import fake_tokenizer
from worker.engine.types import Format

CHUNK = 512
WINDOW = 16_384
LAYERS, KV_HEADS, DIM = 2, 2, 32


def tiny_model(head_dim: int = DIM) -> Any:
    """The same each time; it writes bytes."""
    torch.manual_seed(0)
    config = GlmConfig(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=KV_HEADS,
        head_dim=head_dim,
        max_position_embeddings=WINDOW,
        pad_token_id=None,
        initializer_range=0.1,
    )
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight[256:] = 0.0  # it never stops by itself
    return model


class Permits(Protocol):
    """A semaphore of threads, or of processes."""

    def acquire(self, block: bool = True, /, timeout: float | None = None) -> bool: ...


class Tiny:
    """`engine` reads and writes; the rest is its model's.

    `passes` and `states`, what its last layer is given, have an entry a forward pass; `logits` have one where
    they were asked for, which is not so while a document is read.
    """

    def __init__(
        self,
        format: Format = "exact",
        *,
        tokens: int = 20_000,
        chunk: int = CHUNK,
        revision: str = "1",
        disk: Path | None = None,
        permits: Permits | None = None,
        poisoned: int | None = None,
        loud: float = 0.0,
    ) -> None:
        """An engine with room for `tokens` exact ones.

        `permits`: how many passes may be taken. `poisoned`: a token that makes what follows NaN. `loud`: a
        number that stands in one channel of all keys besides, which softmax does not see.
        """
        self.passes: list[int] = []
        self.states: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self.permits: Permits | None = None
        model = tiny_model()
        if poisoned is not None:
            with torch.no_grad():
                model.get_input_embeddings().weight[poisoned] = float("nan")
        with torch.no_grad():
            for layer in model.get_decoder().layers:
                layer.self_attn.k_proj.bias[DIM - 5 :: DIM] += (
                    loud  # the second half of a head does not rotate
                )
        model.register_forward_pre_hook(self._asked, with_kwargs=True)
        model.get_decoder().layers[-1].register_forward_pre_hook(self._reached)
        model.register_forward_hook(self._said)
        self.engine = build(
            model,
            fake_tokenizer(),
            name="tiny",
            revision=revision,
            memory=MemoryOptions(
                format,
                card_bytes=tokens * 2 * LAYERS * KV_HEADS * DIM * 4,
                disk_folder=disk,
                disk_bytes=1 << 30,
            ),
            prefill_chunk=chunk,
        )
        self.passes.clear()  # of making ready
        self.states.clear()
        self.logits.clear()
        self.permits = permits

    def _asked(self, model: torch.nn.Module, args: object, options: dict[str, Any]) -> None:
        if self.permits is not None:
            assert self.permits.acquire(timeout=60), "the engine took more passes than the test expects"
        self.passes.append(options["input_ids"].numel())

    def _reached(self, layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.states.append(args[0].clone())

    def _said(self, model: torch.nn.Module, args: object, output: Any) -> None:
        self.logits.append(output.logits[:, -1].clone())


class Record:
    """A mask that allows everything and remembers what was written."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def allowed(self, generated: Sequence[int]) -> NDArray[np.int64] | None:
        self.tokens = list(generated)
        return None


def document(tokens: int, seed: int = 0) -> list[int]:
    return list(map(int, np.random.default_rng(seed).integers(0, 256, tokens)))


def ask(prefix: Sequence[int], question: str = "What?", *, max_tokens: int = 8, **options: Any) -> Request:
    return Request(prefix, list(question.encode()), Sampling(max_tokens), **options)


def finish(events: Iterable[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last
