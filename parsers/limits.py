"""What a file may cost to read."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one parse. The first four are checked by the parsers, the rest by the operating system."""

    #: Bytes of the file as it lies on disk.
    max_bytes: int = 1024 * MIB
    #: Pages of a file that has real pages; sections of one that has none are not counted.
    max_pages: int = 10_000
    #: Bytes of all extracted text in UTF-8.
    max_text_bytes: int = 64 * MIB
    #: Bytes of one XML part of a Word file once inflated; its tree takes some ten times as much memory.
    max_part_bytes: int = 128 * MIB
    #: Pages without text whose pictures are recognised; each takes seconds.
    max_ocr_pages: int = 100
    #: Processes that share a long PDF, 1 or 2. A process with threads must not fork, so 2 is for the sandbox.
    processes: int = 1
    #: Address space of the child process in bytes.
    memory_bytes: int = 2048 * MIB
    #: Processor seconds of the child process.
    cpu_s: int = 300
    #: Seconds on the wall clock, start of the child included.
    wall_s: float = 600


DEFAULT_LIMITS = Limits()
