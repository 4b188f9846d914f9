"""Logits to the next token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.types import Sampling, TokenMask


class Sampler:
    """Chooses one request's tokens; the same seed on the same logits chooses the same."""

    def __init__(self, sampling: Sampling, mask: TokenMask | None, device: torch.device) -> None:
        self._sampling = sampling
        self._mask = mask
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always chosen."""
        sampling = self._sampling
        return self._mask is None and sampling.temperature == 0 and sampling.repetition_penalty == 1

    def choose(self, logits: Tensor, likeliest: int, generated: Sequence[int]) -> int | None:
        """The token after `generated`, or None where the mask says that the answer is finished.

        `logits`: (vocabulary,) in fp32, `likeliest` the index of the largest.
        """
        if self.greedy:
            return likeliest
        allowed = None
        if self._mask is not None and (ids := self._mask.allowed(generated)) is not None:
            if ids.max(initial=0) >= len(logits):  # some tokenizers have more tokens than their model
                ids = ids[ids < len(logits)]
            if not len(ids):
                return None
            allowed = torch.tensor(ids, device=logits.device)
        if self._sampling.repetition_penalty != 1.0 and generated:
            logits = _penalize(logits, generated, self._sampling.repetition_penalty)
        if allowed is None:
            return self._pick(logits)
        return int(allowed[self._pick(logits[allowed])])

    def _pick(self, logits: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities, order = (logits / self._sampling.temperature).softmax(-1).sort(descending=True)
        # Nucleus sampling (Holtzman et al. 2020): the likeliest tokens that together reach top_p.
        outside = probabilities.cumsum(-1) - probabilities >= self._sampling.top_p
        probabilities = probabilities.masked_fill(outside, 0.0)
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])


def _penalize(logits: Tensor, generated: Sequence[int], penalty: float) -> Tensor:
    """Makes tokens of the answer less likely to come again (CTRL, Keskar et al. 2019, section 4.1)."""
    seen = torch.tensor(sorted(set(generated)), device=logits.device)
    values = logits[seen]
    return logits.index_put((seen,), torch.where(values > 0, values / penalty, values * penalty))
