"""Pages that are pictures, read by Tesseract."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.documents import scanned_pdf

from parsers import parse_in_process
from parsers.ocr import find

TEXT = "The rent is due monthly.\nThe quick brown fox jumps over the lazy dog."


@pytest.mark.skipif(find() is None, reason="Tesseract is not installed")
def test_a_page_that_is_a_picture_is_recognised_and_told(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(scanned_pdf(TEXT))
    document = parse_in_process(path, filename="a.pdf")
    assert document.pages[0].text == TEXT
    assert document.ocr_pages == (1,)
    assert "1 of 2 pages was recognised" in document.warnings[0]
