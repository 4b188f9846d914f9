"""Every behaviour of the record once more on PostgreSQL: the unit tests, on databases of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine

from jobs.database import open_engine

if TYPE_CHECKING:
    from postgresql import PostgreSQL

WITHOUT_A_DATABASE = {"test_record_files", "test_record_params", "test_record_services"}

for path in sorted((Path(__file__).parents[1] / "unit").glob("test_record_*.py")):
    if path.stem not in WITHOUT_A_DATABASE:
        for name, value in vars(import_module(f"unit.{path.stem}")).items():
            if not name.startswith("_"):
                assert not (name.startswith("test_") and name in globals()), f"two tests are called {name}"
                globals()[name] = value  # tests, and the fixtures they ask for


@pytest.fixture
def database_engine(postgresql: PostgreSQL) -> Iterator[Engine]:
    with postgresql.database() as url:
        engine = open_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def empty_database_url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database(template="template1") as url:
        yield url
