"""The story of a job, told with the fake engine: whatever happens is in the record afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from reading import PAGES, add_document, add_parsed, answers, pipeline, run
from structlog.testing import capture_logs

from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Status
from jobs.tables import JobRow
from parsers import Document, Page
from worker.engine import FakeEngine, NotFinite
from worker.engine.fake import fake_tokenizer
from worker.library import Library
from worker.prompts import Prompts

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"employees": {"type": "integer"}, "city": {"type": "string", "maxLength": 20}},
    "required": ["employees", "city"],
    "additionalProperties": False,
}


def test_an_answer_carries_citations_with_their_pages(record: Record) -> None:
    job = run(
        record, FakeEngine({"How many": "Many."}), "ask", add_document(record, *PAGES), question="How many?"
    )
    (answer,) = answers(job)
    assert (answer["title"], answer["text"]) == ("How many?", "Many.")
    assert answer["citations"]
    for citation in answer["citations"]:
        assert citation["verified"]
        assert PAGES[citation["page"] - 1][citation["start"] : citation["end"]] == citation["quote"]


def test_every_quotation_a_lying_model_invents_is_marked(record: Record) -> None:
    liar = FakeEngine(
        lambda _: 'Page 1 says "the company employs 1,204 people" and “it was dissolved in 1950”.'
    )
    job = run(record, liar, "ask", add_document(record, *PAGES), question="How many?")
    by_quote = {citation["quote"]: citation for citation in answers(job)[0]["citations"]}
    assert by_quote["the company employs 1,204 people"]["page"] == 2
    assert not by_quote["it was dissolved in 1950"]["verified"]
    assert by_quote["it was dissolved in 1950"]["page"] is None
    assert job.coverage is not None
    assert job.coverage["quotes_given"] - job.coverage["quotes_verified"] == 1


def test_several_questions_are_answered_from_one_reading(record: Record) -> None:
    job = run(record, FakeEngine(), "ask", add_document(record, *PAGES), questions=["How?", "Why?", "When?"])
    assert [answer["title"] for answer in answers(job)] == ["How?", "Why?", "When?"]


def test_a_second_job_reads_nothing_of_the_document_again(record: Record) -> None:
    engine, document = FakeEngine(), add_document(record, *PAGES)
    first = run(record, engine, "ask", document, question="How?")
    second = run(record, engine, "summarize", document)
    assert first.usage is not None
    assert second.usage is not None
    assert first.coverage is not None
    assert first.usage["tokens_reused"] == 0
    assert second.usage["tokens_reused"] == first.coverage["tokens"]


def test_the_receipt_says_what_was_read(record: Record) -> None:
    job = run(record, FakeEngine(), "summarize", add_document(record, PAGES[0], "", PAGES[1]))
    assert job.coverage is not None
    (document,) = job.coverage["documents"]
    assert (document["pages_read"], document["pages_total"], document["pages_without_text"]) == (3, 3, [2])
    assert (job.coverage["reading"], job.coverage["model"], job.coverage["weights"]) == (
        "whole",
        "fake@1",
        "fp32",
    )
    assert job.coverage["prompt"] == Prompts().fingerprint("summarize")


def test_the_receipt_names_the_pages_that_were_recognised_in_pictures(record: Record) -> None:
    pages = tuple(Page(number, text) for number, text in enumerate((PAGES[0], "", PAGES[1]), 1))
    scan = Document(pages, None, "application/pdf", True, (), "pdf/1", ocr_pages=(3,))
    job = run(record, FakeEngine(), "summarize", add_parsed(record, scan, name="scan.pdf"))
    assert job.coverage is not None
    (document,) = job.coverage["documents"]
    assert (document["pages_without_text"], document["pages_from_ocr"]) == ([2], [3])


def test_what_does_not_fit_is_read_in_sections_and_said_so(record: Record) -> None:
    pages = [f"Page {n} tells of the item numbered {n}. " * 10 for n in range(1, 16)]
    engine = FakeEngine({"another part of the same": "All of it.", "": "Part."}, window=2_000)
    job = run(record, engine, "ask", add_document(record, *pages), question="What?", max_tokens=20)
    assert answers(job)[0]["text"] == "All of it."
    assert job.coverage is not None
    assert job.coverage["reading"] == "sections"
    assert job.coverage["sections"] > 1
    assert job.coverage["documents"][0]["pages_read"] == 15


def test_reading_whole_refuses_what_does_not_fit_with_numbers(record: Record) -> None:
    document = add_document(record, *["A page of some length. " * 20] * 10)
    job = run(record, FakeEngine(window=2_000), "summarize", document, reading="whole")
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "does_not_fit")
    assert job.error is not None
    assert "1,500 fit" in job.error.message


def test_extracted_json_fits_its_schema_and_cites_what_states_it(record: Record) -> None:
    engine = FakeEngine(lambda prompt: '{"employees": 1204, "city": "Rome"}')
    job = run(record, engine, "extract", add_document(record, *PAGES), schema=SCHEMA)
    employees, city = answers(job)
    assert job.result is not None
    assert job.result["data"] == {"employees": 1204, "city": "Rome"}
    assert [citation["page"] for citation in employees["citations"]] == [2]
    assert city["citations"] == []


def test_json_that_is_cut_off_fails_the_job(record: Record) -> None:
    job = run(record, FakeEngine(), "extract", add_document(record, *PAGES), schema=SCHEMA, max_tokens=5)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "output_cut_off")


@pytest.mark.parametrize("number", ["1e999", "1" * 5_000])
def test_a_number_that_nothing_holds_fails_the_job(record: Record, number: str) -> None:
    engine = FakeEngine(lambda prompt: f'{{"employees": {number}, "city": "Rome"}}')
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "employees": {"type": "number"}}}
    job = run(record, engine, "extract", add_document(record, *PAGES), schema=schema, max_tokens=6_000)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "output_invalid")


def test_a_comparison_cites_every_document(record: Record) -> None:
    first = add_document(record, *PAGES)
    second = add_document(record, "The works at Oslo were opened in 1913.", name="b.txt")
    job = run(record, FakeEngine({"differ": "The place."}), "compare", first, second)
    assert {citation["document_id"] for citation in answers(job)[0]["citations"]} == {first, second}


def test_a_chat_goes_on_where_it_was(record: Record) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return "It was 1912."

    engine, document = FakeEngine(answer), add_document(record, *PAGES)
    first = run(record, engine, "chat", document, message="When was it opened?")
    run(record, engine, "chat", document, message="And where?", previous_job_id=first.id)
    last = prompts[-1]
    assert last.index("When was it opened?") < last.index("It was 1912.") < last.index("And where?")


def test_a_chat_whose_earlier_turn_was_removed_meanwhile_says_so(record: Record) -> None:
    job = run(
        record, FakeEngine(), "chat", add_document(record, *PAGES), message="And?", previous_job_id="job_gone"
    )
    assert job.error is not None
    assert (job.status, job.error.code) == (Status.FAILED, "job_not_found")
    assert "job_gone" in job.error.message


def test_an_instruction_that_leaves_no_room_fails_with_numbers(record: Record) -> None:
    job = run(record, FakeEngine(window=2_000), "ask", add_document(record, *PAGES), question="why " * 500)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "instruction_too_long")


def test_an_engine_error_fails_the_job_with_its_code(record: Record) -> None:
    def answer(_: str) -> str:
        raise NotFinite

    job = run(record, FakeEngine(answer), "summarize", add_document(record, *PAGES))
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "not_finite_logits")


def test_a_bug_fails_the_job_without_showing_its_insides(record: Record) -> None:
    def answer(_: str) -> str:
        raise ZeroDivisionError("secret path")

    with capture_logs() as told:
        job = run(record, FakeEngine(answer), "summarize", add_document(record, *PAGES))
    assert job.error is not None
    assert (job.status, job.error.code) == (Status.FAILED, "internal_error")
    assert "secret" not in job.error.message
    assert [entry["job_id"] for entry in told if entry.get("exc_info")] == [job.id]


def test_text_that_is_gone_fails_the_job(record: Record) -> None:
    document = add_document(record, *PAGES)
    record.files.delete(record.documents.get(document).sha256)
    job = run(record, FakeEngine(), "summarize", document)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "text_missing")


def started(record: Record, hold: threading.Event) -> tuple[JobRow, FakeEngine, threading.Thread]:
    """A job in the middle of its reading, in a thread of its own."""
    engine = FakeEngine(chunk=16, hold_reading=hold)
    document = add_document(record, *PAGES)
    row, _ = record.ledger.add(NewJob.model_validate({"kind": "summarize", "document_ids": [document]}))
    thread = threading.Thread(target=pipeline(record, engine).read, args=(row.id,))
    thread.start()
    wait_until(lambda: record.ledger.get(row.id).tokens_done > 0)
    return row, engine, thread


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


def test_progress_is_told_while_reading_and_cancelling_stops_it(record: Record) -> None:
    row, _, thread = started(record, threading.Event())
    job = record.ledger.get(row.id)
    assert (job.status, job.phase) == (Status.IN_PROGRESS, "reading")
    assert job.tokens_total is not None
    assert 0 < job.tokens_done < job.tokens_total
    record.ledger.cancel(row.id)
    thread.join()
    assert record.ledger.get(row.id).status == Status.CANCELLED


def test_a_worker_that_goes_down_gives_its_job_back(record: Record) -> None:
    row, engine, thread = started(record, threading.Event())
    engine.close()
    thread.join()
    job = record.ledger.get(row.id)
    assert (job.status, job.tries, job.attempt) == (Status.QUEUED, 0, 1)


def test_a_job_whose_engine_breaks_waits_for_another_worker(record: Record) -> None:
    row, engine, thread = started(record, threading.Event())
    engine.fail()
    thread.join()
    job = record.ledger.get(row.id)
    assert (job.status, job.tries) == (Status.IN_PROGRESS, 1)


def test_a_job_that_runs_out_of_time_expires(record: Record) -> None:
    document = add_document(record, *PAGES)
    new = NewJob.model_validate({"kind": "summarize", "document_ids": [document], "timeout_s": 0.05})
    row, _ = record.ledger.add(new)
    pipeline(record, FakeEngine(chunk=16, hold_reading=threading.Event())).read(row.id)
    assert record.ledger.get(row.id).status == Status.EXPIRED


def test_a_worker_gives_up_what_it_read_of_deleted_documents(record: Record) -> None:
    engine = FakeEngine()
    kept, deleted = add_document(record, *PAGES), add_document(record, *PAGES, name="b.txt")
    for document in (kept, deleted):
        run(record, engine, "ask", document, question="How?")
    line = pipeline(record, engine)
    line.forget_deleted()
    assert engine.owners() == {kept, deleted}
    record.documents.delete(deleted)
    line.forget_deleted()
    assert engine.owners() == {kept}


def test_a_library_forgets_the_text_of_a_document_and_keeps_others(record: Record) -> None:
    library = Library(record, fake_tokenizer(), system="Read.")
    one, two = (add_document(record, *PAGES, name=name) for name in ("a.txt", "b.txt"))
    for documents in ([one], [two], [one, two]):
        library.lay_out(documents, budget=10_000, side_by_side=False)
    layout = library.lay_out([two], budget=10_000, side_by_side=False)
    assert library.document_ids == {one, two}
    library.forget({one})
    assert library.document_ids == {two}
    assert library.lay_out([two], budget=10_000, side_by_side=False) is layout


def test_a_message_that_comes_twice_does_the_job_once(record: Record) -> None:
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return "Done."

    engine = FakeEngine(answer)
    job = run(record, engine, "ask", add_document(record, *PAGES), question="How?")
    done = len(prompts)
    pipeline(record, engine).read(job.id)
    assert len(prompts) == done
    assert record.ledger.get(job.id).attempt == 1
