"""The reader: carries one job's sections and questions to the engine, and keeps count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

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
from worker.room import room_for_answers
from worker.section import Section

Made = TypeVar("Made")

#: Requests of one job under way at once.
AT_ONCE = 8


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

    def spent(self) -> dict[str, float]:
        """Seconds of each part."""
        return {name: getattr(self, name) for name in ("wait_s", "read_s", "write_s", "check_s")}

    def fit(self, before: Mapping[str, float], seconds: float) -> None:
        """Bring what was spent since `before` by requests beside each other down to the time that passed."""
        added = {name: value - before[name] for name, value in self.spent().items()}
        scale = min(1.0, seconds / (sum(added.values()) or 1.0))
        for name, value in added.items():
            setattr(self, name, before[name] + scale * value)


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote, to the last blank, and why it ended."""

    raw: str
    reason: FinishReason

    @property
    def text(self) -> str:
        """Without blanks around it."""
        return self.raw.strip()

    @property
    def cut_off(self) -> bool:
        """Whether it ended at its limit, not because all was said."""
        return self.reason == "length"


@dataclass
class Reader:
    """One job's way to the engine. Any thread may call it; `cancel` also works between two requests."""

    engine: Engine
    sections: Sequence[Section]
    deadline: float
    tally: Tally = field(default_factory=Tally)
    _phase: Phase = Phase.READING
    _read: dict[int, int] = field(default_factory=dict)
    _counted: set[int | None] = field(default_factory=set)
    _drafts: dict[int, str] = field(default_factory=dict)
    _running: set[Generation] = field(default_factory=set)
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
        draft: int | None = None,
        check: bool = False,
    ) -> Written:
        """Have the model answer `turns` after reading `section` (None: only the system prompt).

        People see the text grow as answer number `draft`. `answer_start` is part of the answer, not of what
        is returned. `check`: this looks up passages, which is told apart in the receipt.

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
            owners=frozenset(section.document_ids if section else ()),
        )
        if draft is not None:
            self._drafts[draft] = ""
            self._phase = Phase.WRITING if len(self._read) == len(self.sections) else Phase.READING
        try:
            return self._follow(self._submit(request), section, draft, answer_start, check=check)
        except PromptTooLong as exc:
            raise InstructionTooLong(
                f"The instruction needs {len(request.suffix):,} tokens and the answer up to "
                f"{sampling.max_tokens:,}; beside the {len(prefix):,} of the text the model has room for "
                f"{exc.tokens_fit - len(prefix):,}. Shorten the instruction or lower max_tokens."
            ) from exc

    @property
    def seen(self) -> list[Section]:
        """The sections that the model has answered about."""
        return [section for number, section in enumerate(self.sections) if number in self._counted]

    @property
    def room(self) -> int:
        """Tokens there are for instruction and answer, beside what is read."""
        return room_for_answers(self.engine.capacity().tokens_fit)

    def together(self, tasks: Sequence[Callable[[], Made]]) -> list[Made]:
        """What the tasks make, in their order: the first alone, since it reads the text, then all others.

        The first error stops the requests under way and is raised.
        """
        if not tasks:
            return []
        made = [tasks[0]()]
        began, before = time.monotonic(), self.tally.spent()
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            futures = [pool.submit(task) for task in tasks[1:]]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise
        self.tally.fit(before, time.monotonic() - began)
        return made + [future.result() for future in futures]

    def checking(self) -> None:
        """The answer is written; from here on quotations are looked for."""
        self._phase = Phase.CHECKING

    def cancel(self) -> None:
        """Stop the running request, and every later one."""
        with self._lock:
            self._cancelled = True
        self._stop()

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
            draft="\n\n".join(self._draft_texts()) if self._drafts else None,
        )

    def _submit(self, request: Request) -> Generation:
        with self._lock:
            if self._cancelled:
                raise Cancelled
            generation = self.engine.submit(request)
            self._running.add(generation)
            return generation

    def _stop(self) -> None:
        with self._lock:
            for generation in self._running:
                generation.cancel()

    def _draft_texts(self) -> list[str]:
        drafts = dict(self._drafts)  # others write meanwhile
        return [drafts[number] for number in sorted(drafts) if drafts[number]]

    def _follow(
        self, generation: Generation, section: Section | None, draft: int | None, start: str, *, check: bool
    ) -> Written:
        try:
            return self._followed(generation, section, draft, start, check=check)
        finally:
            with self._lock:
                self._running.discard(generation)

    def _followed(
        self, generation: Generation, section: Section | None, draft: int | None, start: str, *, check: bool
    ) -> Written:
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
                    if draft is not None:
                        self._drafts[draft] = start + text
                case Finished(reason=reason, usage=usage):
                    with self._lock:
                        self._count(usage, number, check=check)
                    return Written(text, reason)
        raise RuntimeError("the engine ended an answer without saying so")

    def _count(self, usage: Usage, number: int | None, *, check: bool) -> None:
        tally = self.tally
        if tally.first_token_s is None:
            tally.first_token_s = usage.first_token_s
        if number not in self._counted:  # what this job itself read before is no saving of an earlier one's
            self._counted.add(number)
            tally.tokens_reused += usage.reused_tokens
        tally.tokens_read += usage.prefix_tokens + usage.suffix_tokens - usage.reused_tokens
        tally.tokens_written += usage.completion_tokens
        tally.wait_s += usage.queue_s
        if check:
            tally.check_s += usage.read_s + usage.write_s
        else:
            tally.read_s += usage.read_s
            tally.write_s += usage.write_s


def deadline_in(seconds: float) -> float:
    """An instant on the engine's clock."""
    return time.monotonic() + seconds
