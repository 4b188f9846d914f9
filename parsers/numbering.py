"""List labels of a Word document ("3.1", "(a)", "第五条"), which the file does not store but lets count."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from parsers.attributes import get, is_on, value, whole

#: Formats of Word by their names in HTML (section 4.4.5) and OpenDocument (part 3, section 20.314).
FORMATS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
_LEVEL = re.compile(r"%([1-9])")
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"),
    (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
_CHINESE = frozenset({
    "chineseCounting", "chineseCountingThousand", "ideographDigital", "japaneseCounting", "taiwaneseCounting",
    "taiwaneseCountingThousand",
})  # fmt: skip


@dataclass(slots=True)
class _Level:
    format: str = "decimal"
    text: str = ""
    start: int = 1
    #: "Section 1.01" below "Article I": all numbers of this label are decimal.
    legal: bool = False
    #: Counting starts again after a paragraph of any level before this one.
    restart: int = 0


class Numbering:
    """Counts the paragraphs of every list (ECMA-376 part 1, section 17.9), each once and in order."""

    def __init__(self, root: Any) -> None:
        """`root`: the numbering part, or None where the document has no lists."""
        self._abstract: dict[str, dict[int, _Level]] = {}
        self._lists: dict[str, tuple[str, dict[int, _Level]]] = {}
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        if root is not None:
            self._define(list(root.iterfind("{*}abstractNum")))
            for element in root.iterfind("{*}num"):
                self._add(element)

    def _define(self, elements: list[Any]) -> None:
        by_style = {value(element.find("{*}styleLink")): element for element in elements}
        for element in elements:
            style = value(element.find("{*}numStyleLink"))
            source = by_style.get(style, element) if style else element
            self._abstract[get(element, "abstractNumId")] = _levels(source)

    def _add(self, element: Any) -> None:
        abstract = value(element.find("{*}abstractNumId"))
        levels = dict(self._abstract.get(abstract, {}))
        restarts = False
        for override in element.iterfind("{*}lvlOverride"):
            levels |= _levels(override)
            start = value(override.find("{*}startOverride"))
            if start:
                level = whole(get(override, "ilvl"))
                levels[level] = replace(levels.get(level, _Level()), start=whole(start))
                restarts = True
        number = get(element, "numId")
        # Lists of one definition go on counting together unless one says where it starts.
        self._lists[number] = (f"num {number}" if restarts else abstract, levels)

    def label(self, number: str, level: int) -> str:
        """Label of the next paragraph of list `number` at `level` (from 0), "" where it has none."""
        if number not in self._lists:
            return ""
        key, levels = self._lists[number]
        counts = self._counts[key]
        own = levels.get(level, _Level())
        counts[level] = counts.get(level, own.start - 1) + 1
        for deeper in [other for other in counts if level < levels.get(other, _Level(restart=other)).restart]:
            del counts[deeper]
        if own.format == "bullet":
            return "•"
        if own.format == "none":
            return ""

        def place(match: re.Match[str]) -> str:
            at = int(match[1]) - 1
            there = levels.get(at, _Level())
            return spell(counts.setdefault(at, there.start), "decimal" if own.legal else there.format)

        return _LEVEL.sub(place, own.text)


def spell(number: int, format: str) -> str:
    """`number` in a format of Word (ECMA-376 part 1, section 17.18.59), decimal where that is unknown."""
    if 0 < number <= 780 and format.endswith("Letter"):  # Word, too, stops at thirty letters
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters.upper() if format.startswith("upper") else letters
    if 0 < number < 4000 and format.endswith("Roman"):
        letters = _roman(number)
        return letters.upper() if format.startswith("upper") else letters
    if 0 < number < 10_000 and format in _CHINESE:
        return _chinese(number)
    return f"{number:02}" if format == "decimalZero" else str(number)


def _roman(number: int) -> str:
    out = ""
    for unit, letters in _ROMAN:
        out += letters * (number // unit)
        number %= unit
    return out


def _chinese(number: int) -> str:
    out, zero = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, unit)
        if digit:
            out += ("零" if zero else "") + "零一二三四五六七八九"[digit] + name
            zero = False
        else:
            zero = bool(out)
    return out[1:] if out.startswith("一十") else out


def _levels(element: Any) -> dict[int, _Level]:
    found = {}
    for level in element.iterfind("{*}lvl"):
        index = whole(get(level, "ilvl"))
        found[index] = _Level(
            format=value(level.find("{*}numFmt")) or "decimal",
            text=value(level.find("{*}lvlText")),
            start=whole(value(level.find("{*}start")), default=1),
            legal=is_on(level.find("{*}isLgl")),
            restart=whole(value(level.find("{*}lvlRestart")), default=index),
        )
    return found
