"""Dictation: an object written under a schema, and gone on with where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worker.engine import JsonSchemaMask, Sampling, Turn
from worker.errors import OutputCutOff
from worker.reader import Reader
from worker.section import Section

#: Tokens kept free of what there is for instruction and answer.
_SPARE = 64


def dictate(
    reader: Reader,
    section: Section,
    turns: Sequence[Turn],
    schema: dict[str, Any],
    sampling: Sampling,
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """The object that the model writes about a section, pieces of `sampling.max_tokens` joined.

    Nothing is mended: a piece goes on at the very character where the one before it ended, under the grammar
    in the state that it had reached. `limit`: tokens of the whole; by default, what there is room for.

    Raises:
        OutputCutOff: it was not complete within the limit.
    """
    tokenizer = reader.engine.tokenizer
    asked = sum(tokenizer.count(turn.text) for turn in turns)
    left = limit or max(sampling.max_tokens, reader.room - asked - _SPARE)
    written = ""
    while left > 0:
        piece = min(sampling.max_tokens, left)
        left -= piece
        more = reader.write(
            section,
            turns,
            replace(sampling, max_tokens=piece),
            mask=JsonSchemaMask(schema, tokenizer, written),
            answer_start=written,
            draft=0,
        )
        written += more.raw.rstrip("\ufffd")  # half a character, cut off
        if not more.cut_off:
            value: dict[str, Any] = json.loads(written)
            return value
    raise OutputCutOff
