"""Attention of a chunk over its past in 8-bit floats, an opt-in for Hopper cards.

cuDNN's FP8 kernel (reached through its own front end, `nvidia-cudnn-frontend`) multiplies e4m3 codes and adds
the products of weights and values in one level, with few bits: a sum that drifts away from zero loses what is
added to it. Its output is e4m3 too. Three things make it usable:

- values are centred, each channel of each KV head by its mean, which is added to the output: exact, because
  the weights of a query sum to one;
- keys are centred the same way, which leaves the weights as they are and lowers every score of a query by
  the same amount, which is added to the log-sum-exp: exact too;
- one kernel call sees `step` keys at most; calls are merged in fp32.

What remains is the rounding of queries, keys, values, weights and output to three bits of mantissa.

Shapes: queries (1, heads, queries, dim), keys and values (tokens, KV heads, dim), as they lie in memory;
log-sum-exp (1, heads, queries) in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from worker.engine.attention import merge, reference
from worker.engine.centred import E4M3, E4M3_TOP, Centred, centred
from worker.engine.errors import ModelLoadError
from worker.engine.kv import PackedArena, Pieces, Span, sizes

# Weights lie in [0, 1]; times this they use the whole range of e4m3, and small ones are not flushed to zero.
WEIGHT_SCALE = 256.0
# Rounded weights sum to a little more than one: outputs are halved, so that none passes the largest code.
OUTPUT_SCALE = 0.5

# Of the self-test, against fp32: the output's error relative to its distance from the values' mean, the error
# of its mean in units of that distance, and the error of the log-sum-exp.
_TOLERANCES = {"output": 0.10, "mean": 0.01, "log-sum-exp": 0.05}
_COMPARED = 128  # queries of a chunk


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """`data * descale` is what is meant."""

    data: Tensor  #: e4m3
    descale: Tensor  #: fp32, one number


@dataclass(frozen=True, slots=True, eq=False)
class PreparedQueries:
    exact: Tensor  #: as they came
    codes: Codes


Kernel = Callable[[Codes, Codes, Tensor, float], tuple[Tensor, Tensor]]
"""(queries (1, heads, queries, dim), keys, values (1, KV heads, tokens, dim), scale) -> (output, its LSE).

The scale multiplies the scores. The output is e4m3, in the queries' shape: the weighted mean of the values'
codes times `OUTPUT_SCALE`."""


class Fp8Attention:
    """Queries of a chunk over pieces of their past, in calls of `step` keys and, at its end, of fewer."""

    def __init__(self, kernel: Kernel, step: int, compiled: bool = False) -> None:
        """`compiled`: fuse what stands around the kernel."""
        self.steps = step, step // 2, step // 4  #: keys of a call
        self.least = self.steps[-1]  #: pieces are multiples of it
        self._kernel = kernel
        self._encode: Callable[[Tensor], tuple[Tensor, Tensor]] = _encode
        self._centred, self._merge = centred, _merge
        if compiled:
            from worker.engine.kernels.merge import merge_steps  # needs Triton

            self._encode, self._centred = torch.compile(_encode), torch.compile(centred)
            self._merge = merge_steps

    def prepare_queries(self, q: Tensor) -> PreparedQueries:
        return PreparedQueries(q, Codes(*self._encode(q)))

    def prepare(self, keys: Tensor, values: Tensor) -> Centred:
        """Encode tokens, each (tokens, KV heads, dim)."""
        if keys.shape[0] % self.least:
            raise ValueError(f"a piece is a multiple of {self.least} keys, not {keys.shape[0]} keys")
        return self._centred(keys, values)

    def pieces(self, pieces: Pieces, spans: Sequence[Span], layer: int) -> Iterator[Centred]:
        """Of a past that is a multiple of `least`: packed pages without a detour through bf16."""
        if all(isinstance(span.arena, PackedArena) for span in spans):
            return pieces.centred(spans, layer)
        return (self.prepare(*(x[0].transpose(0, 1) for x in piece)) for piece in pieces.of(spans, layer))

    def read(self, q: Tensor, pieces: Iterable[Centred], scale: float) -> tuple[Tensor, Tensor] | None:
        """Output in fp32 and in the queries' shape, and log-sum-exp, over all pieces, if there are any."""
        found = prepared = None
        for piece in pieces:
            prepared = prepared or self.prepare_queries(q)
            found = self.attend(prepared, piece, scale, found)
        return found

    def attend(
        self, q: PreparedQueries, piece: Centred, scale: float, found: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp over a piece and over what was `found` before."""
        steps = list(sizes(len(piece.keys), self.steps[0], self.least))
        keys, values = (
            [step[None].transpose(1, 2) for step in x.split(steps)] for x in (piece.keys, piece.values)
        )
        descale = piece.descales[0, 0, 0]
        parts = [
            self._kernel(q.codes, Codes(k, descale), v, scale) for k, v in zip(keys, values, strict=True)
        ]
        return self._merge(q.exact, parts, piece, scale, found)


def _encode(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and one descale for the whole tensor: 8-bit floats keep their precision over 15 binades."""
    descale = x.abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny) / E4M3_TOP
    return (x.float() / descale).to(E4M3), descale


def _merge(
    q: Tensor,
    parts: Sequence[tuple[Tensor, Tensor]],
    piece: Centred,
    scale: float,
    found: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """One output and log-sum-exp from those of a piece's steps, with what centring took away put back."""
    groups = q.shape[1] // piece.centres.shape[1]
    key_centre, value_centre, value_descale = (
        x.repeat_interleave(groups, 0)[None, :, None] for x in (*piece.centres, piece.descales[1])
    )
    mean, lse = merge([(codes.float(), lse) for codes, lse in parts])
    output = mean * (value_descale / OUTPUT_SCALE) + value_centre
    part = output, lse + (q * key_centre).sum(-1) * scale
    return part if found is None else merge([found, part])


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model asks of a kernel."""

    heads: int
    kv_heads: int
    dim: int
    queries: int  #: of a whole chunk


def select(shape: Shape, device: torch.device, step: int = 16_384) -> Fp8Attention:
    """FP8 attention of cuDNN's for this model on this card, tested; raises `ModelLoadError`."""
    attention = Fp8Attention(CudnnKernel(device), step, compiled=True)
    check(attention, shape, device)
    return attention


def check(attention: Fp8Attention, shape: Shape, device: torch.device) -> None:
    """Compare with fp32 where the channels of keys and values have means; raises `ModelLoadError`."""
    errors = measure(attention, shape, device)
    wrong = {name: error for name, error in errors.items() if not error <= _TOLERANCES[name]}
    if wrong:
        told = ", ".join(f"{name} off by {wrong[name]:.2g}, not {_TOLERANCES[name]}" for name in wrong)
        raise ModelLoadError(f"FP8 attention is wrong on this card ({told}); read in bf16.")


def measure(
    attention: Fp8Attention,
    shape: Shape,
    device: torch.device,
    *,
    steps: int = 4,
    mean: float = 1.0,
    sharpness: float = 1.0,
) -> dict[str, float]:
    """Errors against fp32, as `_TOLERANCES` names them, on random tokens whose channels have this `mean`.

    Scores have a standard deviation of `sharpness`. A whole chunk is read, and a few queries of it compared.
    """
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=device, generator=generator)

    q = random(1, shape.heads, shape.queries, shape.dim).bfloat16()
    tokens = steps * attention.steps[0], shape.kv_heads, shape.dim
    keys, values = ((random(*tokens) + mean).bfloat16() for _ in range(2))
    scale = sharpness * shape.dim**-0.5
    output, lse = attention.attend(attention.prepare_queries(q), attention.prepare(keys, values), scale)
    some = slice(None, None, max(shape.queries // _COMPARED, 1))
    keys, values = (x[None].transpose(1, 2) for x in (keys, values))
    want, want_lse = reference(q[:, :, some].float(), keys, values, scale, False)
    error = output[:, :, some] - want
    distance = (want - mean).square().mean().sqrt()
    return {
        "output": float(error.square().mean().sqrt() / distance),
        "mean": float(error.mean().abs() / distance),
        "log-sum-exp": float((lse[:, :, some] - want_lse).abs().max()),
    }


class CudnnKernel:
    """cuDNN's FP8 attention: one graph for each shape, built (0.3 - 2 s) when it is first needed."""

    def __init__(self, device: torch.device) -> None:
        """Raises `ModelLoadError` where the front end is not installed."""
        try:
            cudnn: Any = import_module("cudnn")
        except ImportError as exc:
            raise ModelLoadError(
                "FP8 attention needs cuDNN's front end; install nvidia-cudnn-frontend, or read in bf16."
            ) from exc
        self._cudnn = cudnn
        self._device = device
        with torch.cuda.device(device):
            self._handle = cudnn.create_handle()
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        number = torch.ones(1, 1, 1, 1, device=device)
        self._one = number
        self._weight_scale, self._weight_descale = number * WEIGHT_SCALE, number / WEIGHT_SCALE
        self._output_scale = number * OUTPUT_SCALE

    def __call__(self, q: Codes, k: Codes, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        key = tuple((x.shape, x.stride()) for x in (q.data, k.data, v))
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._cudnn, self._handle, q.data, k.data, v)
        output = torch.empty_like(q.data)
        lse = torch.empty(q.data.shape[:3], dtype=torch.float32, device=self._device)
        graph = self._graphs[key]
        tensors = {
            "q": q.data,
            "k": k.data,
            "v": v,
            "descale_q": q.descale * scale,
            "descale_k": k.descale,
            "descale_v": self._one,
            "scale_s": self._weight_scale,
            "descale_s": self._weight_descale,
            "scale_o": self._output_scale,
            "output": output,
            "lse": lse,
        }
        self._cudnn.set_stream(self._handle, torch.cuda.current_stream(self._device).cuda_stream)
        graph.run(tensors, self._handle)
        return output, lse


class _Graph:
    """A plan of cuDNN's for one shape."""

    def __init__(self, cudnn: Any, handle: Any, q: Tensor, k: Tensor, v: Tensor) -> None:
        kinds = cudnn.data_type
        graph = cudnn.pygraph(
            io_data_type=kinds.FP8_E4M3,
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=handle,
        )
        number: dict[str, Any] = {"dim": (1, 1, 1, 1), "stride": (1, 1, 1, 1), "data_type": kinds.FLOAT}
        inputs = {
            name: graph.tensor(name=name, dim=x.shape, stride=x.stride(), data_type=kinds.FP8_E4M3)
            for name, x in (("q", q), ("k", k), ("v", v))
        }
        for name in ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o"):
            inputs[name] = graph.tensor(name=name, **number)
        # The scale is in the queries' descale, so that a graph serves every scale.
        output, lse, *largest = graph.sdpa_fp8(**inputs, attn_scale=1.0, generate_stats=True)
        batch, heads, queries, _ = q.shape
        rows = (batch, heads, queries, 1), (heads * queries, queries, 1, 1)
        output.set_output(True).set_dim(q.shape).set_stride(q.stride()).set_data_type(kinds.FP8_E4M3)
        lse.set_output(True).set_dim(rows[0]).set_stride(rows[1]).set_data_type(kinds.FLOAT)
        for x in largest:
            x.set_output(True).set_dim(number["dim"]).set_stride(number["stride"]).set_data_type(kinds.FLOAT)
        try:
            graph.build([cudnn.heur_mode.A])
        except (RuntimeError, ValueError, cudnn.cudnnGraphNotSupportedError) as exc:
            raise ModelLoadError(
                f"This card or its cuDNN refuses FP8 attention for this model; read in bf16. ({exc})"
            ) from exc
        self._graph = graph
        self._tensors = inputs | {"output": output, "lse": lse}
        # Nobody asks for the largest weight and output, but the kernel writes them.
        self._unread = {x: torch.empty(1, device=q.device) for x in largest}
        self._workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=q.device)

    def run(self, tensors: dict[str, Tensor], handle: Any) -> None:
        pack = {self._tensors[name]: x for name, x in tensors.items()} | self._unread
        self._graph.execute(pack, self._workspace, handle=handle)
