"""From a model's name to a running engine."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Literal

from worker.engine.types import Engine, MemoryOptions, Weights

# How often a thread of OpenMP's looks for the next operation before it sleeps. On two cores a token of the
# small model took 49 ms with the usual 300,000, and beside two busy processes ten times that; 55 and 170 with
# these; 72 and 220 where threads sleep at once.
_SPINS = "10000"


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
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is imported
    from worker.engine.assembly import assemble  # imports torch, which takes seconds

    # A thread that has computed keeps a team of OpenMP's, and where teams have more threads than there are
    # cores, all sleep as soon as an operation is done. The thread that loads ends; only the engine's is left.
    loaded: Future[Engine] = Future()

    def load() -> None:
        try:
            engine = assemble(
                model,
                cache_dir=cache_dir,
                revision=revision,
                device=device,
                weights=weights,
                memory=memory or MemoryOptions(),
                max_active=max_active,
                fp8_attention=fp8_attention,
            )
        except BaseException as exc:
            loaded.set_exception(exc)
        else:
            loaded.set_result(engine)

    thread = Thread(target=load, name="loader", daemon=True)  # whoever gives up waiting may leave
    thread.start()
    engine = loaded.result()
    thread.join()
    return engine
