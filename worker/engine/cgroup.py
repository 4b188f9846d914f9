"""How much of this computer's memory a process may still take: a container's limit is not the computer's.

Linux limits memory by control groups. A group's limit holds for those below it, so the strictest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]


class _Names(NamedTuple):
    """Of a group's files."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]  #: in `memory.stat`: the page cache, given up before anything fails


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))


def free_bytes(groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """What the system has available, or what a control group of this process leaves of it.

    `groups`: where they are mounted. `membership`: in which this process is, as cgroups(7) has it.
    """
    return min([int(psutil.virtual_memory().available), *_left(groups, membership)])


def _left(groups: Path, membership: Path) -> Iterator[int]:
    """Of every limit that holds for this process. In a container, its own group may be the mount itself."""
    lines: list[str] = []
    with suppress(OSError):  # no Linux
        lines = membership.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names, root = (_V1, groups / "memory") if controllers else (_V2, groups)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # not there, or "max"
                yield _left_in(folder, names)
            if folder == root:
                break


def _left_in(folder: Path, names: _Names) -> int:
    limit, used = (int((folder / name).read_text()) for name in (names.limit, names.used))
    stat: dict[str, str] = {}
    with suppress(OSError):
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, limit - used + sum(int(stat.get(name, 0)) for name in names.reclaimable))
