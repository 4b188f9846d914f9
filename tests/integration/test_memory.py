"""How much memory keys and values get, in which format, and what fits into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

from settings import Settings
from worker.bootstrap import memory_options
from worker.engine.assembly import build
from worker.engine.decoder import Decoder
from worker.engine.errors import ModelLoadError, PromptTooLong
from worker.engine.fake import fake_tokenizer
from worker.engine.kv import ExactArena, Shape
from worker.engine.memory import allocate, bytes_per_token, choose, fits_in, host_bytes, tokens_fit
from worker.engine.page import PAGE
from worker.engine.pool import Arenas, PagePool
from worker.engine.types import Format, MemoryOptions

GLM = Shape(layers=40, kv_heads=4, dim=128)
MILLION = 1_048_576
GIB = 2**30
FORMATS = pytest.mark.parametrize("format", ["exact", "fp8", "int4"])


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(tiny_model())


def test_a_token_of_the_million_token_model_takes_80_or_41_or_21_kilobytes() -> None:
    sizes = [bytes_per_token(GLM, torch.bfloat16, format) for format in ("exact", "fp8", "int4")]
    assert sizes == [81_920, 41_600, 21_120]


@pytest.mark.parametrize(("gib", "format"), [(100, "exact"), (46, "fp8"), (24, "int4"), (2, "int4")])
def test_the_most_exact_format_that_holds_a_window_is_chosen(gib: int, format: Format) -> None:
    assert choose(GLM, torch.bfloat16, MILLION, gib * GIB, kernels=True) == format
    assert (tokens_fit(GLM, torch.bfloat16, format, gib * GIB) >= MILLION) == (gib > 2)


def test_heads_that_cannot_be_rotated_are_never_kept_in_four_bits(decoder: Decoder) -> None:
    for dim in (16, 80):
        shape = Shape(40, 4, dim)
        assert choose(shape, torch.bfloat16, MILLION, 1 * GIB, kernels=False) == "fp8"


def test_heads_that_kernels_cannot_take_are_kept_exact_on_a_card() -> None:
    for dim in (16, 80, 96):
        shape = Shape(40, 4, dim)
        assert choose(shape, torch.bfloat16, MILLION, 1 * GIB, kernels=True) == "exact"


@pytest.mark.parametrize(
    ("device", "format", "others"), [("cuda", "fp8", "exact"), ("cpu", "int4", "exact or fp8")]
)
def test_a_format_that_cannot_hold_a_models_heads_is_refused(
    device: str, format: Format, others: str
) -> None:
    decoder = Decoder(tiny_model(head_dim=80))
    decoder.device = torch.device(device)  # of which nothing is asked before
    with pytest.raises(
        ModelLoadError, match=f"heads of 80 cannot be kept as {format} on {device}; choose {others}"
    ):
        allocate(decoder, MemoryOptions(format), 1 << 30)
    assert format not in fits_in(decoder, Arenas("exact", ExactArena(decoder.shape, 8, dtype=torch.float32)))


def test_the_hosts_memory_holds_what_the_card_cannot() -> None:
    card = tokens_fit(GLM, torch.bfloat16, "exact", 10 * GIB)
    assert card < MILLION <= tokens_fit(GLM, torch.bfloat16, "exact", 10 * GIB, 72 * GIB)


def test_no_memory_holds_nothing() -> None:
    assert tokens_fit(GLM, torch.bfloat16, "exact", 0) == 0


@FORMATS
@pytest.mark.parametrize("card_bytes", [3_000_000, 4_567_890, 20_000_000])
def test_what_is_promised_is_what_is_allocated(decoder: Decoder, format: Format, card_bytes: int) -> None:
    arenas = allocate(decoder, MemoryOptions(format), card_bytes)
    pool = PagePool(arenas)
    assert arenas.format == format
    assert arenas.host is None  # beside a CPU there is no other memory
    assert pool.bytes_total <= card_bytes
    assert pool.bytes_total > card_bytes - arenas.exact.page_bytes - arenas.body.page_bytes
    promised = tokens_fit(decoder.shape, decoder.dtype, format, card_bytes)
    assert pool.tokens_fit == promised
    assert pool.fits(promised - 1, 1)
    assert fits_in(decoder, arenas)[format] == min(promised, decoder.window)
    assert arenas.body.page_bytes == PAGE * bytes_per_token(decoder.shape, decoder.dtype, format)


def test_more_of_the_computers_memory_than_is_free_is_refused() -> None:
    decoder = Decoder(tiny_model())
    decoder.device = torch.device("cuda")  # of which nothing is asked before
    with pytest.raises(ModelLoadError, match="lower their budget"):
        allocate(decoder, MemoryOptions("exact", host_bytes=1 << 60), 1 << 30)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_workers_that_start_at_the_same_moment_leave_half_of_the_computers_memory(
    workers: int, tmp_path: Path
) -> None:
    options = memory_options(Settings(data=tmp_path, model_workers=workers))
    assert 0 < workers * host_bytes(options, 20 * GIB, free=60 * GIB) <= 30 * GIB
    assert host_bytes(options, 1 * GIB, free=60 * GIB) == 1 * GIB


def test_the_format_is_chosen_by_what_a_window_needs(decoder: Decoder) -> None:
    exact = (decoder.window + 2 * PAGE) * bytes_per_token(decoder.shape, decoder.dtype, "exact")
    formats = [allocate(decoder, MemoryOptions(), exact // part).format for part in (1, 2, 20)]
    assert formats == ["exact", "fp8", "int4"]


def test_a_refusal_tells_in_which_format_the_document_would_fit() -> None:
    error = PromptTooLong(500, 100, {"exact": 100, "fp8": 400, "int4": 800})
    assert "500 tokens and 100 fit" in str(error)
    assert "800 in int4" in str(error)
    assert "fp8" not in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": MemoryOptions(card_bytes=0)}, "hold no document"),
        ({"memory": MemoryOptions(card_bytes=1 << 60)}, "lower their budget"),
        ({"memory": MemoryOptions(), "fp8_attention": True}, "Hopper"),
        ({"memory": MemoryOptions("fp8", card_bytes=1 << 24), "prefill_chunk": 100}, "whole number"),
    ],
)
def test_an_engine_that_could_answer_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelLoadError, ValueError), match=message):
        build(tiny_model(), fake_tokenizer(), name="tiny", revision="1", **options)
