"""Restrictions on what may be written: JSON that fits a schema, calls of named tools, verbatim quotations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher
from numpy.typing import ArrayLike, NDArray

from worker.engine.errors import UnsupportedSchema

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from worker.engine.tokenizer import PromptTokenizer

_NOTHING: NDArray[np.int64] = np.empty(0, np.int64)


#: Fixed separators: a weak model left free to write blanks may write nothing else.
#: These win over an "x-guidance" key in the schema, which could switch enforcement off.
_STRICT: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}

_FORMATS = {
    *("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4"),
    *("ipv6", "uri", "uri-reference", "iri", "iri-reference", "uri-template", "uuid", "regex"),
    *("json-pointer", "relative-json-pointer"),
}


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `UnsupportedSchema`, with the reason, unless `JsonSchemaMask` can enforce `schema` exactly.

    Needs neither a model nor a tokenizer, so that a schema can be refused when it arrives.
    """
    _grammar(schema)


def _grammar(schema: dict[str, Any]) -> str:
    try:
        grammar = LLMatcher.grammar_from_json_schema(_binding(schema), overrides=_STRICT)
    except (TypeError, ValueError) as exc:
        raise UnsupportedSchema(f"The JSON Schema cannot be enforced: {exc}.") from exc
    if error := LLMatcher.validate_grammar(grammar):
        raise UnsupportedSchema(f"The JSON Schema cannot be enforced: {error}.")
    return grammar


def _binding(schema: Any) -> Any:
    """The schema without formats that JSON Schema does not define: they are notes, and bind nobody.

    Of those it defines (2020-12, Validation, section 7.3), the grammar refuses what it cannot enforce.
    """
    if isinstance(schema, list):
        return [_binding(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in {"const", "enum"} else _binding(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value not in _FORMATS)
    }


class _GrammarMask:
    """The answer is a sentence of a grammar."""

    def __init__(self, grammar: str, tokenizer: PromptTokenizer, written: str = "") -> None:
        self._matcher = LLMatcher(tokenizer.grammar_vocabulary(), grammar)
        self._matcher.consume_tokens(tokenizer.encode(written))
        self._seen = 0

    def allowed(self, generated: Sequence[int]) -> NDArray[np.int64]:
        """Ids of the tokens that keep the answer on the way to a sentence of the grammar."""
        self._matcher.consume_tokens(list(generated[self._seen :]))
        self._seen = len(generated)
        if self._matcher.is_error():
            raise UnsupportedSchema(f"The JSON Schema is too complex: {self._matcher.get_error()}.")
        if self._matcher.is_stopped():
            return _NOTHING
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))


class JsonSchemaMask(_GrammarMask):
    """The answer is one JSON value that fits a schema, on a single line."""

    def __init__(self, schema: dict[str, Any], tokenizer: PromptTokenizer, written: str = "") -> None:
        """`written`: how the value begins that is to be continued. Raises `UnsupportedSchema`."""
        super().__init__(_grammar(schema), tokenizer, written)


class CallMask(_GrammarMask):
    """The answer calls one of the named tools with arguments that fit its schema, or none.

    A call is `{"tool": "name", "arguments": {…}}`, none is `{"tool": null}`. A model with a tool template of
    its own (`PromptTokenizer.speaks_tools`) writes the name, a line break and the arguments instead, and
    begins with a line break where it calls none.
    """

    def __init__(self, tools: Mapping[str, dict[str, Any]], tokenizer: PromptTokenizer) -> None:
        """`tools`: a JSON Schema of the arguments for each name. Raises `UnsupportedSchema`."""
        rules, calls = [], []
        for number, (name, schema) in enumerate(tools.items()):
            _grammar(schema)  # its own reason, where it cannot be enforced
            rules.append(
                f"arguments{number}: %json {json.dumps({**_binding(schema), 'x-guidance': _STRICT})}"
            )
            if tokenizer.speaks_tools:
                calls.append(f"{_quoted(name + chr(10))} arguments{number}")
            else:
                opening = json.dumps({"tool": name, "arguments": None}).removesuffix("null}")
                calls.append(f'{_quoted(opening)} arguments{number} "}}"')
        none = "\n" if tokenizer.speaks_tools else json.dumps({"tool": None})
        lark = "\n".join([f"start: {' | '.join([_quoted(none), *calls])}", *rules])
        super().__init__(LLMatcher.grammar_from_lark(lark), tokenizer)


def _quoted(text: str) -> str:
    """A terminal of a grammar; its quoting is that of JSON."""
    return json.dumps(text)


class QuoteMask:
    """The answer picks one passage of the document by writing its beginning.

    All passages that still match what was written are followed at once; as soon as one alone is left, the
    answer may stop: `passage` tells where it stands, and nobody needs to wait for the rest of its words.
    """

    def __init__(self, ids: ArrayLike, starts: ArrayLike, ends: ArrayLike, *, stop_id: int) -> None:
        """The passages are `ids[start:end]`, `ids` being the prefix's, for each pair of `starts` and `ends`.

        `stop_id` (`PromptTokenizer.stop_ids[0]`) is offered where one ends and another goes on.
        """
        self._ids = np.asarray(ids, np.int64)
        self._places = np.asarray(starts, np.int64)
        self._ends = np.asarray(ends, np.int64)
        self._stop_id = stop_id
        self._seen = 0
        self._keep(self._places < self._ends)
        if not len(self._places):
            raise ValueError("There is no passage to copy.")

    @property
    def passage(self) -> tuple[int, int]:
        """Start and end (token indices) of the shortest passage that matches what was written."""
        shortest = int(np.argmin(self._ends - self._places))
        return int(self._places[shortest]), int(self._ends[shortest])

    def allowed(self, generated: Sequence[int]) -> NDArray[np.int64]:
        """Ids of the tokens that follow `generated` in any passage; none once the passage is certain."""
        for written in range(self._seen, len(generated)):
            self._keep(self._places + written < self._ends)
            self._keep(self._ids[self._places + written] == generated[written])
        self._seen = written = len(generated)
        if len(self._places) == 1:
            return _NOTHING
        goes_on = self._places + written < self._ends
        tokens = np.flatnonzero(np.bincount(self._ids[self._places[goes_on] + written]))
        return tokens if goes_on.all() or not len(tokens) else np.append(tokens, self._stop_id)

    def _keep(self, alive: NDArray[np.bool_]) -> None:
        self._places, self._ends = self._places[alive], self._ends[alive]
