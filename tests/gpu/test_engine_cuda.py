"""The engine on a CUDA card, with random weights in the architecture of GLM-4-9B-Chat-1M.

Figures are written to the file that UNABRIDGED_FIGURES names, if it names one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, GlmConfig, PreTrainedTokenizerFast

from worker.engine import (
    Event,
    Finished,
    ModelCard,
    OutOfMemory,
    Request,
    Sampling,
    TextDelta,
    Turn,
    load_engine,
)
from worker.engine.attention import _cudnn, _flash_cuda, reference, select
from worker.engine.decoder import Decoder
from worker.engine.fake import fake_tokenizer
from worker.engine.local import LocalEngine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

LONG = 131_072
CHUNK = 8_192


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What was measured."""
    import bitsandbytes

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bitsandbytes": bitsandbytes.__version__,
        "model": "architecture of GLM-4-9B-Chat-1M (40 layers, 32 and 4 heads of 128), random weights, NF4",
    }
    yield found
    if path := os.environ.get("UNABRIDGED_FIGURES"):
        Path(path).write_text(json.dumps(found, indent=2) + "\n")


def to_nf4(module: torch.nn.Module) -> None:
    """Quantize the linear layers below `module`, on the card."""
    import bitsandbytes as bnb

    for name, child in module.named_children():
        if not isinstance(child, torch.nn.Linear):
            to_nf4(child)
            continue
        linear = bnb.nn.Linear4bit(
            child.in_features,
            child.out_features,
            bias=child.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        linear.weight = bnb.nn.Params4bit(
            child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to("cuda")
        linear.bias = child.bias
        setattr(module, name, linear)


@pytest.fixture(scope="module")
def glm() -> Any:
    torch.manual_seed(0)
    config = GlmConfig(num_key_value_heads=4, max_position_embeddings=1_048_576)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    to_nf4(model.model)
    torch.cuda.empty_cache()
    return model


@pytest.fixture(scope="module")
def decoder(glm: Any) -> Decoder:
    return Decoder(glm)


@pytest.fixture(scope="module")
def engine(decoder: Decoder, figures: dict[str, Any]) -> Iterator[LocalEngine]:
    figures["weights_gib"] = torch.cuda.memory_allocated() / 2**30
    figures["activations_gib_at_chunk"] = decoder.warm_up(CHUNK) / 2**30
    card = ModelCard("glm", "random", decoder.window, "cuda", "nf4", decoder.kv_bytes_per_token)
    engine = LocalEngine(
        decoder, fake_tokenizer(), card, kv_budget_bytes=40 << 30, prefill_chunk=CHUNK, max_active=4
    )
    yield engine
    engine.close()


def document(tokens: int) -> list[int]:
    return torch.randint(300, 151_000, (tokens,), generator=torch.Generator().manual_seed(1)).tolist()


def finish(events: Iterable[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def milliseconds(call: Callable[[], object], times: int) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times * 1e3


def test_the_fast_kernels_are_right_beyond_65536_keys_with_four_kv_heads(figures: dict[str, Any]) -> None:
    chosen = select(torch.device("cuda"), torch.bfloat16, heads=32, kv_heads=4, dim=128)
    assert reference not in (chosen.many, chosen.few)
    figures["kernels"] = {"many": chosen.many.__name__, "few": chosen.few.__name__}
    k, v = torch.randn(2, 1, 4, LONG, 128, device="cuda", dtype=torch.bfloat16)
    figures["kernel_ms_a_layer"] = timings = {}
    for queries in (1, 64, 512, CHUNK):
        q = torch.randn(1, 4, 8 * queries, 128, device="cuda", dtype=torch.bfloat16)
        for kernel in (_flash_cuda, _cudnn):
            call = lambda kernel=kernel, q=q: kernel(q, k, v, 128**-0.5, False)  # noqa: E731
            timings[f"{kernel.__name__}, {queries} queries over {LONG}"] = {
                "first": milliseconds(call, 1),
                "then": milliseconds(call, 5),
            }


def test_chunks_are_as_close_to_one_pass_as_two_kernels_are_to_each_other(
    glm: Any, decoder: Decoder, figures: dict[str, Any]
) -> None:
    ids = document(4_096)
    with torch.inference_mode():
        whole = decoder.read(ids, [], decoder.new_buffer(4_096))
        prefix, tail = decoder.new_buffer(3_000), decoder.new_buffer(1_096)
        for start in range(0, 3_000, 1_000):
            decoder.read(ids[start : start + 1_000], [], prefix)
        decoder.read(ids[3_000:3_600], [prefix], tail)
        chunked = decoder.read(ids[3_600:], [prefix], tail)
        glm.set_attn_implementation("sdpa")
        plain = {}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            with sdpa_kernel(backend):
                logits = glm(torch.tensor([ids], device="cuda"), logits_to_keep=1).logits
            plain[backend.name] = logits[0, -1].float()
        glm.set_attn_implementation("unabridged")

    def error(got: torch.Tensor, want: torch.Tensor) -> float:
        return float((got - want).norm() / want.norm())

    noise = error(*plain.values())
    off = {name: error(chunked, logits) for name, logits in plain.items()} | {
        "one pass": error(chunked, whole)
    }
    figures["logits_relative_error_at_4096"] = {
        "chunks against": off,
        "sdpa's kernels against each other": noise,
    }
    assert max(off.values()) < 2 * noise


def test_a_long_document_is_read_once(engine: LocalEngine, figures: dict[str, Any]) -> None:
    prefix = document(LONG)
    torch.cuda.reset_peak_memory_stats()
    usages, answers = [], []
    for question in (
        "What is it about?",
        "What is it about?",
        "And now something longer: who did what to whom?",
    ):
        request = Request(prefix, engine.tokenizer.suffix([Turn("user", question)]), Sampling(max_tokens=64))
        events = list(engine.submit(request))
        usages.append(finish(events).usage)
        answers.append([event.text for event in events if isinstance(event, TextDelta)])
    assert [usage.reused_tokens for usage in usages] == [0, LONG, LONG]
    assert answers[0] == answers[1]
    figures["long_document"] = {
        "tokens": LONG,
        "read_s": usages[0].read_s,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "first_token_s": [usage.first_token_s for usage in usages],
        "write_tokens_per_s": [usage.completion_tokens / usage.write_s for usage in usages],
    }
    assert usages[2].first_token_s < usages[0].first_token_s / 10


def test_running_out_of_memory_fails_one_request_and_the_engine_lives(decoder: Decoder) -> None:
    card = ModelCard("glm", "random", 1 << 40, "cuda", "nf4", decoder.kv_bytes_per_token)
    engine = LocalEngine(
        decoder, fake_tokenizer(), card, kv_budget_bytes=1 << 50, prefill_chunk=CHUNK, max_active=4
    )
    try:
        finish(engine.submit(Request(document(1_000), [1, 2], Sampling(max_tokens=2))))
        with pytest.raises(OutOfMemory):
            list(engine.submit(Request([], [1, 2], Sampling(max_tokens=8_000_000))))
        finish(engine.submit(Request(document(1_000), [1, 2], Sampling(max_tokens=2))))
    finally:
        engine.close()


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
        events = list(
            engine.submit(Request(prefix.ids, suffix, Sampling(max_tokens=8, temperature=1.0, seed=1)))
        )
        assert finish(events).usage.prefix_tokens == len(prefix.ids)
    finally:
        engine.close()
