"""The engine on a CUDA card, with random weights and four layers of GLM-4-9B-Chat-1M."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, AutoTokenizer, GlmConfig, PreTrainedTokenizerFast

from benchmarks.glm import glm
from benchmarks.kv_formats import real_text
from worker.engine import (
    Finished,
    MemoryOptions,
    Request,
    Sampling,
    TextDelta,
    Turn,
    default_model,
    load_engine,
    rotary,
)
from worker.engine.assembly import build
from worker.engine.attention import reference, select
from worker.engine.decoder import Decoder
from worker.engine.errors import ModelLoadError
from worker.engine.fake import fake_tokenizer
from worker.engine.formats import packed_format
from worker.engine.kv import PIECE, ExactArena, PackedArena, Span, cut
from worker.engine.local import LocalEngine
from worker.engine.nf4 import adopt
from worker.engine.page import PAGE
from worker.engine.passes import Seat
from worker.engine.pool import Arenas, Lease, PagePool, body_keys
from worker.engine.rotary import RotaryInPlace, rotate
from worker.engine.writer import PlainWriter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

CHUNK = 8_192
Format = Literal["exact", "fp8", "int4"]
FORMATS = pytest.mark.parametrize("format", ["exact", "fp8", "int4"])


@pytest.fixture(scope="module")
def model() -> Any:
    model = plain_model()
    rotary.adopt(model)
    return model


def plain_model() -> Any:
    """The same weights with transformers' own attention."""
    model = glm(num_hidden_layers=4)
    adopt(model)
    return model


@contextmanager
def engine_of(
    model: Any, format: Format, *, fp8_attention: bool = False, **options: Any
) -> Iterator[LocalEngine]:
    engine = build(
        model,
        fake_tokenizer(),
        name="glm",
        revision="random",
        memory=MemoryOptions(format, card_bytes=1 << 30, host_bytes=0, **options),
        prefill_chunk=CHUNK,
        fp8_attention=fp8_attention,
    )
    try:
        yield engine
    finally:
        engine.close()


def document(tokens: int, seed: int = 1) -> list[int]:
    return list(map(int, np.random.default_rng(seed).integers(300, 151_000, tokens)))


def ask(engine: LocalEngine, ids: Sequence[int], question: str = "What?", tokens: int = 16) -> Request:
    return Request(ids, engine.tokenizer.suffix([Turn("user", question)]), Sampling(tokens))


def answer(events: Iterable[Any]) -> tuple[list[str], Finished]:
    *rest, last = events
    assert isinstance(last, Finished)
    return [event.text for event in rest if isinstance(event, TextDelta)], last


def needs_on_hopper(module: str) -> None:
    """Skip where the package is not installed, or the card is none that it is for."""
    pytest.importorskip(module)
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a Hopper card")


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_fast_kernels_are_right_beyond_65536_keys_with_four_kv_heads() -> None:
    chosen = select(torch.device("cuda"), torch.bfloat16, heads=32, kv_heads=4, dim=128)
    assert reference not in (chosen.many, chosen.few)


def test_flash_attention_4_is_taken_where_it_is_installed() -> None:
    needs_on_hopper("flash_attn.cute")
    chosen = select(torch.device("cuda"), torch.bfloat16, heads=32, kv_heads=4, dim=128)
    assert chosen.many.__name__ == "_flash4"


def test_flash_attention_4_sees_four_pieces_at_once_as_one_after_another() -> None:
    needs_on_hopper("flash_attn.cute")
    chosen = select(torch.device("cuda"), torch.bfloat16, heads=32, kv_heads=4, dim=128)
    q = torch.randn(1, 32, 600, 128, device="cuda").bfloat16()
    keys = chosen.most_in_place(q)
    assert keys == 4 * PIECE
    k, v = torch.randn(2, 1, keys, 4, 128, device="cuda").bfloat16().transpose(2, 3)
    pairs = zip(k.split(PIECE, 2), v.split(PIECE, 2), strict=True)
    parts = [chosen.many(q, *pair, 0.5, False) for pair in pairs]
    for got, want in zip(chosen.many(q, k, v, 0.5, False), chosen.merge(parts), strict=True):
        assert error(got.float(), want.float()) < 5e-3


def test_queries_and_keys_turn_in_place_as_plain_torch_turns_them() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    product = torch.randn(1, 70, 40 * 128, device="cuda", generator=generator).bfloat16()
    cos, sin = torch.randn(2, 1, 70, 64, device="cuda", generator=generator).bfloat16()
    want = product.cpu()
    rotate(want, cos.cpu(), sin.cpu(), 36, 128)
    rotate(product, cos, sin, 36, 128)
    assert error(product.cpu().float(), want.float()) < 2e-3
    assert torch.equal(product[..., 36 * 128 :].cpu(), want[..., 36 * 128 :])


def test_no_read_in_fp8_waits_for_a_compiler(model: Any) -> None:
    needs_on_hopper("cudnn")
    with engine_of(model, "exact", fp8_attention=True) as engine:
        compiled = counters["stats"]["unique_graphs"]
        _, last = answer(engine.submit(ask(engine, document(90_000))))
        assert last.usage.reused_tokens == 0
        assert counters["stats"]["unique_graphs"] == compiled


def test_glm_turns_its_queries_and_keys_in_place(model: Any) -> None:
    with engine_of(model, "exact"):
        assert all(isinstance(layer.self_attn, RotaryInPlace) for layer in model.model.layers)


def test_no_length_of_a_document_waits_for_a_compiler(model: Any) -> None:
    with engine_of(model, "exact") as engine:
        compiled = counters["stats"]["unique_graphs"]
        for tokens in (300, 5_000, CHUNK + 1, CHUNK + 300, 3 * CHUNK):
            answer(engine.submit(ask(engine, document(tokens, seed=tokens))))
        assert counters["stats"]["unique_graphs"] == compiled


def test_chunks_are_as_close_to_one_pass_as_two_kernels_are_to_each_other(model: Any) -> None:
    ids, decoder = document(4_096), Decoder(model)
    arena = ExactArena(decoder.shape, 2 * 4_096 // PAGE, device=decoder.device, dtype=decoder.dtype)
    once, again = Span(arena, 0, 4_096), Span(arena, 4_096, 4_096)
    theirs, plain = plain_model(), []
    with torch.inference_mode():
        whole = decoder.read(ids, [], [once])
        for start, end in pairwise([0, 1_000, 2_000, 3_000, 3_600, 4_096]):
            chunked = decoder.read(ids[start:end], cut([again], 0, start), cut([again], start, end))
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            with sdpa_kernel(backend):
                logits = theirs(torch.tensor([ids], device="cuda"), use_cache=False, logits_to_keep=1).logits
            plain.append(logits[0, -1].float())
    noise = error(*plain)
    assert max(error(chunked, other) for other in [whole, *plain]) < 2 * noise


def arenas(decoder: Decoder, format: Format, card: int, host: int = 0) -> Arenas:
    """Room for bodies of `card` pages, and `host` more in pinned memory."""
    shape, on_card = decoder.shape, {"device": decoder.device}
    if format == "exact":
        dtype = decoder.dtype
        beside = ExactArena(shape, host, dtype=dtype, pin_memory=True) if host else None
        return Arenas(format, ExactArena(shape, card, dtype=dtype, **on_card), host=beside)
    packed = packed_format(format, shape.kv_heads, shape.dim)
    return Arenas(
        format,
        ExactArena(shape, 60, dtype=decoder.dtype, **on_card),
        PackedArena(shape, packed, card, **on_card),
        PackedArena(shape, packed, host, pin_memory=True) if host else None,
    )


class Desk:
    """Documents that were read into memory of one format, and requests seated before them."""

    def __init__(self, decoder: Decoder, arenas: Arenas) -> None:
        self.arenas = arenas
        self._decoder, self._pool = decoder, PagePool(arenas)

    def seat(self, ids: Sequence[int], written: int) -> Seat:
        """A request that is about to keep its `written` + 1st token."""
        array = np.asarray(ids, np.int32)
        lease = self._pool.acquire(array, body_keys(array), 600)
        assert lease is not None
        self._read(lease, ids)
        self._decoder.read(document(written, seed=3), lease.before(), cut([lease.tail], 0, written))
        return Seat(
            5_000 + written, id(lease.prefix), lease.before(), lease.tail, written, lease.position + written
        )

    def _read(self, lease: Lease, ids: Sequence[int]) -> None:
        prefix = lease.prefix
        while prefix is not None and not prefix.complete:
            start, end = prefix.read, min(prefix.read + CHUNK, len(ids))
            self._decoder.read(ids[start:end], prefix.spans(0, start), prefix.spans(start, end))
            self._pool.advance(prefix, end - start)


@FORMATS
@pytest.mark.parametrize("host", [False, True])
def test_a_graph_writes_what_the_model_writes_without_one(model: Any, format: Format, host: bool) -> None:
    """With documents on the card, and with the longer one's greater part in the computer's memory."""
    from worker.engine.step import GraphWriter

    decoder = Decoder(model)
    long, short = document(20_000), document(300, seed=2)
    with torch.inference_mode():
        desk = Desk(decoder, arenas(decoder, format, *((80, 200) if host else (300,))))
        seats = [desk.seat(long, n) for n in (40, 511, 7)] + [desk.seat(short, 30), desk.seat([], 12)]
        if host:
            assert desk.arenas.host is not None
            assert desk.arenas.host.runs.pages_free < desk.arenas.host.runs.pages
        plain, graph = PlainWriter(decoder), GraphWriter(decoder, desk.arenas, 8)
        graph.warm_up()
        want = plain.write(seats).logits.clone()
        for _ in range(2):
            written = graph.write(seats)
            assert all(written.finite)
            assert max(error(*rows) for rows in zip(written.logits, want, strict=True)) < 0.03
        fewer = graph.write(seats[1:3]).logits
        assert max(error(*rows) for rows in zip(fewer, want[1:3], strict=True)) < 0.03


def test_a_graph_does_not_tell_of_what_is_left_out_of_all_keys(model: Any) -> None:
    from worker.engine.step import GraphWriter

    written = []
    with torch.inference_mode():
        for loud in (0.0, 8.0):
            decoder = Decoder(model)
            shape = decoder.shape
            decoder.offsets = torch.zeros(
                shape.layers, shape.kv_heads, shape.dim, device=decoder.device, dtype=decoder.dtype
            )
            decoder.offsets[..., 100] = loud
            desk = Desk(decoder, arenas(decoder, "exact", 300))
            seats = [desk.seat(document(9_000), 40), desk.seat([], 12)]
            graph = GraphWriter(decoder, desk.arenas, 2)
            graph.warm_up()
            written.append(graph.write(seats).logits.clone())
    assert max(error(*rows) for rows in zip(*written, strict=True)) < 0.03


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_packed_pages_say_nearly_what_exact_ones_say(model: Any, format: Format) -> None:
    """Through our attention and transformers', which give keys and values in different orders of memory."""
    question = document(8, seed=4)

    def read(decoder: Decoder, format: Format, seed: int) -> Tensor:
        desk = arenas(decoder, format, 3)
        past, own = [Span(desk.body, 0, PAGE)], [Span(desk.exact, PAGE, len(question))]
        decoder.read(document(PAGE, seed), [], past)
        return decoder.read(question, past, own)

    for decoder in (Decoder(model), Decoder(plain_model())):
        with torch.inference_mode():
            exact, other, packed = (
                read(decoder, *what) for what in (("exact", 1), ("exact", 2), (format, 1))
            )
        assert error(packed, exact) < 0.3 * error(other, exact)


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_a_past_in_8_bit_floats_says_nearly_what_an_exact_one_says(model: Any, format: Format) -> None:
    needs_on_hopper("cudnn")
    question = document(8, seed=4)

    def read(format: Format, seed: int, *, fp8: bool = False) -> Tensor:
        decoder = Decoder(model)
        if fp8:
            decoder.warm_up(CHUNK, fp8=True)
        desk, ids = arenas(decoder, format, 2 * CHUNK // PAGE + 1), document(2 * CHUNK, seed)
        body, own = (
            Span(desk.body, 0, len(ids)),
            Span(desk.exact, len(ids) * (format == "exact"), len(question)),
        )
        decoder.keep(ids[:CHUNK], [], [body.part(0, CHUNK)])
        decoder.keep(ids[CHUNK:], [body.part(0, CHUNK)], [body.part(CHUNK, len(ids))])
        return decoder.read(question, [body], [own])

    with torch.inference_mode():
        exact, other, packed, rough = (
            read("exact", 1), read("exact", 2), read(format, 1), read(format, 1, fp8=True)
        )  # fmt: skip
    assert error(rough, exact) < 0.5 * error(other, exact)
    assert error(rough, packed) > 0  # seen in another way


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[int]]:
    """A model with real weights, and tokens of real text."""
    try:
        folder, _ = default_model.prepare(tmp_path_factory.mktemp("cache"))
    except ModelLoadError as exc:
        pytest.skip(str(exc))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    return model, AutoTokenizer.from_pretrained(folder)(real_text(), verbose=False).input_ids


def expected(real: tuple[Any, list[int]], format: Format, *, fp8: bool = False) -> Tensor:
    """Log-probabilities (places, vocabulary) of what comes next at some places behind 6,144 tokens."""
    model, ids = real
    chunk, tokens = 1_024, 6_144
    decoder = Decoder(model)
    with torch.inference_mode():
        if fp8:
            decoder.warm_up(chunk, fp8=True)
        desk = arenas(decoder, format, tokens // PAGE + 2)
        first, own = Span(desk.exact, 0, PAGE), Span(desk.exact, PAGE, PAGE)
        body = Span(desk.body, 2 * PAGE if format == "exact" else 0, tokens - PAGE)
        for start in range(0, tokens, chunk):
            spans = [cut([first, body], *ends) for ends in ((0, start), (start, start + chunk))]
            decoder.keep(ids[start : start + chunk], *spans)
        places = [
            decoder.read(ids[tokens : tokens + n], [first, body], [own.part(0, n)]) for n in range(1, 65, 3)
        ]
    return torch.stack(places).log_softmax(-1)


@pytest.mark.parametrize("format", ["fp8", "int4"])
@pytest.mark.parametrize("fp8", [False, True])
def test_a_real_model_expects_behind_packed_pages_what_it_expects_behind_exact_ones(
    real: tuple[Any, list[int]], format: Format, fp8: bool
) -> None:
    """On a processor they are 0.002 (fp8) and 0.008 nats apart; noise for keys and values makes that 6."""
    if fp8:
        needs_on_hopper("cudnn")
    exact, packed = expected(real, "exact"), expected(real, format, fp8=fp8)
    divergence = (exact.exp() * (exact - packed)).sum(-1).mean()
    assert 0 < divergence < 0.05


@pytest.mark.parametrize("format", ["fp8", "int4"])
def test_a_question_sees_packed_pages_in_place_as_it_would_see_them_unpacked(
    model: Any, format: Format
) -> None:
    from worker.engine import packed_attention

    decoder = Decoder(model)
    with torch.inference_mode():
        desk = Desk(decoder, arenas(decoder, format, 300))
        seat = desk.seat(document(20_000), 5)
        assert isinstance(desk.arenas.packed, PackedArena)
        straight = packed_attention.select(desk.arenas.packed, decoder.shape, decoder.heads)
        for tokens in (1, 8, 9, 31):
            question, past = document(tokens, seed=4), [*seat.before, seat.tail.part(0, 5)]
            read = []
            for packed in (straight, None):
                decoder.see_in_place(packed)
                read.append(decoder.read(question, past, [seat.tail.part(5, 5 + tokens)]))
            assert error(*read) < 0.06  # weights go through the FP8 cores as e4m3
            # Other kernels were at work, where this card has them.
            assert torch.equal(*read) == (straight is None)


@FORMATS
def test_a_document_is_read_once_and_found_again_after_a_restart(
    model: Any, format: Format, tmp_path: Path
) -> None:
    ids = document(20_000)
    with engine_of(model, format, disk_folder=tmp_path, disk_bytes=1 << 32) as engine:
        assert engine.card.weights == "nf4"
        first, last = answer(engine.submit(ask(engine, ids)))
        assert last.usage.reused_tokens == 0
        second, last = answer(engine.submit(ask(engine, ids)))
        assert last.usage.reused_tokens == len(ids)
        assert second == first
        running = [engine.submit(ask(engine, ids, f"Question {n}?", tokens=40)) for n in range(8)]
        assert all(answer(events)[1].usage.completion_tokens == 40 for events in running)
    with engine_of(model, format, disk_folder=tmp_path, disk_bytes=1 << 32) as engine:
        third, last = answer(engine.submit(ask(engine, ids)))
        assert last.usage.reused_tokens >= len(ids) - len(ids) % CHUNK
        assert third == first


def test_an_engine_that_has_the_whole_card_reads_stores_and_writes_within_it(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No budget is given: what is left beside it must do for chunks, compiled or not, and eight answers."""
    memory = MemoryOptions(disk_folder=tmp_path, disk_bytes=1 << 33)
    engine = build(model, fake_tokenizer(), name="glm", revision="random", memory=memory)
    try:
        assert engine.capacity().kv_bytes_total > 0.8 * torch.cuda.mem_get_info()[1]
        for tokens in (5_300, 3 * CHUNK, 3 * CHUNK - PAGE):
            answer(engine.submit(ask(engine, document(tokens, seed=tokens))))
        running = [engine.submit(ask(engine, document(5_000 + 700 * n, seed=n), tokens=40)) for n in range(8)]
        assert all(answer(events)[1].usage.completion_tokens == 40 for events in running)
    finally:
        engine.close()
    assert "too many to read at once" not in caplog.text


def test_reading_takes_no_memory_beside_what_was_set_aside(model: Any) -> None:
    with engine_of(model, "int4") as engine:
        answer(engine.submit(ask(engine, document(2 * CHUNK, seed=5))))
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        answer(engine.submit(ask(engine, document(2 * CHUNK, seed=6))))
        short = torch.cuda.max_memory_allocated() - held
        torch.cuda.reset_peak_memory_stats()
        answer(engine.submit(ask(engine, document(8 * CHUNK, seed=7))))
        assert torch.cuda.max_memory_allocated() - held < 1.1 * short


def test_a_model_is_loaded_with_nf4_weights_by_default(tmp_path: Path) -> None:
    config = GlmConfig(
        vocab_size=300,
        hidden_size=512,
        intermediate_size=1_024,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1_048_576,
        pad_token_id=None,
        eos_token_id=[256, 257],
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    backend = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    tokenizer.save_pretrained(tmp_path)
    engine = load_engine(str(tmp_path), cache_dir=tmp_path)
    try:
        assert engine.card.weights == "nf4"
        assert engine.card.device.startswith("cuda:0 ")
        assert engine.tokenizer.stop_ids == (256, 257)
        assert engine.capacity().kv_bytes_total > 10 << 30
        prefix = engine.tokenizer.prefix("Be brief.", "A document. " * 200)
        suffix = engine.tokenizer.suffix([Turn("user", "What is it?")])
        sampling = Sampling(max_tokens=8, temperature=1.0, seed=1)
        _, last = answer(engine.submit(Request(prefix.ids, suffix, sampling)))
        assert last.usage.prefix_tokens == len(prefix.ids)
    finally:
        engine.close()
