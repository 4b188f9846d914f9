"""Makes the example documents from sources/: `python examples/build.py [folder]`, the same bytes every time.

Needs `typst==0.15.2` and `python-docx==1.2.0`; reading the examples needs neither.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import redline
import typst

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
FIRST = redline.Draft(
    tracked=False,
    label="First draft, 3 March 2025",
    author="Ruben Falk",
    date=datetime(2025, 3, 3, 9, tzinfo=UTC),
)
NEGOTIATED = redline.Draft(
    tracked=True,
    label="Customer's changes, 14 March 2025",
    author="Noor Adeyemi",
    date=datetime(2025, 3, 14, 16, 30, tzinfo=UTC),
)


def pdf(name: str) -> bytes:
    """PDF/UA-1: tagged, and an error rather than an empty box where a font lacks a character."""
    fonts = [str(SOURCES / "fonts")]
    made = typst.compile(
        str(SOURCES / name), format="pdf", font_paths=fonts, ignore_system_fonts=True, pdf_standards=["ua-1"]
    )
    assert isinstance(made, bytes)
    return made


def build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    contract = (SOURCES / "contract.md").read_text(encoding="utf-8")
    (folder / "annual-report.pdf").write_bytes(pdf("annual-report.typ"))
    (folder / "chinese.pdf").write_bytes(pdf("chinese.typ"))
    (folder / "contract-v1.docx").write_bytes(redline.write(contract, FIRST))
    (folder / "contract-v2.docx").write_bytes(redline.write(contract, NEGOTIATED))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
