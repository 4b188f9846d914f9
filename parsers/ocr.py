"""Text recognition of page pictures by Tesseract, where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from functools import cached_property
from typing import Any

import pypdfium2 as pdfium

_DOTS_PER_INCH = 300
#: Pixels of the longer side: a poster is recognised at a lower resolution.
_MOST_PIXELS = 5000
_ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
#: Orientation and script detection: a model of Tesseract that is no language.
_ORIENTATION = "osd"
#: Percent of confidence from which on the page is not tried turned, and below which nothing was read.
_SURE, _READABLE = 60.0, 30.0
_COLUMNS = 12
#: A picture holds text of its own if so many times as much is recognised as is typed on it, which is exact.
_MORE = 2
#: Chinese characters are recognised as words of their own.
_BETWEEN_WIDE = re.compile("(?<=[\u3000-\u9fff\uff00-\uff60]) (?=[\u3000-\u9fff\uff00-\uff60])")


class Scans:
    """Pages that are pictures: read as far as they can be, and counted."""

    def __init__(self, most: int, seconds: float) -> None:
        """At most so many are recognised, and none is begun after so many seconds."""
        self._left = most
        self._until = time.monotonic() + seconds
        self._read: list[int] = []
        self._unread: list[int] = []

    def read(self, page: pdfium.PdfPage, number: int, *, typed: str = "") -> str:
        """The text in the picture of a page, "" where there is little beside what is `typed` on it, or nobody
        to read it."""
        if self._left > 0 and self._tesseract and time.monotonic() < self._until:
            self._left -= 1
            text = self._tesseract.read(page)
            if len(text) <= _MORE * len(typed):
                return ""
            self._read.append(number)
            return text
        self._unread.append(number)
        return ""

    def warnings(self, total: int) -> list[str]:
        """What the reader of a document of `total` pages should know."""
        out = []
        if self._read:
            out.append(
                f"The text of {len(self._read)} of {total} pages was recognised in pictures (OCR); it may "
                f"hold mistakes: {named(self._read)}."
            )
        if self._unread:
            why = "no time was left"
            if self._left <= 0:
                why = "more than are recognised"
            elif not self._tesseract:
                why = "no text recognition is installed"
            out.append(
                f"{len(self._unread)} of {total} pages are pictures and were not read ({why}): "
                f"{named(self._unread)}."
            )
        return out

    @cached_property
    def _tesseract(self) -> Tesseract | None:
        return find()


def named(pages: list[int]) -> str:
    """Page numbers for a warning."""
    return ", ".join(map(str, pages[:20])) + (" and more" if len(pages) > 20 else "")


class Tesseract:
    """The program, with all languages that are installed with it."""

    def __init__(self, program: str, languages: list[str]) -> None:
        spoken = [language for language in languages if language != _ORIENTATION]
        self._command = [program, "stdin", "stdout", "-l", "+".join(spoken or ["eng"])]
        # Segmentation 1 also finds out how the page is turned, 3 takes it as it is.
        segmentation = "1" if _ORIENTATION in languages else "3"
        self._command += ["--dpi", str(_DOTS_PER_INCH), "--psm", segmentation, "tsv"]

    def read(self, page: pdfium.PdfPage) -> str:
        """The text in the picture of a page, "" where there is none; turned if it reads better so."""
        best, confidence = "", 0.0
        for turn in (0, 180, 90, 270):
            text, sureness = self._recognise(page, turn)
            if sureness > confidence:
                best, confidence = text, sureness
            if not text or confidence >= _SURE:
                break
        return best if confidence >= _READABLE else ""

    def _recognise(self, page: pdfium.PdfPage, turn: int) -> tuple[str, float]:
        found = subprocess.run(
            self._command, input=_picture(page, turn), capture_output=True, env=_ENVIRONMENT, check=False
        )
        return _text(found.stdout.decode(errors="replace"))


def find() -> Tesseract | None:
    """Tesseract, if it and a language for it are installed."""
    program = shutil.which("tesseract", path=f"/usr/local/bin:{os.defpath}")
    if program is None:
        return None
    listed = subprocess.run(
        [program, "--list-langs"], capture_output=True, text=True, env=_ENVIRONMENT, check=False
    )
    languages = listed.stdout.split("\n")[1:]
    return Tesseract(program, [name for name in languages if name]) if any(languages) else None


def _text(table: str) -> tuple[str, float]:
    """Text and mean confidence of Tesseract's table: level, page, block, paragraph, line, word, ..., text."""
    lines: dict[tuple[str, ...], list[str]] = {}
    sure = 0.0
    for row in table.split("\n")[1:]:
        fields = row.split("\t")
        if len(fields) == _COLUMNS and fields[-1].strip():
            lines.setdefault(tuple(fields[2:5]), []).append(fields[-1])
            sure += float(fields[-2]) * len(fields[-1])
    text, last = "", None
    for place, words in lines.items():
        text += ("" if last is None else "\n" if place[:2] == last else "\n\n") + " ".join(words)
        last = place[:2]
    letters = sum(len(word) for words in lines.values() for word in words)
    return _BETWEEN_WIDE.sub("", text), sure / letters if letters else 0.0


def _picture(page: Any, turn: int) -> bytes:
    """A page as grey pixels in the format PGM."""
    scale = min(_DOTS_PER_INCH / 72, _MOST_PIXELS / max(page.get_size()))
    bitmap = page.render(scale=scale, grayscale=True, rotation=turn)
    width, height, stride = bitmap.width, bitmap.height, bitmap.stride
    pixels = bytes(bitmap.buffer)
    rows = (pixels[y * stride : y * stride + width] for y in range(height))
    return b"P5 %d %d 255\n" % (width, height) + b"".join(rows)
