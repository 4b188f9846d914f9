"""One transformers model, asked for one chunk of one sequence at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worker.engine import attention
from worker.engine.attention import Attention
from worker.engine.errors import ModelLoadError, NotFinite
from worker.engine.kv import KVBuffer, LayerKV


class PromptCache:
    """What a forward pass gets as `past_key_values`: shared buffers, and one that it writes into.

    Nothing is concatenated: in place of keys, `update` hands our attention function a callable bound to the
    layer's pieces.
    """

    is_compileable = False

    def __init__(self, attention: Attention, before: Sequence[KVBuffer], tail: KVBuffer) -> None:
        self._attention = attention
        self._before = before
        self._tail = tail

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Callable[[Tensor, float], Tensor], None]:
        self._tail.write(layer, keys, values)
        return partial(self._attention.attend, LayerKV(layer, self._before, self._tail)), None

    def get_seq_length(self, layer: int | None = 0) -> int:
        return sum(buffer.length for buffer in self._before) + self._tail.length

    def get_query_offset(self, layer: int | None = 0) -> int:
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer: int | None = 0) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class Decoder:
    """A causal language model of transformers' with full attention in every layer."""

    def __init__(self, model: Any) -> None:
        """`model`: a `PreTrainedModel` with a language-model head. Its attention is replaced by ours."""
        config = model.config.get_text_config()
        if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ModelLoadError(
                "The model has layers without full attention, which the engine does not support."
            )
        attention.register()
        model.set_attn_implementation(attention.NAME)
        self._model = model.eval()
        self.device: torch.device = model.device
        self.vocabulary: int = config.vocab_size
        self.window: int = config.max_position_embeddings
        heads = config.num_attention_heads
        kv_heads = config.num_key_value_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._shape: tuple[int, int, int] = (config.num_hidden_layers, kv_heads, dim)
        self._dtype: torch.dtype = model.dtype
        self._attention = attention.select(self.device, self._dtype, heads, kv_heads, dim)

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * math.prod(self._shape) * self._dtype.itemsize

    def new_buffer(self, tokens: int) -> KVBuffer:
        return KVBuffer(*self._shape, tokens, device=self.device, dtype=self._dtype)

    def read(self, ids: Sequence[int], before: Sequence[KVBuffer], tail: KVBuffer) -> Tensor:
        """Append `ids` to `tail`, which stands behind `before`; returns the last token's logits.

        Logits: (vocabulary,) in fp32. Raises `NotFinite`. After any error `tail` is as long as it was.
        """
        cache = PromptCache(self._attention, before, tail)
        start = cache.get_seq_length()
        logits: Tensor = (
            self._model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.arange(start, start + len(ids), device=self.device)[None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[0, -1]
            .float()
        )
        if not bool(logits.isfinite().all()):
            raise NotFinite
        tail.length += len(ids)
        return logits

    def warm_up(self, tokens: int) -> int:
        """Read `tokens` over a past and write one, so that a model we cannot run fails now.

        Returns the most memory in bytes that reading a chunk took beside weights, keys and values; 0 where
        the device is not CUDA.
        """
        with torch.inference_mode():
            prefix, tail = self.new_buffer(tokens), self.new_buffer(tokens + 1)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                held = torch.cuda.memory_allocated(self.device)
            self.read([0] * tokens, [], prefix)
            self.read([0] * tokens, [prefix], tail)
            self.read([0], [prefix], tail)
        return torch.cuda.max_memory_allocated(self.device) - held if self.device.type == "cuda" else 0
