"""Layers are compiled once for all, and a chunk of any length is as if it were not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch import Tensor, fx

from worker.engine.compiled import compile_layers
from worker.engine.decoder import Decoder
from worker.engine.kv import ExactArena, Span, cut

CHUNK = 128


class Compiler:
    """Counts what it is asked to compile, and compiles nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.asked += 1
        forward: Callable[..., Any] = graph.forward
        return forward


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    yield Decoder(tiny_model())
    torch.compiler.reset()


def read(decoder: Decoder, tokens: int) -> Tensor:
    """Logits behind a chunk of so many tokens that stands behind another one."""
    ids = torch.randint(0, 256, (CHUNK + tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    room = Span(ExactArena(decoder.shape, -(-len(ids) // CHUNK), dtype=decoder.dtype), 0, len(ids))
    with torch.inference_mode():
        decoder.keep(ids[:CHUNK], [], cut([room], 0, CHUNK))
        return decoder.read(ids[CHUNK:], cut([room], 0, CHUNK), cut([room], CHUNK, len(ids)))


def test_chunks_of_all_lengths_take_two_compilations_and_say_what_they_said(decoder: Decoder) -> None:
    lengths = (CHUNK, 100, 64, 2, 3, CHUNK - 1, CHUNK, 7)
    plain = [read(decoder, tokens) for tokens in lengths]
    compiler = Compiler()
    compile_layers(decoder.model, {(1, CHUNK)}, backend=compiler)
    for tokens, expected in zip(lengths, plain, strict=True):
        assert (read(decoder, tokens) - expected).abs().max() < 1e-5
    assert compiler.asked == 2  # whole chunks, and all that are shorter


def test_what_is_longer_than_a_chunk_is_not_compiled(decoder: Decoder) -> None:
    compiler = Compiler()
    compile_layers(decoder.model, {(1, CHUNK // 2)}, backend=compiler)
    read(decoder, CHUNK)
    assert not compiler.asked
