"""Prompts as tokens, laid out document first and instruction last.

A chat template is rendered around marks that stand for the messages, and split there. Only what the
template itself says becomes special tokens; whatever a user wrote (document, instruction, earlier
answers) is encoded with special tokens off, so `<|assistant|>` in a document stays text. Every piece is
encoded alone: the tokens of a prefix never depend on the suffix that follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engine.errors import ModelLoadError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Render = Callable[[list[dict[str, str]]], str]
"""Messages (`role`, `content`, and `metadata` where a tool is called) to prompt text with the generation
prompt."""
#: The token that a model with a tool template of its own (GLM-4) puts before what a tool returned.
_OBSERVATION = "<|observation|>"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation that follows the document.

    `tool` names what an assistant's message calls with the arguments `text`; the role `tool` is its return.
    Both are only for a tokenizer that `speaks_tools`.
    """

    role: Literal["user", "assistant", "tool"]
    text: str
    tool: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrefix:
    """A document as the beginning of a prompt."""

    ids: list[int]
    spans: NDArray[np.int32]  #: (tokens, 2): start and end in the document's text; -1, -1 for the template


class Codec(Protocol):
    """Text to token ids and back."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text might give other ids."""
        ...

    def encode(self, text: str) -> tuple[list[int], NDArray[np.int32]]:
        """Ids and character spans (tokens, 2) of a user's text; never special tokens."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Ids of a template's own text, special tokens recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        ...

    def grammar_vocabulary(self, stop_ids: Sequence[int]) -> LLTokenizer:
        """The vocabulary as the grammar library wants it."""
        ...


class PromptTokenizer:
    """Lays out prompts for one model. Safe to share between threads."""

    def __init__(self, codec: Codec, render: Render, stop_ids: Sequence[int]) -> None:
        """`stop_ids` end an answer; the first one is the token a mask offers where stopping is allowed."""
        if not stop_ids:
            raise ModelLoadError("The model names no stop token; set eos_token_id in its generation config.")
        self.stop_ids = tuple(stop_ids)
        self._codec = codec
        self._render = render
        self._vocabulary: LLTokenizer | None = None
        #: Whether calls of tools and what they return have a place in the model's own template.
        self.speaks_tools = len(codec.encode_template(_OBSERVATION)) == 1 and self._renders_calls()
        roles = ["system", "user", "assistant", "user"]
        layout = json.dumps([self._pieces([(role, "") for role in roles]), self.stop_ids])
        self.fingerprint = hashlib.sha256((codec.fingerprint + layout).encode()).hexdigest()[:16]

    def prefix(self, system: str, text: str) -> EncodedPrefix:
        """Template head, system message (none when empty) and the document, which opens the user's turn."""
        encode = self._codec.encode_template
        if system:
            before_system, before_text, _ = self._pieces([("system", ""), ("user", "")])
            head = encode(before_system) + self._codec.encode(system)[0] + encode(before_text)
        else:
            head = encode(self._pieces([("user", "")])[0])
        ids, spans = self._codec.encode(text)
        return EncodedPrefix(head + ids, np.concatenate([np.full((len(head), 2), -1, np.int32), spans]))

    def suffix(self, turns: Sequence[Turn], answer_start: str = "") -> list[int]:
        """What follows the document: `turns[0]` goes on in the same user turn, then the roles alternate.

        Ends with the generation prompt and `answer_start`, the words the answer is made to begin with
        (they are not part of the generated text).
        """
        asked = [turn.role != "assistant" for turn in turns]
        if not turns or turns[0].role != "user" or asked != [n % 2 == 0 for n in range(len(turns) | 1)]:
            raise ValueError("Turns must alternate between user and assistant, and begin and end with user.")
        ids: list[int] = []
        named = [("observation" if turn.role == "tool" else turn.role, turn.tool) for turn in turns]
        pieces = self._pieces(named)
        for turn, after in zip(turns, pieces[1:], strict=True):
            ids += self._codec.encode(turn.text)[0] + self._codec.encode_template(after)
        return ids + self._codec.encode(answer_start)[0]

    def encode(self, text: str) -> list[int]:
        """A user's text as tokens, without any template."""
        return self._codec.encode(text)[0]

    def count(self, text: str) -> int:
        """Tokens of a user's text, without any template."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self._codec.decode(ids)

    def grammar_vocabulary(self) -> LLTokenizer:
        """The vocabulary for grammar masks; built once, on first use."""
        if self._vocabulary is None:
            self._vocabulary = self._codec.grammar_vocabulary(self.stop_ids)
        return self._vocabulary

    def _renders_calls(self) -> bool:
        """Whether the template puts a called tool's name before its arguments, and its own token after."""
        try:
            _, called, returned, _ = self._pieces(
                [("user", ""), ("assistant", "some_tool"), ("observation", "")]
            )
        except Exception:  # templates refuse roles they do not know with whatever error they like
            return False
        return called.rstrip().endswith("some_tool") and _OBSERVATION in returned

    def _pieces(self, roles: Sequence[tuple[str, str]]) -> list[str]:
        """The template's text before, between and after the messages: one piece more than `roles`.

        Beside each role stands the name of the tool that the message calls, if it calls one.
        """
        marks = [f"@@message-{number}@@" for number in range(len(roles))]
        messages = [
            {"role": role, "content": mark} | ({"metadata": tool} if tool else {})
            for (role, tool), mark in zip(roles, marks, strict=True)
        ]
        text = self._render(messages)
        pieces = []
        for mark in marks:
            piece, found, text = text.partition(mark)
            if not found:
                raise ModelLoadError("The model's chat template drops or reorders messages.")
            pieces.append(piece)
        return [*pieces, text]
