"""The pages, as a browser without scripts sees them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from story import FACTS, WORK, Story
from werkzeug.test import TestResponse

from api.pages import asked, duration, markdown, wanted
from api.problems import InvalidRequest
from jobs.ledger import Outcome, Progress
from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Kind, Phase, Status
from jobs.tables import DocumentRow, JobRow
from parsers.document import Document, Page

SENTENCE = "The harbour has <b>eleven</b> cranes & no lighthouse."
SCHEMA = {"type": "object", "properties": {"cranes": {"type": "integer"}}}


@pytest.fixture
def harbour(record: Record, story: Story) -> DocumentRow:
    """A document of two pages, the second of which has a sentence to be quoted."""
    uploaded = story.upload()
    pages = (Page(1, "Cover"), Page(2, f"Chapter 1. {SENTENCE} More.", label="ii"))
    text = Document(pages, None, "text/plain", True, (), "text/1")
    record.files.save_text(uploaded.sha256, FACTS["parser_version"], json.dumps(text.to_json()).encode())
    return story.parse(uploaded)


@pytest.fixture
def finish(record: Record, story: Story) -> Callable[..., JobRow]:
    """Does a job as a worker would, with the answer that is given."""

    def do(
        job: JobRow, *, data: dict[str, Any] | None = None, model: str = "GLM-4@main", **found: Any
    ) -> JobRow:
        document = record.documents.get(job.document_ids[0])
        start = len("Chapter 1. ")
        citation = {
            "quote": SENTENCE, "document_id": document.id, "page": 2, "place": "page 2", "label": "ii",
            "start": start, "end": start + len(SENTENCE), "verified": True, "match": "exact", "score": 1.0,
        } | found  # fmt: skip
        answer = {"title": "cranes" if data else None, "text": f"Eleven. {SENTENCE}", "citations": [citation]}
        coverage = {
            "documents": [
                {"document_id": document.id, "filename": document.filename, "pages_read": 3, "pages_total": 3,
                 "pages_without_text": [3], "pages_from_ocr": [2]}
            ],
            "tokens": 1234, "reading": "sections", "sections": 2, "model": model, "weights": "nf4",
            "parser_versions": ["text/1"], "prompt": "ask@1a2b3c4d", "quotes_given": 1,
            "quotes_verified": 1 if citation["verified"] else 0,
        }  # fmt: skip
        usage = {
            "tokens_read": 34, "tokens_reused": 1200, "tokens_written": 9, "parse_s": 0.5, "wait_s": 1.0,
            "read_s": 62.0, "write_s": 2.0, "check_s": 0.0, "total_s": 65.5, "first_token_s": 63.0,
        }  # fmt: skip
        record.ledger.complete(
            story.begin(job), Outcome({"answers": [answer], "data": data}, coverage, usage)
        )
        return record.ledger.get(job.id)

    return do


def words(response: TestResponse) -> str:
    """The text of a page's content as a reader sees it, blanks collapsed."""
    body = response.text.partition("<main")[2].partition(">")[2]
    text = re.sub(r"<[^>]*>", " ", body)
    for escaped, character in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        text = text.replace(escaped, character)
    return " ".join(text.split())


def send(client: FlaskClient, *files: tuple[str, bytes], **fields: Any) -> TestResponse:
    """Post the form that starts a job."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    parts = [(io.BytesIO(data), name) for name, data in files]
    return client.post("/pages/jobs", data={**named, "file": parts}, content_type="multipart/form-data")


def the_job(response: TestResponse, record: Record) -> JobRow:
    assert response.status_code == 303, response.text
    return record.ledger.get(response.location.rpartition("/")[2])


# -- the form -------------------------------------------------------------------------------------------


def test_files_sent_with_the_form_become_the_documents_of_the_job(
    client: FlaskClient, record: Record
) -> None:
    sent = send(client, ("a.txt", b"one"), ("b.txt", b"two"), kind="compare", compare__focus="Prices")
    job = the_job(sent, record)
    names = [record.documents.get(id_).filename for id_ in job.document_ids]
    assert names == ["a.txt", "b.txt"]
    assert (job.kind, job.params["focus"]) == (Kind.COMPARE, "Prices")


def test_the_password_is_kept_for_the_parser(client: FlaskClient, record: Record) -> None:
    job = the_job(send(client, ("a.pdf", b"x"), kind="summarize", password="sesame"), record)
    assert record.documents.get(job.document_ids[0]).password == "sesame"


def test_documents_uploaded_earlier_can_be_chosen(
    client: FlaskClient, record: Record, harbour: DocumentRow
) -> None:
    assert f'value="{harbour.id}"' in client.get("/").text
    job = the_job(send(client, document_id=harbour.id, kind="chat", chat__message="Hello"), record)
    assert job.document_ids == [harbour.id]


def test_a_document_named_in_the_address_is_chosen_already(client: FlaskClient, harbour: DocumentRow) -> None:
    assert re.search(rf'value="{harbour.id}" checked', client.get(f"/?document={harbour.id}").text)
    assert not re.search(rf'value="{harbour.id}" checked', client.get("/").text)


def test_what_is_here_already_is_listed_and_compared_from_the_oldest_on(
    client: FlaskClient, record: Record, story: Story
) -> None:
    versions = sorted(story.read_document().id for _ in range(3))
    listed = re.findall(r'name="document_id" value="(doc_\w+)"', client.get("/").text)
    assert listed == versions
    job = the_job(send(client, document_id=listed[1:], kind="compare"), record)
    assert job.document_ids == versions[1:]


@pytest.mark.parametrize(("kind", "named"), [("summarize", 1), ("compare", 2)])
def test_a_copy_is_not_read_twice_but_can_be_compared(
    client: FlaskClient, record: Record, kind: str, named: int
) -> None:
    job = the_job(send(client, ("a.txt", b"one"), ("copy of a.txt", b"one"), kind=kind), record)
    assert (len(job.document_ids), len(set(job.document_ids))) == (named, 1)


def test_of_several_files_the_empty_one_is_named(client: FlaskClient) -> None:
    refused = send(client, ("a.txt", b"one"), ("b.txt", b""), kind="summarize")
    assert refused.status_code == 422
    assert "b.txt: The file has no bytes in it. Check that it was saved" in words(refused)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "ask", "ask__questions": "Why?", "document_id": []}, "Choose a file"),
        ({"kind": "ask"}, "Write a question."),
        ({"kind": "ask", "ask__questions": " \n "}, "Write a question."),
        ({"kind": "chat"}, "Write a message."),
        ({"kind": "extract"}, "Say which fields you want"),
        ({"kind": "extract", "extract__schema": "age: years"}, "“age: years” is not a field"),
        ({"kind": "extract", "extract__schema": "{"}, "not valid JSON"),
        ({"kind": "extract", "extract__schema": '{"a":' * 50_000}, "nested too deeply"),
        ({"kind": "compare"}, "Compare needs two documents, or one Word file with tracked changes"),
        ({"kind": "dance"}, "kind"),
        ({"kind": "summarize", "summarize__language": "x" * 41}, "at most 40 characters"),
    ],
)
def test_what_is_wrong_is_said_on_the_form(
    client: FlaskClient, record: Record, harbour: DocumentRow, fields: dict[str, Any], says: str
) -> None:
    refused = send(client, **{"document_id": harbour.id, **fields})
    assert refused.status_code == 422
    assert says in words(refused)
    assert "invalid_request" in words(refused)
    assert not record.ledger.page(limit=1, after=None).rows


def test_a_schema_that_cannot_be_is_refused_with_its_own_code(
    client: FlaskClient, harbour: DocumentRow
) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "no such type"}}})
    refused = send(client, document_id=harbour.id, kind="extract", extract__schema=schema)
    assert (refused.status_code, "invalid_schema" in words(refused)) == (422, True)


def test_a_refused_form_comes_back_as_it_was_filled_in(client: FlaskClient) -> None:
    refused = send(client, ("a.txt", b"one"), kind="compare", compare__focus="Prices <all>")
    assert 'value="Prices &lt;all&gt;"' in refused.text
    assert re.search(r'value="compare"\s+checked', refused.text)
    assert re.search(r'value="doc_\w+" checked', refused.text), (
        "the file that did arrive need not be sent again"
    )


def test_a_file_too_large_is_refused_with_its_code(client: FlaskClient) -> None:
    refused = send(client, ("a.txt", b"x" * 10_001), kind="summarize")
    assert (refused.status_code, "upload_too_large" in words(refused)) == (413, True)


def test_htmx_is_told_to_go_on_where_a_browser_is_redirected(
    client: FlaskClient, harbour: DocumentRow
) -> None:
    form = {"document_id": harbour.id, "kind": "summarize"}
    there = client.post("/pages/jobs", data=form, headers={"HX-Request": "true"})
    assert there.status_code == 200
    assert client.get(there.headers["HX-Redirect"]).status_code == 200


def test_a_form_of_another_site_is_refused(client: FlaskClient, harbour: DocumentRow) -> None:
    form = {"document_id": harbour.id, "kind": "summarize"}
    assert client.post("/pages/jobs", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


# -- what a form asks for -------------------------------------------------------------------------------


def test_only_the_fields_of_the_chosen_kind_count() -> None:
    form = {"kind": "ask", "ask.questions": "Why?\n\n When? ", "chat.message": "Hi", "other": "1"}
    new = asked(form, ["doc_1"])
    assert new.params == {"questions": ["Why?", "When?"]}


def test_fields_are_wanted_one_a_line() -> None:
    schema = wanted("name\nage: integer\n\nmember: yes/no\ntags: list")
    assert schema["required"] == ["name", "age", "member", "tags"]
    assert schema["properties"]["name"] == {"type": ["string", "null"]}
    assert schema["properties"]["tags"]["type"] == "array"


def test_a_schema_written_out_is_taken_as_it_is() -> None:
    assert wanted(json.dumps(SCHEMA)) == SCHEMA
    with pytest.raises(InvalidRequest):
        wanted(": text")


# -- a job ----------------------------------------------------------------------------------------------


def test_a_job_that_waits_tells_its_place_in_the_queue(client: FlaskClient, story: Story) -> None:
    jobs = [story.ask(), story.ask()]
    assert "next in the queue" in words(client.get(f"/jobs/{jobs[0].id}"))
    assert "number 2 in the queue" in words(client.get(f"/jobs/{jobs[1].id}"))


def test_a_job_whose_document_is_parsed_counts_its_pages(
    client: FlaskClient, record: Record, story: Story
) -> None:
    document = story.upload()
    job = story.ask(document)
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    record.documents.beat(claimed, pages_done=1200, pages_total=3000)
    assert "Taking the text out of the file 1,200 of 3,000 pages" in words(client.get(f"/jobs/{job.id}"))


def test_a_job_that_reads_tells_how_far_it_is_and_is_asked_again(
    client: FlaskClient, record: Record, story: Story
) -> None:
    job = story.begin()
    record.ledger.beat(job, Progress(Phase.READING, 2, 4000, 8000, 61.2))
    shown = client.get(f"/jobs/{job.id}")
    assert "4,000 of 8,000 tokens, page 2 of 3 · about 1 min 2 s left" in words(shown)
    assert 'hx-trigger="every 1s"' in shown.text
    assert '<noscript><meta http-equiv="refresh"' in shown.text
    assert "<title>50 % read" in shown.text


def test_a_job_that_writes_shows_its_draft(client: FlaskClient, record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.beat(job, Progress(Phase.WRITING, draft="It is <i>so</i> far"))
    assert "It is <i>so</i> far" in words(client.get(f"/jobs/{job.id}"))


def test_a_finished_job_shows_answer_citation_and_receipt_and_is_not_asked_again(
    client: FlaskClient, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    job = finish(story.ask(harbour))
    shown = client.get(f"/jobs/{job.id}")
    assert f"Eleven. {SENTENCE}" in words(shown)
    assert "verified page 2 (printed ii)" in words(shown)
    assert "Read 3 of 3 pages , 1,234 tokens, in 2 parts" in words(shown)
    assert "by GLM-4 (nf4). 1 of 1 quotation was found word for word. 1,200 tokens were known" in words(shown)
    assert "has no text on page 3" in words(shown)
    assert "Text recognition (OCR) read page 2 of a.txt" in words(shown)
    assert "1 min 2 s reading" in words(shown)
    assert "every 1s" not in shown.text
    assert "http-equiv" not in shown.text


def test_a_citation_leads_to_its_characters_on_its_page(
    client: FlaskClient, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    shown = client.get(f"/jobs/{finish(story.ask(harbour)).id}").text
    [there] = re.findall(r'class="quote" href="([^"]+)"', shown)
    assert there.endswith("#quote")
    page = client.get(there.replace("&amp;", "&")).text
    [marked] = re.findall(r'<mark id="quote">(.*?)</mark>', page, re.DOTALL)
    assert marked == "The harbour has &lt;b&gt;eleven&lt;/b&gt; cranes &amp; no lighthouse."
    assert "Back to the answer" in page


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"match": "close", "score": 0.93}, "similar, not verified page 2"),
        ({"match": "none", "page": None, "place": None, "label": None}, "not found in the text"),
    ],
)
def test_a_quotation_that_is_not_in_the_text_is_never_shown_as_verified(
    client: FlaskClient, record: Record, finish: Callable[..., JobRow], found: dict[str, Any], says: str
) -> None:
    job = the_job(send(client, ("a.txt", b"text"), kind="summarize"), record)
    Story(record).parse(record.documents.get(job.document_ids[0]))
    shown = words(client.get(f"/jobs/{finish(job, verified=False, **found).id}"))
    assert says in shown
    assert " verified page" not in shown.replace("not verified", "")


def test_a_small_model_is_warned_of(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    warning = "is a small model for trying the machinery; do not trust its answers"
    assert warning in words(client.get(f"/jobs/{finish(story.ask(harbour), model='SmolLM2-135M@main').id}"))
    assert warning not in words(client.get(f"/jobs/{finish(story.ask(harbour)).id}"))
    assert "No model worker is ready" in words(client.get("/"))
    record.workers.seen("w", card={"name": "SmolLM2-135M", "window": 8192, "device": "cpu"}, capacity={})
    assert warning in words(client.get("/"))


def test_extracted_fields_are_a_table_and_a_file(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    form = {"document_id": harbour.id, "kind": "extract", "extract__schema": "cranes: integer\nopen: yes/no"}
    data = {"cranes": 11, "open": None, "masters": [{"name": "Anna"}, {"name": "Piet"}]}
    job = finish(the_job(send(client, **form), record), data=data)
    shown = words(client.get(f"/jobs/{job.id}"))
    assert f"cranes 11 {SENTENCE} verified" in shown
    assert "open not stated" in shown
    assert "name Anna name Piet" in shown
    file = client.get(f"/jobs/{job.id}/data.json")
    assert file.json == data
    assert file.headers["Content-Disposition"] == f"attachment; filename={job.id}.json"
    assert client.get(f"/jobs/{finish(story.ask(harbour)).id}/data.json").status_code == 404


def test_asking_again_starts_a_job_on_the_same_documents(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    shown = client.get(f"/jobs/{finish(story.ask(harbour)).id}").text
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]+)"', shown))
    again = the_job(client.post("/pages/jobs", data={**hidden, "ask.questions": "And now?"}), record)
    assert (again.document_ids[0], again.params["questions"]) == (harbour.id, ["And now?"])


def test_a_reply_follows_the_turn_before_it_and_shows_it(
    client: FlaskClient, record: Record, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    asking = send(client, document_id=harbour.id, kind="chat", chat__message="How many?")
    first = finish(the_job(asking, record))
    page = client.get(f"/jobs/{first.id}").text
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]+)"', page))
    second = the_job(client.post("/pages/jobs", data={**hidden, "chat.message": "Since when?"}), record)
    assert second.params["previous_job_id"] == first.id
    shown = words(client.get(f"/jobs/{second.id}"))
    assert shown.index("How many?") < shown.index("Eleven.") < shown.index("Since when?")


def test_a_reply_is_shown_though_the_turn_before_it_was_removed(
    client: FlaskClient, record: Record, harbour: DocumentRow
) -> None:
    params = {"message": "Since when?", "previous_job_id": "job_gone"}
    job, _ = record.ledger.add(NewJob(kind=Kind.CHAT, document_ids=[harbour.id], params=params))
    assert "Since when?" in words(client.get(f"/jobs/{job.id}"))


def test_a_failed_job_says_why_and_can_be_tried_again(
    client: FlaskClient, record: Record, story: Story
) -> None:
    job = story.begin()
    record.ledger.end(job, Status.FAILED, error={"code": "does_not_fit", "message": "Too <long>."})
    shown = client.get(f"/jobs/{job.id}")
    assert "Too <long>. Code does_not_fit Try again" in words(shown)
    assert client.post(f"/pages/jobs/{job.id}/retry").status_code == 303
    assert record.ledger.get(job.id).status == Status.QUEUED


def test_a_job_can_be_cancelled_and_one_that_is_done_cannot(
    client: FlaskClient, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    job = story.ask()
    assert client.post(f"/pages/jobs/{job.id}/cancel").location == f"/jobs/{job.id}"
    assert "This job was cancelled." in words(client.get(f"/jobs/{job.id}"))
    refused = client.post(f"/pages/jobs/{finish(story.ask(harbour)).id}/cancel")
    assert (refused.status_code, "illegal_move" in words(refused)) == (409, True)


# -- documents and lists --------------------------------------------------------------------------------


def test_a_document_shows_what_was_found_in_it(
    client: FlaskClient, story: Story, harbour: DocumentRow
) -> None:
    assert "text/plain" in words(client.get(f"/documents/{harbour.id}"))
    failed = story.fail_to_parse(story.upload())
    assert "The file is damaged. Code damaged" in words(client.get(f"/documents/{failed.id}"))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/documents/{ready}/pages/3", (404, "not_found")),
        ("/documents/{ready}/pages/0", (404, "not_found")),
        ("/documents/{new}/pages/1", (409, "text_not_ready")),
        ("/documents/{failed}/pages/1", (422, "document_failed")),
        ("/documents/doc_0", (404, "document_not_found")),
        ("/jobs/job_0", (404, "job_not_found")),
    ],
)
def test_what_is_not_there_is_told_on_a_page(
    client: FlaskClient, story: Story, harbour: DocumentRow, address: str, told: tuple[int, str]
) -> None:
    failed = story.fail_to_parse(story.upload())
    there = address.format(ready=harbour.id, new=story.upload().id, failed=failed.id)
    answer = client.get(there)
    assert (answer.status_code, answer.mimetype) == (told[0], "text/html")
    assert f"Code {told[1]}" in words(answer)


@pytest.mark.parametrize("query", ["?start=5&end=2", "?start=0&end=99999", "?start=x", "?start=-3&end=-1"])
def test_marks_that_make_no_sense_change_nothing_of_the_text(
    client: FlaskClient, harbour: DocumentRow, query: str
) -> None:
    page = client.get(f"/documents/{harbour.id}/pages/2{query}").text
    [shown] = re.findall(r'<div class="text">(.*?)</div>', page, re.DOTALL)
    assert re.sub("</?mark[^>]*>", "", shown) == (
        "Chapter 1. The harbour has &lt;b&gt;eleven&lt;/b&gt; cranes &amp; no lighthouse. More."
    )


def test_a_deleted_document_is_gone_with_its_file(
    client: FlaskClient, record: Record, harbour: DocumentRow
) -> None:
    assert client.post(f"/pages/documents/{harbour.id}/delete").location == "/documents"
    assert client.get(f"/documents/{harbour.id}").status_code == 404
    assert not record.files.upload(harbour.sha256).exists()


def test_lists_lead_on_to_what_is_older(client: FlaskClient, record: Record, story: Story) -> None:
    documents = [story.upload().id for _ in range(25)]
    record.ledger.add_batch(WORK, documents)
    oldest_job = record.ledger.page(limit=25, after=None).rows[-1]
    for noun, oldest in (("jobs", oldest_job.id), ("documents", documents[0])):
        newest = client.get(f"/{noun}").text
        assert oldest not in newest
        [older] = re.findall(r'rel="next" href="([^"]+)"', newest)
        last = client.get(older).text
        assert oldest in last
        assert 'rel="next"' not in last


def test_a_list_of_jobs_asks_for_all_their_documents_at_once(
    client: FlaskClient, story: Story, statements: list[str]
) -> None:
    jobs = [story.ask(story.upload()) for _ in range(5)]
    statements.clear()
    assert client.get("/jobs").text.count("a.txt") == len(jobs)
    assert sum("FROM documents" in statement for statement in statements) == 1


# -- every page -----------------------------------------------------------------------------------------


def test_no_page_needs_anything_the_content_policy_forbids(
    client: FlaskClient, story: Story, harbour: DocumentRow, finish: Callable[..., JobRow]
) -> None:
    done, waiting = finish(story.ask(harbour)), story.ask()
    for address in (
        "/", "/jobs", "/documents", f"/jobs/{done.id}", f"/jobs/{waiting.id}", f"/documents/{harbour.id}",
        f"/documents/{harbour.id}/pages/1", "/jobs/none",
    ):  # fmt: skip
        text = client.get(address).text
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text), address
        for loaded in re.findall(r'(?:src|rel="stylesheet" href|rel="icon" href)="([^"]+)"', text):
            assert client.get(loaded).status_code == 200


def test_the_vendored_script_comes_with_its_licence(client: FlaskClient) -> None:
    [script] = re.findall(r"/assets/htmx-[\d.]+\.min\.js", client.get("/").text)
    version = re.findall(r"[\d.]+\d", script)[0]
    assert f'version="{version}"' in client.get(script).text
    assert "BSD" in client.get("/assets/htmx-LICENSE.txt").text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.04, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
     (59.9, "1 min"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min"), (259_200, "3 days")],
)  # fmt: skip
def test_time_is_told_as_people_tell_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_an_answer_can_be_formatted_but_not_lead_or_load_anything() -> None:
    shown = markdown("**Yes**\n\n<script>x</script> [a](https://example.org) ![b](https://example.org/b.png)")
    assert "<strong>Yes</strong>" in shown
    assert not re.search(r"<(script|a|img)\b", shown)


def test_what_the_document_does_not_say_and_what_was_cut_off_are_said(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow
) -> None:
    answers = [
        {"title": "Who?", "text": "It names nobody.", "found": False, "cut_off": False, "citations": []},
        {"title": "Why?", "text": "Because", "found": True, "cut_off": True, "citations": []},
    ]
    call = {"tool": "rates", "arguments": {"to": "NOK"}, "output": "11.7", "error": None}
    page = words(client.get(f"/jobs/{completed(record, story, harbour, answers, calls=[call]).id}"))
    assert "not in the document It names nobody." in page
    assert "reached its limit here" in page
    assert 'rates {"to": "NOK"} 11.7' in page


def test_an_extracted_value_without_a_passage_says_so(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow
) -> None:
    answers = [
        {"title": "year", "text": "1907", "found": True, "cut_off": False, "citations": []},
        {"title": "cost", "text": "It is not told.", "found": False, "cut_off": False, "citations": []},
    ]
    data = {"year": 1907, "cost": None}
    page = words(
        client.get(f"/jobs/{completed(record, story, harbour, answers, data=data, kind='extract').id}")
    )
    assert "year 1907 No passage was quoted for this. cost not stated It is not told. Download" in page


def test_changes_between_versions_are_shown_word_by_word_with_both_places(
    client: FlaskClient, record: Record, story: Story, harbour: DocumentRow
) -> None:
    side = {"document_id": harbour.id, "page": 2, "place": "page 2", "start": 0, "end": 5}
    changes = [
        {
            "kind": "changed",
            "before": side,
            "after": side,
            "words": [["=", "in "], ["-", "May"], ["+", "<June>"]],
        },
        {"kind": "renumbered", "before": side, "after": side, "words": [["-", "1"], ["+", "2"]]},
    ]
    data = {"changes": changes, "unchanged": 7, "explained": 0}
    answers: list[dict[str, Any]] = [
        {"title": None, "text": "It moved.", "found": True, "cut_off": True, "citations": []}
    ]
    response = client.get(f"/jobs/{completed(record, story, harbour, answers, data=data, kind='compare').id}")
    assert "<del>May</del><ins>&lt;June&gt;</ins>" in response.text
    assert "It moved. The answer reached its limit here and was cut off." in words(response)
    assert "1 change" in words(response)
    assert "shown 0 of 1 change" in words(response)
    assert "7 passages did not change, 1 of them but for the number" in words(response)
    assert "All pages were compared word for word." in words(response)


def test_a_document_says_how_long_it_takes_to_read(
    client: FlaskClient, record: Record, harbour: DocumentRow
) -> None:
    capacity = {"tokens_fit": 8_000, "read_tokens_per_s": 1.0, "write_tokens_per_s": 10.0}
    record.workers.seen("w", card={"name": "m", "revision": "1", "window": 8_192}, capacity=capacity)
    assert re.search(
        r"To read About \d+ tokens, whole; about \d+ s", words(client.get(f"/documents/{harbour.id}"))
    )


def completed(
    record: Record,
    story: Story,
    document: DocumentRow,
    answers: list[dict[str, Any]],
    *,
    kind: str = "ask",
    **result: Any,
) -> JobRow:
    """A completed job with these answers on a document."""
    documents = [document, story.read_document()] if kind == "compare" else [document]
    params = {"ask": {"questions": ["Who?", "Why?"]}, "extract": {"schema": SCHEMA}}.get(kind, {})
    new = NewJob.model_validate(
        {"kind": kind, "document_ids": [row.id for row in documents], "params": params}
    )
    job = story.begin(record.ledger.add(new)[0])
    coverage = {
        "documents": [
            {"document_id": row.id, "filename": row.filename, "pages_read": 3, "pages_total": 3,
             "pages_without_text": []}
            for row in documents
        ],
        "tokens": 9, "reading": "whole", "sections": 1, "model": "m@1", "weights": "nf4", "quotes_given": 0,
        "quotes_verified": 0, "parser_versions": ["text/1"], "prompt": "ask@1a2b3c4d",
    }  # fmt: skip
    seconds = dict.fromkeys(
        ("parse_s", "wait_s", "read_s", "write_s", "check_s", "total_s", "first_token_s"), 1.0
    )
    usage = {"tokens_read": 9, "tokens_reused": 0, "tokens_written": 9, **seconds}
    record.ledger.complete(
        job, Outcome({"answers": answers, "data": None, "calls": [], **result}, coverage, usage)
    )
    return record.ledger.get(job.id)
