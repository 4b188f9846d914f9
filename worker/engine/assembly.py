"""A model's files, their tokenizer and the engine's thread put together. Imports torch and transformers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)

from worker.engine import cgroup, default_model, rotary
from worker.engine.chunk import whole_waves
from worker.engine.compiled import compile_layers
from worker.engine.decoder import Decoder
from worker.engine.errors import EngineError, ModelLoadError, SnapshotError
from worker.engine.fast_codec import FastCodec
from worker.engine.formats import PackedFormat
from worker.engine.kv import ExactArena, PackedArena, Span, cut
from worker.engine.local import LocalEngine
from worker.engine.memory import allocate, bytes_per_token
from worker.engine.nf4 import NF4Linear, adopt
from worker.engine.offsets import fingerprint
from worker.engine.page import PAGE
from worker.engine.pool import Arenas, PagePool
from worker.engine.snapshots import Identity, SnapshotStore
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import MemoryOptions, ModelCard, Weights
from worker.engine.writer import PlainWriter, Writer, widths

logger = logging.getLogger(__name__)

_CHUNK_ON_CPU = 1_024
_WINDOWS_ON_CPU = 8  # documents kept in memory; more would take a laptop's for little
_PACKING_TOLERANCE = 5e-2  # relative; either rounding of a level is right
_CUDA_RESERVE_BYTES = 3 << 29  # for graphs and what they write to, for libraries, and for what is not ours
_GLM_1M_WINDOW, _GLM_1M_KV_HEADS = 1_048_576, 4


def assemble(
    model: str | None,
    *,
    cache_dir: Path,
    revision: str | None,
    device: str,
    weights: Literal["auto"] | Weights,
    memory: MemoryOptions,
    max_active: int,
    fp8_attention: bool,
) -> LocalEngine:
    """What `load_engine` does, in the same terms."""
    with _translated(model or "The default model"):
        target = _device(device)
        kind = _weights(weights, target)
        source = _source(model, revision, cache_dir)
        config = AutoConfig.from_pretrained(source.path, revision=source.hub_revision)
        _check(config)
        return build(
            _model(source, target, kind),
            _tokenizer(source),
            name=source.name,
            revision=source.revision or config._commit_hash,
            memory=memory,
            max_active=max_active,
            fp8_attention=fp8_attention,
        )


def build(
    model: Any,
    tokenizer: PromptTokenizer,
    *,
    name: str,
    revision: str,
    memory: MemoryOptions,
    prefill_chunk: int | None = None,
    max_active: int = 8,
    fp8_attention: bool = False,
) -> LocalEngine:
    """An engine around a loaded model of transformers', whose NF4 layers and GLM attention ours replace."""
    nf4 = bool(adopt(model)) or any(isinstance(module, NF4Linear) for module in model.modules())
    rotary.adopt(model)
    decoder = Decoder(model)
    target = decoder.device
    chunk = min(prefill_chunk or _chunk(decoder), -(-decoder.window // PAGE) * PAGE)
    if fp8_attention and target.type != "cuda":
        raise ModelLoadError("FP8 attention needs a Hopper card; read exactly.")
    with torch.inference_mode():
        decoder.find_offsets()
        if target.type == "cuda":
            compile_layers(model, {(1, chunk)} | {(seats, 1) for seats in widths(max_active)})
            decoder.warm_up(chunk, fp8=fp8_attention)
        activation_bytes = _activation_bytes(decoder, chunk)
        card_bytes = memory.card_bytes
        if card_bytes is None:
            window_bytes = decoder.window * bytes_per_token(decoder.shape, decoder.dtype, "exact")
            card_bytes = _free_bytes(target, activation_bytes, most=_WINDOWS_ON_CPU * window_bytes)
        arenas = _arenas(decoder, memory, card_bytes)
        if isinstance(arenas.packed, PackedArena) and target.type == "cuda":
            _check_packing(decoder, arenas.packed.format, fp8_attention)
            if fp8_attention and arenas.host is not None:
                decoder.stage(arenas.packed.format)
        _see_in_place(decoder, arenas)
        writer = _writer(decoder, arenas, max_active, chunk)
    if target.type == "cuda":
        torch.cuda.empty_cache()  # of what only tests and warming up took
    card = ModelCard(
        name=name,
        revision=revision,
        window=decoder.window,
        device=_describe(target),
        weights="nf4" if nf4 else ("fp32" if decoder.dtype == torch.float32 else "bf16"),
        kv_format=arenas.format,
        kv_bytes_per_token=arenas.body.page_bytes // PAGE,
    )
    return LocalEngine(
        decoder,
        tokenizer,
        card,
        arenas=arenas,
        writer=writer,
        prefill_chunk=chunk,
        max_active=max_active,
        snapshots=_snapshots(card, tokenizer, decoder, memory, fp8_attention),
    )


def _arenas(decoder: Decoder, memory: MemoryOptions, card_bytes: int) -> Arenas:
    try:
        arenas = allocate(decoder, memory, card_bytes)
    except (OSError, RuntimeError) as exc:  # on the device, in the computer, or as locked pages
        raise ModelLoadError(
            f"{card_bytes:,} bytes on the device and what belongs on the host could not be had for keys and "
            "values; lower their budget."
        ) from exc
    if not PagePool(arenas).tokens_fit:
        raise ModelLoadError(
            f"Beside the model {card_bytes:,} bytes are left for keys and values, which hold no document; "
            "use NF4, a smaller model or a larger device."
        )
    return arenas


def _check_packing(decoder: Decoder, format: PackedFormat, fp8_attention: bool) -> None:
    """What is packed wrongly is lost, so there is nothing to fall back on."""
    from worker.engine.kernels.selftest import centring_error, packing_error  # needs Triton

    where = decoder.shape, decoder.device
    if not (error := packing_error(format, *where)) <= _PACKING_TOLERANCE:
        raise ModelLoadError(
            f"This card packs keys and values in {format.name} wrongly (off by {error:.2g}); keep them exact."
        )
    if fp8_attention and not (error := centring_error(format, *where)) <= _PACKING_TOLERANCE:
        raise ModelLoadError(
            f"This card takes keys and values from {format.name} to FP8 wrongly (off by {error:.2g}); "
            "read in bf16."
        )


def _see_in_place(decoder: Decoder, arenas: Arenas) -> None:
    possible = decoder.device.type == "cuda" and decoder.dtype == torch.bfloat16
    if not possible or not isinstance(arenas.packed, PackedArena):
        return
    try:
        from worker.engine import packed_attention  # needs Triton

        decoder.see_in_place(packed_attention.select(arenas.packed, decoder.shape, decoder.heads))
    except Exception:  # no compiler, or a card that Triton does not know
        logger.warning("Short questions are read over unpacked pages, which is slower.", exc_info=True)


def _snapshots(
    card: ModelCard,
    tokenizer: PromptTokenizer,
    decoder: Decoder,
    memory: MemoryOptions,
    fp8_attention: bool,
) -> SnapshotStore | None:
    if memory.disk_folder is None or not memory.disk_bytes:
        return None
    keys = "" if decoder.offsets is None else f" less {fingerprint(decoder.offsets)}"
    identity = Identity(
        model=card.name,
        revision=card.revision,
        tokenizer=tokenizer.fingerprint,
        template="1",
        kv_format=card.kv_format,
        kv_version=1 if card.kv_format == "exact" else 2,  # cards packed wrongly before
        dtype=f"{decoder.dtype} {card.weights} {_name(decoder.device)}{' centred fp8' * fp8_attention}{keys}",
        layers=decoder.shape.layers,
        kv_heads=decoder.shape.kv_heads,
        dim=decoder.shape.dim,
        layout=1,
    )
    try:
        return SnapshotStore(memory.disk_folder, identity=identity, capacity_bytes=memory.disk_bytes)
    except SnapshotError as exc:
        logger.warning("%s Documents are read again after a restart.", exc)
        return None


class _Source(NamedTuple):
    name: str
    path: str  # a folder or a name on the hub, as transformers takes it
    hub_revision: str | None
    revision: str | None  # what the files are, where that is known before they are loaded


def _source(model: str | None, revision: str | None, cache_dir: Path) -> _Source:
    if model is None:
        folder, fingerprint = default_model.prepare(cache_dir)
        return _Source(default_model.NAME, str(folder), None, fingerprint)
    if Path(model).is_dir():
        return _Source(model, model, None, _fingerprint(Path(model)))
    return _Source(model, model, revision, None)


def _fingerprint(folder: Path) -> str:
    """Changes when a file does: what was read by other weights is not taken for this model's."""
    found = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return "local-" + hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


@contextmanager
def _translated(model: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except torch.OutOfMemoryError as exc:
        raise ModelLoadError("The model does not fit on the device; use NF4 or a smaller model.") from exc
    except Exception as exc:  # transformers raises whatever its parts raise
        raise ModelLoadError(f"{model} could not be loaded: {exc}") from exc


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise ModelLoadError(f"The device {name} is not supported; use cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("There is no CUDA device here; use the device cpu.")
    if device.type == "cpu":
        return device
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)  # of this thread: streams and Triton follow it
    return device


def _weights(wanted: Literal["auto"] | Weights, device: torch.device) -> Weights:
    if wanted == "auto":
        return "nf4" if device.type == "cuda" else "fp32"
    if wanted == "nf4" and device.type != "cuda":
        raise ModelLoadError("NF4 weights need a CUDA device; use fp32 on the CPU.")
    return wanted


def _check(config: Any) -> None:
    text = config.get_text_config()
    if (
        text.model_type == "glm"
        and text.max_position_embeddings >= _GLM_1M_WINDOW
        and text.num_key_value_heads != _GLM_1M_KV_HEADS
    ):
        raise ModelLoadError(
            f"GLM-4-9B-Chat-1M has {_GLM_1M_KV_HEADS} KV heads, this model {text.num_key_value_heads}; "
            "take the files of the 1M model, not those of the 128K model."
        )


def _tokenizer(source: _Source) -> PromptTokenizer:
    tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.hub_revision)
    if not tokenizer.chat_template:
        raise ModelLoadError("The model has no chat template; take its instruction-tuned or chat version.")

    def render(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return PromptTokenizer(FastCodec(tokenizer), render, _stop_ids(source, tokenizer))


def _stop_ids(source: _Source, tokenizer: Any) -> list[int]:
    """The generation config's stop tokens (one or a list), then the tokenizer's."""
    try:
        stop = GenerationConfig.from_pretrained(
            source.path, revision=source.hub_revision or "main"
        ).eos_token_id
    except OSError:  # it has none
        stop = None
    listed = stop if isinstance(stop, list) else [stop]
    return [token for token in dict.fromkeys([*listed, tokenizer.eos_token_id]) if token is not None]


def _model(source: _Source, device: torch.device, weights: Weights) -> Any:
    options: dict[str, Any] = {"dtype": torch.float32 if weights == "fp32" else torch.bfloat16}
    if weights == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return AutoModelForCausalLM.from_pretrained(
        source.path, revision=source.hub_revision, device_map={"": device}, **options
    )


def _describe(device: torch.device) -> str:
    return f"{device} {_name(device)}" if device.type == "cuda" else str(device)


def _name(device: torch.device) -> str:
    """Of its make: what it computes is the same on every one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _writer(decoder: Decoder, arenas: Arenas, seats: int, chunk: int) -> Writer:
    if decoder.device.type == "cpu":
        return PlainWriter(decoder)
    from worker.engine.step import GraphWriter  # needs Triton

    writer = GraphWriter(decoder, arenas, seats)
    try:
        writer.warm_up()
    except Exception:  # no compiler, or a card that Triton does not know
        logger.warning("Answers are written without CUDA graphs, which is slower.", exc_info=True)
        compile_layers(decoder.model, {(1, chunk)})  # nor with what may not compile
        return PlainWriter(decoder)
    return writer


def _chunk(decoder: Decoder) -> int:
    """Tokens read at once where nobody chose."""
    if decoder.device.type == "cpu":
        return _CHUNK_ON_CPU
    card = torch.cuda.get_device_properties(decoder.device)
    return whole_waves(card.multi_processor_count, decoder.heads)


def _activation_bytes(decoder: Decoder, chunk: int) -> int:
    """What reading a chunk takes beside weights, keys and values; so a model that cannot run fails now.

    With what lies idle between tensors in the allocator's blocks. Layers are compiled for whole chunks; other
    lengths take more for each token. Every way to see an exact past is gone; what it compiles is there then.
    """
    cuda = decoder.device.type == "cuda"
    tokens = chunk if cuda else 16
    pages = -(-tokens // PAGE)
    arena = ExactArena(decoder.shape, 2 * pages, device=decoder.device, dtype=decoder.dtype)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(decoder.device)
        held = torch.cuda.memory_reserved(decoder.device)
    past = Span(arena, 0, tokens)
    decoder.read([0] * tokens, [], [past])
    for more in {tokens, max(1, tokens - PAGE)}:
        decoder.read([0] * more, [past], [Span(arena, tokens, more)])
    for length in decoder.rough_pasts:
        longer = cut([past] * -(-length // tokens), 0, length)
        decoder.read([0] * tokens, longer, [Span(arena, tokens, tokens)])
    return torch.cuda.max_memory_reserved(decoder.device) - held if cuda else 0


def _free_bytes(device: torch.device, activation_bytes: int, most: int) -> int:
    """Memory for keys and values beside the weights and a chunk's activations, at most `most` on the CPU."""
    if device.type == "cpu":
        return min(most, cgroup.free_bytes() // 2)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(free - 1.25 * activation_bytes - _CUDA_RESERVE_BYTES))
