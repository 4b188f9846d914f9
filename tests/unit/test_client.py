"""The client against the real application, called without a network, and against servers that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import h11
import httpx
import pytest
from apiflask import APIFlask
from application import WaitingTime
from story import OUTCOME, WORK, Story

from api import client as shapes
from api.client import (
    ApiProblem,
    Client,
    JobChanged,
    TextAdded,
    UnexpectedAnswer,
    Unreachable,
)
from api.stream import parse_events
from jobs import objects
from jobs.ledger import Progress
from jobs.record import Record
from jobs.status import Kind, Phase, Status

QUESTION = {"questions": ["Is it so?"]}


class Unsteady(httpx.BaseTransport):
    """Passes requests on, except that the first ones meet what `troubles` say: an answer, or an error."""

    def __init__(self, behind: httpx.BaseTransport, *troubles: httpx.Response | Exception) -> None:
        self._behind = behind
        self._troubles = list(troubles)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self._troubles:
            trouble = self._troubles.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        return self._behind.handle_request(request)


@pytest.fixture
def server(app: APIFlask) -> httpx.BaseTransport:
    return httpx.WSGITransport(app)


@pytest.fixture
def connect(time: WaitingTime) -> Iterator[Callable[[httpx.BaseTransport], Client]]:
    """Makes clients for which time passes only while they wait."""
    made: list[Client] = []

    def connect(transport: httpx.BaseTransport) -> Client:
        made.append(Client("http://localhost", transport=transport, sleep=time.pause, clock=time.clock))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def api(connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport) -> Client:
    return connect(server)


def test_the_same_bytes_are_the_same_document(api: Client, tmp_path: Path) -> None:
    path = tmp_path / "año 报告 (1).txt"
    path.write_bytes(b"All of it.")

    first = api.upload(path)
    again = api.upload(b"All of it.", filename="copy.txt")

    assert first["filename"] == path.name
    assert first["id"] == again["id"]
    assert [document["id"] for document in api.documents()] == [first["id"]]
    assert api.document(first["id"])["size_bytes"] == 10


def test_a_deleted_document_is_gone(api: Client) -> None:
    document = api.upload(b"All of it.")

    api.delete_document(document["id"])

    with pytest.raises(ApiProblem) as caught:
        api.document(document["id"])
    assert (caught.value.code, caught.value.status) == ("document_not_found", 404)
    assert caught.value.request_id


def test_a_job_goes_from_asked_to_cancelled_to_retried(api: Client, story: Story) -> None:
    document = story.read_document()
    job = api.create_job(Kind.ASK, [document.id], params=QUESTION, metadata={"for": "test"})

    assert job["status"] == Status.QUEUED
    assert job["metadata"] == {"for": "test"}
    assert api.cancel(job["id"])["status"] == Status.CANCELLED
    assert api.retry(job["id"])["status"] == Status.QUEUED
    assert [found["id"] for found in api.jobs(status=Status.QUEUED)] == [job["id"]]
    assert list(api.jobs(status=Status.FAILED)) == []


def test_a_refusal_names_every_place_that_is_wrong(api: Client, story: Story) -> None:
    with pytest.raises(ApiProblem) as caught:
        api.create_job(Kind.ASK, [story.read_document().id], params={"questions": []})

    assert caught.value.status == 422
    assert [error["at"] for error in caught.value.errors] == ["/params/questions"]


def test_lists_are_followed_to_their_end(api: Client, story: Story, record: Record) -> None:
    record.ledger.add_batch(WORK, [story.read_document().id] * 101)
    rows = record.ledger.page(limit=200, after=None).rows

    assert [job["id"] for job in api.jobs()] == [row.id for row in rows]
    assert len(rows) == 101


def test_a_batch_counts_its_jobs(api: Client, story: Story) -> None:
    documents = [story.read_document().id for _ in range(2)]

    batch = api.create_batch(Kind.ASK, documents, params=QUESTION)

    assert api.batch(batch["id"])["jobs"] == {"queued": 2}
    assert {job["document_ids"][0] for job in api.jobs(batch_id=batch["id"])} == set(documents)


def test_what_a_batch_found_is_listed_where_it_is_asked_for(
    api: Client, story: Story, record: Record
) -> None:
    batch, _ = record.ledger.add_batch(WORK, [story.read_document().id] * 11)
    for row in record.ledger.page(limit=11, after=None).rows:
        record.ledger.complete(story.begin(row), OUTCOME)

    assert [job["result"] for job in api.jobs(batch_id=batch.id, results=True)] == [OUTCOME.result] * 11
    assert not any("result" in job for job in api.jobs(batch_id=batch.id))


def test_a_delivery_can_be_looked_at_and_sent_again(api: Client, story: Story, record: Record) -> None:
    row = story.deliver()
    record.deliveries.delivered(
        row, {"at": "2026-01-01T00:00:00Z", "status_code": 204, "error": None, "seconds": 0.1}
    )

    [delivery] = api.deliveries(row.job_id)

    assert api.delivery(delivery["id"])["tries"][0]["status_code"] == 204
    assert api.replay(delivery["id"])["status"] == "queued"


def test_capacity_tells_limits_and_queue(api: Client, story: Story) -> None:
    story.ask()

    capacity = api.capacity()

    assert capacity["queued"] == 1
    assert capacity["workers"] == []
    assert capacity["limits"]["max_upload_bytes"] == 10_000


def test_waiting_shows_progress_and_text_and_returns_the_finished_job(
    api: Client, story: Story, record: Record, time: WaitingTime
) -> None:
    row = story.begin()
    writing = Progress(Phase.WRITING, tokens_done=7, tokens_total=7)
    time.at(1, lambda: record.ledger.beat(row, Progress(Phase.READING, tokens_done=3, tokens_total=7)))
    time.at(2, lambda: record.ledger.beat(row, Progress(writing.phase, draft="It ")))
    time.at(3, lambda: record.ledger.beat(row, Progress(writing.phase, draft="It is.")))
    time.at(4, lambda: record.ledger.complete(row, OUTCOME))
    seen: list[int] = []
    texts: list[TextAdded] = []

    job = api.wait(
        row.id,
        on_progress=lambda job: seen.append(job["progress"]["tokens_done"]),
        on_text=texts.append,
    )

    assert job["status"] == Status.COMPLETED
    assert 3 in seen
    assert texts == [TextAdded(0, "It "), TextAdded(3, "is.")]


def test_a_broken_stream_is_taken_up_where_it_broke(
    connect: Callable[[httpx.BaseTransport], Client],
    server: httpx.BaseTransport,
    story: Story,
    record: Record,
) -> None:
    row = story.begin()
    record.ledger.complete(row, OUTCOME)
    cut = httpx.Response(200, stream=Cut(b'event: text\nid: 2.3\ndata: {"offset": 0, "text": "Yes"}\n\n'))
    unsteady = Unsteady(server, cut)

    events = list(connect(unsteady).events(row.id))

    assert events[0] == TextAdded(0, "Yes")
    assert isinstance(events[-1], JobChanged)
    assert events[-1].job["status"] == Status.COMPLETED
    assert unsteady.requests[1].headers["Last-Event-ID"] == "2.3"


def test_a_job_is_looked_at_from_time_to_time_while_there_is_no_stream(
    api: Client, story: Story, record: Record, services: Any, time: WaitingTime
) -> None:
    row = story.begin()
    while services.watch.take_seat():
        pass
    time.at(60, lambda: record.ledger.complete(row, OUTCOME))

    assert api.wait(row.id)["status"] == Status.COMPLETED


def test_a_lost_answer_does_not_make_a_second_job(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, story: Story
) -> None:
    forgetful = Forgetful(server)
    api = connect(forgetful)

    job = api.create_job(Kind.ASK, [story.read_document().id], params=QUESTION)

    assert forgetful.forgotten == 1
    assert [found["id"] for found in api.jobs()] == [job["id"]]


def test_an_upload_is_sent_whole_again(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"All of it.")

    assert connect(Forgetful(server)).upload(path)["size_bytes"] == 10


def test_a_busy_server_is_waited_for_as_long_as_it_says(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, time: WaitingTime
) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "3"}, json={"code": "queue_full", "detail": "Full."})

    assert connect(Unsteady(server, busy)).capacity()["queued"] == 0
    assert time.pauses == [3]


def test_patience_ends(connect: Callable[[httpx.BaseTransport], Client], time: WaitingTime) -> None:
    class Nobody(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

    with pytest.raises(Unreachable, match="Nobody answers at http://localhost"):
        connect(Nobody()).capacity()

    assert 5 < time.now <= 10


def test_who_gives_up_waiting_is_told_which_job_may_still_be_done(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, story: Story
) -> None:
    job = story.ask()

    with pytest.raises(
        Unreachable, match=rf"Nobody answers.* The job is not lost: unabridged show {job.id}\."
    ):
        connect(Unsteady(server, *[httpx.ConnectError("refused")] * 99)).wait(job.id)


def test_a_refusal_is_not_tried_again(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport
) -> None:
    counting = Unsteady(server)

    with pytest.raises(ApiProblem):
        connect(counting).job("job_missing")

    assert len(counting.requests) == 1


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "[]"])
def test_another_kind_of_server_is_told_apart(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, body: str
) -> None:
    with pytest.raises(UnexpectedAnswer):
        connect(Unsteady(server, httpx.Response(200, text=body))).capacity()


def test_an_error_page_of_something_in_between_is_a_problem_too(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport
) -> None:
    with pytest.raises(ApiProblem) as caught:
        connect(Unsteady(server, httpx.Response(502, text="<html>Bad gateway</html>"))).capacity()

    assert (caught.value.code, caught.value.status) == ("http_502", 502)


@pytest.mark.parametrize("status", [404, 501, 502])
def test_a_greeting_tells_another_kind_of_server_apart(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, status: int
) -> None:
    with pytest.raises(UnexpectedAnswer, match=f"/livez: The server answered {status}"):
        connect(Unsteady(server, httpx.Response(status, text="<html>Welcome</html>"))).greet()


@pytest.mark.parametrize("name", ["../documents", "a/b?c#d", "..", "", "%2e%2e"])
def test_an_id_leads_nowhere_else(api: Client, name: str) -> None:
    for ask in (api.job, api.document, api.batch, api.delivery):
        with pytest.raises(ApiProblem) as caught:
            ask(name)
        assert caught.value.status == 404


def test_a_file_is_sent_though_its_name_is_not_unicode(api: Client, tmp_path: Path) -> None:
    path = tmp_path / "Z\udcffrich.txt"
    path.write_bytes(b"All of it.")

    assert api.upload(path)["filename"] == "Z\ufffdrich.txt"


def test_a_file_that_changes_while_it_is_sent_is_not_called_an_unreachable_server(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, tmp_path: Path
) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"All of it.")
    growing = Unsteady(server, h11.LocalProtocolError("Too much data for declared Content-Length"))

    with pytest.raises(OSError, match=r"log\.txt changed while it was sent"):
        connect(growing).upload(path)


def test_a_greeting_has_no_patience(
    connect: Callable[[httpx.BaseTransport], Client], server: httpx.BaseTransport, time: WaitingTime
) -> None:
    connect(server).greet()
    with pytest.raises(Unreachable):
        connect(Unsteady(server, httpx.ConnectError("refused"))).greet()

    assert time.pauses == []


def test_only_http_urls_are_taken() -> None:
    with pytest.raises(Unreachable, match="not an http"):
        Client("ftp://server")


def test_events_are_read_across_chunks_with_any_characters_in_them() -> None:
    text = 'event: text\r\nid: 1.0\r\ndata: {"text": "a\u2028b\x85c"}\r\n\r\n: ping\n\ndata: x\ndata: y\n\n'

    events = list(parse_events([text[:5], text[5:]]))
    one_by_one = list(parse_events(text))

    assert events == one_by_one
    assert [(event.name, event.id) for event in events] == [("text", "1.0"), ("message", "1.0")]
    assert events[0].data == '{"text": "a\u2028b\x85c"}'
    assert events[1].data == "x\ny"


@pytest.mark.parametrize(
    "name", ["Document", "Job", "Batch", "Delivery", "Worker", "JobProgress", "Pages", "Try"]
)
def test_the_shapes_are_those_of_the_api(name: str) -> None:
    assert set(get_type_hints(getattr(shapes, name))) == set(getattr(objects, name).model_fields)


class Forgetful(httpx.BaseTransport):
    """Does what is asked by the first POST, and loses the answer."""

    def __init__(self, behind: httpx.BaseTransport) -> None:
        self._behind = behind
        self.forgotten = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._behind.handle_request(request)
        if request.method == "POST" and not self.forgotten:
            self.forgotten += 1
            raise httpx.ReadError("connection reset", request=request)
        return response


class Cut(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning

    def __iter__(self) -> Iterator[bytes]:
        yield self._beginning
        raise httpx.ReadError("connection reset")
