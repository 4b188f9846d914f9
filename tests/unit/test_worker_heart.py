"""A heart beats until the job is done, and stops the job when it must."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from jobs.errors import LeaseLost
from worker.heart import Heart

SOON = 20.0  # seconds until a test gives up waiting


def outcome_of(beat: Callable[[], bool]) -> Heart:
    """Let a heart beat until it stops its job."""
    stopped = threading.Event()
    with Heart(beat, stopped.set, every_s=0.001, lease_s=0.01) as heart:
        assert stopped.wait(SOON)
    return heart


def test_cancelling_stops_the_job() -> None:
    heart = outcome_of(lambda: True)
    assert (heart.cancelled, heart.lost) == (True, False)


@pytest.mark.parametrize("error", [LeaseLost, ConnectionError])
def test_losing_the_lease_or_the_database_stops_the_job(error: type[Exception]) -> None:
    def beat() -> bool:
        raise error

    heart = outcome_of(beat)
    assert (heart.cancelled, heart.lost) == (False, True)


def test_one_missed_beat_is_forgiven() -> None:
    beats = iter([ConnectionError(), None, None])
    enough = threading.Event()

    def beat() -> bool:
        error = next(beats, None)
        if error:
            raise error
        enough.set()
        return False

    stopped = threading.Event()
    with Heart(beat, stopped.set, every_s=0.001, lease_s=1.0) as heart:
        assert enough.wait(SOON)
    assert not stopped.is_set()
    assert not heart.lost


def test_no_beat_comes_after_the_end() -> None:
    with Heart(lambda: False, lambda: None, every_s=0.001, lease_s=1.0):
        assert "heart" in {thread.name for thread in threading.enumerate()}
    assert "heart" not in {thread.name for thread in threading.enumerate()}
