"""What a fresh process loads: nothing that it can do without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data.documents import paragraph, word

ROOT = Path(__file__).parents[2]


def loaded(program: str, *arguments: Path, of: set[str]) -> str:
    """Which of some libraries a program has loaded at its end."""
    command = [sys.executable, "-c", f"import sys, {program}; print({of} & set(sys.modules) or 'none')"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_engine_loads_no_heavy_library() -> None:
    assert loaded("worker.engine", of={"torch", "transformers"}) == "none"


def test_sniffing_loads_no_parser(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(word(paragraph("Hello")))
    sniffing = "pathlib, parsers; parsers.sniff(pathlib.Path(sys.argv[1]), 'a.docx')"
    libraries = {"lxml", "pypdf", "pypdfium2", "onnxruntime", "numpy"}
    assert loaded(sniffing, tmp_path / "a.docx", of=libraries) == "none"
