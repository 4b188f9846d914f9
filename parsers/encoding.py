"""From bytes of unknown encoding to text."""

from __future__ import annotations

import codecs
from typing import NamedTuple

import charset_normalizer

#: UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Names on the web mean these larger sets (WHATWG Encoding Standard, section 4.2).
_ON_THE_WEB = {
    "gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254",
    "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "tis-620": "cp874", "utf-16": "utf-8",
}  # fmt: skip


class Decoded(NamedTuple):
    text: str
    #: A sentence for the reader where the encoding was guessed.
    warning: str | None = None


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data`: by its byte order mark, as UTF-8, as `declared`, or by a guess, in this order.

    UTF-8 goes before the declared encoding because bytes of another one hardly ever happen to be valid UTF-8.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return Decoded(data.decode(name, errors="replace"))
    for candidate in ("utf-8", _known(declared)):
        if candidate:
            try:
                return Decoded(data.decode(candidate))
            except (UnicodeError, LookupError):  # LookupError: a codec that is not for text
                pass
    return _guess(data)


def is_text(head: bytes) -> bool:
    """Whether `head`, the beginning of a file, reads as text in some encoding."""
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return True
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        # To the last line end, so that no character of several bytes is torn.
        return charset_normalizer.from_bytes(head[: head.rfind(b"\n") + 1] or head).best() is not None
    return True


def _guess(data: bytes) -> Decoded:
    best = charset_normalizer.from_bytes(data).best()
    if best is None:
        text = data.decode("utf-8", errors="replace")
        return Decoded(text, "Some bytes are in no known encoding; they appear as \N{REPLACEMENT CHARACTER}.")
    return Decoded(str(best), f"The file does not state its encoding truly; it was read as {best.encoding}.")


def _known(name: str | None) -> str | None:
    try:
        codec = codecs.lookup(name or "").name
    except LookupError:
        return None
    return _ON_THE_WEB.get(codec, codec)
