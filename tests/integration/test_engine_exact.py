"""The engine's reading in pieces computes what a plain forward pass computes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GlmConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from worker.engine.attention import first_right, merge, reference, select
from worker.engine.decoder import Decoder
from worker.engine.errors import ModelLoadError, NotFinite
from worker.engine.kv import PIECE, SMALLEST, ExactArena, Pieces, Shape, Span, cut
from worker.engine.page import PAGE, whole_pages
from worker.engine.passes import Seat

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "pad_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.2,  # sharp attention: single keys count
}
CONFIGS = {
    "llama": LlamaConfig(num_attention_heads=8, num_key_value_heads=2, **SMALL),
    "glm": GlmConfig(num_attention_heads=8, num_key_value_heads=4, **SMALL),
    "qwen3": Qwen3Config(num_attention_heads=4, num_key_value_heads=1, **SMALL),
    "without groups": LlamaConfig(num_attention_heads=4, num_key_value_heads=4, **SMALL),
}
TOKENS = 700


def plain_logits(config: PretrainedConfig, ids: list[int]) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model and what it says of every position in one eager pass."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model, model(torch.tensor([ids])).logits[0]


def span(decoder: Decoder) -> Span:
    """Room for `TOKENS` in an arena of its own."""
    pages = -(-TOKENS // PAGE)
    return Span(ExactArena(decoder.shape, pages, dtype=decoder.dtype), 0, TOKENS)


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(0, 300, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [[700], [1, 2, 3, 700], [256, 512, 700], [699, 700], [350, 351, 352, 700]])
def test_chunks_give_the_logits_of_a_plain_forward(name: str, cuts: list[int], ids: list[int]) -> None:
    model, expected = plain_logits(CONFIGS[name], ids)
    decoder = Decoder(model)
    with torch.inference_mode():
        room = span(decoder)
        for start, end in pairwise([0, *cuts]):
            logits = decoder.read(ids[start:end], cut([room], 0, start), cut([room], start, end))
            assert (logits - expected[end - 1]).abs().max() < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tail_behind_a_shared_prefix_gives_the_logits_of_a_plain_forward(name: str, ids: list[int]) -> None:
    model, expected = plain_logits(CONFIGS[name], ids)
    decoder = Decoder(model)
    with torch.inference_mode():
        prefix, tail = span(decoder).part(0, 500), span(decoder)
        decoder.read(ids[:500], [], [prefix])
        for start, end in pairwise([0, 10, 11, 140, 200]):
            past = [prefix, *cut([tail], 0, start)]
            logits = decoder.read(ids[500 + start : 500 + end], past, cut([tail], start, end))
            assert (logits - expected[500 + end - 1]).abs().max() < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_a_token_written_behind_a_prefix_in_two_places_gets_the_logits_of_a_plain_forward(
    name: str, ids: list[int]
) -> None:
    """Whole pages here and an end there, and a tail."""
    model, expected = plain_logits(CONFIGS[name], ids)
    decoder = Decoder(model)
    pages = whole_pages(500) * PAGE
    with torch.inference_mode():
        room, tail = span(decoder).arena, span(decoder)
        prefix = [Span(room, 0, pages), Span(room, pages + 2 * PAGE, 500 - pages)]
        decoder.read(ids[:500], [], prefix)
        decoder.read(ids[500:600], prefix, [tail.part(0, 100)])
        seat = Seat(ids[600], shared=0, before=prefix, tail=tail, length=100, position=600)
        assert (decoder.write([seat])[0] - expected[600]).abs().max() < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_kept_without_asking_is_what_reading_keeps(name: str, ids: list[int]) -> None:
    decoder = Decoder(plain_logits(CONFIGS[name], ids)[0])
    with torch.inference_mode():
        rooms, logits = [span(decoder), span(decoder)], []
        for keep, room in zip([decoder.read, decoder.keep], rooms, strict=True):
            for start, end in pairwise([0, 256, 512, 690]):
                keep(ids[start:end], cut([room], 0, start), cut([room], start, end))
            logits.append(decoder.read(ids[690:], cut([room], 0, 690), cut([room], 690, 700)))
    assert torch.equal(*logits)
    for asked, kept in zip(rooms[0].arena.tensors, rooms[1].arena.tensors, strict=True):
        assert torch.equal(asked.flatten(1, 2)[:, :690], kept.flatten(1, 2)[:, :690])


@pytest.mark.parametrize("weight", ["embed_tokens", "layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj"])
def test_a_token_that_is_no_number_is_not_kept_unnoticed(weight: str, ids: list[int]) -> None:
    """Nor one of which only the last layer's keys, or only its values, are none."""
    model, _ = plain_logits(CONFIGS["llama"], ids)
    decoder = Decoder(model)
    model.get_parameter(f"model.{weight}.weight").data[0, 0] = float("nan")
    with torch.inference_mode(), pytest.raises(NotFinite):
        decoder.keep([0, *ids[:255]], [], [span(decoder).part(0, 256)])


def test_a_reused_prefix_gives_bit_equal_logits(ids: list[int]) -> None:
    decoder = Decoder(plain_logits(CONFIGS["glm"], ids)[0])
    with torch.inference_mode():
        results = []
        prefix = span(decoder).part(0, 512)
        decoder.read(ids[:256], [], [prefix.part(0, 256)])
        decoder.read(ids[256:512], [prefix.part(0, 256)], [prefix.part(256, 512)])
        for _ in range(2):
            results.append(decoder.read(ids[512:], [prefix], [span(decoder).part(0, 188)]))
    assert torch.equal(*results)


def test_blocks_of_the_reference_and_merged_pieces_are_exact_attention() -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(1, 2, 4_200, 8, generator=generator)
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.5)
    output, _ = reference(q, q, q, 0.5, True)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    k, v = torch.randn(2, 1, 2, 900, 8, generator=generator)
    pieces = [reference(q, k[:, :, a:b], v[:, :, a:b], 0.5, False) for a, b in [(0, 1), (1, 640), (640, 900)]]
    torch.testing.assert_close(merge(pieces), reference(q, k, v, 0.5, False), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 512, 8_448, 11 * 8_448, 70_001])
def test_a_past_comes_in_lengths_that_kernels_planned_for_and_a_short_rest(tokens: int) -> None:
    shape = Shape(layers=1, kv_heads=1, dim=8)
    past = Span(ExactArena(shape, -(-tokens // PAGE), dtype=torch.float32), 0, tokens)
    pieces = Pieces(shape, dtype=torch.float32).of([past], 0, halving=True)
    *planned, last = [keys.shape[2] for keys, _ in pieces]
    assert sum(planned) + last == tokens
    assert all(PIECE % size == 0 and size >= SMALLEST for size in planned)
    assert last < SMALLEST or PIECE % last == 0


def test_pieces_are_longer_where_nothing_is_copied() -> None:
    shape = Shape(layers=1, kv_heads=1, dim=8)
    arena = ExactArena(shape, 8, dtype=torch.float32)
    together, apart = [Span(arena, 0, 7 * PAGE)], [Span(arena, 0, PAGE), Span(arena, 2 * PAGE, 6 * PAGE)]
    pieces = Pieces(shape, dtype=torch.float32, piece=2 * PAGE)

    def lengths(spans: list[Span], in_place: int) -> list[int]:
        return [keys.shape[2] // PAGE for keys, _ in pieces.of(spans, 0, in_place=in_place)]

    assert lengths(together, 0) == [2, 2, 2, 1]
    assert lengths(together, 4 * PAGE) == [4, 3]
    assert lengths(apart, 4 * PAGE) == [2, 2, 2, 1]
    assert lengths([], 4 * PAGE) == []


def test_the_self_test_keeps_a_right_kernel() -> None:
    chosen = select(torch.device("cpu"), torch.float32, heads=9, kv_heads=3, dim=64)
    assert reference not in (chosen.many, chosen.few)


def test_kernels_that_are_wrong_or_refuse_are_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(q: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("no kernel for these shapes")

    def forgets_the_last_key(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return reference(q, k if causal else k[:, :, :-1], v if causal else v[:, :, :-1], scale, causal)

    generator = torch.Generator().manual_seed(3)
    k, v = torch.randn(2, 1, 2, 100, 16, generator=generator)
    questions = [torch.randn(1, 8, length, 16, generator=generator) for length in (1, 5)]
    assert first_right([refuses, forgets_the_last_key, reference], questions, k, v) is reference
    assert "refuses failed its self-test: no kernel for these shapes" in caplog.text
    assert "forgets_the_last_key is off by" in caplog.text


def test_a_model_with_sliding_windows_is_refused() -> None:
    config = Qwen3Config(
        num_attention_heads=4,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=64,
        max_window_layers=0,
        **SMALL,
    )
    with pytest.raises(ModelLoadError, match="full attention"):
        Decoder(AutoModelForCausalLM.from_config(config))
