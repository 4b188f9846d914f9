"""Text cleaning: the same rules for the text of every parser."""

from __future__ import annotations

import re
import unicodedata

_BLANK_LINES = re.compile(r"\n\n\n+")

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
_LINE_ENDS = dict.fromkeys(map(ord, "\r\v\f\x85\u2028\u2029"), "\n")
_TABLE: dict[int, str | None] = {**dict.fromkeys(_DROPPED), **_LIGATURES, **_LINE_ENDS}
#: What the table changes lies outside of these. To search takes a tenth of the time that `translate` takes.
_UNUSUAL = re.compile("[^ -~\n\t\u00a0-\u2027\u202a-\ud7ff\ue000-\ufaff\uff00-\uffef]")


def clean(text: str) -> str:
    """`text` without control characters, surrogates, noncharacters, trailing blanks and runs of blank lines.

    Lines end in a line feed, Latin ligatures are letters again, soft hyphens are gone, and everything
    is in normalization form C (Unicode Standard Annex 15); compatibility characters stay.
    """
    text = text.replace("\r\n", "\n").replace("\u00ad\n", "").replace("\u00ad", "")
    if _UNUSUAL.search(text):
        text = text.translate(_TABLE)
    text = unicodedata.normalize("NFC", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def one_line(text: str) -> str:
    """`text` cleaned, on one line."""
    return " ".join(clean(text).split())
