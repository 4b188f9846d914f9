"""What the doctor says of cards, asked of a program that answers as NVIDIA's does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (
            "NVIDIA A100-SXM4-80GB, 81920 MiB, 580.159, 8.0",
            "NVIDIA A100-SXM4-80GB, 81920 MiB, driver 580.159",
        ),
        ("NVIDIA H200, 143771 MiB, 580.159, 9.0", "NVIDIA H200, 143771 MiB, driver 580.159"),
    ],
)
def test_cards_are_named_and_hopper_ones_told_what_they_lack(card: str, told: str, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{card}'\n")
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "0",
        "UNABRIDGED_ENGINE": "fake",
        "UNABRIDGED_DATA": str(tmp_path),
    }
    command = [sys.executable, "-m", "api.cli", "doctor", "--json"]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (line,) = (check["detail"] for check in json.loads(asked.stdout)["data"] if check["name"] == "card")
    assert line.startswith(told)
    lacks = card.endswith("9.0") and find_spec("flash_attn") is None
    assert ("unabridged[hopper]" in line) == lacks
