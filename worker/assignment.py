"""An assignment: one job's documents, prompts and reader, and the three things every kind does with them:
ask each section, make one answer of several, and let the model point at the passages it rests on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.params import Params
from worker.citations import Citation, quotations, unique, verify
from worker.engine import Sampling, Turn
from worker.errors import InstructionTooLong
from worker.prompts import Prompts
from worker.reader import Reader
from worker.section import Section
from worker.source import Source

#: Sections asked for a quotation when a document was read in many.
QUOTED_SECTIONS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One piece of a result."""

    title: str | None
    text: str
    citations: list[Citation]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {"title": self.title, "text": self.text, "citations": list(self.citations)}


@dataclass(frozen=True, slots=True)
class Result:
    """What a kind makes of an assignment."""

    answers: list[Answer]
    data: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {"answers": [answer.to_json() for answer in self.answers], "data": self.data}


@dataclass(frozen=True)
class Assignment:
    """What a kind works with."""

    params: Params
    sources: Sequence[Source]
    reader: Reader
    prompts: Prompts

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

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, *, title: str | None = None, quotes: int = 2
    ) -> Answer:
        """Ask every section, make one answer of it, and cite the passages it rests on."""
        parts = [self.reader.write(section, turns, sampling, draft=True).text for section in self.sections]
        text = parts[0] if len(parts) == 1 else self._combined(turns[-1].text, parts, sampling)
        self.reader.checking()
        citations = [verify(quote, self.sources) for quote in quotations(text)]
        for section, part in self._likeliest(parts, text):
            citations += self.quote(section, turns, part, count=quotes if len(parts) == 1 else min(quotes, 1))
        return Answer(title, text, unique(citations))

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
                self.reader.write(section, turns, sampling, mask=mask, answer_start=start)
            except InstructionTooLong:  # a long answer leaves no room to quote, and is better than none
                break
            found.append(section.words(mask))
        return [verify(quote, self.sources) for quote in found]

    def _combined(self, request: str, parts: Sequence[str], sampling: Sampling) -> str:
        """One answer out of the sections' answers; in several rounds where they do not fit one prompt."""
        tokenizer = self.reader.engine.tokenizer
        room = self.reader.engine.card.window - sampling.max_tokens - tokenizer.count(request) - 512
        while len(parts) > 1:
            group, rest = _fitting(parts, room, tokenizer.count)
            listed = "\n\n".join(f"Part {number}:\n{part}" for number, part in enumerate(group, 1))
            prompt = self.prompts.fill(
                "combine", count=str(len(group)), parts=listed, request=request.strip("\n- ")
            )
            parts = [self.reader.write(None, [Turn("user", prompt)], sampling, draft=True).text, *rest]
        return parts[0]

    def _likeliest(self, parts: Sequence[str], text: str) -> list[tuple[Section, str]]:
        """The sections whose own answers share most words with the final one, at most `QUOTED_SECTIONS`."""
        words = set(text.lower().split())
        pairs = list(zip(self.sections, parts, strict=True))
        pairs.sort(key=lambda pair: -len(words & set(pair[1].lower().split())))
        return pairs[:QUOTED_SECTIONS]


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
