"""A container's limit on memory is found in either version of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.engine.cgroup import free_bytes

MIB = 1 << 20


class Groups:
    """A folder that looks like the one where control groups are mounted."""

    def __init__(self, folder: Path, version: int) -> None:
        self.root = folder / "groups"
        self.membership = folder / "membership"
        self._memory = self.root if version == 2 else self.root / "memory"
        names = ["memory.max", "memory.current", "inactive_file"]
        self._names = names if version == 2 else [
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ]  # fmt: skip
        self._version = version

    def join(self, path: str) -> None:
        lines = {1: f"12:cpu,cpuacct:/elsewhere\n7:memory:{path}\n", 2: f"0::{path}\n"}
        self.membership.write_text(lines[self._version])

    def limit(self, path: str, limit: int | str, used: int, cached: int = 0) -> None:
        folder = self._memory / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self._names[0]).write_text(f"{limit}\n")
        (folder / self._names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{self._names[2]} {cached}\nfile 7\n")

    def free(self) -> int:
        return free_bytes(self.root, self.membership)


@pytest.fixture(params=[1, 2])
def groups(tmp_path: Path, request: pytest.FixtureRequest) -> Groups:
    return Groups(tmp_path, request.param)


def test_what_a_group_leaves_counts_and_its_page_cache_is_free(groups: Groups) -> None:
    groups.join("/box")
    groups.limit("box", 9 * MIB, 5 * MIB, cached=2 * MIB)
    assert groups.free() == 6 * MIB


def test_the_strictest_group_on_the_way_up_counts(groups: Groups) -> None:
    groups.join("/slice/box")
    groups.limit("slice/box", 9 * MIB, 1 * MIB)
    groups.limit("slice", 20 * MIB, 17 * MIB)
    assert groups.free() == 3 * MIB


def test_a_container_that_sees_its_own_group_only_finds_its_limit(groups: Groups) -> None:
    """The path is the computer's, and what is mounted is the container's part of it."""
    groups.join("/docker/0123")
    groups.limit(".", 4 * MIB, 1 * MIB)
    assert groups.free() == 3 * MIB


def test_a_group_that_took_more_than_its_limit_leaves_nothing(groups: Groups) -> None:
    groups.join("/box")
    groups.limit("box", 4 * MIB, 5 * MIB)
    assert groups.free() == 0


@pytest.mark.parametrize("limit", ["max", 1 << 63])
def test_without_a_limit_the_systems_memory_counts(groups: Groups, limit: int | str) -> None:
    groups.join("/box")
    groups.limit("box", limit, 5 * MIB)
    assert groups.free() > 16 * MIB


def test_a_system_without_groups_counts_its_memory(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "groups", tmp_path / "membership") > 16 * MIB
