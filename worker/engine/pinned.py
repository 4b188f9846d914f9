"""Memory of this computer that cards read and copy in place: locked, and not larger than was asked for.

torch's own allocator of such memory rounds up to a power of two (16 GiB for 10.9). So pages are taken from
the system and registered with CUDA; to torch and to kernels they are what `pin_memory` gives.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor


class Locks(Protocol):
    """Who locks pages in memory."""

    def lock(self, address: int, size: int) -> None:
        """Raises `RuntimeError` where so many cannot be locked."""
        ...

    def unlock(self, address: int) -> None: ...


class CudaLocks:
    """For every card of this process."""

    def lock(self, address: int, size: int) -> None:
        if code := int(_runtime().cudaHostRegister(address, size, 0)):
            raise RuntimeError(f"{size:,} bytes of memory could not be locked: CUDA error {code}.")

    def unlock(self, address: int) -> None:
        torch.cuda.synchronize()  # a card may still read them
        _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    return torch.cuda.cudart()


class _Pages(mmap.mmap):
    """Pages of the system's, locked until nobody holds them. A forked process gets no copy of them."""

    locks: Locks
    address: int | None = None

    def lock(self, locks: Locks, address: int) -> None:
        locks.lock(address, len(self))
        self.locks, self.address = locks, address

    def __del__(self) -> None:
        if self.address is not None:
            with suppress(Exception):  # the device, or at its end Python, is gone
                self.locks.unlock(self.address)


def empty(size: Sequence[int], dtype: torch.dtype, locks: Locks | None = None) -> Tensor:
    """A tensor like `torch.empty`'s with `pin_memory`. Raises `OSError` and `RuntimeError`."""
    pages = _Pages(-1, math.prod(size) * dtype.itemsize)
    data = torch.frombuffer(pages, dtype=torch.uint8)  # holds them
    pages.lock(locks or CudaLocks(), data.data_ptr())
    return data.view(dtype).view(*size)
