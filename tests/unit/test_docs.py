"""What the documentation promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from settings import Settings

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_and_no_other() -> None:
    documented = re.findall(r"^\| `UNABRIDGED_(\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert sorted(name.lower() for name in documented) == sorted(Settings.model_fields)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/api.md", "docs/errors.md", "docs/settings.md"]
)
def test_every_link_within_the_project_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
