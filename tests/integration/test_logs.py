"""What goes into the logs when something breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

BREAKS = """
def read(text):
    raise ValueError("It broke.")

import structlog
try:
    read("the text of a " + "document")
except ValueError:
    structlog.get_logger().exception("failed")
"""


@pytest.mark.parametrize(
    "configured",
    [
        "from api.log import configure; configure('info')",
        "from celery import signals; import worker.tasks; signals.setup_logging.send(sender=None)",
    ],
    ids=["api", "worker"],
)
def test_an_error_is_told_with_its_place_and_without_the_text_of_a_document(configured: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", configured + BREAKS], capture_output=True, text=True, check=True
    )
    told = ended.stdout + ended.stderr
    assert "It broke." in told
    assert "read" in told
    assert "the text of a document" not in told
