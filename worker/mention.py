"""A mention: where a text states a value, as opposed to containing its characters by chance."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue

_BREAK = r"[\s\-‐‑\u00ad]*"


def mentioned(text: str, value: JsonValue) -> bool:
    """Whether a text states any part of a value: whole words, whole numbers (thousands separated or not)."""
    return any(_pattern(form).search(text) for form in _forms(value))


def mentions_all(text: str, value: JsonValue) -> bool:
    """Whether a text states every part of a value; false for a value that has nothing to state."""
    match value:
        case list():
            return bool(value) and all(mentions_all(text, item) for item in value)
        case dict():
            return bool(value) and all(mentions_all(text, item) for item in value.values())
        case _:
            return mentioned(text, value)


def _forms(value: JsonValue) -> Iterator[str]:
    match value:
        case bool() | None:
            return
        case int() | float():
            yield f"{value:,}"
            yield f"{value}"
        case str():
            if value.strip():
                yield value.strip()
        case list():
            for item in value:
                yield from _forms(item)
        case dict():
            for item in value.values():
                yield from _forms(item)


def _pattern(form: str) -> re.Pattern[str]:
    """A form with any line breaks between its words, not inside a longer word or number."""
    before = r"(?<![A-Za-z0-9])(?<![0-9][.,])" if form[0].isascii() and form[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])(?![.,][0-9])" if form[-1].isascii() and form[-1].isalnum() else ""
    return re.compile(before + _BREAK.join(map(re.escape, re.split(r"[\s\-]+", form))) + after, re.IGNORECASE)
