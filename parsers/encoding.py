"""From bytes of unknown encoding to text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import NamedTuple

import charset_normalizer

from parsers.language import language

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
#: By these ISO-2022-JP turns to Japanese; all of its bytes are ASCII.
_TO_JAPANESE = re.compile(rb"\x1b\$[@B]")
#: In a text that is UTF-8 but for some broken characters, at least so many others stand beside one of them.
_WHOLE = 4
#: Letters of Turkish that are others in code page 1252, and letters that Turkish does not have.
_TURKISH, _DOTLESS = "ğışĞİŞ".encode("cp1254"), "ı".encode("cp1254")[0]
_FOREIGN = bytes({*range(0xC0, 0x100)}.difference(_TURKISH, "çöüâîûÇÖÜÂÎÛ".encode("cp1254")))
#: Bytes by which Turkish is recognised.
_SAMPLE = 1 << 20


class Decoded(NamedTuple):
    text: str
    #: A sentence for the reader where the encoding was guessed.
    warning: str | None = None


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data`: by its marks, as UTF-8, as `declared`, or by a guess, in this order.

    UTF-8 goes before the declared encoding because bytes of another one hardly ever happen to be valid UTF-8.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return Decoded(data.decode(name, errors="replace"))
    japanese = "iso2022_jp_ext" if _TO_JAPANESE.search(data) else None
    for candidate in (japanese, "utf-8", _known(declared)):
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
        lines = head[: head.rfind(b"\n") + 1] or head
        return _nearly_utf8(lines) is not None or charset_normalizer.from_bytes(lines).best() is not None
    return True


def _guess(data: bytes) -> Decoded:
    text = _nearly_utf8(data)
    if not text and _is_turkish(data[:_SAMPLE]):
        return Decoded(data.decode("cp1254", errors="replace"), _read_as("cp1254"))
    guesses = None if text else charset_normalizer.from_bytes(data)
    best = guesses and guesses.best()
    if not guesses or not best:
        text = text or data.decode("utf-8", errors="replace")
        return Decoded(text, "Some bytes are in no known encoding; they appear as \N{REPLACEMENT CHARACTER}.")
    for other in guesses:
        # A text of Western Europe has but letters in other code pages, too, and is as likely in them.
        alike = (other.chaos, other.coherence) == (best.chaos, best.coherence)
        if alike and other.encoding == "cp1252" and language(str(other)):
            best = other
    return Decoded(str(best), _read_as(best.encoding))


def _read_as(encoding: str) -> str:
    return f"The file does not state its encoding truly; it was read as {encoding}."


def _is_turkish(data: bytes) -> bool:
    """Whether bytes are Turkish in code page 1254: often "ı", elsewhere "ý", and hardly an "á" or "ó"."""
    counts = Counter(data)
    own, foreign = (sum(counts[letter] for letter in letters) for letters in (_TURKISH, _FOREIGN))
    dotless = counts[_DOTLESS]
    return 4 * foreign <= own <= 4 * dotless and own > dotless


def _nearly_utf8(data: bytes) -> str | None:
    """The text, if it is UTF-8 but for a few bytes, as where two files were joined; else None."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    others = len(text) - len(text.encode("ascii", errors="ignore")) - broken
    return text if others >= _WHOLE * broken else None


def _known(name: str | None) -> str | None:
    try:
        codec = codecs.lookup(name or "").name
    except LookupError:
        return None
    return _ON_THE_WEB.get(codec, codec)
