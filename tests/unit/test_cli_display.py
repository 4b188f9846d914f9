"""What the command line shows of jobs, citations and times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from api.client import Citation, Coverage, Job, Usage, WorkerQuote
from api.display import (
    Display,
    change_line,
    citation_line,
    markdown,
    quote_line,
    receipt_line,
    state_of,
    time_lines,
)


def citation(**more: Any) -> Citation:
    found = {
        "quote": "The tower\nhas ten steps.",
        "document_id": "doc_1",
        "page": 12,
        "place": "page 12",
        "label": None,
        "start": 3,
        "end": 26,
        "verified": True,
        "match": "exact",
        "score": 1.0,
    }
    return cast(Citation, found | more)


def coverage(**more: Any) -> Coverage:
    document = {
        "document_id": "doc_1",
        "filename": "tower.pdf",
        "paged": True,
        "pages_read": 34,
        "pages_total": 34,
        "pages_without_text": [],
        "pages_from_ocr": [],
    }
    found = {
        "documents": [document],
        "tokens": 11_802,
        "reading": "whole",
        "sections": 1,
        "model": "small",
        "weights": "fp32",
        "parser_versions": ["1"],
        "prompt": "ask@1",
        "quotes_given": 2,
        "quotes_verified": 1,
    }
    return cast(Coverage, found | more)


def usage(**more: Any) -> Usage:
    seconds = {"parse_s": 1.0, "wait_s": 0.0, "read_s": 4.0, "write_s": 2.0, "check_s": 0.0, "total_s": 6.0}
    tokens = {"tokens_read": 1000, "tokens_reused": 20, "tokens_written": 30, "first_token_s": 4.0}
    return cast(Usage, seconds | tokens | more)


def job(**more: Any) -> Job:
    found = {
        "id": "job_1",
        "object": "job",
        "kind": "ask",
        "status": "completed",
        "phase": None,
        "progress": {"pages_done": 3, "pages_total": 34, "tokens_done": 1024, "tokens_total": 11_802},
        "queue_position": None,
        "eta_s": None,
        "created_at": "2026-01-01T10:00:00Z",
        "result": {
            "answers": [{"title": "How high?", "text": "Ten steps.", "citations": [citation()]}],
            "data": None,
        },
        "coverage": coverage(),
        "usage": usage(),
        "error": None,
    }
    return cast(Job, found | more)


def test_a_verified_quotation_stands_with_its_place_on_one_line() -> None:
    assert citation_line(1, citation()) == "[1] page 12 ✓ “The tower has ten steps.”"


def test_a_printed_page_number_is_shown_where_it_differs() -> None:
    assert "page 12 (printed x) ✓" in citation_line(1, citation(label="x"))
    assert "page 12 ✓" in citation_line(1, citation(label="12"))


def test_a_quotation_that_is_not_there_says_so() -> None:
    line = citation_line(2, citation(verified=False, page=None, place=None))

    assert line.startswith("[2] ✗ not found in the document")
    assert "page" not in line


def test_a_quotation_that_is_only_similar_is_shown_with_its_place_and_not_as_verified() -> None:
    line = citation_line(1, citation(verified=False, match="close", score=0.93))

    assert line == "[1] page 12 ≈ similar, not verified: “The tower has ten steps.”"


def test_a_long_quotation_is_cut_with_a_mark() -> None:
    assert citation_line(1, citation(quote="word " * 100)).endswith("…”")


def test_the_receipt_tells_pages_tokens_and_quotations() -> None:
    assert receipt_line(coverage()) == (
        "Read 34 of 34 pages, 11,802 tokens, whole, by small (fp32). 1 of 2 quotations found again."
    )


def test_the_receipt_of_versions_tells_what_the_model_was_given_of_them() -> None:
    documents = coverage()["documents"]
    documents[0]["pages_read"] = 12
    assert receipt_line(coverage(documents=documents)).startswith("Read 12 of 34 pages, whole, by small")
    documents[0]["pages_read"] = 0
    assert receipt_line(coverage(documents=documents)).startswith(
        "Compared 34 pages word for word; small (fp32) read none of them."
    )


def test_the_receipt_tells_sections_and_pages_without_text_or_from_pictures() -> None:
    documents = coverage()["documents"]
    documents[0]["pages_without_text"] = [4, 9]
    documents[0]["pages_from_ocr"] = [5]

    line = receipt_line(coverage(reading="sections", sections=3, documents=documents))

    assert "in 3 sections" in line
    assert "Without text in tower.pdf: 4, 9. Recognised in pictures in tower.pdf: 5." in line


def test_bars_are_as_long_as_the_time_took() -> None:
    lengths = {line.split()[0]: line.count("█") for line in time_lines(usage())}

    assert lengths["read"] == 2 * lengths["write"] == 4 * lengths["parse"]
    assert lengths["wait"] == 0


def test_times_of_nothing_are_bars_of_nothing() -> None:
    nothing = usage(**dict.fromkeys(("parse_s", "read_s", "write_s"), 0.0))

    assert all("█" not in line for line in time_lines(nothing))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"status": "queued", "queue_position": 3}, "waiting, 3 in the queue"),
        ({"status": "queued", "phase": "parsing"}, "parsing, page 3 of 34"),
        (
            {"status": "in_progress", "phase": "reading", "eta_s": 75.0},
            "reading, page 3 of 34, 1,024 of 11,802 tokens, 1 min 15 s left",
        ),
        ({}, ""),
    ],
)
def test_the_state_of_a_job_in_words(more: dict[str, Any], words: str) -> None:
    assert state_of(job(**more)) == words


def test_an_answer_goes_to_stdout_with_citation_receipt_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    Display().job(job())

    out, err = capsys.readouterr()
    assert out.startswith("How high?\nTen steps.\n  [1] page 12 ✓ “The tower has ten steps.”\n")
    assert "Read 34 of 34 pages" in out
    assert err == ""


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Display(as_json=True).job(job())

    assert json.loads(capsys.readouterr().out) == job()


def test_a_failed_job_says_why_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"code": "damaged", "message": "The file is damaged."}

    Display().job(job(status="failed", result=None, coverage=None, usage=None, error=error))

    out, err = capsys.readouterr()
    assert out == ""
    assert "The job job_1 failed (damaged): The file is damaged." in err


def test_quiet_keeps_news_back_but_not_failures(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=True)

    display.say("Starting.")
    display.fail("It broke.")

    assert capsys.readouterr().err == "It broke.\n"


def test_text_of_a_document_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = citation(quote="\x1b[2Jgone\x9b31m [bold]markup[/bold]")

    Display().answer(
        {"title": None, "text": "\x1b]0;title\x07ok", "found": True, "cut_off": False, "citations": [evil]}
    )

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert "[bold]markup[/bold]" in out


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A terminal nine hours ahead of the server's clock."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_a_list_of_jobs_has_a_line_each_in_the_time_of_its_reader(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = job(status="failed", error={"code": "encrypted", "message": "The file is locked."})
    Display().jobs([job(), job(status="queued", queue_position=2), failed])

    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["job_1", "ask", "completed", "2026-01-01", "19:00:00"]
    assert second.endswith("waiting, 2 in the queue")
    assert third.split()[2:] == ["failed", "2026-01-01", "19:00:00", "encrypted"]


def test_markdown_has_question_answer_citation_and_receipt() -> None:
    page = markdown(job(), "tower.pdf")

    assert page.startswith("# tower.pdf\n\n## How high?\n\nTen steps.\n\n- [1] page 12 ✓")
    assert "\n---\n\nRead 34 of 34 pages" in page


@pytest.mark.parametrize(
    ("state", "said"),
    [({"cut_off": True}, "(it reached its limit here"), ({"found": False}, "(not in the")],
)
def test_an_answer_that_is_cut_off_or_absent_says_so_on_screen_and_on_the_page(
    capsys: pytest.CaptureFixture[str], state: dict[str, bool], said: str
) -> None:
    answer: dict[str, Any] = {
        "title": None,
        "text": "Ten",
        "found": True,
        "cut_off": False,
        "citations": [],
        **state,
    }
    told = job(result={"answers": [answer], "data": None, "calls": []})
    Display().job(told)

    assert said in capsys.readouterr().out
    assert said in markdown(told, "tower.pdf")


def test_a_change_is_a_line_with_both_places_and_the_words_that_differ() -> None:
    change = {
        "kind": "changed",
        "before": {"place": "page 4"},
        "after": {"place": "page 5"},
        "words": [["=", "within "], ["-", "thirty"], ["+", "sixty"], ["=", " days"]],
    }
    assert change_line(3, change) == "[3] changed, page 4 → page 5: within [-thirty-]{+sixty+} days"


def test_a_tracked_change_says_who_made_it_and_when() -> None:
    change = {
        "kind": "inserted",
        "before": None,
        "after": {"place": "section 2, paragraph 4"},
        "words": [["+", "sixty"]],
        "author": "Ann",
        "date": "2026-01-02T03:04:05Z",
    }
    assert change_line(1, change) == "[1] inserted, section 2, paragraph 4, by Ann, 2026-01-02: {+sixty+}"


def test_a_quote_says_what_fits_and_how_long_it_takes() -> None:
    worker: WorkerQuote = {
        "worker_id": "w", "model": "m@1", "tokens": 17_398, "exact": True, "tokens_fit": 1_000_000,
        "fits": True, "sections": 1, "already_read": False, "read_s": 75.2, "write_s": None,
    }  # fmt: skip
    assert quote_line(worker) == (
        "m@1: 17,398 tokens, read whole (1,000,000 fit); 1 min 15 s of reading, writing not measured yet."
    )
    about = quote_line({**worker, "exact": False, "fits": False, "sections": 3, "already_read": True})
    assert about.startswith("m@1: about 17,398 tokens, read in 3 sections (1,000,000 fit); already read,")
