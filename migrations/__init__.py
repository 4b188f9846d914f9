"""Migrations: bring a database to the tables of `jobs.tables`, and back.

Several processes may upgrade at once: each works in one transaction that first takes a lock, so that the
others wait and then find nothing left to do. SQLite locks out other writers; PostgreSQL has advisory locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from jobs.database import open_engine

_HERE = Path(__file__).parent
#: Key of the advisory lock; any number that nothing else in the database uses.
_LOCK = 0x756E616272696467


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring a database up to a revision; a new one is made."""
    with connect(database_url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Bring a database down to a revision; `base` removes every table and what is in it."""
    with connect(database_url) as connection:
        command.downgrade(_config(connection), revision)


def current(database_url: str) -> str | None:
    """The revision a database is at; None if it has no tables yet."""
    engine = open_engine(database_url)
    try:
        with engine.connect().execution_options(reading=True) as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def at_head(database_url: str) -> bool:
    """Whether a database has every table and column this version of the program needs."""
    return current(database_url) == ScriptDirectory(str(_HERE)).get_current_head()


@contextmanager
def connect(database_url: str) -> Iterator[Connection]:
    """A connection in a transaction of its own that no other migration can share; committed at the end.

    On SQLite a table is rebuilt to alter it, and with foreign keys on, dropping the old one would delete the
    rows that refer to it (sqlite.org/lang_altertable.html, section 7). Inside a transaction they stay on.
    """
    engine = open_engine(database_url)
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                with closing(connection.connection.cursor()) as cursor:
                    cursor.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                yield connection
    finally:
        engine.dispose()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
