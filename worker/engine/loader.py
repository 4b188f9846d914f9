"""From a model's name to a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from worker.engine.types import Engine, MemoryOptions, Weights


def load_engine(
    model: str | None = None,
    *,
    cache_dir: Path,
    revision: str | None = None,
    device: str = "auto",
    weights: Literal["auto"] | Weights = "auto",
    memory: MemoryOptions | None = None,
    max_active: int = 8,
    fp8_attention: bool = False,
) -> Engine:
    """Load a model and start its engine.

    `model` is a name on the model hub or a folder; None is the small default model, which needs no download
    and is converted once into `cache_dir`. `device`: "auto", "cpu", "cuda" or, for instance, "cuda:1".
    `weights` "auto" is NF4 on CUDA and fp32 on the CPU. `memory`: of keys and values. `max_active`: requests
    read and written at the same time. `fp8_attention`: read faster and less exactly, through cuDNN's own
    front end (the package nvidia-cudnn-frontend).

    Raises `ModelLoadError`.
    """
    from worker.engine.assembly import assemble  # imports torch, which takes seconds

    return assemble(
        model,
        cache_dir=cache_dir,
        revision=revision,
        device=device,
        weights=weights,
        memory=memory or MemoryOptions(),
        max_active=max_active,
        fp8_attention=fp8_attention,
    )
