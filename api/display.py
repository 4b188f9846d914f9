"""What the command line shows: answers on stdout, all else on stderr; on request, only JSON on stdout."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from api.client import Answer, Citation, Coverage, Job, ListedJob, Quote, Usage, WorkerQuote
from api.needle import Trial

#: The parts of a job's time, in the order they happen.
PARTS = ("parse", "wait", "read", "write", "check")
TOKENS: tuple[Literal["tokens_read", "tokens_reused", "tokens_written"], ...] = (
    "tokens_read",
    "tokens_reused",
    "tokens_written",
)
BAR_WIDTH = 40
#: How each part is drawn where they share one bar; told apart without colour.
BLOCKS = {"parse": "▚", "wait": "░", "read": "█", "write": "▒", "check": "▖"}
#: Characters of a quotation shown on one line.
QUOTE_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `unabridged doctor`."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str


class _Console(Console):
    """One that leaves it to the command what becomes of it when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Display:
    """Writes to two consoles."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._out = _Console(highlight=False, markup=False, emoji=False)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)

    # -- stderr -----------------------------------------------------------------------------------------

    def say(self, message: str) -> None:
        """Tell what is going on."""
        if not self._quiet:
            self._err.print(clean(message), style="dim", soft_wrap=True)

    def fail(self, message: str, *, code: str = "", **problem: Any) -> None:
        """Tell what went wrong; with its code in JSON too, where there is nothing else to show."""
        self._err.print(clean(f"{message} ({code})" if code else message), style="red", soft_wrap=True)
        if code:
            self.data({"error": {"code": code, **problem, "message": message}})

    @contextmanager
    def progress(self, label: str = "") -> Iterator[Callable[[Job], None]]:
        """A bar while a job runs, on a terminal only."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[detail]}"),
            console=self._err,
            transient=True,
            disable=self._quiet or not self._err.is_terminal,
        ) as bar:
            task = bar.add_task(label, total=None, detail="")
            yield lambda job: _advance(bar, task, label, job)

    # -- stdout -----------------------------------------------------------------------------------------

    def data(self, value: Any) -> None:
        """JSON, where JSON was asked for."""
        if self.as_json:
            said = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")
            print(said.decode(), flush=True)

    def line(self, text: str | Text) -> None:
        """One line of the answer."""
        if not self.as_json:
            self._out.print(text, soft_wrap=True)

    def job(self, job: Job) -> None:
        """A job: its answer with citations, receipt and times, or why there is none."""
        self.data(job)
        for answer in job["result"]["answers"] if job["result"] else []:
            self.answer(answer)
        for number, change in enumerate(told_changes(job), start=1):
            self.line(change_line(number, change))
        if job["error"]:
            self.fail(
                f"The job {job['id']} {job['status']} ({job['error']['code']}): {job['error']['message']}"
            )
        elif not job["result"]:
            self.line(f"The job {job['id']} is {job['status'].replace('_', ' ')}. {state_of(job)}".rstrip())
        if job["coverage"] and job["usage"]:
            self.receipt(job["coverage"], job["usage"])

    def answer(self, answer: Answer) -> None:
        """One answer with its citations."""
        if answer["title"]:
            self.line(Text(clean(answer["title"]), style="bold"))
        self.line(clean(answer["text"]))
        for remark in remarks(answer):
            self.line(Text(f"  ({remark})", style="yellow"))
        for number, citation in enumerate(answer["citations"], start=1):
            style = "" if citation["verified"] else "yellow"
            self.line(Text(f"  {citation_line(number, citation)}", style=style))
        self.line("")

    def receipt(self, coverage: Coverage, usage: Usage) -> None:
        """What was read, and where the time went."""
        self.line(Text(receipt_line(coverage), style="dim"))
        for line in time_lines(usage):
            self.line(Text(line, style="dim"))

    def quote(self, quote: Quote) -> None:
        """What a job would take on each card."""
        self.data(quote)
        for worker in quote["workers"]:
            self.line(quote_line(worker))
        if not quote["workers"]:
            self.line(
                f"{quote['characters']:,} characters. No model is loaded, so nothing is known of speed."
            )

    def trial(self, trial: Trial) -> None:
        """One needle: how long, how deep, what came of it."""
        tokens = f"{trial.tokens:,}" if trial.tokens else f"~{trial.asked_tokens:,}"
        read = f"{trial.read_s:.1f} s" if trial.read_s is not None else ""
        said = " ".join(clean(trial.said).split())
        self.line(
            f"{tokens:>12} tokens  depth {trial.depth:>4.0%}  {trial.outcome:<7} {read:>9}  {said[:80]}"
        )

    def jobs(self, jobs: Iterable[ListedJob]) -> None:
        """A line for each job."""
        found = list(jobs)
        self.data({"object": "list", "data": found})
        for job in found:
            created = f"{datetime.fromisoformat(job['created_at']).astimezone():%Y-%m-%d %H:%M:%S}"
            more = job["error"]["code"] if job["error"] else state_of(job)
            self.line(f"{job['id']}  {job['kind']:<9}  {job['status']:<11}  {created}  {more}".rstrip())
        if not found:
            self.line("There are no jobs.")

    def heading(self, text: str) -> None:
        """The title of what follows."""
        self.line(Text(f"\n── {text} ".ljust(78, "─"), style="bold"))

    def times(self, jobs: Iterable[tuple[str, Job]]) -> None:
        """A table of where the time of several jobs went; each as a bar of its parts."""
        rows = [(title, job["usage"]) for title, job in jobs if job["usage"]]
        longest = max((usage["total_s"] for _, usage in rows), default=1.0)
        parts = "  ".join(f"{BLOCKS[part]} {part}" for part in PARTS)
        self.line(f"{'':<40}{'read':>8}{'reused':>8}{'written':>8}{'seconds':>9}  {parts}")
        for title, usage in rows:
            tokens = "".join(f"{usage[name]:>8,}" for name in TOKENS)
            self.line(f"{title:<40.40}{tokens}{usage['total_s']:>9.1f}  {_parts_bar(usage, longest)}")

    def checks(self, checks: Iterable[Check]) -> None:
        """The lines of the doctor."""
        found = list(checks)
        self.data({"object": "list", "data": [asdict(check) for check in found]})
        colours: Mapping[str, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
        for check in found:
            state = Text(f"{check.state:<5}", style=colours[check.state])
            self.line(state + Text(f"{check.name:<10} {clean(check.detail)}", style=""))


def clean(text: str) -> str:
    """Text without characters that would move a terminal's cursor, change its colours, or are none at all."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cs"})


def remarks(answer: Answer) -> list[str]:
    """What a reader must know of an answer beside its text."""
    cut_off = ["it reached its limit here and was cut off"] if answer.get("cut_off") else []
    return cut_off + (["not in the document"] if answer.get("found") is False else [])


def citation_line(number: int, citation: Citation) -> str:
    """`[1] page 12 ✓ “quote”`; a quotation that is not in the document, or not word for word, says so."""
    quote = " ".join(clean(citation["quote"]).split())
    short = quote if len(quote) <= QUOTE_WIDTH else quote[: QUOTE_WIDTH - 1] + "…"
    if citation["page"] is None:
        return f"[{number}] ✗ not found in the document: “{short}”"
    printed = citation["label"] not in {None, str(citation["page"])}
    label = f" (printed {citation['label']})" if printed else ""
    verdict = "✓" if citation["verified"] else "≈ similar, not verified:"
    return f"[{number}] {citation['place']}{label} {verdict} “{short}”"


def told_changes(job: Job) -> list[dict[str, Any]]:
    """The changes that a comparison of versions found, without those that are but renumbered."""
    data = (job["result"]["data"] if job["result"] else None) or {}
    return [change for change in data.get("changes", []) if change["kind"] != "renumbered"]


def change_line(number: int, change: Mapping[str, Any]) -> str:
    """`[3] changed, page 4 → page 5: within [-thirty-]{+sixty+} days`; of a tracked one also who and when."""
    marks = {"-": "[-{}-]", "+": "{{+{}+}}", "=": "{}"}
    words = "".join(marks[op].format(clean(run)) for op, run in change["words"])
    places = " → ".join(side["place"] for side in (change["before"], change["after"]) if side)
    by = f", by {clean(change['author'])}" if change.get("author") else ""
    on = f", {change['date'][:10]}" if change.get("date") else ""
    return f"[{number}] {change['kind']}, {places}{by}{on}: {' '.join(words.split())}"


def quote_line(worker: WorkerQuote) -> str:
    """`GLM@main: 17,398 tokens, read whole (1,032,192 fit); 2 s of reading, 1 s of writing.`"""
    about = "" if worker["exact"] else "about "
    whole = "read whole" if worker["fits"] else f"read in {worker['sections']} sections"
    seconds = "already read" if worker["already_read"] else _perhaps(worker["read_s"], "reading")
    tokens = f"{about}{worker['tokens']:,} tokens, {whole} ({worker['tokens_fit']:,} fit)"
    return f"{worker['model']}: {tokens}; {seconds}, {_perhaps(worker['write_s'], 'writing')}."


def _perhaps(seconds: float | None, doing: str) -> str:
    return f"{doing} not measured yet" if seconds is None else f"{_duration(seconds)} of {doing}"


def receipt_line(coverage: Coverage) -> str:
    """What was read, in a sentence or three."""
    documents = coverage["documents"]
    unit = "pages" if all(document["paged"] for document in documents) else "sections"
    read, total = (sum(document[name] for document in documents) for name in ("pages_read", "pages_total"))
    how = "whole" if coverage["reading"] == "whole" else f"in {coverage['sections']} sections"
    tokens = f" {coverage['tokens']:,} tokens," if read == total else ""
    by = f"{coverage['model']} ({coverage['weights']})"
    said = [f"Read {read:,} of {total:,} {unit},{tokens} {how}, by {by}."]
    if not read:  # of versions, what differs alone is given to the model
        said = [f"Compared {total:,} {unit} word for word; {by} read none of them."]
    for document in documents:
        for what, pages in (
            ("Without text", document["pages_without_text"]),
            ("Recognised in pictures", document.get("pages_from_ocr")),
        ):
            if pages:
                said.append(f"{what} in {clean(document['filename'])}: {', '.join(map(str, pages))}.")
    if coverage["quotes_given"]:
        said.append(f"{coverage['quotes_verified']} of {coverage['quotes_given']} quotations found again.")
    return " ".join(said)


def time_lines(usage: Usage) -> list[str]:
    """Where the time went: a bar for each part, then the tokens."""
    spent: Mapping[str, Any] = usage
    seconds = {part: float(spent.get(f"{part}_s") or 0.0) for part in PARTS}
    longest = max(seconds.values()) or 1.0
    bars = [
        f"  {part:<6}{value:>8.2f} s  {'█' * round(BAR_WIDTH * value / longest)}".rstrip()
        for part, value in seconds.items()
    ]
    return [
        *bars,
        f"  total {usage['total_s']:>8.2f} s  {usage['tokens_read']:,} tokens read, "
        f"{usage['tokens_reused']:,} reused, {usage['tokens_written']:,} written",
    ]


def _parts_bar(usage: Usage, longest: float) -> str:
    spent: Mapping[str, Any] = usage
    scale = BAR_WIDTH / (longest or 1.0)
    return "".join(BLOCKS[part] * round(scale * (spent.get(f"{part}_s") or 0.0)) for part in PARTS)


def state_of(job: ListedJob) -> str:
    """How far an unfinished job is, in words."""
    done = job["progress"]
    if job["phase"] == "parsing":
        return f"parsing, page {_of(done['pages_done'], done['pages_total'])}"
    if job["status"] == "queued":
        return f"waiting, {job['queue_position']} in the queue" if job["queue_position"] else "waiting"
    if job["phase"] is None:
        return ""
    pages = f"page {_of(done['pages_done'], done['pages_total'])}, "
    left = f", {_duration(job['eta_s'])} left" if job["eta_s"] else ""
    return f"{job['phase']}, {pages}{_of(done['tokens_done'], done['tokens_total'])} tokens{left}"


def markdown(job: Job, title: str) -> str:
    """A finished job as a Markdown page."""
    lines = [f"# {clean(title)}", ""]
    for answer in job["result"]["answers"] if job["result"] else []:
        if answer["title"]:
            lines += [f"## {' '.join(clean(answer['title']).split())}", ""]
        lines += [clean(answer["text"]), ""]
        for remark in remarks(answer):
            lines += [f"*({remark})*", ""]
        lines += [
            f"- {citation_line(n, citation)}" for n, citation in enumerate(answer["citations"], start=1)
        ]
        lines += [""] * bool(answer["citations"])
    if job["coverage"]:
        lines += ["---", "", receipt_line(job["coverage"]), ""]
    return "\n".join(lines)


def _advance(bar: Progress, task: TaskID, label: str, job: Job) -> None:
    done = job["progress"]
    parsing = job["phase"] == "parsing"
    bar.update(
        task,
        description=label,
        completed=done["pages_done"] if parsing else done["tokens_done"],
        total=done["pages_total"] if parsing else done["tokens_total"],
        detail=state_of(job),
    )


def _of(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
