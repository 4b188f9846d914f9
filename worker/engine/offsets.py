"""What all keys of a model have in common is left out of them, where it is large.

In some models a few channels of the keys are nearly the same for every token, and many times as large as what
tells one token from another (KIVI, arXiv:2402.02750, section 3; KVQuant, arXiv:2401.18079). Few bits are
spent on such a channel, and FP8's short sums are filled by it. A vector that is subtracted from all keys of a
head moves all scores of a query alike, which softmax does not see: so nothing but the keys need change.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from worker.engine.passes import Pass

TOKENS = 64  #: of the text by which offsets are found
_SINKS = 4  # first tokens, which many models use to rest their attention on, and whose keys are unlike others
_LARGE = 16.0  # times the deviation of most of a head's channels: one such channel costs half a bit of four


class Listening:
    """A pass of `TOKENS` tokens of one sequence, which finds the offsets."""

    def __init__(self, inner: Pass) -> None:
        self._inner = inner
        self._found: list[Tensor] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys = key[0, :, _SINKS:].float()
        mean, deviation = keys.mean(1), keys.var(1).median(-1, keepdim=True).values.sqrt()
        # In bf16, so that what is left of a key in bf16 is a number in bf16.
        found = torch.where(mean.abs() > _LARGE * deviation, mean, 0.0).bfloat16()
        self._found.append(found.to(key.dtype))
        return self._inner.attend(query, key, value, scale)

    @property
    def offsets(self) -> Tensor | None:
        """(layers, KV heads, dim), nearly all of them zeros; None where all are."""
        found = torch.stack(self._found)
        return found if bool(found.any()) else None


class Offset:
    """A pass whose keys lack the offsets."""

    def __init__(self, inner: Pass, offsets: Tensor) -> None:
        self._inner, self._offsets = inner, iter(offsets)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return self._inner.attend(query, key - next(self._offsets)[:, None], value, scale)


def fingerprint(offsets: Tensor) -> str:
    """The same for the same offsets."""
    data = offsets.float().cpu().numpy().tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
