"""The memory for keys and values: how much, in which format, and what fits into it."""

from __future__ import annotations

import torch

from worker.engine import cgroup
from worker.engine.decoder import Decoder
from worker.engine.errors import ModelLoadError
from worker.engine.formats import packed_format
from worker.engine.kv import ExactArena, PackedArena, Shape
from worker.engine.page import PAGE
from worker.engine.pool import Arenas
from worker.engine.types import Format, MemoryOptions

FORMATS: tuple[Format, ...] = ("exact", "fp8", "int4")

_EXACT_SHARE = 8  # of a packed budget one part in so many is exact: first pages, ends, suffixes and answers
_EXACT_TOKENS = 65_536  # and no more than that
_EXACT_PAGES = 8  # and no fewer: a document needs four for its first page, its end and a short answer


def bytes_per_token(shape: Shape, dtype: torch.dtype, format: Format) -> int:
    """In the pages of a document."""
    if format == "exact":
        return 2 * shape.layers * shape.kv_heads * shape.dim * dtype.itemsize
    return packed_format(format, shape.kv_heads, shape.dim).bytes_per_token(shape.layers)


def tokens_fit(shape: Shape, dtype: torch.dtype, format: Format, card_bytes: int, host_bytes: int = 0) -> int:
    """How long a document may be."""
    body = bytes_per_token(shape, dtype, format) * PAGE
    pages = (card_bytes - _exact_bytes(shape, dtype, format, card_bytes)) // body + host_bytes // body
    return max(0, pages - 2) * PAGE


def choose(shape: Shape, dtype: torch.dtype, window: int, card_bytes: int, *, kernels: bool) -> Format:
    """The most exact format in which a whole window fits on the card, else the smallest there is.

    `kernels`: whether pages are packed by those for CUDA, which need heads of a power of two.
    """
    for format in _possible(shape, kernels=kernels):
        if tokens_fit(shape, dtype, format, card_bytes) >= window:
            break
    return format


def allocate(decoder: Decoder, options: MemoryOptions, card_bytes: int) -> Arenas:
    """All memory at once; none of the computer's where there is no card beside it.

    Raises `ModelLoadError` where the format cannot hold this model's heads, or the computer not so much.
    """
    shape, dtype, device = decoder.shape, decoder.dtype, decoder.device
    cuda, format = device.type == "cuda", options.format
    if format == "auto":
        format = choose(shape, dtype, decoder.window, card_bytes, kernels=cuda)
    elif format not in (possible := _possible(shape, kernels=cuda)):
        raise ModelLoadError(
            f"Keys and values of heads of {shape.dim} cannot be kept as {format} on {device.type}; "
            f"choose {' or '.join(possible)}."
        )
    body = bytes_per_token(shape, dtype, format) * PAGE
    missing = max(0, decoder.window - tokens_fit(shape, dtype, format, card_bytes)) * body // PAGE
    host_pages = host_bytes(options, missing, cgroup.free_bytes()) // body if cuda else 0
    exact_bytes = _exact_bytes(shape, dtype, format, card_bytes)
    if format == "exact":
        return Arenas(
            format,
            ExactArena(shape, card_bytes // body, device=device, dtype=dtype),
            host=ExactArena(shape, host_pages, dtype=dtype, pin_memory=True) if host_pages else None,
        )
    packed = packed_format(format, shape.kv_heads, shape.dim)
    exact_pages = exact_bytes // (bytes_per_token(shape, dtype, "exact") * PAGE)
    return Arenas(
        format,
        ExactArena(shape, exact_pages, device=device, dtype=dtype),
        PackedArena(shape, packed, (card_bytes - exact_bytes) // body, device=device),
        PackedArena(shape, packed, host_pages, pin_memory=True) if host_pages else None,
    )


def host_bytes(options: MemoryOptions, missing: int, free: int) -> int:
    """How much of the computer's memory to take where a window lacks `missing` bytes of the card's.

    Raises `ModelLoadError` where more was asked for than is `free`.
    """
    if options.host_bytes is None:
        return min(missing, int(options.host_share * free))
    if options.host_bytes > free:  # to lock more would end this process, or another
        raise ModelLoadError(
            f"{options.host_bytes:,} bytes of the computer's memory were asked for and {free:,} are free; "
            "lower their budget."
        )
    return options.host_bytes


def fits_in(decoder: Decoder, arenas: Arenas) -> dict[str, int]:
    """How long a prompt may be in each format, in the same memory and within the window."""
    card = sum(arena.page_bytes * arena.runs.pages for arena in (arenas.exact, arenas.packed) if arena)
    host = arenas.host.page_bytes * arenas.host.runs.pages if arenas.host else 0
    return {
        format: min(decoder.window, tokens_fit(decoder.shape, decoder.dtype, format, card, host))
        for format in _possible(decoder.shape, kernels=decoder.device.type == "cuda")
    }


def _possible(shape: Shape, *, kernels: bool) -> list[Format]:
    rotates = shape.dim >= 32 and shape.dim & (shape.dim - 1) == 0
    needs_rotation = {"exact": False, "fp8": kernels, "int4": True}
    return [format for format in FORMATS if rotates or not needs_rotation[format]]


def _exact_bytes(shape: Shape, dtype: torch.dtype, format: Format, card_bytes: int) -> int:
    """How much of a packed budget holds exact pages."""
    if format == "exact":
        return 0
    page = bytes_per_token(shape, dtype, "exact") * PAGE
    pages = max(_EXACT_PAGES, min(_EXACT_TOKENS // PAGE, card_bytes // _EXACT_SHARE // page))
    return min(pages, card_bytes // page) * page
