"""Pages that are pictures, read by Tesseract."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.documents import scanned_pdf

from parsers import Limits, parse_in_process
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


@pytest.mark.skipif(find() is None, reason="Tesseract is not installed")
def test_a_stamp_on_a_scan_does_not_stand_for_its_text(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(scanned_pdf(TEXT, stamp="ACME 000001"))
    document = parse_in_process(path, filename="a.pdf")
    assert document.pages[0].text == f"{TEXT}\n\nACME 000001"
    assert document.ocr_pages == (1,)


@pytest.mark.skipif(find() is None, reason="Tesseract is not installed")
def test_what_is_typed_on_a_picture_without_text_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(scanned_pdf("", stamp="Annual Report"))
    document = parse_in_process(path, filename="a.pdf")
    assert (document.pages[0].text, document.ocr_pages, document.warnings) == ("Annual Report", (), ())


@pytest.mark.skipif(find() is None, reason="Tesseract is not installed")
def test_a_scan_for_which_there_is_no_time_left_is_told(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(scanned_pdf(TEXT))
    document = parse_in_process(path, filename="a.pdf", limits=Limits(wall_s=0))
    assert [page.text for page in document.pages] == ["", "Typed."]
    assert "1 of 2 pages are pictures and were not read (no time was left)" in document.warnings[0]
