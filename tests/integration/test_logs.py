"""What goes into the logs when something breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_a_request_is_answered_though_its_line_finds_no_room_on_the_disk() -> None:
    configured = "from api.log import configure; configure('info')"
    told = "import structlog; structlog.get_logger().info('request'); print('answered')"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"{configured}; {told}"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert ended.stdout == "answered\n"
