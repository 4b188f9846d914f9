"""Decoder layers through `torch.compile`, for the shapes that come again and again, and for any chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Layer = Callable[..., Any]


class CompiledLayer:
    """A layer's forward: compiled for some shapes of hidden states, and for one sequence of any other length.

    A shape costs seconds to compile, and all lengths below `longest` together as much; once for all layers:
    they share their code, and nothing in it tells one from another (see `passes`). What is neither goes
    through the forward as it was.
    """

    def __init__(self, forward: Layer, shapes: set[tuple[int, int]], longest: int, **options: Any) -> None:
        """`shapes`: (sequences, tokens). `options` are `torch.compile`'s."""
        self.plain = forward
        self._compiled = torch.compile(forward, dynamic=False, **options)
        self._shapes, self._longest = shapes, longest
        self._any_length = False

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        sequences, tokens = hidden_states.shape[:2]
        if (sequences, tokens) not in self._shapes:
            if sequences > 1 or not 1 < tokens < self._longest:
                return self.plain(hidden_states, *args, **kwargs)
            if not self._any_length:
                self._any_length = True
                self._mark(tokens, tree_leaves((hidden_states, args, kwargs)))
        return self._compiled(hidden_states, *args, **kwargs)

    def _mark(self, tokens: int, arguments: list[Any]) -> None:
        """Have the compiler leave this length open, but below the longest, which has code of its own."""
        for x in arguments:
            if isinstance(x, Tensor) and x.shape[1:2] == (tokens,):
                torch._dynamo.mark_dynamic(x, 1, min=2, max=self._longest - 1)


def compile_layers(model: Any, shapes: set[tuple[int, int]], **options: Any) -> None:
    """Compile every decoder layer of a transformers model for `shapes`, when each first comes.

    And for one sequence of any number of tokens below the most of `shapes`.
    """
    longest = max(tokens for _, tokens in shapes)
    for layer in model.get_decoder().layers:
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0  # passes count layers; with its own number each would be compiled anew
        plain = layer.forward.plain if isinstance(layer.forward, CompiledLayer) else layer.forward
        layer.forward = CompiledLayer(plain, shapes, longest, **options)
