"""Migrations: up, down and up again; what they build is what the tables say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from services import Doorbell
from story import Story

import migrations
from jobs.database import open_engine, utc_now
from jobs.queues import CPU, QUICK
from jobs.record import Record, open_record
from jobs.tables import Base, OutboxRow
from settings import Settings

ROOT = Path(migrations.__file__).parent.parent


def tables(database_url: str) -> set[str]:
    engine = open_engine(database_url)
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_an_empty_database_is_not_up_to_date(empty_database_url: str) -> None:
    assert migrations.current(empty_database_url) is None
    assert not migrations.at_head(empty_database_url)


def test_up_down_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    migrations.upgrade(url)
    assert migrations.at_head(url)
    assert set(Base.metadata.tables) <= tables(url)
    migrations.downgrade(url, "base")
    assert tables(url) == {"alembic_version"}
    assert not migrations.at_head(url)
    migrations.upgrade(url)
    migrations.upgrade(url)
    assert migrations.at_head(url)


def test_the_migrations_build_what_the_tables_say(database_url: str) -> None:
    engine = open_engine(database_url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    engine.dispose()
    assert differences == []


@pytest.fixture
def migrated(empty_database_url: str, settings: Settings, ring: Doorbell) -> Iterator[Record]:
    """A record on a database of its own."""
    migrations.upgrade(empty_database_url)
    record = open_record(
        settings.model_copy(update={"database_url": empty_database_url}), ring=ring, clock=utc_now
    )
    yield record
    record.close()


def test_a_record_works_on_what_the_migrations_build(migrated: Record) -> None:
    assert migrated.ledger.get(Story(migrated).begin().id).attempt == 1


def test_webhooks_that_wait_over_an_upgrade_find_their_queue(
    migrated: Record, empty_database_url: str
) -> None:
    delivery = Story(migrated).deliver()
    migrations.downgrade(empty_database_url, "0003")
    migrated.deliveries.missed(delivery, {"seconds": 1.0})
    with migrated.database.transaction() as session:
        session.execute(sa.update(OutboxRow).values(queue=CPU))  # as it was rung for then
    migrations.upgrade(empty_database_url)
    with migrated.database.reading() as session:
        assert session.scalars(sa.select(OutboxRow.queue)).all() == [QUICK]


def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(
    migrated: Record, empty_database_url: str
) -> None:
    job = Story(migrated).ask()
    with migrations.connect(empty_database_url) as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("jobs", recreate="auto") as table:
            table.alter_column("kind", nullable=True)
    assert len(migrated.ledger.get(job.id).document_ids) == 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_database_url: str) -> None:
    with suppress(sa.exc.DBAPIError), migrations.connect(empty_database_url) as connection:
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
    assert tables(empty_database_url) == set()


def test_a_new_revision_is_written_in_types_that_cannot_change(
    tmp_path: Path, empty_database_url: str
) -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("version_locations", str(tmp_path))
    config.set_main_option("path_separator", "os")
    with migrations.connect(empty_database_url) as connection:
        config.attributes["connection"] = connection
        command.revision(config, "Again", autogenerate=True, rev_id="again")
    [written] = tmp_path.glob("*.py")
    source = written.read_text()
    assert 'revision: str = "again"' in source
    assert 'sa.Column("id", sa.Text()' in source.replace("'", '"')
    assert "jobs.tables" not in source
    compile(source, written, "exec")


def test_the_wheel_contains_every_file_of_the_migrations() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for path in (ROOT / "migrations").rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        assert (path.parent / "__init__.py").exists()
        package = ".".join(path.relative_to(ROOT).parent.parts)
        data = ["*.py", *build["package-data"].get(package, [])]
        assert any(fnmatch(package, pattern) for pattern in build["packages"]["find"]["include"]), package
        assert any(fnmatch(path.name, pattern) for pattern in data), path
