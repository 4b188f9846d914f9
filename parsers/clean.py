"""Text cleaning: the same rules for the text of every parser."""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
#: PDFium writes U+FFFE (older releases U+0002) for a hyphen that ended a line, and drops the line end.
_BROKEN_WORD = re.compile("(?<=[^\\W\\d_])[\x02\ufffe]\n?(?=[^\\W\\d_])")
_SOFT_HYPHEN = re.compile("\u00ad\n?")
_BLANK_LINES = re.compile(r"\n{3,}")

_LIGATURES = {
    0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st",
}  # fmt: skip
_DROPPED = [
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    0xFEFF,
    *range(0xD800, 0xE000),
    *range(0xFDD0, 0xFDF0),
    *(plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF)),
]
_TABLE: dict[int, str | None] = {**dict.fromkeys(_DROPPED), **_LIGATURES}


def clean(text: str) -> str:
    """`text` without control characters, surrogates, noncharacters, trailing blanks and runs of blank lines.

    Lines end in a line feed, Latin ligatures are letters again, words broken at a line end are whole, and
    everything is in normalization form C (Unicode Standard Annex 15); compatibility characters stay.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _SOFT_HYPHEN.sub("", text)
    text = _BROKEN_WORD.sub(_mend, text).replace("\ufffe", "-")
    text = unicodedata.normalize("NFC", text.translate(_TABLE))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def _mend(match: re.Match[str]) -> str:
    # The file does not say whether the hyphen belongs to the word. Before a capital it nearly always does.
    return "" if match.string[match.end()].islower() else "-"
