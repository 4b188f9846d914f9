"""Lists in pages, and the ids they are sorted by."""

from __future__ import annotations

from story import OUTCOME, WORK, Story

from jobs.ids import new_id
from jobs.record import Record
from jobs.status import Status


def test_an_id_names_its_object_and_is_like_no_other() -> None:
    ids = {new_id("job") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 30 and name.startswith("job_") for name in ids)


def test_an_id_sorts_after_those_made_in_a_millisecond_before(story: Story) -> None:
    first = story.ask()
    second = story.ask()  # a transaction and an fsync later
    assert second.id > first.id


def test_pages_show_everything_once_newest_first_while_more_is_added(record: Record, story: Story) -> None:
    document = story.read_document()
    before = sorted((story.ask(document).id for _ in range(25)), reverse=True)
    seen: list[str] = []
    after, more = None, True
    while more:
        page = record.ledger.page(limit=10, after=after)
        seen += [row.id for row in page.rows]
        after, more = seen[-1], page.has_more
        story.ask(document)
    assert seen == before


def test_the_last_page_says_so_even_when_it_is_full(record: Record, story: Story) -> None:
    document = story.read_document()
    record.ledger.add_batch(WORK, [document.id] * 4)
    first = record.ledger.page(limit=2, after=None)
    last = record.ledger.page(limit=2, after=first.rows[-1].id)
    assert (len(first.rows), first.has_more) == (2, True)
    assert (len(last.rows), last.has_more) == (2, False)
    assert record.ledger.page(limit=2, after=last.rows[-1].id).rows == []


def test_a_cursor_whose_row_is_gone_still_points_to_its_place(record: Record, story: Story) -> None:
    old, gone = story.upload(), story.upload()
    record.documents.delete(gone.id)
    assert [row.id for row in record.documents.page(limit=10, after=gone.id).rows] == [old.id]


def test_a_list_of_jobs_can_be_narrowed_to_a_status_and_a_batch(record: Record, story: Story) -> None:
    document = story.read_document()
    alone = story.ask(document)
    batch, _ = record.ledger.add_batch(WORK, [document.id] * 2)
    done = story.begin(record.ledger.page(limit=1, after=None, batch_id=batch.id).rows[0])
    record.ledger.complete(done, OUTCOME)
    queued = record.ledger.page(limit=10, after=None, status=Status.QUEUED).rows
    both = record.ledger.page(limit=10, after=None, status=Status.COMPLETED, batch_id=batch.id).rows
    assert len(queued) == 2
    assert alone.id in {row.id for row in queued}
    assert [row.id for row in both] == [done.id]
