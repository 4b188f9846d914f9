"""Functions of PDFium that are called for every line: with addresses as numbers, they take half the time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any


def native(function: Any) -> Callable[..., int]:
    """A function of `pypdfium2.raw` that takes, and returns, the addresses of objects as numbers."""
    arguments = [_plain(kind) for kind in function.argtypes]
    return ctypes.CFUNCTYPE(_plain(function.restype), *arguments)(address(function))


def address(pointer: Any) -> int:
    """What a pointer or a function of ctypes points to; the caller keeps it alive."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _plain(kind: Any) -> Any:
    return ctypes.c_void_p if kind is not None and issubclass(kind, ctypes._Pointer) else kind
