"""Migrations as they are run: by commands, in processes of their own, several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import migrations

if TYPE_CHECKING:
    from postgresql import PostgreSQL

ROOT = Path(migrations.__file__).parent.parent
MODULE = [sys.executable, "-m", "migrations"]
ALEMBIC = [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations" / "alembic.ini")]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, empty_database_url: str) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield empty_database_url
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    with server.database(template="template1") as created:
        yield created


def start(command: list[str], url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "UNABRIDGED_DATABASE_URL": url}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(command: list[str], url: str) -> str:
    process = start(command, url)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def test_processes_that_upgrade_at_once_all_succeed(url: str) -> None:
    processes = [start(MODULE, url) for _ in range(4)]
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "up to date" in said
    assert migrations.at_head(url)


def test_the_alembic_command_works_on_the_database_of_the_settings(url: str) -> None:
    run([*ALEMBIC, "upgrade", "head"], url)
    assert migrations.at_head(url)
    assert "(head)" in run([*ALEMBIC, "current"], url)
    run([*ALEMBIC, "check"], url)
    run([*ALEMBIC, "downgrade", "base"], url)
    assert migrations.current(url) is None
