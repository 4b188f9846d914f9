"""What each kind makes of its documents, with an engine that answers from a script, or lies."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from reading import PAGES, add_document, add_parsed, answers, pipeline, run

from jobs.objects import Job
from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Status
from parsers import Document, Page
from parsers.document import Change
from parsers.sniff import WORD
from worker.engine import FakeEngine, NotFinite
from worker.prompts import Prompts

# -- ask --------------------------------------------------------------------------------------------------


def test_what_the_document_does_not_say_is_told_as_such(record: Record) -> None:
    engine = FakeEngine({"Who?": "NOT_IN_DOCUMENT: It names nobody.", "When?": "In 1912."})
    who, when = answers(run(record, engine, "ask", add_document(record, *PAGES), questions=["Who?", "When?"]))
    assert (who["found"], who["text"], who["citations"]) == (False, "It names nobody.", [])
    assert when["found"]


def test_sections_that_do_not_say_are_left_out_of_the_answer(record: Record) -> None:
    def answer(prompt: str) -> str:
        if "Part 1:" in prompt:
            return "Combined."
        return "There is a needle." if "needle" in prompt else "NOT_IN_DOCUMENT"

    pages = [f"Page {number} is about pumps and nothing else. " * 20 for number in range(8)]
    pages[5] += "The needle lies here."
    job = run(
        record, FakeEngine(answer, window=4_000), "ask", add_document(record, *pages), question="Where?"
    )
    assert job.coverage is not None
    assert job.coverage["sections"] > 2
    [found] = answers(job)
    assert (found["text"], found["found"]) == ("There is a needle.", True)
    assert {citation["page"] for citation in found["citations"]} <= {5, 6, 7}


def test_each_section_is_read_once_for_all_questions(record: Record) -> None:
    pages = [f"Page {number} is about pumps and nothing else. " * 20 for number in range(8)]
    engine = FakeEngine(window=4_000)
    one = run(record, engine, "ask", add_document(record, *pages), question="Where?")
    three = run(
        record, FakeEngine(window=4_000), "ask", one.document_ids[0], questions=["Where?", "Why?", "How?"]
    )
    assert one.coverage is not None
    assert three.usage is not None
    assert three.usage["tokens_read"] < 2 * one.coverage["tokens"] + 20_000
    assert [answer["title"] for answer in answers(three)] == ["Where?", "Why?", "How?"]


def test_an_answer_that_reaches_its_limit_says_so(record: Record) -> None:
    engine = FakeEngine({"Why?": "Because it was so from the beginning."})
    [answer] = answers(
        run(record, engine, "ask", add_document(record, *PAGES), question="Why?", max_tokens=7)
    )
    assert (answer["text"], answer["cut_off"]) == ("Because", True)


def test_an_answer_made_of_sections_that_reached_their_limit_says_so(record: Record) -> None:
    pages = [f"Page {number} is about pumps and nothing else. " * 20 for number in range(8)]
    engine = FakeEngine(
        lambda prompt: "Short." if "Part 1:" in prompt else "Because of the war.", window=4_000
    )
    job = run(record, engine, "ask", add_document(record, *pages), question="Why?", max_tokens=7)
    assert [(answer["text"], answer["cut_off"]) for answer in answers(job)] == [("Short.", True)]


def test_every_invented_quotation_is_marked_and_every_wrong_page_put_right(record: Record) -> None:
    """A hundred quotations, half of them made up, each with a page that is wrong."""
    rng = random.Random(11)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 8))) for _ in range(800)]
    pages = [" ".join(rng.choices(words, k=120)) for _ in range(30)]
    true = [(number, " ".join(pages[number].split()[10:18])) for number in rng.choices(range(30), k=50)]
    false = [" ".join(rng.choices(words, k=8)) for _ in range(50)]
    lies = [f"“{quote}” (page {number + 2})" for number, quote in true]
    lies += [f"“{quote}” (page 3)" for quote in false]
    engine = FakeEngine({"Tell all.": "\n".join(lies)})
    document = add_document(record, *pages)
    [answer] = answers(run(record, engine, "ask", document, question="Tell all.", max_tokens=16_000))
    by_quote = {citation["quote"]: citation for citation in answer["citations"]}
    for number, quote in true:
        assert (by_quote[quote]["verified"], by_quote[quote]["page"]) == (True, number + 1)
        assert f"“{quote}” (page {number + 1})" in answer["text"]
    for quote in false:
        assert not by_quote[quote]["verified"]
        assert by_quote[quote]["document_id"] is None


# -- summarize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "word"), [("brief", "one paragraph"), ("points", "key points"), ("analyze", "Contradictions")]
)
def test_a_style_has_a_prompt_of_its_own(record: Record, style: str, word: str) -> None:
    engine = FakeEngine({word: "As asked."})
    job = run(record, engine, "summarize", add_document(record, *PAGES), style=style, language="German")
    assert answers(job)[0]["text"] == "As asked."


# -- extract ----------------------------------------------------------------------------------------------

ITEMS = {
    "type": "object",
    "properties": {"works": {"type": "array", "items": {"type": "string"}}},
    "required": ["works"],
    "additionalProperties": False,
}


def test_a_list_of_fields_is_a_schema_too(record: Record) -> None:
    engine = FakeEngine({"Fill in": '{"employees": 1204, "owner": null}', "“owner”": "It names no owner."})
    document = add_document(record, *PAGES)
    job = run(record, engine, "extract", document, fields=["employees: integer", "owner"])
    assert job.result is not None
    assert job.result["data"] == {"employees": 1204, "owner": None}
    employees, owner = answers(job)
    assert [citation["page"] for citation in employees["citations"]] == [2]
    assert (owner["found"], owner["text"]) == (False, "It names no owner.")


def test_an_object_longer_than_a_piece_is_gone_on_with(record: Record) -> None:
    value = {"works": [f"Works number {number} at Bergen" for number in range(80)]}

    def continued(prompt: str) -> str:
        whole = json.dumps(value)
        begun = next((n for n in range(len(whole), 0, -1) if prompt.endswith(whole[:n])), 0)
        return whole[begun:]

    engine = FakeEngine(continued)
    job = run(record, engine, "extract", add_document(record, *PAGES), schema=ITEMS)
    assert job.result is not None, job.error
    assert job.result["data"] == value
    assert job.usage is not None
    assert job.usage["tokens_written"] > 2 * 1_024


def test_lists_are_gathered_from_all_sections(record: Record) -> None:
    def answer(prompt: str) -> str:
        named = sorted({word.strip(".") for word in prompt.split() if word.startswith("Works-")})
        return json.dumps({"works": named})

    pages = [f"The plant Works-{number} makes pumps of every size. " * 10 for number in range(8)]
    job = run(record, FakeEngine(answer, window=4_000), "extract", add_document(record, *pages), schema=ITEMS)
    assert job.result is not None, job.error
    assert job.result["data"] == {"works": [f"Works-{number}" for number in range(8)]}
    assert {citation["page"] for citation in answers(job)[0]["citations"]} == set(range(1, 9))


# -- compare ----------------------------------------------------------------------------------------------

LEASE = (
    "1. The Tenant pays € 900 each month.\n\n2. The Tenant may keep one dog.",
    "3. The Landlord repairs the roof within thirty days.\n\n4. Either side may end the lease.",
)


def compared(record: Record, engine: FakeEngine, *later: str) -> Job:
    first = add_document(record, *LEASE)
    return run(record, engine, "compare", first, add_document(record, *later, name="b.txt"))


def pages_read(job: Job) -> list[int]:
    """Of each document, by the model."""
    assert job.coverage is not None
    return [document["pages_read"] for document in job.coverage["documents"]]


def test_versions_are_aligned_and_the_model_explains(record: Record) -> None:
    engine = FakeEngine({"[1] changed; before: 3. The Landlord": "Repairs may take longer [1]."})
    job = compared(record, engine, LEASE[0], LEASE[1].replace("thirty", "sixty"))
    [answer] = answers(job)
    assert answer["text"] == "Repairs may take longer [1]."
    assert job.result is not None
    [change] = job.result["data"]["changes"]
    assert (change["kind"], change["before"]["page"], change["after"]["page"]) == ("changed", 2, 2)
    assert [run for run in change["words"] if run[0] != "="] == [["-", "thirty"], ["+", "sixty"]]
    assert all(side["verified"] for side in (change["before"], change["after"]))
    assert job.result["data"]["explained"] == 1
    assert pages_read(job) == [2, 2]


def test_no_change_is_missed_because_the_model_says_nothing(record: Record) -> None:
    job = compared(
        record, FakeEngine({"compared word by word": "Nothing."}), LEASE[0].replace("900", "950"), LEASE[1]
    )
    assert job.result is not None
    assert len(job.result["data"]["changes"]) == 1


def test_changes_that_the_model_has_no_room_for_are_told_all_the_same(record: Record) -> None:
    job = compared(record, FakeEngine(window=1_600), LEASE[0].replace("900", "950"), LEASE[1])
    assert job.result is not None, job.error
    assert answers(job)[0]["text"].startswith("Changes found: 1. The model has no room")
    assert (len(job.result["data"]["changes"]), job.result["data"]["explained"]) == (1, 0)
    assert pages_read(job) == [0, 0]


def test_versions_that_are_the_same_say_so(record: Record) -> None:
    job = compared(record, FakeEngine(), *LEASE)
    assert job.result is not None
    assert job.result["data"] == {"changes": [], "unchanged": 4, "explained": 0}
    assert answers(job)[0]["text"] == "The texts of the versions do not differ."
    assert pages_read(job) == [0, 0]


def test_versions_that_are_but_renumbered_say_so(record: Record) -> None:
    job = compared(record, FakeEngine(), LEASE[0], LEASE[1].replace("4. ", "5. "))
    assert answers(job)[0]["text"] == "The texts of the versions do not differ, but for their numbering."


def test_other_documents_differ_in_what_the_model_lists_with_passages_of_both(record: Record) -> None:
    differences = {"differences": [{"kind": "contradicting", "difference": "One is a lease."}]}
    engine = FakeEngine({"List what differs": json.dumps(differences)})
    job = compared(record, engine, "A pump moves water from low to high.", "It was built in Bergen in 1912.")
    assert job.result is not None, job.error
    [difference] = job.result["data"]["differences"]
    assert difference["kind"] == "contradicting"
    assert {citation["document_id"] for citation in difference["citations"]} == set(job.document_ids)


def test_a_passage_that_both_documents_have_is_cited_from_each(record: Record) -> None:
    differences = {"differences": [{"kind": "contradicting", "difference": "One pumps."}]}
    engine = FakeEngine({"List what differs": json.dumps(differences)})
    shared, other = "A pump is in Bergen.", [f"{30 * letter}.\n" for letter in "BCDEFGHKLM"]
    job = run(
        record,
        engine,
        "compare",
        add_document(record, "".join(other[:5]) + shared),
        add_document(record, "".join(other[5:]) + shared, name="b.txt"),
    )
    assert job.result is not None, job.error
    [difference] = job.result["data"]["differences"]
    cited = [(citation["document_id"], citation["quote"]) for citation in difference["citations"]]
    assert cited == [(document_id, shared) for document_id in job.document_ids]


def changed(*changes: Change) -> Document:
    pages = tuple(Page(number, text) for number, text in enumerate(LEASE, 1))
    return Document(pages, None, WORD, False, (), "word/1", changes=changes)


def test_the_changes_that_one_file_keeps_are_listed_with_their_paragraphs(record: Record) -> None:
    repairs = LEASE[1].index("3.")
    kept = changed(
        Change("deleted", "60", "Ann", "2026-01-02T03:04:05Z", page=2, start=repairs),
        Change("inserted", "thirty", None, None, page=2, start=repairs),
        Change("deleted", "5. No cats.", "Ann", None, page=2, start=len(LEASE[1])),
    )
    engine = FakeEngine({"[1] deleted by Ann: 60; in: 3. The Landlord": "Repairs come sooner [1]."})
    job = run(record, engine, "compare", add_parsed(record, kept, name="lease.docx"))
    assert answers(job)[0]["text"] == "Repairs come sooner [1]."
    assert job.result is not None
    data = job.result["data"]
    assert (data["unchanged"], data["explained"]) == (2, 3)
    assert [(change["kind"], change["words"]) for change in data["changes"]] == [
        ("deleted", [["-", "60"]]),
        ("inserted", [["+", "thirty"]]),
        ("deleted", [["-", "5. No cats."]]),
    ]
    places = [(change["before"], change["after"]["place"]) for change in data["changes"]]
    assert places == [(None, "section 2, paragraph 1")] * 2 + [(None, "section 2, paragraph 2")]
    assert data["changes"][0]["after"]["quote"] == "3. The Landlord repairs the roof within thirty days."
    assert (data["changes"][0]["author"], data["changes"][0]["date"]) == ("Ann", "2026-01-02T03:04:05Z")
    assert job.coverage is not None
    assert job.coverage["quotes_verified"] == job.coverage["quotes_given"] == 2


def test_one_file_that_keeps_no_changes_is_nothing_to_compare(record: Record) -> None:
    job = run(record, FakeEngine(), "compare", add_parsed(record, changed(), name="lease.docx"))
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "nothing_to_compare")


# -- kinds of one's own -----------------------------------------------------------------------------------


def test_a_prompt_file_makes_a_kind(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "obligations.md").write_text("\n\n---\nList every obligation.$focus")
    prompts = Prompts(folder)
    engine = FakeEngine({"List every obligation.\nAttend to: rent": "To pay."})
    document = add_document(record, *PAGES)
    job = run(record, engine, "obligations", document, prompts=prompts, focus="rent")
    assert answers(job)[0]["text"] == "To pay."
    assert job.coverage is not None
    assert job.coverage["prompt"] == prompts.fingerprint("obligations")


def test_a_kind_whose_prompt_is_gone_fails_with_its_code(record: Record) -> None:
    job = run(record, FakeEngine(), "obligations", add_document(record, *PAGES))
    assert job.error is not None
    assert job.error.code == "unknown_kind"


def test_an_error_in_one_of_many_questions_ends_the_job(record: Record) -> None:
    def answer(prompt: str) -> str:
        if "Question 3?" in prompt:
            raise NotFinite
        return "Fine."

    new = NewJob.model_validate(
        {
            "kind": "ask",
            "document_ids": [add_document(record, *PAGES)],
            "params": {"questions": [f"Question {number}?" for number in range(12)]},
        }
    )
    row, _ = record.ledger.add(new)
    pipeline(record, FakeEngine(answer)).read(row.id)
    assert (record.ledger.get(row.id).error or {})["code"] == "not_finite_logits"
