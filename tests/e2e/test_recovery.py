"""Killed in the middle, with the real small model: nothing is lost, and results outlive everything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from api.client import Client, JobChanged
from api.stack import Stack
from jobs.status import Kind, Status
from settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = {"questions": ["What is a report?"], "max_tokens": 8}


def settings(folder: Path) -> Settings:
    """A lease short enough to wait for."""
    return Settings(
        _env_file=None, data=folder, port=0, heartbeat_s=0.3, lease_s=4, sweep_s=1, ring_again_s=1
    )


@pytest.mark.timeout(280)
def test_a_job_survives_its_worker_and_its_result_survives_everything(tmp_path: Path) -> None:
    with Stack(settings(tmp_path)) as stack, Client(stack.url, patience_s=60) as client:
        document = client.upload(EXAMPLES / "specification.html")
        job = client.create_job(Kind.ASK, [document["id"]], params=QUESTION)
        for event in client.events(job["id"]):
            if isinstance(event, JobChanged) and event.job["progress"]["tokens_done"]:
                break
        (worker,) = [child for child in stack.children if child.name.startswith("model-worker")]
        assert worker.pid is not None
        os.killpg(worker.pid, signal.SIGKILL)
        finished = client.wait(job["id"])
        assert (finished["status"], finished["attempt"]) == (Status.COMPLETED, 2)
        again = client.wait(client.create_job(Kind.ASK, [document["id"]], params=QUESTION)["id"])
        assert finished["coverage"]
        assert again["usage"]
        assert again["usage"]["tokens_reused"] == finished["coverage"]["tokens"]
    with Stack(settings(tmp_path)) as stack, Client(stack.url) as client:
        assert client.job(job["id"]) == finished
