"""What protects a browser's user."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from story import Story

OURS = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9000"},
        {"Origin": ""},
    ],
)
def test_a_change_asked_for_by_another_site_is_refused(
    client: FlaskClient, story: Story, headers: dict[str, str]
) -> None:
    document, job = story.upload(), story.ask()
    for method, url in (
        ("DELETE", f"/v1/documents/{document.id}"),
        ("POST", f"/v1/jobs/{job.id}/cancel"),
        ("POST", "/v1/jobs"),
        ("POST", "/pages/jobs"),
    ):
        response = client.open(url, method=method, headers=headers)
        assert response.status_code == 403
        assert "cross_site" in response.text
    assert client.get(f"/v1/jobs/{job.id}").get_json()["status"] == "queued"


@pytest.mark.parametrize("headers", [{}, OURS, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}])
def test_our_own_pages_and_programs_may_change_things(
    client: FlaskClient, story: Story, headers: dict[str, str]
) -> None:
    assert client.post(f"/v1/jobs/{story.ask().id}/cancel", headers=headers).status_code == 200


def test_looking_is_allowed_from_anywhere(client: FlaskClient) -> None:
    assert client.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "url", ["/", "/docs", "/docs/errors", "/v1/jobs", "/nothing", "/livez", "/openapi.json"]
)
def test_every_answer_is_guarded(client: FlaskClient, url: str) -> None:
    response = client.get(url)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in response.headers
    policy = response.headers.get("Content-Security-Policy", "")
    assert ("default-src 'none'" in policy) == (response.mimetype == "text/html")
    assert "unsafe" not in policy


@pytest.mark.parametrize("url", ["/docs", "/docs/errors"])
def test_a_page_needs_nothing_from_elsewhere(client: FlaskClient, url: str) -> None:
    page = client.get(url).text
    assert "://" not in page.replace("http://json-schema.org", "")
    assert "<script" not in page
    assert "style=" not in page
    assert client.get("/docs/static/reference.css").mimetype == "text/css"


def test_a_page_that_rebinds_its_name_to_this_machine_is_turned_away(client: FlaskClient) -> None:
    assert client.get("/livez", headers={"Host": "elsewhere.example"}).status_code == 421
    assert client.get("/livez", headers={"Host": "127.0.0.1:8765"}).status_code == 200
