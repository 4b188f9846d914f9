"""One transformers model, asked for one chunk of one sequence, or for one token of several, at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine import attention, passes
from worker.engine import offsets as key_offsets
from worker.engine.errors import ModelLoadError, NotFinite
from worker.engine.kv import PIECE, Pieces, Shape, Span
from worker.engine.page import PAGE
from worker.engine.passes import Pass, PromptCache, Reading, Seat, Writing

if TYPE_CHECKING:
    from worker.engine.formats import PackedFormat
    from worker.engine.packed_attention import PackedAttention


Ids = Sequence[int] | NDArray[np.int32]


class Decoder:
    """A causal language model of transformers' with full attention in every layer."""

    def __init__(self, model: Any) -> None:
        """`model`: a `PreTrainedModel` with a language-model head. Its attention is replaced by ours."""
        config = model.config.get_text_config()
        if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ModelLoadError(
                "The model has layers without full attention, which the engine does not support."
            )
        passes.register()
        model.set_attn_implementation(passes.NAME)
        self.model = model.eval()
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.vocabulary: int = config.vocab_size
        self.window: int = config.max_position_embeddings
        self.heads: int = config.num_attention_heads
        self.shape = Shape(
            config.num_hidden_layers,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // self.heads,
        )
        self.offsets: Tensor | None = None  #: (layers, KV heads, dim); what is left out of all keys
        self._pieces = Pieces(self.shape, device=self.device, dtype=self.dtype)
        self._attention = attention.select(
            self.device, self.dtype, self.heads, self.shape.kv_heads, self.shape.dim
        )

    def warm_up(self, chunk: int, *, fp8: bool = False) -> None:
        """Build what the first chunks would wait for. `fp8`: see the past of whole chunks in FP8.

        Raises `ModelLoadError` where FP8 attention cannot be had or is wrong.
        """
        if fp8:
            from worker.engine import fp8_attention

            shape = fp8_attention.Shape(self.heads, self.shape.kv_heads, self.shape.dim, chunk)
            self._attention = replace(
                self._attention, fp8=fp8_attention.select(shape, self.device), fp8_queries=chunk
            )
        self._attention.warm_up(chunk, self.heads, self._pieces.buffer())

    def find_offsets(self) -> None:
        """Find what the model's keys have in common at any place of its window, and leave it out from now on.

        The text is a little of everything: its tokens are as far apart in the vocabulary as in the window.
        """

        def spread(end: int) -> Tensor:
            return torch.linspace(0, end - 1, key_offsets.TOKENS, device=self.device).long()[None]

        listening = key_offsets.Listening(Reading(self._attention, self._pieces, [], []))
        with passes.running(listening):
            self.logits(spread(self.vocabulary), spread(self.window))
        self.offsets = listening.offsets

    @property
    def rough_pasts(self) -> list[int]:
        """Lengths of a past that a chunk sees in FP8: in steps of every length, in one piece and in two."""
        if (fp8 := self._attention.fp8) is None:
            return []
        ends = *fp8.steps, sum(fp8.steps), PIECE + sum(fp8.steps)
        return [PAGE + end for end in ends if end <= self.window]

    def stage(self, format: PackedFormat) -> None:
        """Take the room through which FP8 attention sees the computer's memory before a read needs it."""
        self._pieces.stage(format)

    def see_in_place(self, packed: PackedAttention | None) -> None:
        """Have few queries see pages of its arena where they stand, or unpack them for all."""
        self._attention = replace(self._attention, packed=packed)

    def read(self, ids: Ids, past: Sequence[Span], new: Sequence[Span]) -> Tensor:
        """Read `ids`, which stand behind `past`, and keep their keys and values in `new`.

        Returns the last token's logits, (vocabulary,) in fp32. Raises `NotFinite`.
        """
        with self.running(Reading(self._attention, self._pieces, past, new)):
            return finite(self._chunk(ids, past))[0]

    def keep(self, ids: Ids, past: Sequence[Span], new: Sequence[Span]) -> None:
        """`read` for tokens that nothing is asked of yet: the last layer makes keys and values, and is done.

        What it would attend to and compute is a layer's share of the whole read. Raises `NotFinite`.
        """
        reading = Reading(self._attention, self._pieces, past, new, last=self.shape.layers - 1)
        try:
            with self.running(reading):
                self._chunk(ids, past)
        except passes.Kept as kept:
            finite(kept.keys)
            finite(kept.values)

    def _chunk(self, ids: Ids, past: Sequence[Span]) -> Tensor:
        start = sum(span.tokens for span in past)
        positions = torch.arange(start, start + len(ids), device=self.device)
        tokens = torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)
        return self.logits(tokens[None], positions[None])

    def write(self, seats: Sequence[Seat]) -> Tensor:
        """The logits, (seats, vocabulary) in fp32, that follow each seat's token. They may not be finite."""
        tokens = torch.tensor([[seat.token] for seat in seats], device=self.device)
        positions = torch.tensor([[seat.position] for seat in seats], device=self.device)
        with self.running(Writing(self._attention, self._pieces, seats)):
            return self.logits(tokens, positions)

    def running(self, current: Pass) -> AbstractContextManager[None]:
        """The model's layers ask `current`."""
        if self.offsets is not None:
            current = key_offsets.Offset(current, self.offsets)
        return passes.running(current)

    def logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(sequences, vocabulary) in fp32 for ids and positions (sequences, tokens), in a running pass."""
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=PromptCache(),
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def finite(x: Tensor) -> Tensor:
    """`x` as it is. Raises `NotFinite`."""
    if not bool(x.isfinite().all()):
        raise NotFinite
    return x
