"""A file is read in a child process, and nothing that it does there reaches this one."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from data import documents

from parsers import (
    Damaged,
    Encrypted,
    Limits,
    OutOfMemory,
    ParseError,
    Sandbox,
    TimedOut,
    TooManyPages,
    Unsupported,
    parse,
    parse_in_process,
)

FILES = {
    "a.pdf": documents.pdf(["Hello", "", "World"], title="Greeting", labels="0 << /S /r >>"),
    "a.docx": documents.word(documents.paragraph("Hello") + documents.paragraph("第五条")),
    "a.html": b"<nav>Home</nav><h1>Hello</h1><p>World</p><h2>Again</h2><p>\xc3\xa9",
    "a.txt": "Grüße aus Köln\n".encode("latin-1") * 300,
    "wrong.docx": documents.pdf(["Hello"]),
}
LONG = documents.pdf(["The quick brown fox jumps over the lazy dog. " * 40] * 400)


def children() -> list[int]:
    """Process ids of this thread's children, the one that multiprocessing keeps for other tests aside."""
    pids = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(pid) for pid in pids if b"multiprocessing" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@pytest.mark.parametrize("filename", FILES)
def test_the_child_reads_what_this_process_would(path: Path, filename: str) -> None:
    path.write_bytes(FILES[filename])
    assert parse(path, filename=filename) == parse_in_process(path, filename=filename)


def test_progress_is_told_page_by_page(path: Path) -> None:
    path.write_bytes(LONG)
    seen: list[tuple[int, int]] = []
    parse(path, filename="a.pdf", on_page=lambda done, total: seen.append((done, total)))
    assert seen == [(page, 400) for page in range(1, 401)]


def peak(pid: int) -> int:
    """KiB that a process ever held in memory."""
    [line] = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(line)


def test_five_thousand_pages_are_read_in_the_memory_of_five_hundred(path: Path) -> None:
    pages = ["\n".join(f"Line {n * k} of the text" for k in range(11, 20)) for n in range(5000)]
    path.write_bytes(documents.pdf(pages))
    seen: list[tuple[int, int]] = []
    peaks: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append((done, total))
        if done in {500, 5000}:
            peaks.append(peak(children()[0]))

    document = parse(path, filename="a.pdf", on_page=look)
    assert seen == [(page, 5000) for page in range(1, 5001)]
    assert [page.text for page in document.pages] == pages
    assert peaks[1] < 1.3 * peaks[0]


def test_a_password_reaches_the_child(path: Path) -> None:
    path.write_bytes(documents.locked_pdf(["Secret"], "pässword"))
    assert parse(path, filename="a.pdf", password="pässword").pages[0].text == "Secret"
    with pytest.raises(Encrypted):
        parse(path, filename="a.pdf")


def test_an_error_of_the_child_is_raised_here_with_its_message(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(Unsupported, match="a PNG image"):
        parse(path, filename="a.pdf")


def test_a_file_that_is_not_there_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse(path, filename="a.pdf")


def test_twenty_thousand_pages_are_refused_within_the_time_to_count_them(path: Path) -> None:
    path.write_bytes(documents.pdf(["page"] * 20_000))
    with pytest.raises(TooManyPages, match="20,000 pages"):
        parse(path, filename="a.pdf", limits=Limits(cpu_s=2))


def test_a_file_that_takes_too_long_is_stopped(path: Path) -> None:
    path.write_bytes(LONG)
    with pytest.raises(TimedOut):
        parse(path, filename="a.pdf", limits=Limits(wall_s=0.01))
    assert children() == []


def test_a_file_that_computes_too_long_is_stopped(path: Path) -> None:
    path.write_bytes(b"<html><body>" + b"<p>x" * 2_000_000)
    with pytest.raises(TimedOut, match="1 s of processor time"):
        parse(path, filename="a.html", limits=Limits(cpu_s=1))


def big_text() -> bytes:
    return b"some words " * 10_000_000


def big_html() -> bytes:
    return b"<html><body>" + b"<p>some words " * 3_000_000


def big_word() -> bytes:
    return documents.word(documents.paragraph("some words") * 1_000_000)


@pytest.mark.parametrize(
    ("content", "filename"), [(big_text, "a.txt"), (big_html, "a.html"), (big_word, "a.docx")]
)
def test_a_file_that_takes_too_much_memory_is_stopped(
    path: Path, content: Callable[[], bytes], filename: str
) -> None:
    path.write_bytes(content())
    with pytest.raises(OutOfMemory):
        parse(path, filename=filename, limits=Limits(memory_bytes=160 << 20))


def test_a_child_that_crashes_means_a_damaged_file(path: Path) -> None:
    path.write_bytes(LONG)
    with pytest.raises(Damaged, match="crashed the parser"):
        parse(path, filename="a.pdf", on_page=lambda done, total: os.kill(children()[0], signal.SIGSEGV))
    assert children() == []


def test_a_child_that_the_kernel_kills_ran_out_of_memory(path: Path) -> None:
    path.write_bytes(LONG)
    with pytest.raises(OutOfMemory):
        parse(path, filename="a.pdf", on_page=lambda done, total: os.kill(children()[0], signal.SIGKILL))


def test_what_the_callback_raises_ends_the_child_and_is_passed_on(path: Path) -> None:
    path.write_bytes(LONG)

    class CancelledError(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        parse(path, filename="a.pdf", on_page=cancel)
    assert children() == []


def test_a_failure_of_the_parser_itself_is_not_blamed_on_the_file(path: Path) -> None:
    path.write_bytes(FILES["a.txt"])
    with pytest.raises(ParseError, match="The parser failed") as raised:
        parse(path, filename="a.txt", limits=Limits(cpu_s="soon"))  # type: ignore[arg-type]
    assert raised.value.code == "parse_failed"


def test_the_child_is_confined_and_sees_nothing_of_this_environment(path: Path) -> None:
    path.write_bytes(LONG)
    seen: list[tuple[str, bytes]] = []

    def look(done: int, total: int) -> None:
        if done == 1:
            process = Path(f"/proc/{children()[0]}")
            seen.append(((process / "limits").read_text(), (process / "environ").read_bytes()))

    parse(path, filename="a.pdf", limits=Limits(memory_bytes=1 << 30, cpu_s=7), on_page=look)
    [(limits, environment)] = seen
    for expected in (
        r"Max address space\s+1073741824\s",
        r"Max cpu time\s+7\s",
        r"Max file size\s+1048576\s",
        r"Max open files\s+64\s",
        r"Max core file size\s+0\s",
    ):
        assert re.search(expected, limits)
    assert "PATH" in os.environ
    assert b"PATH" not in environment


def test_the_limits_hold_for_the_child_only(path: Path) -> None:
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
    before = [resource.getrlimit(kind) for kind in kinds]
    path.write_bytes(FILES["a.pdf"])
    parse(path, filename="a.pdf", limits=Limits(memory_bytes=200 << 20, cpu_s=5))
    assert [resource.getrlimit(kind) for kind in kinds] == before


def test_many_threads_may_parse_at_once(path: Path) -> None:
    path.write_bytes(FILES["a.pdf"])
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(parse(path, filename="a.pdf").pages[0].text))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["Hello"] * 6


def test_the_child_finds_the_package_from_any_folder(path: Path) -> None:
    path.write_bytes(FILES["a.pdf"])
    root = str(Path(__file__).parents[2])
    program = (
        f"import sys, pathlib; sys.path.insert(0, {root!r}); import parsers;"
        "print(parsers.parse(pathlib.Path(sys.argv[1]), filename='a.pdf').title)"
    )
    command = [sys.executable, "-c", program, str(path)]
    told = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert told.stdout == "Greeting\n"


def test_a_child_that_read_a_small_file_reads_the_next(path: Path) -> None:
    with Sandbox() as sandbox:
        path.write_bytes(FILES["a.pdf"])
        sandbox.parse(path, filename="a.pdf")
        first = children()
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        with pytest.raises(Unsupported):
            sandbox.parse(path, filename="a.pdf")
        path.write_bytes(FILES["a.html"])
        assert sandbox.parse(path, filename="a.html").pages[0].text == "Hello\n\nWorld"
        assert children() == first
    assert children() == []


def test_a_child_that_read_a_large_file_reads_no_other_and_the_next_is_ready(path: Path) -> None:
    path.write_bytes(b"A line of words.\n" * 600_000)
    with Sandbox() as sandbox:
        used: list[int] = []
        for _ in range(2):
            sandbox.parse(path, filename="a.txt", on_page=lambda *_: used.extend(children()))
            assert len(children()) == 1
        assert len(set(used)) == 2
    assert children() == []


def test_the_next_file_finds_another_child_where_one_crashed(path: Path) -> None:
    path.write_bytes(LONG)
    with Sandbox() as sandbox:
        with pytest.raises(Damaged, match="crashed the parser"):
            sandbox.parse(path, filename="a.pdf", on_page=lambda *_: os.kill(children()[0], signal.SIGSEGV))
        assert len(sandbox.parse(path, filename="a.pdf").pages) == 400
        [waiting] = children()
        os.kill(waiting, signal.SIGKILL)
        os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)
        assert len(sandbox.parse(path, filename="a.pdf").pages) == 400


def test_time_is_counted_for_each_file_anew(path: Path) -> None:
    path.write_bytes(LONG)
    with Sandbox(Limits(cpu_s=2)) as sandbox:
        for _ in range(4):
            assert len(sandbox.parse(path, filename="a.pdf").pages) == 400


def test_the_child_can_make_no_sockets(path: Path) -> None:
    path.write_bytes(LONG)
    seen: list[str] = []
    parse(
        path,
        filename="a.pdf",
        on_page=lambda *_: seen.append(Path(f"/proc/{children()[0]}/status").read_text()),
    )
    assert re.search(r"^Seccomp:\s+2$", seen[0], re.MULTILINE)
    program = "from parsers import network; print(network.forbid()); import socket; socket.socket()"
    tried = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.stdout == "True\n"
    assert "PermissionError" in tried.stderr


def test_two_processes_read_a_long_file_as_one_does(path: Path) -> None:
    path.write_bytes(documents.pdf([f"Page {n} of many. " * 40 for n in range(300)]))
    assert parse(path, filename="a.pdf") == parse_in_process(path, filename="a.pdf")
