"""How fast and how true are PDFs parsed, beside other readers? `python -m benchmarks.parsing FILE...`

Each file is read by bare pypdfium2 and by the whole path (sandbox, layout, cleaning, saving) in turns, the
other readers once. Likeness is that of the words, with their counts, to those of bare pypdfium2. Pictures of
pages are not recognised, for none of the others does that.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pypdfium2

import parsers
from benchmarks.report import save
from jobs.files import FileStore

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")
_LEAST_PAGES = 50


def pdfium(path: Path) -> str:
    """All text by PDFium alone."""
    pdf = pypdfium2.PdfDocument(path)
    texts = []
    for page in pdf:
        text_page = page.get_textpage()
        texts.append(text_page.get_text_range())
        text_page.close()
        page.close()
    return "\n".join(texts).replace("\ufffe", "")


def pypdf(path: Path) -> str:
    """All text by pypdf."""
    from pypdf import PdfReader

    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def pdfminer(path: Path) -> str:
    """All text by pdfminer.six."""
    from pdfminer.high_level import extract_text

    return str(extract_text(path))


def markitdown(path: Path) -> str:
    """All text by markitdown."""
    from markitdown import MarkItDown

    return str(MarkItDown().convert(path).text_content)


def likeness(text: str, other: str) -> float:
    """Share of the words that two texts have in common."""
    one, two = (Counter(_WORD.findall(t.lower())) for t in (text, other))
    return 2 * (one & two).total() / max(1, one.total() + two.total())


def timed(read: Callable[[Path], str], path: Path) -> tuple[float, str]:
    """Seconds and text of one reading."""
    start = time.perf_counter()
    text = read(path)
    return time.perf_counter() - start, text


def measure(path: Path, sandbox: parsers.Sandbox, files: FileStore, rounds: int) -> dict[str, Any]:
    """The figures of one file."""

    def whole(path: Path) -> str:
        document = sandbox.parse(path, filename=path.name)
        text = json.dumps(document.to_json(), ensure_ascii=False).encode()
        files.save_text("0" * 64, parsers.PARSER_VERSION, text)
        return "\n".join(page.text for page in document.pages)

    pages = len(pypdfium2.PdfDocument(path))
    turns = [(timed(pdfium, path), timed(whole, path)) for _ in range(rounds)]
    truth = turns[0][0][1]
    bare, ours = (statistics.median(turn[i][0] for turn in turns) for i in (0, 1))
    readers: dict[str, Any] = {
        "pypdfium2": {"pages_per_s": round(pages / bare, 1), "likeness": 1.0},
        "unabridged": {
            "pages_per_s": round(pages / ours, 1),
            "likeness": round(likeness(turns[0][1][1], truth), 3),
        },
    }
    for module, read in (("pypdf", pypdf), ("pdfminer", pdfminer), ("markitdown", markitdown)):
        if importlib.util.find_spec(module):
            seconds, text = timed(read, path)
            readers[module] = {
                "pages_per_s": round(pages / seconds, 1), "likeness": round(likeness(text, truth), 3),
            }  # fmt: skip
    ratio = round(statistics.median(turn[0][0] / turn[1][0] for turn in turns), 3)
    return {"file": path.name, "pages": pages, "ratio": ratio, "readers": readers}


def long_files() -> list[Path]:
    """The PDFs of more than fifty pages in the folder that UNABRIDGED_CORPUS names."""
    found = sorted(Path(os.environ.get("UNABRIDGED_CORPUS", ".")).glob("**/*.pdf"))
    return [path for path in found if _pages(path) > _LEAST_PAGES]


def _pages(path: Path) -> int:
    try:
        return len(pypdfium2.PdfDocument(path))
    except pypdfium2.PdfiumError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="default: the long PDFs under UNABRIDGED_CORPUS")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    limits = parsers.Limits(max_ocr_pages=0, max_pages=100_000)
    with tempfile.TemporaryDirectory() as folder, parsers.Sandbox(limits) as sandbox:
        files = FileStore(Path(folder), max_upload_bytes=1)
        rows = []
        for path in options.files or long_files():
            rows.append(measure(path, sandbox, files, options.rounds))
            told = rows[-1]
            print(f"{told['file']}, {told['pages']} pages: {told['ratio']:.2f} of bare pypdfium2")
            for name, figures in told["readers"].items():
                print(
                    f"    {name:10} {figures['pages_per_s']:8.1f} pages/s, likeness {figures['likeness']:.3f}"
                )
    print(
        save("parsing", {"command": "python -m benchmarks.parsing", "rounds": options.rounds, "files": rows})
    )


if __name__ == "__main__":
    main()
