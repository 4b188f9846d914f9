"""Words that a line end broke: whole again, with their hyphen where it belongs to them."""

from __future__ import annotations

import re
from itertools import pairwise

#: PDFium writes U+FFFE (older releases U+0002) for a hyphen that ended a line, and drops the line end;
#: between the lines of a cell is a blank.
_MARK = re.compile(r"[\x02\ufffe](?:\n| (?=[^\W\d_]))?")
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_PUNCTUATION = re.compile(r"\W+")
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
            for before, after in pairwise(text.lower().split("-")):
                if before[-1:].strip() and after[:1].strip():
                    parts = before.rsplit(None, 1)[-1], after.split(None, 1)[0]
                    self._compounds.add((_PUNCTUATION.sub("", parts[0]), _PUNCTUATION.sub("", parts[1])))
        return _MARK.sub(self._hyphen, text)

    def _hyphen(self, mark: re.Match[str]) -> str:
        """What stands for the mark: a hyphen where it belongs to the word or to no word, else nothing."""
        line = mark.string[max(0, mark.start() - _REACH) : mark.start()]
        before = _LAST_WORD.search(line.rpartition(" ")[2])
        after = _FIRST_WORD.match(mark.string, mark.end())
        # Before a capital the hyphen nearly always belongs to the word.
        if before is None or after is None or not after[0][0].islower():
            return "-"
        return "-" if (before[0].lower(), after[0].lower()) in self._compounds else ""
