"""Two processes make the items of one sequence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: this one has threads, and must not fork."""
    command = [sys.executable, "-c", f"import os\nfrom parsers.halves import made\n{program}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_items_come_in_order_from_both() -> None:
    told = run(
        "items = list(made(lambda n: (n, os.getpid()), 5))\n"
        "print([n for n, _ in items], len({p for _, p in items}))"
    )
    assert told.stdout == "[0, 1, 2, 3, 4] 2\n"


def test_nothing_is_left_of_the_other_when_items_are_no_longer_wanted() -> None:
    told = run("items = made(lambda n: n, 10**9)\nprint(next(items), next(items))\nitems.close()\nos.wait()")
    assert told.stdout == "0 1\n"
    assert "ChildProcessError" in told.stderr


def test_a_signal_that_ends_the_other_ends_this_one() -> None:
    told = run("list(made(lambda n: os.kill(os.getpid(), 11) if n == 3 else n, 9))")
    assert told.returncode == -11


def test_a_failure_of_the_other_is_one_of_memory() -> None:
    told = run("list(made(lambda n: n / (n - 3), 9))")
    assert "MemoryError" in told.stderr


def test_the_other_process_reads_files_that_it_opened_itself(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("0123456789" * 1000)
    told = run(
        f"open_file = lambda: open({str(tmp_path / 'digits')!r}, 'rb', 0)\n"
        "def reader():\n"
        "    file = open_file()\n"
        "    return lambda n: (file.seek(n), file.read(1))[1]\n"
        "items = b''.join(made(reader(), 10_000, there=reader))\n"
        "print(items == b'0123456789' * 1000)"
    )
    assert told.stdout == "True\n"
