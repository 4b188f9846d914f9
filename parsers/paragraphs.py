"""From the lines of a PDF page to its text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from parsers.layout import Line

_WIDE = re.compile("[\u2e80-\u2fdf\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60]")


def join(lines: Sequence[Line], em: float, blocks: Mapping[int, str], hidden: Collection[int]) -> str:
    """The lines of a page as text: those in `hidden` left out, `blocks` put in at their line.

    `em` is the height of the usual line. Chinese and Japanese put no blank where a line ends, so a full line
    and the next are one.
    """
    boxes = [line.box for line in lines if line.box and _is_wide(line.text.rstrip()[-1:])]
    right = max((box.right for box in boxes), default=0.0) - 2.2 * em
    left = min((box.left for box in boxes), default=0.0) + 0.7 * em
    out: list[str] = []
    last: Line | None = None
    for index, line in enumerate(lines):
        if index in blocks:
            out += [_break(last), blocks[index], "\n\n"]
            last = None
        elif index not in hidden:
            if last is not None and not _goes_on(last, line, left, right):
                out.append(_break(last))
            elif last is not None:
                out[-1] = out[-1].rstrip()
            out.append(line.text + line.end)
            last = line
    return "".join(out)


def _break(last: Line | None) -> str:
    return "" if last is None or last.end else "\n"


def _is_wide(letter: str) -> bool:
    """Whether a letter is Chinese or Japanese."""
    return letter > "\u2e7f" and _WIDE.match(letter) is not None


def _goes_on(last: Line, line: Line, left: float, right: float) -> bool:
    return bool(
        last.box
        and line.box
        and last.box.right >= right
        and line.box.left <= left
        and line.box.top < last.box.top
        and _is_wide(last.text.rstrip()[-1:])
        and _is_wide(line.text[:1])
    )
