"""An assignment: one job's documents, prompts, reader and tools, and what every kind does with them:
ask each section, make one answer of several, and let the model point at the passages it rests on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobs.params import Params
from worker.citations import Citation, put_right, quotations, unique, verify
from worker.engine import Sampling, Turn
from worker.errors import InstructionTooLong
from worker.prompts import Prompts
from worker.reader import Reader
from worker.section import Section
from worker.source import Source
from worker.tools import Desk

#: Tokens of one call of a tool.
CALL_LIMIT = 1_024
#: Sections quoted from when a document was read in many.
QUOTED_SECTIONS = 4
#: How an answer begins that the text does not give.
ABSENT = "NOT_IN_DOCUMENT"
_ABSENT = re.compile(rf"^\W*{ABSENT}\b[\s.:;,–—-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """One piece of a result."""

    title: str | None
    text: str
    citations: list[Citation]
    found: bool = True  #: False: the documents do not say
    cut_off: bool = False  #: it, or what a section had to say, reached `max_tokens` before its end

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "title": self.title,
            "text": self.text,
            "found": self.found,
            "cut_off": self.cut_off,
            "citations": list(self.citations),
        }


@dataclass(frozen=True, slots=True)
class Result:
    """What a kind makes of an assignment."""

    answers: list[Answer]
    data: dict[str, Any] | None = None
    citations: list[Citation] = field(default_factory=list)  #: those that stand in `data`

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {"answers": [answer.to_json() for answer in self.answers], "data": self.data}

    def quoted(self) -> list[Citation]:
        """Every quotation in it."""
        own = [citation for answer in self.answers for citation in answer.citations]
        return unique([*own, *self.citations])


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every section."""

    turns: Sequence[Turn]
    sampling: Sampling
    title: str | None = None
    quotes: int = 2


@dataclass(frozen=True, slots=True)
class Part:
    """What one section answers."""

    section: Section
    text: str
    found: bool
    cut_off: bool
    citations: list[Citation]


@dataclass(frozen=True)
class Assignment:
    """What a kind works with."""

    params: Params
    sources: Sequence[Source]
    reader: Reader
    prompts: Prompts
    desk: Desk

    @property
    def sections(self) -> Sequence[Section]:
        """What is read, in order."""
        return self.reader.sections

    def sampling(self, tokens: int) -> Sampling:
        """The user's choices; `tokens` where the user made none."""
        return Sampling(
            max_tokens=self.params.max_tokens or min(tokens, self.reader.engine.card.window // 16),
            temperature=self.params.temperature,
            top_p=self.params.top_p,
            seed=self.params.seed,
            repetition_penalty=1.05,
        )

    def answer(self, question: Question) -> Answer:
        """Ask every section, make one answer of it, and cite the passages it rests on."""
        return self.answers([question])[0]

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer to each question: a section is read once for all, and they are written together."""
        parts: list[list[Part]] = [[] for _ in questions]
        for section in self.sections:
            tasks = [partial(self._part, section, question, n) for n, question in enumerate(questions)]
            for own, part in zip(parts, self.reader.together(tasks), strict=True):
                own.append(part)
        self.reader.checking()
        return self.reader.together(
            [partial(self._whole, question, parts[n], n) for n, question in enumerate(questions)]
        )

    def _part(self, section: Section, question: Question, number: int) -> Part:
        turns = self._consulted(section, question.turns)
        written = self.reader.write(section, turns, question.sampling, draft=number)
        text, found = told(written.text)
        count = question.quotes if len(self.sections) == 1 else min(question.quotes, 1)
        citations = self.quote(section, turns, written.text, count=count) if found else []
        return Part(section, text, found, written.cut_off, citations)

    def _whole(self, question: Question, parts: Sequence[Part], number: int) -> Answer:
        """What the parts that found something say together; if none did, that the documents do not say."""
        told_parts = [part for part in parts if part.found]
        if not told_parts:
            return Answer(question.title, parts[0].text, [], found=False)
        text, cut_off = told_parts[0].text, told_parts[0].cut_off
        if len(told_parts) > 1:
            texts = [part.text for part in told_parts]
            text, cut_off = self._combined(question.turns[-1].text, texts, question.sampling, number)
            cut_off = cut_off or any(part.cut_off for part in told_parts)
        written = [verify(quote, self.sources) for quote in quotations(text)]
        picked = [citation for part in _likeliest(told_parts, text) for citation in part.citations]
        text = put_right(text, written)
        return Answer(question.title, text, unique([*written, *picked]), cut_off=cut_off)

    def _consulted(self, section: Section, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns, and after them what the model asked the job's tools and was told."""
        desk, tokenizer = self.desk, self.reader.engine.tokenizer
        turns = desk.introduced(turns, self.prompts, tokenizer)
        for _ in range(desk.rounds):
            limit = min(CALL_LIMIT, self.reader.engine.card.window // 16)
            written = self.reader.write(section, turns, Sampling(max_tokens=limit), mask=desk.mask(tokenizer))
            more = desk.served(written.raw, tokenizer)
            if not more:
                break
            turns = [*turns, *more]
        return desk.left(turns, tokenizer)

    def quote(
        self,
        section: Section,
        turns: Sequence[Turn],
        said: str,
        *,
        count: int = 1,
        source: int | None = None,
        only: Collection[str] = (),
    ) -> list[Citation]:
        """Have the model pick up to `count` passages that carry what it `said`, and verify each."""
        found: list[str] = []
        while len(found) < count:
            mask = section.quote_mask(source=source, only=only, but=found)
            if mask is None:
                break
            start = f"{said}\n\n{self.prompts.quote}"
            sampling = Sampling(max_tokens=200)
            try:
                self.reader.write(section, turns, sampling, mask=mask, answer_start=start, check=True)
            except InstructionTooLong:  # a long answer leaves no room to quote, and is better than none
                break
            found.append(section.words(mask))
        within = self.sources if source is None else [self.sources[source]]
        return [verify(quote, within) for quote in found]

    def _combined(
        self, request: str, parts: Sequence[str], sampling: Sampling, number: int
    ) -> tuple[str, bool]:
        """One answer out of the sections' answers, in several rounds where they do not fit one prompt; and
        whether any was cut off."""
        tokenizer = self.reader.engine.tokenizer
        room = self.reader.engine.card.window - sampling.max_tokens - tokenizer.count(request) - 512
        cut_off = False
        while len(parts) > 1:
            group, rest = _fitting(parts, room, tokenizer.count)
            listed = "\n\n".join(f"Part {place}:\n{part}" for place, part in enumerate(group, 1))
            prompt = self.prompts.fill(
                "combine", count=str(len(group)), parts=listed, request=request.strip("\n- ")
            )
            written = self.reader.write(None, [Turn("user", prompt)], sampling, draft=number)
            cut_off = cut_off or written.cut_off
            parts = [written.text, *rest]
        return parts[0], cut_off


def told(text: str) -> tuple[str, bool]:
    """An answer without its mark, and whether the text gives one."""
    left = _ABSENT.sub("", text, count=1)
    if left == text:
        return text, True
    return left or "The document does not say.", False


def _likeliest(parts: Sequence[Part], text: str) -> list[Part]:
    """The parts that share most words with the final answer, at most `QUOTED_SECTIONS`."""
    words = set(text.lower().split())
    return sorted(parts, key=lambda part: -len(words & set(part.text.lower().split())))[:QUOTED_SECTIONS]


def wish(label: str, value: str | None) -> str:
    """A further line of an instruction, or nothing."""
    return f"\n{label}: {value}" if value else ""


def _fitting(parts: Sequence[str], room: int, count: Callable[[str], int]) -> tuple[list[str], list[str]]:
    """As many parts as fit (two at least, so that every round makes progress), and the rest."""
    used = 0
    for number, part in enumerate(parts):
        used += count(part) + 8
        if used > room and number >= 2:
            return list(parts[:number]), list(parts[number:])
    return list(parts), []
