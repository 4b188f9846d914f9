"""Logits to tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.sampler import Sampler
from worker.engine.types import Sampling

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


class Only:
    """Allows the same tokens at every step."""

    def __init__(self, *ids: int) -> None:
        self._ids = np.array(ids, np.int64)

    def allowed(self, generated: Sequence[int]) -> NDArray[np.int64]:
        return self._ids


def draw(sampling: Sampling, mask: Only | None = None) -> Counter[int | None]:
    sampler = Sampler(sampling, mask, CPU)
    return Counter(sampler.choose(LOGITS, int(LOGITS.argmax()), []) for _ in range(4_000))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draw(Sampling())) == {0}


def test_sampling_follows_the_probabilities() -> None:
    counts = draw(Sampling(temperature=1.0, seed=0))
    assert counts[0] > counts[1] > counts[2] > counts[3] > 0


def test_top_p_keeps_the_likeliest_tokens_that_reach_it() -> None:
    assert set(draw(Sampling(temperature=1.0, top_p=0.79, seed=0))) == {0, 1}
    assert set(draw(Sampling(temperature=1.0, top_p=0.81, seed=0))) == {0, 1, 2}
    assert set(draw(Sampling(temperature=1.0, top_p=1e-9, seed=0))) == {0}


def test_a_mask_restricts_the_choice_and_an_empty_one_ends_it() -> None:
    assert set(draw(Sampling(), Only(3, 1))) == {1}
    assert set(draw(Sampling(temperature=1.0, seed=0), Only(3, 1))) == {1, 3}
    assert set(draw(Sampling(), Only())) == {None}


def test_tokens_that_the_model_does_not_have_are_never_chosen() -> None:
    assert set(draw(Sampling(temperature=1.0, seed=0), Only(2, len(LOGITS), 3))) == {2, 3}


def test_a_repetition_penalty_lowers_what_was_said_whatever_the_sign() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0), None, CPU)
    assert sampler.choose(torch.tensor([1.0, 0.9, 0.1]), 0, [0, 0]) == 1
    assert sampler.choose(torch.tensor([-1.0, -1.5, -9.0]), 0, [0, 0]) == 1
    assert sampler.choose(torch.tensor([1.0, 0.9, 0.1]), 0, []) == 0


def test_an_unseeded_request_is_not_the_same_each_time() -> None:
    def sample() -> list[int | None]:
        sampler = Sampler(Sampling(temperature=1.0), None, CPU)
        return [sampler.choose(LOGITS, int(LOGITS.argmax()), []) for _ in range(50)]

    assert sample() != sample()
