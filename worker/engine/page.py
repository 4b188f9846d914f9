"""How a prefix is cut into pages of keys and values; a module of its own, for those who need no torch."""

from __future__ import annotations

PAGE = 128  #: tokens of a page
MIN_END = 128  #: tokens at a prefix's end, at least, that are not in its pages


def whole_pages(tokens: int) -> int:
    """How many pages a prefix of so many tokens has."""
    return max(0, tokens - MIN_END) // PAGE
