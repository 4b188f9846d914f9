"""Words that a line end broke: whole again, with their hyphen where it belongs to them."""

from __future__ import annotations

import re
from itertools import pairwise

#: PDFium writes U+FFFE (older releases U+0002) for a hyphen that ended a line, and drops the line end.
_MARK = re.compile("[\x02\ufffe]\n?")
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_PUNCTUATION = re.compile(r"[^\w-]+")
#: Longer than any word.
_REACH = 60
#: Compounds remembered; a longer document repeats those it has.
_MOST = 50_000


class Hyphens:
    """Remembers the compounds of a document from page to page."""

    def __init__(self) -> None:
        self._compounds: set[tuple[str, str]] = set()

    def mend(self, text: str) -> str:
        """`text` with every broken word whole. What the document writes with a hyphen elsewhere keeps it."""
        if len(self._compounds) < _MOST:
            for word in text.lower().split():
                if "-" in word:
                    self._compounds.update(pairwise(_PUNCTUATION.sub("", word).split("-")))
        return _MARK.sub(self._hyphen, text)

    def _hyphen(self, mark: re.Match[str]) -> str:
        """What stands for the mark: a hyphen where it belongs to the word or to no word, else nothing."""
        before = _LAST_WORD.search(mark.string[max(0, mark.start() - _REACH) : mark.start()])
        after = _FIRST_WORD.match(mark.string, mark.end())
        # Before a capital the hyphen nearly always belongs to the word.
        if before is None or after is None or not after[0][0].islower():
            return "-"
        return "-" if (before[0].lower(), after[0].lower()) in self._compounds else ""
