"""Tools: what a job lets the model ask for, called over HTTP, each call written down.

The grammar of a call (`worker.engine.CallMask`) knows the names that the job gave and no others, so that
nothing in a document can call anything else. What a tool returns is text to the model, as a document is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ssrfguard import Policy

from jobs.ids import new_id
from jobs.params import Tool, ToolParams, dialect_of
from worker.engine import CallMask, PromptTokenizer, Turn
from worker.post import Post
from worker.prompts import Prompts

#: Bytes of an answer that are read; the model is told where it was cut.
ANSWER_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Returned:
    """What came back from a tool: its text, or why there is none."""

    status_code: int | None
    text: str
    error: str | None = None
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, as it stands in the result."""

    id: str
    tool: str
    arguments: dict[str, Any]
    status_code: int | None
    output: str | None
    error: str | None
    cut_off: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return asdict(self)


class Caller(Protocol):
    """Brings a call to its tool."""

    def call(self, call_id: str, tool: Tool, body: dict[str, Any]) -> Returned: ...


class HttpCaller:
    """Posts calls to hosts a policy allows."""

    def __init__(self, *, secret: str, policy: Policy, timeout_s: float) -> None:
        """`timeout_s`: for the whole of a call."""
        self._post = Post(secret=secret, policy=policy, timeout_s=timeout_s)

    def call(self, call_id: str, tool: Tool, body: dict[str, Any]) -> Returned:
        """Never raises: the model is told what went wrong, and the result says so."""
        more = ANSWER_LIMIT + 1
        reply = self._post.send(tool.url, call_id, body, of_success=more, of_failure=more)
        text = reply.body[:ANSWER_LIMIT].decode(errors="replace")
        return Returned(reply.status_code, text, reply.error, cut_off=len(reply.body) > ANSWER_LIMIT)


class Desk:
    """Where the model's calls are checked, brought to their tools and written down: one desk a job."""

    def __init__(self, params: object, caller: Caller, *, job_id: str, room: int) -> None:
        """`params`: the job's; kinds that take no tools have an idle desk.

        `room`: characters of what a tool returns that the model is shown.
        """
        self._tools: dict[str, Tool] = {}
        self._left = 0
        if isinstance(params, ToolParams):
            self._tools = {tool.name: tool for tool in params.tools}
            self._left = params.max_tool_calls
        self._caller = caller
        self._job_id = job_id
        self._room = room
        self._lock = threading.Lock()
        self.calls: list[Call] = []

    @property
    def rounds(self) -> int:
        """Calls that may still be made."""
        return self._left if self._tools else 0

    def introduced(
        self, turns: Sequence[Turn], prompts: Prompts, tokenizer: PromptTokenizer
    ) -> Sequence[Turn]:
        """The turns, the last one with what the model may call and how."""
        if not self._tools:
            return turns
        listed = "\n".join(
            json.dumps(tool.model_dump(include={"name", "description", "parameters"}), ensure_ascii=False)
            for tool in self._tools.values()
        )
        how = (
            "To call one, write its name on a line and its arguments as JSON on the next."
            if tokenizer.speaks_tools
            else 'Write {"tool": "name", "arguments": {...}} to call one, or {"tool": null} to call none.'
        )
        words = prompts.fill("tools", tools=listed, how=how)
        return [*turns[:-1], Turn("user", turns[-1].text + words)]

    def mask(self, tokenizer: PromptTokenizer) -> CallMask:
        """Lets the model call one of the tools, or none."""
        return CallMask({name: tool.parameters for name, tool in self._tools.items()}, tokenizer)

    def served(self, written: str, tokenizer: PromptTokenizer) -> list[Turn]:
        """Make the call that was written; the call and what came of it as turns. None: nothing was called."""
        try:
            name, arguments = _parsed(written, native=tokenizer.speaks_tools)
        except ValueError:
            return []
        tool = self._tools.get(name)
        if tool is None or not self._take():
            return []
        returned = self._call(tool, arguments)
        said = json.dumps(arguments, ensure_ascii=False)
        if tokenizer.speaks_tools:
            return [Turn("assistant", said, tool=name), Turn("tool", returned)]
        return [Turn("assistant", written), Turn("user", f"{name} returned:\n{returned}")]

    def left(self, turns: Sequence[Turn], tokenizer: PromptTokenizer) -> Sequence[Turn]:
        """The turns after the last call, so that what is written next is the answer."""
        if not self._tools or tokenizer.speaks_tools:
            return turns
        return [*turns, Turn("assistant", '{"tool": null}'), Turn("user", "Now answer the request.")]

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _call(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """What the model is told of a call."""
        call_id, began = new_id("call"), time.monotonic()
        fault = next(dialect_of(tool.parameters)(tool.parameters).iter_errors(arguments), None)
        if fault is not None:
            returned = Returned(None, "", f"the arguments do not fit: {fault.message}"[:300])
        else:
            body = {"job_id": self._job_id, "tool": tool.name, "arguments": arguments}
            returned = self._caller.call(call_id, tool, body)
        call = Call(
            id=call_id,
            tool=tool.name,
            arguments=arguments,
            status_code=returned.status_code,
            output=None if returned.status_code is None else returned.text,
            error=returned.error,
            cut_off=returned.cut_off,
            seconds=round(time.monotonic() - began, 3),
        )
        with self._lock:
            self.calls.append(call)
        text = returned.text[: self._room]
        if returned.cut_off or len(text) < len(returned.text):
            text += f"\n(cut after {len(text):,} characters)"
        return text if returned.error is None else f"Error: {returned.error}\n{text}"


def _parsed(written: str, *, native: bool) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call; no name where none was made.

    Raises ValueError if it is not whole, or cannot be sent.
    """
    if native:
        name, _, given = written.partition("\n")
        arguments = json.loads(given) if name else {}
    else:
        call = json.loads(written)
        name, arguments = call["tool"] or "", call.get("arguments", {})
    json.dumps(arguments, allow_nan=False)  # 1e999 is a number that cannot be sent
    return name, arguments
