"""How many tokens a card reads at once."""

from __future__ import annotations

import pytest

from worker.engine.chunk import whole_waves
from worker.engine.page import PAGE


@pytest.mark.parametrize("multiprocessors", [46, 68, 72, 80, 84, 108, 114, 128, 132, 142, 144, 148])
@pytest.mark.parametrize("heads", [8, 32, 40])
def test_every_wave_of_a_chunk_is_full_or_it_has_the_usual_length(multiprocessors: int, heads: int) -> None:
    tokens = whole_waves(multiprocessors, heads)
    assert tokens % PAGE == 0
    assert 6_144 <= tokens <= 10_240
    assert tokens == 8_192 or tokens // 128 * heads % multiprocessors == 0


def test_an_h200_reads_sixteen_waves_of_glm_at_once() -> None:
    assert whole_waves(132, 32) == 8_448


def test_a_card_whose_full_waves_are_far_apart_reads_the_usual_number() -> None:
    assert whole_waves(82, 32) == 8_192
