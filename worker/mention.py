"""A mention: where a text states a value, as opposed to containing its characters by chance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from pydantic import JsonValue

_BREAK = r"[\s\-‐‑\u00ad]*"
_THOUSANDS, _DECIMALS = r"[.,'’\s]?", "[.,]"
_BEFORE, _AFTER = r"(?<![A-Za-z0-9])(?<![0-9][.,])", r"(?![A-Za-z0-9])(?![.,][0-9])"


def mentioned(text: str, value: JsonValue) -> bool:
    """Whether a text states any part of a value: whole words, whole numbers in the form of any country."""
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in _patterns(value))


def mentions_all(text: str, value: JsonValue) -> bool:
    """Whether a text states every part of a value; false for a value that has nothing to state."""
    match value:
        case list():
            return bool(value) and all(mentions_all(text, item) for item in value)
        case dict():
            return bool(value) and all(mentions_all(text, item) for item in value.values())
        case _:
            return mentioned(text, value)


def _patterns(value: JsonValue) -> Iterator[str]:
    match value:
        case bool() | None:
            return
        case int() | float():
            yield _number(value)
        case str():
            if value.strip():
                yield _words(value.strip())
        case list():
            for item in value:
                yield from _patterns(item)
        case dict():
            for item in value.values():
                yield from _patterns(item)


def _number(value: float) -> str:
    """A number without its sign: thousands apart or not, either decimal sign, zeros at its end or none."""
    whole, _, part = f"{abs(Decimal(str(value))):,f}".partition(".")
    part = part.rstrip("0")
    end = f"{_DECIMALS}{part}0*" if part else f"(?:{_DECIMALS}0+)?"
    return _BEFORE + _THOUSANDS.join(whole.split(",")) + end + _AFTER


def _words(form: str) -> str:
    """A form with any line breaks between its words, not inside a longer word or number."""
    before = _BEFORE if form[0].isascii() and form[0].isalnum() else ""
    after = _AFTER if form[-1].isascii() and form[-1].isalnum() else ""
    return before + _BREAK.join(map(re.escape, re.split(r"[\s\-]+", form))) + after
