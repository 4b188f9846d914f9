"""Attention over a past in pieces, merged exactly.

A chunk of queries sees all of its past and, causally, itself. Each piece is one kernel call returning its
output and the log-sum-exp of its scores; pieces are merged in fp32 (FlashAttention-2, section 3.1). Several
query heads share a KV head, whose past is never repeated for each of them.

Shapes: queries (1, heads, queries, dim), keys and values (1, KV heads, keys, dim), log-sum-exp
(1, heads, queries) in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from worker.engine.kv import PIECE, SMALLEST, KeysValues, Pieces, Span
from worker.engine.page import PAGE

if TYPE_CHECKING:
    from worker.engine.centred import Centred
    from worker.engine.fp8_attention import Fp8Attention
    from worker.engine.packed_attention import PackedAttention, PackedPast

logger = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
"""(queries, keys, values, scale, causal) -> (output, log-sum-exp); KV heads may serve several heads each."""

_REFERENCE_BLOCK = 4_096
# Largest relative error against fp32 that a kernel may show.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
# Memory-efficient and cuDNN kernels have been wrong beyond 65,536 keys or with few KV heads.
_SELF_TEST_KEYS = {"cpu": 1_500, "cuda": 66_001}


def _folded(kernel: Kernel) -> Kernel:
    """Without a mask, have `kernel` take the query heads of a KV head for more queries of one head."""

    @wraps(kernel)
    def fold(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
        if causal:
            return kernel(q, k, v, scale, causal)
        output, lse = kernel(q.reshape(1, k.shape[1], -1, q.shape[-1]), k, v, scale, causal)
        return output.reshape(q.shape), lse.reshape(q.shape[:3])

    return fold


@_folded
def reference(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Plain fp32 products in blocks of keys; right on every device, and slow."""
    k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
    queries = torch.arange(q.shape[2], device=q.device)[:, None]
    parts = []
    for start in range(0, k.shape[2], _REFERENCE_BLOCK):
        block = slice(start, start + _REFERENCE_BLOCK)
        scores = q.float() @ k[:, :, block].float().transpose(-1, -2) * scale
        if causal:
            keys = torch.arange(start, start + scores.shape[-1], device=q.device)
            scores = scores.masked_fill(keys > queries, float("-inf"))
        lse = scores.logsumexp(-1)
        peak = lse.masked_fill(lse.isneginf(), 0.0)  # a block wholly in the future weighs nothing
        weights = (scores - peak[..., None]).exp()
        parts.append((weights @ v[:, :, block].float(), lse))
    output, lse = merge(parts)
    return output.to(q.dtype), lse


@_folded
def _flash_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *_by_group(q, k, v), 0.0, causal, scale=scale
    )
    return output.reshape(q.shape), lse.reshape(q.shape[:3])


@_folded
def _flash_cuda(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=scale
    )
    return output, lse


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *_by_group(q, k, v), None, True, 0.0, causal, False, scale=scale
    )
    return output.reshape(q.shape), lse.reshape(q.shape[:3])


def _flash3(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    from flash_attn_interface import flash_attn_func

    return _by_token(flash_attn_func, q, k, v, softmax_scale=scale, causal=causal, return_attn_probs=True)


def _flash4(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    from flash_attn.cute import flash_attn_func

    return _by_token(flash_attn_func, q, k, v, softmax_scale=scale, causal=causal, return_lse=True)


def _by_token(
    kernel: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """For kernels that take and give (1, tokens, heads, dim).

    They are fastest with tiles of one head's queries, and with tokens outermost in memory: 684 TFLOP/s at an
    H200's power limit over 65,536 keys; 674 with heads outermost, 664 with the heads of a group folded.
    """
    output, lse = kernel(*(x.transpose(1, 2) for x in (q, k, v)), pack_gqa=False, **options)
    return output.transpose(1, 2), lse


def _by_group(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KV heads as the batch and their groups as the heads: shared by strides, not by copies."""
    groups = k.shape[1], q.shape[1] // k.shape[1]
    k, v = (x.transpose(0, 1).expand(groups + x.shape[2:]) for x in (k, v))
    return q.reshape(groups + q.shape[2:]), k, v


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


# What Hopper cards take first, by the module it is in.
_ON_HOPPER = {"flash_attn_interface": _flash3, "flash_attn.cute": _flash4}
# The fastest first. cuDNN is nearly twice as fast as flash with many queries; with one query it is 17 times
# slower, and it takes about 50 ms to plan for every new shape, which a short suffix would pay each time.
_MANY: dict[str, list[Kernel]] = {"cpu": [_flash_cpu], "cuda": [_cudnn, _flash_cuda]}
_FEW: dict[str, list[Kernel]] = {"cpu": [_flash_cpu], "cuda": [_flash_cuda]}
_FEW_QUERIES = 512
_ODD = 3  # queries: tests see tiles that are not full, and what Triton compiles for such numbers is there


def merge(
    parts: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Softmax over the union of the parts' keys, from each part's output and log-sum-exp.

    The output is of `dtype`, or, of a single part, as it is.
    """
    if len(parts) == 1:
        return parts[0]
    lse = torch.stack([part[1] for part in parts]).logsumexp(0)
    output = torch.zeros_like(parts[0][0], dtype=torch.float32)
    for part, part_lse in parts:
        output.addcmul_(part.float(), (part_lse - lse).exp()[..., None])
    return output.to(dtype), lse


class Merge(Protocol):
    """`merge`, or a faster one."""

    def __call__(
        self, parts: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype = ..., /
    ) -> tuple[Tensor, Tensor]: ...


_LONG_PIECE = 4 * PIECE  # FlashAttention-4 sees as many as fast, and fewer parts are merged
_MERGED_AT_ONCE = 4  # more parts at once would save little traffic and hold much memory


@dataclass(frozen=True, slots=True)
class Attention:
    """The kernels that one device passed."""

    many: Kernel  #: for chunks of a document
    few: Kernel  #: for below `_FEW_QUERIES` queries: a suffix, and the one query of a token that is written
    merge: Merge
    fp8: Fp8Attention | None = None  #: where rough is good enough: over most of a past
    fp8_queries: int = 0  #: for chunks of this length alone
    packed: PackedAttention | None = None  #: for few queries, over pages that need not be unpacked

    def plans(self, q: Tensor) -> bool:
        """Whether the kernel for these queries takes long for every number of keys that is new to it."""
        return self.many is _cudnn and q.shape[2] >= _FEW_QUERIES

    def most_in_place(self, q: Tensor) -> int:
        """How many keys of an exact past one call with these queries may see."""
        return _LONG_PIECE if self._kernel(q) is _flash4 else PIECE

    def rough(self, q: Tensor, past: int) -> tuple[int, int]:
        """Which tokens of so long a past these queries may see in FP8.

        Not the first page: one key that draws most of the weight would take the others' precision.
        """
        if self.fp8 is None or q.shape[2] != self.fp8_queries or past < PAGE:
            return 0, 0
        return PAGE, PAGE + (past - PAGE) // self.fp8.least * self.fp8.least

    def rough_pieces(self, pieces: Pieces, past: Sequence[Span], layer: int) -> Iterable[Centred]:
        """Pieces in 8-bit floats of what `rough` named."""
        return self.fp8.pieces(pieces, past, layer) if self.fp8 and past else ()

    def split(self, past: Sequence[Span], queries: int) -> tuple[PackedPast | None, list[Span]]:
        """What so many queries see where it stands, and the rest, which comes to them in pieces."""
        if (packed := self.packed) is None:
            return None, list(past)
        straight = packed.past([span for span in past if span.arena is packed.arena], queries)
        if straight is None:
            return None, list(past)
        return straight, [span for span in past if span.arena is not packed.arena]

    def read(
        self,
        q: Tensor,
        past: Iterable[KeysValues],
        k: Tensor,
        v: Tensor,
        scale: float,
        *,
        rough: Iterable[Centred] = (),
        found: Iterable[tuple[Tensor, Tensor]] = (),
    ) -> Tensor:
        """Output (1, queries, heads, dim) of a chunk over its past and, causally, its own `k` and `v`.

        `found`: parts over more of its past.
        """
        parts = [self._own(q, k, v, scale)]
        for part in chain(self._rough(q, rough, scale), self._exact(q, past, scale), found):
            parts.append(part)
            if len(parts) == _MERGED_AT_ONCE:
                parts = [self.merge(parts)]
        return self.merge(parts, q.dtype)[0].to(q.dtype).transpose(1, 2).contiguous()

    def _own(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return self._kernel(q)(q, k, v, scale, True)

    def _exact(self, q: Tensor, past: Iterable[KeysValues], scale: float) -> Iterator[tuple[Tensor, Tensor]]:
        for piece in past:
            yield self._kernel(q)(q, *piece, scale, False)

    def _rough(self, q: Tensor, past: Iterable[Centred], scale: float) -> Iterator[tuple[Tensor, Tensor]]:
        if self.fp8 and (part := self.fp8.read(q, past, scale)):
            yield part

    def _kernel(self, q: Tensor) -> Kernel:
        return self.few if q.shape[2] < _FEW_QUERIES else self.many

    def warm_up(self, chunk: int, heads: int, piece: KeysValues) -> None:
        """Have the kernels plan for a chunk over `piece` and its halves, and compile all ways to merge.

        torch keeps cuDNN's plans by thread: another one that reads makes them anew, some 50 ms each.
        """
        if not piece[0].is_cuda:
            return
        keys, values = (x.zero_() for x in piece)
        q = keys.new_zeros(1, heads, chunk, keys.shape[-1])
        sizes = [keys.shape[2]]
        while sizes[-1] > SMALLEST:
            sizes.append(sizes[-1] // 2)
        pieces = [(keys[:, :, :size], values[:, :, :size]) for size in sizes]
        for queries in (chunk, _ODD):
            some, k, v = q[:, :, :queries].contiguous(), keys[:, :, :queries], values[:, :, :queries]
            for count in range(1, len(pieces) + 1):  # enough for every number of parts to be merged
                self.read(some, pieces[:count], k, v, 1.0)
        if self.fp8 is not None:
            rough = self.fp8.prepare(*(x[0, :, : self.fp8.least].transpose(0, 1) for x in piece))
            q = q.transpose(1, 2).contiguous().transpose(1, 2)  # as most compiled layers give them
            k, v = keys[:, :, :chunk], values[:, :, :chunk]
            for count in range(_MERGED_AT_ONCE):
                self.read(q, pieces[-1:] * count, k, v, 1.0, rough=[rough, rough])

    def write(self, q: Tensor, pieces: Iterable[KeysValues], scale: float) -> list[tuple[Tensor, Tensor]]:
        """Parts of the attention of single queries of several requests (as if one's) over what they share."""
        return [self.few(q, *piece, scale, False) for piece in pieces]


def select(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, dim: int) -> Attention:
    """Test the device's kernels against fp32 with the model's own head counts, and take the fastest right."""
    candidates = kernels(device)
    keys = _LONG_PIECE + _ODD if _flash4 in candidates else _SELF_TEST_KEYS[device.type]
    generator = torch.Generator(device).manual_seed(0)
    # Tokens side by side, as in the engine's own arenas: heads are not contiguous.
    k, v = (
        torch.randn(2, 1, keys, kv_heads, dim, device=device, generator=generator).to(dtype).transpose(2, 3)
    )
    return Attention(
        many=first_right(candidates, _questions([_FEW_QUERIES + _ODD], heads, k, generator), k, v),
        few=first_right(_FEW[device.type], _questions([1, _FEW_QUERIES // 4], heads, k, generator), k, v),
        merge=_fastest_merge(device, dim),
    )


def kernels(device: torch.device) -> list[Kernel]:
    """Kernels for many queries; FlashAttention-3 and 4 first, where they are installed."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    installed = [kernel for module, kernel in _ON_HOPPER.items() if hopper and _is_installed(module)]
    return [*installed, *_MANY[device.type]]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # the package that it would be in is not there, or broken
        return False


def _fastest_merge(device: torch.device, dim: int) -> Merge:
    if device.type == "cuda" and dim & (dim - 1) == 0:
        try:
            from worker.engine.kernels.merge import merge as fused  # needs Triton

            return fused
        except ImportError as exc:
            logger.warning("Pieces of attention are merged by plain operations, which is slower: %s", exc)
    return merge


def _questions(lengths: Sequence[int], heads: int, k: Tensor, generator: torch.Generator) -> list[Tensor]:
    shapes = [(1, heads, length, k.shape[-1]) for length in lengths]
    return [torch.randn(shape, device=k.device, generator=generator).to(k.dtype) for shape in shapes]


def first_right(kernels: Sequence[Kernel], questions: Sequence[Tensor], k: Tensor, v: Tensor) -> Kernel:
    """The first kernel that agrees with fp32 on every question; what is dropped is logged."""
    for kernel in kernels:
        try:
            error = max(_error(kernel, q, k, v) for q in questions)
        except Exception as exc:  # not for this card, these shapes or this version of its package
            logger.warning("Attention kernel %s failed its self-test: %s", kernel.__name__, exc)
            continue
        if error <= _TOLERANCE[k.dtype]:
            return kernel
        logger.warning("Attention kernel %s is off by %.2g and is not used.", kernel.__name__, error)
    logger.warning("No attention kernel passed; plain matrix products are used, which are slow.")
    return reference


def _error(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Largest relative error against fp32, over a long past and within a chunk."""
    scale = 4 * q.shape[-1] ** -0.5  # sharp enough that single keys count
    chunk = k[:, :, : q.shape[2]], v[:, :, : q.shape[2]]
    pairs = [
        (kernel(q, k, v, scale, False), reference(q.float(), k, v, scale, False)),
        (kernel(q, *chunk, scale, True), reference(q.float(), *chunk, scale, True)),
    ]
    return max(relative_error(*pair) for pair in pairs)


def relative_error(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The larger one of an output's and its log-sum-exp's; infinite where there is a NaN."""
    errors = ((got.float() - want).norm() / want.norm() for got, want in zip(found, wanted, strict=True))
    return max(float(error.nan_to_num(float("inf"))) for error in errors)
