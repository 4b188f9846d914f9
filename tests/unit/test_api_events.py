"""A job's events: what a listener hears, from where, and when the stream ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from application import WaitingTime
from flask.testing import FlaskClient
from story import OUTCOME, Story

from api.events import PING_S, Mark
from api.services import Services
from api.watch import FIRST_S, LONGEST_S, Sight, Watch
from jobs.ledger import Progress
from jobs.record import Record
from jobs.status import Phase, Status
from jobs.tables import JobRow


def write(record: Record, job: JobRow, draft: str) -> None:
    record.ledger.beat(job, Progress(Phase.WRITING, draft=draft))


def heard(stream: str) -> Iterator[tuple[str, str, Any]]:
    """Name, id and data of each event; comments are left out."""
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])


def listen(client: FlaskClient, job: JobRow, last: str | None = None) -> list[tuple[str, str, Any]]:
    response = client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": last} if last else {})
    assert response.mimetype == "text/event-stream"
    return list(heard(response.text))


def test_a_stream_tells_each_state_and_each_addition(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    job = story.begin()
    time.at(1, lambda: write(record, job, "It"))
    time.at(2, lambda: write(record, job, "It is\nso."))
    time.at(3, lambda: record.ledger.complete(job, OUTCOME))
    events = listen(client, job)
    assert [(name, mark) for name, mark, _ in events] == [
        ("job", "2.0"),
        ("job", "3.0"),
        ("text", "3.2"),
        ("job", "4.2"),
        ("text", "4.9"),
        ("job", "5.0"),
    ]
    assert [data for name, _, data in events if name == "text"] == [
        {"offset": 0, "text": "It"},
        {"offset": 2, "text": " is\nso."},
    ]
    assert [data["status"] for name, _, data in events if name == "job"][-2:] == ["in_progress", "completed"]
    assert events[-1][2]["result"] == OUTCOME.result


def test_a_listener_goes_on_where_it_was(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    job = story.begin()
    write(record, job, "It is so.")
    time.at(1, lambda: record.ledger.complete(job, OUTCOME))
    events = listen(client, job, "3.5")
    assert [(name, mark) for name, mark, _ in events] == [("text", "3.9"), ("job", "4.0")]
    assert events[0][2] == {"offset": 5, "text": " so."}


def test_who_has_heard_the_end_is_told_not_to_come_back(
    client: FlaskClient, story: Story, record: Record
) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    assert [mark for _, mark, _ in listen(client, job)] == ["3.0"]
    response = client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "3.0"})
    assert (response.status_code, response.data) == (204, b"")


def test_a_draft_begun_anew_is_told_from_its_beginning(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    job = story.begin()
    time.at(1, lambda: write(record, job, "Nonsense"))
    time.at(2, lambda: write(record, job, "Sense"))
    time.at(3, lambda: record.ledger.end(job, Status.FAILED, error={"code": "x", "message": "y"}))
    texts = [data for name, _, data in listen(client, job) if name == "text"]
    assert texts == [{"offset": 0, "text": "Nonsense"}, {"offset": 0, "text": "Sense"}]


def test_a_silent_stream_says_that_it_lives(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    job = story.begin()
    time.at(2.5 * PING_S, lambda: record.ledger.complete(job, OUTCOME))
    stream = client.get(f"/v1/jobs/{job.id}/events").text
    assert [line for line in stream.splitlines() if line.startswith(":")] == [": still here"] * 2


def test_a_stream_ends_when_its_job_is_deleted(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    document = story.upload()
    job = story.ask(document)

    def delete() -> None:
        record.ledger.cancel(job.id)
        record.documents.delete(document.id)

    time.at(1, delete)
    assert [mark for _, mark, _ in listen(client, job)] == ["1.0"]


def test_a_stream_ends_when_the_server_goes_down(
    client: FlaskClient, story: Story, services: Services, time: WaitingTime
) -> None:
    time.at(5, services.watch.close)
    assert len(listen(client, story.begin())) == 1
    assert time.now < 10


def test_a_stream_holds_a_seat_until_it_is_closed(client: FlaskClient, story: Story) -> None:
    url = f"/v1/jobs/{story.begin().id}/events"
    open_streams = [client.get(url) for _ in range(2)]
    refused = client.get(url)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "too_many_streams")
    for stream in open_streams:
        stream.close()  # before anything was read from it
    client.get(url).close()


def test_nothing_on_the_way_may_keep_a_stream_back(client: FlaskClient, story: Story) -> None:
    with client.get(f"/v1/jobs/{story.begin().id}/events") as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize("text", [None, "", "x", "1", "1.", "-1.0", "1.2.3", "9" * 30 + ".0"])
def test_an_id_that_is_none_is_the_beginning(text: str | None) -> None:
    assert Mark.parse(text) == Mark(0, 0)


def test_an_id_is_written_as_it_is_read() -> None:
    assert Mark.parse(str(Mark(12, 345))) == Mark(12, 345)


def test_the_watch_looks_often_at_first_and_then_seldom(time: WaitingTime) -> None:
    watch = Watch(lambda _: (1, Status.QUEUED), seats=1, clock=time.clock, pause=time.pause)
    assert watch.beyond("job", 1, 10) == Sight(1, final=False)
    assert time.pauses[0] == FIRST_S
    assert time.pauses == [*sorted(time.pauses[:-1]), time.pauses[-1]]
    assert max(time.pauses) == LONGEST_S
    assert sum(time.pauses) == pytest.approx(10)


def test_the_watch_returns_at_once_when_there_is_something_to_see(time: WaitingTime) -> None:
    seen: dict[str, tuple[int, Status] | None] = {
        "newer": (2, Status.QUEUED),
        "final": (1, Status.EXPIRED),
        "gone": None,
    }
    watch = Watch(seen.get, seats=1, clock=time.clock, pause=time.pause)
    assert watch.beyond("newer", 1, 10) == Sight(2, final=False)
    assert watch.beyond("final", 1, 10) == Sight(1, final=True)
    assert watch.beyond("gone", 1, 10) is None
    assert time.pauses == []
