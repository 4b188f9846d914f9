"""Decoder layers through `torch.compile`, for the shapes that come again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Layer = Callable[..., Any]


class CompiledLayer:
    """A layer's forward: compiled for some shapes of hidden states, as it was for all others.

    A shape costs seconds to compile, once for all layers: they share their code, and nothing in it tells one
    from another (see `passes`).
    """

    def __init__(self, forward: Layer, shapes: set[tuple[int, int]], **options: Any) -> None:
        """`shapes`: (sequences, tokens). `options` are `torch.compile`'s."""
        self.plain = forward
        self._compiled = torch.compile(forward, dynamic=False, **options)
        self._shapes = shapes

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        known = tuple(hidden_states.shape[:2]) in self._shapes
        return (self._compiled if known else self.plain)(hidden_states, *args, **kwargs)


def compile_layers(model: Any, shapes: set[tuple[int, int]], **options: Any) -> None:
    """Compile every decoder layer of a transformers model for `shapes`, when each first comes."""
    for layer in model.get_decoder().layers:
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0  # passes count layers; with its own number each would be compiled anew
        plain = layer.forward.plain if isinstance(layer.forward, CompiledLayer) else layer.forward
        layer.forward = CompiledLayer(plain, shapes, **options)
