"""GLM's queries and keys turned in place are those that transformers makes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import LAYERS, tiny_model
from torch import Tensor

from benchmarks.glm import to_nf4
from worker.engine import nf4, rotary
from worker.engine.compiled import compile_layers
from worker.engine.decoder import Decoder
from worker.engine.kv import ExactArena, Span
from worker.engine.page import PAGE
from worker.engine.passes import Seat
from worker.engine.rotary import RotaryInPlace, rotate


@pytest.fixture
def models() -> Iterator[tuple[Any, Any]]:
    """As transformers has it, and with our attention."""
    plain = tiny_model()
    to_nf4(plain.model, "cpu")
    nf4.adopt(plain)
    ours = copy.deepcopy(plain)
    assert rotary.adopt(ours) == LAYERS
    yield plain, ours
    torch.compiler.reset()


def logits(model: Any, chunk: int = PAGE) -> Tensor:
    """Behind a chunk, behind a few tokens more, and behind two single ones."""
    decoder = Decoder(model)
    ids = torch.randint(0, 256, (chunk + 8,), generator=torch.Generator().manual_seed(1)).tolist()
    arena = ExactArena(decoder.shape, 3 + len(ids) // PAGE, dtype=decoder.dtype)
    room, tails = Span(arena, 0, len(ids)), [Span(arena, len(ids) + i, 1) for i in range(2)]
    with torch.inference_mode():
        first = decoder.read(ids[:chunk], [], [room.part(0, chunk)])
        second = decoder.read(ids[chunk:], [room.part(0, chunk)], [room.part(chunk, len(ids))])
        seats = [Seat(token, 1, [room], tail, 0, len(ids)) for token, tail in zip((3, 5), tails, strict=True)]
        return torch.cat([first[None], second[None], decoder.write(seats)])


def test_a_model_says_what_it_said_before(models: tuple[Any, Any]) -> None:
    plain, ours = models
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-4, atol=1e-5)


def test_it_compiles_whole_and_says_the_same(models: tuple[Any, Any]) -> None:
    plain, ours = models
    compile_layers(ours, {(1, PAGE), (2, 1)}, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-4, atol=1e-5)


def test_attention_whose_products_are_not_one_is_left_alone() -> None:
    model = tiny_model()
    assert rotary.adopt(model) == 0
    assert not any(isinstance(module, RotaryInPlace) for module in model.modules())


def test_only_pairs_of_the_first_heads_turn() -> None:
    heads, dim, tokens = 3, 8, 5
    before = torch.randn(tokens, (heads + 1) * dim, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(tokens)[:, None] * torch.tensor([1.0, 0.1])
    after = before.clone()
    rotate(after, *(torch.cat([x, x], -1) for x in (angles.cos(), angles.sin())), heads, dim)
    was, now = (x.view(tokens, heads + 1, dim) for x in (before, after))
    turned = torch.view_as_complex(was[:, :heads, :4].reshape(tokens, heads, 2, 2)) * torch.exp(
        1j * angles[:, None]
    )
    torch.testing.assert_close(now[:, :heads, :4], torch.view_as_real(turned).flatten(2))
    assert torch.equal(now[:, :heads, 4:], was[:, :heads, 4:])
    assert torch.equal(now[:, heads:], was[:, heads:])


def test_the_operator_keeps_the_rules_of_torch() -> None:
    arguments = (torch.randn(1, 3, 64), torch.randn(1, 3, 8), torch.randn(1, 3, 8), 3, 16)
    torch.library.opcheck(torch.ops.unabridged.rotate.default, arguments)
