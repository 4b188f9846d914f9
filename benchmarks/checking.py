"""Are quotations and versions checked fast enough, and beside the obvious library calls? Run:
python -m benchmarks.checking

1. Quotations in three million characters of English, Chinese, and clauses that are all alike: as they stand,
   set otherwise, with slips (3 of 100 characters), and made up (their letters shuffled). Ours against
   `rapidfuzz.fuzz.partial_ratio_alignment` and `difflib`, each on the whole text.
2. The same with slips in a text that is one phrase over and over.
3. Two versions of a text of 100,000 words with 500 known edits and 40 lines moved: ours against aligning the
   words of the whole by `rapidfuzz` and `difflib`; the words each calls changed, and the edits among them.
"""

from __future__ import annotations

import difflib
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table

from benchmarks import report
from parsers import Document, Page
from worker.citations import verify
from worker.revision import compare
from worker.source import Source

CHARACTERS = 3_000_000
QUOTES = 40
EDITS = 500

#: What difflib is given of the quotations: it takes seconds for each.
_FEW = 3


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrst", k=rng.randint(2, 9))) for _ in range(count)]


def source(pages: Sequence[str]) -> Source:
    numbered = tuple(Page(number, text) for number, text in enumerate(pages, 1))
    return Source("doc", "text", Document(numbered, None, "text/plain", True, (), "text/1"))


def slips(rng: random.Random, quote: str) -> str:
    letters = list(quote)
    for number in range(len(quote) * 3 // 100):
        at = rng.randrange(len(letters))
        letters[at : at + (number % 3 > 0)] = "z" * (number % 3 < 2)  # put in, exchanged, left out
    return "".join(letters)


def english(rng: random.Random) -> str:
    """A line of words that are as often as the words of a language."""
    return " ".join(rng.choices(_VOCABULARY, _OFTEN, k=12))


def chinese(rng: random.Random) -> str:
    """A line of characters, no blanks."""
    return "".join(chr(0x4E00 + rng.randrange(1_500)) for _ in range(60))


def clauses(rng: random.Random) -> str:
    """A line that says almost what every other line says."""
    return f"The tenant shall pay a rent of {rng.randrange(10_000)} euros on day {rng.randrange(28)}."


_VOCABULARY = words(random.Random(0), 5_000)
_OFTEN = [1 / rank for rank in range(1, len(_VOCABULARY) + 1)]


def quotations(line: Callable[[random.Random], str]) -> dict[str, Any]:
    rng = random.Random(1)
    pages: list[str] = []
    while sum(map(len, pages)) < CHARACTERS:
        pages.append("\n".join(line(rng) for _ in range(40)))
    text = source(pages)
    began = time.perf_counter()
    verify("nothing like this was ever written anywhere", [text])
    first_s = time.perf_counter() - began
    places = [(n, rng.randrange(1_500)) for n in rng.sample(range(len(pages)), QUOTES)]
    true = [(n + 1, pages[n][at : at + rng.randint(60, 300)]) for n, at in places]
    kinds: dict[str, Sequence[tuple[int | None, str]]] = {
        "as it stands": true,
        "set otherwise": [(page, " ".join(quote.upper().split())) for page, quote in true],
        "with slips": [(page, slips(rng, quote)) for page, quote in true],
        "made up": [(None, "".join(rng.sample(quote, len(quote)))) for _, quote in true],
    }
    rows = []
    for kind, quotes in kinds.items():
        ours = timed(lambda quote: verify(quote, [text])["page"], quotes)
        theirs = timed(lambda quote: whole_by_rapidfuzz(quote, text), quotes)
        slow = timed(lambda quote: whole_by_difflib(quote, text), quotes[:_FEW]) if line is english else None
        rows.append({"kind": kind, "ours": ours, "rapidfuzz": theirs, "difflib": slow})
    return {"text": line.__name__, "characters": len(text.text), "first_s": first_s, "rows": rows}


def repeated(phrase: str) -> dict[str, Any]:
    """Near copies of 400 characters of a text that is one phrase over and over: nothing can be left out."""
    text = source([phrase * (3_000 // len(phrase))] * (CHARACTERS // 3_000))
    quotes = [(1, slips(random.Random(seed), text.text[:400])) for seed in range(_FEW)]
    verify(quotes[0][1], [text])
    ours = timed(lambda quote: verify(quote, [text])["page"], quotes)
    return {"phrase": phrase, "ours": ours, "rapidfuzz": timed(lambda q: whole_by_rapidfuzz(q, text), quotes)}


def whole_by_rapidfuzz(quote: str, text: Source) -> int | None:
    found = fuzz.partial_ratio_alignment(quote, text.text, score_cutoff=90)
    return None if found is None else text.document.pages[text.page_at(found.dest_start)].number


def whole_by_difflib(quote: str, text: Source) -> int | None:
    match = difflib.SequenceMatcher(None, text.text, quote, autojunk=False).find_longest_match()
    good = match.size >= len(quote) / 3
    return text.document.pages[text.page_at(match.a)].number if good else None


def timed(find: Callable[[str], int | None], quotes: Sequence[tuple[int | None, str]]) -> dict[str, Any]:
    """Median seconds for a quotation, and the share whose page is right."""
    seconds, right = [], 0
    for page, quote in quotes:
        began = time.perf_counter()
        right += find(quote) == page
        seconds.append(time.perf_counter() - began)
    return {"median_s": statistics.median(seconds), "longest_s": max(seconds), "right": right / len(quotes)}


def versions() -> dict[str, Any]:
    rng = random.Random(2)
    vocabulary = words(rng, 8_000)
    lines = [rng.choices(vocabulary, k=20) for _ in range(5_000)]
    later = [list(line) for line in lines]
    marks = [f"mark{number}" for number in range(EDITS)]
    for mark, line in zip(marks, rng.sample(later, EDITS), strict=True):
        line[rng.randrange(1, 19)] = mark
    moved = later[100:140]
    later[100:140] = []
    later[3_000:3_000] = moved
    before, after = (["\n\n".join(" ".join(line) + "." for line in side)] for side in (lines, later))
    left, right = before[0].split(), after[0].split()
    return {
        "words": len(left),
        "edits": EDITS,
        "ours": diffed(lambda: ours(before, after), marks),
        "rapidfuzz": diffed(lambda: by_rapidfuzz(left, right), marks),
        "difflib": diffed(lambda: by_difflib(left, right), marks),
    }


def ours(before: Sequence[str], after: Sequence[str]) -> list[str]:
    changes = compare(source(before), source(after)).changes
    return [word for change in changes for op, run in change.words if op == "+" for word in run.split()]


def by_rapidfuzz(left: Sequence[str], right: Sequence[str]) -> list[str]:
    blocks = Levenshtein.opcodes(left, right)
    return [word for b in blocks if b.tag != "equal" for word in right[b.dest_start : b.dest_end]]


def by_difflib(left: Sequence[str], right: Sequence[str]) -> list[str]:
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return [word for tag, _, _, start, end in blocks if tag != "equal" for word in right[start:end]]


def diffed(work: Callable[[], list[str]], marks: Sequence[str]) -> dict[str, Any]:
    began = time.perf_counter()
    changed = work()
    seconds = time.perf_counter() - began
    told = {word.strip(".") for word in changed}
    return {
        "seconds": seconds,
        "words": len(changed),
        "recall": sum(mark in told for mark in marks) / len(marks),
    }


def tabulate(figures: dict[str, Any]) -> list[Table]:
    quotes = Table("text", "quotation", "ours", "rapidfuzz", "difflib", title="Median, longest, page right")
    for found in figures["quotations"]:
        for row in found["rows"]:
            cells = [
                f"{row[who]['median_s'] * 1000:,.1f} ms, {row[who]['longest_s'] * 1000:,.1f} ms, "
                f"{row[who]['right']:.0%}"
                if row[who]
                else ""
                for who in ("ours", "rapidfuzz", "difflib")
            ]
            quotes.add_row(found["text"], row["kind"], *cells)
    aligned = figures["versions"]
    diff = Table("alignment", "seconds", "words called changed", "edits among them", title="Two versions")
    for who in ("ours", "rapidfuzz", "difflib"):
        row = aligned[who]
        diff.add_row(who, f"{row['seconds']:.2f}", f"{row['words']:,}", f"{row['recall']:.1%}")
    return [quotes, diff]


def main() -> None:
    figures: dict[str, Any] = {
        "quotations": [quotations(line) for line in (english, chinese, clauses)],
        "repeated": [repeated(phrase) for phrase in ("The tenant shall pay the rent. ", "0 | ")],
        "versions": versions(),
    }
    for table in tabulate(figures):
        Console(width=160).print(table)
    for found in figures["quotations"]:
        print(f"{found['text']}: first quotation, with preparing the text: {found['first_s']:.2f} s")
    for found in figures["repeated"]:
        ours, theirs = (found[who]["longest_s"] for who in ("ours", "rapidfuzz"))
        print(f"“{found['phrase']}” over and over, with slips: {ours:.2f} s, rapidfuzz {theirs:.2f} s")
    report.save("checking", figures)


if __name__ == "__main__":
    main()
