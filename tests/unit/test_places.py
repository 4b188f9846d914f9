"""A quotation and its place, all the way: from the bytes of a file to the page and the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from data import documents
from data.documents import paragraph, run, zip_of
from flask.testing import FlaskClient
from reading import add_parsed, answers
from reading import run as run_job

from api.client import Job as ShownJob
from api.display import change_line, citation_line, told_changes
from jobs.record import Record
from parsers import parse_in_process
from worker.engine import FakeEngine

QUOTE = "The Tenant pays 900 euros each month."
CODE = "def rent():\n    return 900\n\n# The Tenant pays 900 euros each month.\n"
HTML = (
    "<html><body><h1>Lease</h1><p>Between two people who have agreed on it.</p>"
    f"<h2 id='Rent'>Rent</h2><p>{QUOTE}</p></body></html>"
)
FILES = {
    "lease.docx": (documents.word(paragraph("A lease.") + paragraph(QUOTE)), "section 1, paragraph 2"),
    "lease.html": (HTML.encode(), "section 2, #Rent"),
    "Lease.zip": (zip_of({"src/a.py": "pass\n", "src/Lease.py": CODE}), "src/Lease.py, line 4"),
    "lease.pdf": (documents.pdf(["Cover", QUOTE]), "page 2"),
}


def added(record: Record, folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return add_parsed(record, parse_in_process(folder / name, filename=name), name=name)


def links(client: FlaskClient, job_id: str, place: str) -> list[str]:
    """Where the page of a job leads from what names this place."""
    shown = client.get(f"/jobs/{job_id}").text
    assert place in shown
    return [there.replace("&amp;", "&") for there in re.findall(r'href="([^"]+#quote)"', shown)]


def marked(client: FlaskClient, there: str) -> str:
    [found] = re.findall(r'<mark id="quote">(.*?)</mark>', client.get(there).text, re.DOTALL)
    return str(found)


@pytest.mark.parametrize("name", FILES)
def test_a_quotation_is_shown_with_its_place_and_leads_there(
    record: Record, client: FlaskClient, tmp_path: Path, name: str
) -> None:
    content, place = FILES[name]
    document = added(record, tmp_path, name, content)
    engine = FakeEngine(lambda prompt: f"It says “{QUOTE}”.")
    job = run_job(record, engine, "ask", document, question="How much?")
    citation = answers(job)[0]["citations"][0]
    assert (citation["quote"], citation["verified"], citation["place"]) == (QUOTE, True, place)
    assert citation_line(1, citation) == f"[1] {place} ✓ “{QUOTE}”"
    assert marked(client, links(client, job.id, place)[0]) == QUOTE


def test_a_tracked_change_is_shown_with_its_author_and_leads_to_its_paragraph(
    record: Record, client: FlaskClient, tmp_path: Path
) -> None:
    deleted = (
        '<w:del w:author="Ann" w:date="2026-01-02T03:04:05Z"><w:r><w:delText>800</w:delText></w:r></w:del>'
    )
    inserted = f"<w:ins>{run('900')}</w:ins>"
    body = f"<w:p>{run('The Tenant pays ')}{deleted}{inserted}{run(' euros each month.')}</w:p>"
    document = added(record, tmp_path, "lease.docx", documents.word(paragraph("A lease.") + body))
    job = run_job(record, FakeEngine(), "compare", document)
    place = "section 1, paragraph 2"
    assert [change_line(n, change) for n, change in enumerate(told_changes(as_shown(job)), 1)] == [
        f"[1] deleted, {place}, by Ann, 2026-01-02: [-800-]",
        f"[2] inserted, {place}: {{+900+}}",
    ]
    assert {marked(client, there) for there in links(client, job.id, place)} == {QUOTE}
    assert "by Ann" in client.get(f"/jobs/{job.id}").text


def as_shown(job: Any) -> ShownJob:
    return cast(ShownJob, job.model_dump(mode="json"))
