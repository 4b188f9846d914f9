"""Documents over HTTP: uploaded, listed, read, deleted."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from services import Doorbell
from story import Story
from werkzeug.test import TestResponse

from api.upload import clean
from jobs.queues import CPU, PARSE
from jobs.record import Record
from jobs.tables import DocumentRow
from parsers.document import Document as Parsed
from parsers.document import Page


def upload(
    client: FlaskClient, data: bytes, name: str = "a.txt", *, key: str | None = None, **fields: str
) -> TestResponse:
    headers = {"Idempotency-Key": key} if key else {}
    form = {"file": (io.BytesIO(data), name), **fields}
    return client.post("/v1/documents", data=form, headers=headers)


def files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def with_text(record: Record, row: DocumentRow, *texts: str) -> None:
    pages = tuple(Page(number, text, f"p. {number}") for number, text in enumerate(texts, 1))
    parsed = Parsed(pages, None, "text/plain", True, (), "text/1")
    record.files.save_text(row.sha256, "1", json.dumps(parsed.to_json()).encode())


def test_an_upload_is_stored_under_its_hash_and_rung_for(
    client: FlaskClient, ring: Doorbell, tmp_path: Path
) -> None:
    response = upload(client, b"some text", "notes.txt")
    document = response.json
    assert document is not None
    assert response.status_code == 201
    assert response.headers["Location"] == f"/v1/documents/{document['id']}"
    assert (document["filename"], document["size_bytes"], document["status"]) == ("notes.txt", 9, "queued")
    assert files(tmp_path) == [hashlib.sha256(b"some text").hexdigest()] == [document["sha256"]]
    assert ring.take() == [(PARSE, CPU, document["id"])]


def test_the_same_bytes_are_the_same_document(client: FlaskClient, tmp_path: Path) -> None:
    first, again = upload(client, b"same"), upload(client, b"same", "other name.txt")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json == again.json
    assert len(files(tmp_path)) == 1


def test_a_repeated_upload_with_its_key_finds_the_first(client: FlaskClient) -> None:
    first, again = upload(client, b"same", key="k"), upload(client, b"same", key="k")
    assert first.json == again.json
    other = upload(client, b"other", key="k")
    assert (other.status_code, other.json and other.json["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("data", "status", "code"), [(b"", 422, "upload_empty"), (b"x" * 10_001, 413, "upload_too_large")]
)
def test_an_upload_that_cannot_be_kept_leaves_nothing(
    client: FlaskClient, tmp_path: Path, data: bytes, status: int, code: str
) -> None:
    response = upload(client, data)
    assert (response.status_code, response.json and response.json["code"]) == (status, code)
    assert files(tmp_path) == []


def test_a_body_that_says_it_is_too_long_is_refused_unread(client: FlaskClient) -> None:
    body = io.BytesIO(b"--x\r\n")
    response = client.post(
        "/v1/documents",
        input_stream=body,
        content_type="multipart/form-data; boundary=x",
        environ_overrides={"CONTENT_LENGTH": str(10_000 + 2 * 1024**2)},
    )
    assert (response.status_code, response.json and response.json["code"]) == (413, "upload_too_large")
    assert body.tell() == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("beside", "code"),
    [
        ([b"1"] * 100, "body_too_large"),
        ([b"1" * 2**20 + b"1"], "body_too_large"),
        ([b"1" * 2**20] * 2, "upload_too_large"),
    ],
    ids=["too many parts", "a part too large", "all too large"],
)
def test_a_form_too_large_beside_its_file_is_told_apart(
    client: FlaskClient, tmp_path: Path, beside: list[bytes], code: str, chunked: bool
) -> None:
    heads = [b'name="file"; filename="a.txt"', *(b'name="other"' for _ in beside)]
    parts = zip(heads, [b"text", *beside], strict=True)
    form = b"".join(b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % part for part in parts)
    end = {"wsgi.input_terminated": True} if chunked else {"CONTENT_LENGTH": str(len(form) + 7)}
    response = client.post(
        "/v1/documents",
        input_stream=io.BytesIO(form + b"--x--\r\n"),
        content_type="multipart/form-data; boundary=x",
        environ_overrides=end,
    )
    assert (response.status_code, response.get_json()["code"]) == (413, code)
    assert files(tmp_path) == []


@pytest.mark.parametrize("cut", [20, 70, 95])
def test_a_form_cut_short_leaves_nothing(client: FlaskClient, tmp_path: Path, cut: int) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nsome text and more'
    response = client.post("/v1/documents", data=form[:cut], content_type="multipart/form-data; boundary=x")
    assert (response.status_code, response.json and response.json["code"]) == (400, "malformed_form")
    assert files(tmp_path) == []


def test_a_form_needs_exactly_one_file(client: FlaskClient, tmp_path: Path) -> None:
    two = {"file": [(io.BytesIO(b"1"), "a"), (io.BytesIO(b"2"), "b")]}
    for form in ({"other": (io.BytesIO(b"1"), "a")}, {"file": "text"}, two):
        response = client.post("/v1/documents", data=form, content_type="multipart/form-data")
        assert response.status_code == 422
        assert response.json is not None
        assert response.json["errors"][0]["at"] == "/file"
    assert files(tmp_path) == []


def test_an_upload_without_a_form_is_refused(client: FlaskClient) -> None:
    response = client.post("/v1/documents", data=b"%PDF-1.7", content_type="application/pdf")
    assert (response.status_code, response.json and response.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\Lease 2.docx", "Lease 2.docx"),
        ("a\x00b\nc\x1b[31m.txt", "abc[31m.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("Stra\u00dfe \u4e2d\u6587.txt", "Stra\u00dfe \u4e2d\u6587.txt"),
        ("\U0001f469\u200d\U0001f52c.txt", "\U0001f469\u200d\U0001f52c.txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("..", "document"),
        ("folder/", "document"),
        ("", "document"),
        (None, "document"),
    ],
)
def test_a_file_name_is_reduced_to_what_may_be_shown(given: str | None, kept: str) -> None:
    assert clean(given) == kept


def test_the_password_is_kept_for_the_parser_and_never_shown(client: FlaskClient, record: Record) -> None:
    response = upload(client, b"locked", password="secret")
    assert response.json is not None
    assert "secret" not in response.text
    assert record.documents.get(response.json["id"]).password == "secret"


def test_documents_are_listed_newest_first_in_parts(client: FlaskClient) -> None:
    ids = [upload(client, bytes([number])).get_json()["id"] for number in range(5)][::-1]
    first = client.get("/v1/documents?limit=3").get_json()
    assert [document["id"] for document in first["data"]] == ids[:3]
    assert first["object"] == "list"
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[2], True)
    rest = client.get(f"/v1/documents?limit=3&after={first['last_id']}").get_json()
    assert [document["id"] for document in rest["data"]] == ids[3:]
    assert rest["has_more"] is False


def test_an_empty_list_has_no_cursors(client: FlaskClient) -> None:
    empty: dict[str, object] = {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    assert client.get("/v1/documents").json == empty


def test_the_text_is_read_page_by_page(client: FlaskClient, record: Record, story: Story) -> None:
    row = story.read_document()
    with_text(record, row, "one", "two", "three")
    url = f"/v1/documents/{row.id}/text"
    first = client.get(f"{url}?limit=2").get_json()
    assert first["data"] == [
        {"number": 1, "label": "p. 1", "name": None, "text": "one"},
        {"number": 2, "label": "p. 2", "name": None, "text": "two"},
    ]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (1, 2, True)
    rest = client.get(f"{url}?limit=2&after=2").get_json()
    assert ([page["text"] for page in rest["data"]], rest["has_more"]) == (["three"], False)
    alone = client.get(f"{url}?page=2").get_json()
    assert ([page["text"] for page in alone["data"]], alone["has_more"]) == (["two"], False)
    beyond = client.get(f"{url}?page=4")
    assert (beyond.status_code, beyond.get_json()["errors"][0]["at"]) == (422, "query/page")


def test_text_that_is_not_there_says_why(client: FlaskClient, story: Story) -> None:
    queued, failed, lost = story.upload(), story.fail_to_parse(story.upload()), story.read_document()
    for row, status, code in (
        (queued, 409, "text_not_ready"),
        (failed, 422, "document_failed"),
        (lost, 404, "text_missing"),
    ):
        response = client.get(f"/v1/documents/{row.id}/text")
        assert (response.status_code, response.get_json()["code"]) == (status, code)
    assert client.get(f"/v1/documents/{failed.id}/text").get_json()["detail"] == "The file is damaged."


def test_deleting_a_document_deletes_its_file(client: FlaskClient, tmp_path: Path) -> None:
    url = upload(client, b"some text").headers["Location"]
    response = client.delete(url)
    assert (response.status_code, response.data) == (204, b"")
    assert files(tmp_path) == []
    assert client.get(url).get_json()["code"] == "document_not_found"
    assert client.delete(url).status_code == 404


def test_a_document_in_use_is_not_deleted(client: FlaskClient, story: Story, tmp_path: Path) -> None:
    row = story.read_document()
    story.ask(row)
    response = client.delete(f"/v1/documents/{row.id}")
    assert (response.status_code, response.get_json()["code"]) == (409, "document_in_use")
    assert files(tmp_path) == [row.sha256]
