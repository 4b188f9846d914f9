"""Keys and values of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (1, KV heads, tokens, dim), views into a buffer."""


class KVBuffer:
    """Keys and values of consecutive tokens, all layers, in one allocation that never grows or moves."""

    def __init__(self, layers: int, kv_heads: int, dim: int, tokens: int, **options: Any) -> None:
        """`options` (device, dtype) are `torch.empty`'s."""
        self._data = torch.empty(layers, 2, 1, kv_heads, tokens, dim, **options)
        self.length = 0  #: tokens whose keys and values are complete, in all layers

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put one layer's new tokens behind the complete ones; `length` is advanced after the last layer."""
        new = self._data[layer, :, :, :, self.length : self.length + keys.shape[2]]
        new[0].copy_(keys)
        new[1].copy_(values)

    def view(self, layer: int, start: int, end: int) -> KeysValues:
        keys, values = self._data[layer, :, :, :, start:end]
        return keys, values


@dataclass(frozen=True, slots=True)
class LayerKV:
    """What the queries of one chunk may see in one layer."""

    layer: int
    before: Sequence[KVBuffer]  #: complete, read by others too
    tail: KVBuffer  #: this chunk's keys stand right behind its complete ones

    def all(self) -> list[KeysValues]:
        """Everything, the one new token included."""
        return [*self._before(), self.tail.view(self.layer, 0, self.tail.length + 1)]

    def past(self) -> list[KeysValues]:
        """Everything before the chunk."""
        own = [self.tail.view(self.layer, 0, self.tail.length)] if self.tail.length else []
        return self._before() + own

    def new(self, tokens: int) -> KeysValues:
        """The chunk itself."""
        return self.tail.view(self.layer, self.tail.length, self.tail.length + tokens)

    def _before(self) -> list[KeysValues]:
        return [buffer.view(self.layer, 0, buffer.length) for buffer in self.before]
