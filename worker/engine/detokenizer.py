"""Tokens to text while they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.engine.types import TextDelta

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Emits text as soon as its characters are whole.

    A character can span several tokens, and a token's text can depend on its left neighbour (a leading
    blank): so the last emitted piece is decoded again with the new tokens, and only what was added counts.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # tokens of the piece emitted last
        self._pending: list[int] = []  # tokens whose text was not emitted yet

    def push(self, token: int) -> TextDelta | None:
        """The text that `token` completes, or None while a character is unfinished."""
        self._pending.append(token)
        text = self._new_text()
        if not text or text.endswith(_BROKEN):
            return None
        return self._emit(text)

    def flush(self) -> TextDelta | None:
        """What was held back, as it is: an answer cut inside a character ends with U+FFFD."""
        return self._emit(self._new_text()) if self._pending else None

    def _new_text(self) -> str:
        known = len(self._decode(self._context))
        return self._decode(self._context + self._pending)[known:]

    def _emit(self, text: str) -> TextDelta:
        delta = TextDelta(text, len(self._pending))
        self._context, self._pending = self._pending, []
        return delta
