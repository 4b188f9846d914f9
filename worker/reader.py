"""The reader: carries one job's sections and questions to the engine, and keeps count."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.ledger import Progress
from jobs.status import Phase
from worker.engine import (
    Cancelled,
    Engine,
    Finished,
    Generation,
    PromptTooLong,
    ReadProgress,
    Request,
    Sampling,
    TextDelta,
    TokenMask,
    Turn,
    Usage,
)
from worker.engine.types import FinishReason
from worker.errors import InstructionTooLong
from worker.section import Section


@dataclass
class Tally:
    """What a job cost so far: tokens, and seconds of each part."""

    tokens_read: int = 0
    tokens_reused: int = 0
    tokens_written: int = 0
    wait_s: float = 0.0
    read_s: float = 0.0
    write_s: float = 0.0
    check_s: float = 0.0
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote, and why it ended."""

    text: str
    reason: FinishReason


@dataclass
class Reader:
    """One job's way to the engine. `cancel` may be called from any thread, also between two requests."""

    engine: Engine
    sections: Sequence[Section]
    deadline: float
    tally: Tally = field(default_factory=Tally)
    _phase: Phase = Phase.READING
    _read: dict[int, int] = field(default_factory=dict)
    _counted: set[int | None] = field(default_factory=set)
    _draft: str | None = None
    _running: Generation | None = None
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(
        self,
        section: Section | None,
        turns: Sequence[Turn],
        sampling: Sampling,
        *,
        mask: TokenMask | None = None,
        answer_start: str = "",
        draft: bool = False,
    ) -> Written:
        """Have the model answer `turns` after reading `section` (None: only the system prompt).

        With `draft`, people see the text grow. `answer_start` is part of the answer, not of what is returned.

        Raises:
            InstructionTooLong: the turns leave no room for the answer.
            worker.engine.EngineError: cancelled, out of time, out of memory, stopped.
        """
        tokenizer = self.engine.tokenizer
        first = self.sections[0]
        prefix = section.encoded.ids if section else tokenizer.prefix(first.system, "").ids
        request = Request(
            prefix=prefix,
            suffix=tokenizer.suffix(turns, answer_start),
            sampling=sampling,
            mask=mask,
            deadline=self.deadline,
        )
        if draft:
            self._draft = ""
            self._phase = Phase.WRITING if len(self._read) == len(self.sections) else Phase.READING
        try:
            return self._follow(self._submit(request), section)
        except PromptTooLong as exc:
            raise InstructionTooLong(
                f"The instruction needs {len(request.suffix):,} tokens and the answer up to "
                f"{sampling.max_tokens:,}; beside the {len(prefix):,} of the text the model has room for "
                f"{exc.tokens_fit - len(prefix):,}. Shorten the instruction or lower max_tokens."
            ) from exc

    def checking(self) -> None:
        """The answer is written; from here on quotations are looked for."""
        self._phase = Phase.CHECKING

    def cancel(self) -> None:
        """Stop the running request, and every later one."""
        with self._lock:
            self._cancelled = True
            if self._running is not None:
                self._running.cancel()

    def progress(self) -> Progress:
        """How far the job is; may be asked from any thread."""
        total = sum(section.tokens for section in self.sections)
        read = dict(self._read)
        done = sum(read.values())
        speed = self.engine.capacity().read_tokens_per_s
        return Progress(
            phase=self._phase,
            pages_done=len(
                {
                    (piece.source, piece.page)
                    for number, tokens in read.items()
                    for piece in self.sections[number].pieces[: self.sections[number].pages_read(tokens)]
                }
            ),
            tokens_done=done,
            tokens_total=total,
            eta_s=round((total - done) / speed, 1) if speed and done < total else None,
            draft=self._draft,
        )

    def _submit(self, request: Request) -> Generation:
        with self._lock:
            if self._cancelled:
                raise Cancelled
            self._running = self.engine.submit(request)
            return self._running

    def _follow(self, generation: Generation, section: Section | None) -> Written:
        text = ""
        number = next((n for n, known in enumerate(self.sections) if known is section), None)
        for event in generation:
            match event:
                case ReadProgress():
                    if number is not None and section is not None:
                        self._read[number] = min(event.tokens_read, section.tokens)
                case TextDelta():
                    if self._phase is Phase.READING and len(self._read) == len(self.sections):
                        self._phase = Phase.WRITING
                    text += event.text
                    if self._draft is not None and self._phase is not Phase.CHECKING:
                        self._draft = text
                case Finished(reason=reason, usage=usage):
                    self._count(usage, number)
                    return Written(text.strip(), reason)
        raise RuntimeError("the engine ended an answer without saying so")

    def _count(self, usage: Usage, number: int | None) -> None:
        tally = self.tally
        if tally.first_token_s is None:
            tally.first_token_s = usage.first_token_s
        if number not in self._counted:  # what this job itself read before is no saving of an earlier one's
            self._counted.add(number)
            tally.tokens_reused += usage.reused_tokens
        tally.tokens_read += usage.prefix_tokens + usage.suffix_tokens - usage.reused_tokens
        tally.tokens_written += usage.completion_tokens
        tally.wait_s += usage.queue_s
        if self._phase is Phase.CHECKING:
            tally.check_s += usage.read_s + usage.write_s
        else:
            tally.read_s += usage.read_s
            tally.write_s += usage.write_s


def deadline_in(seconds: float) -> float:
    """An instant on the engine's clock."""
    return time.monotonic() + seconds
