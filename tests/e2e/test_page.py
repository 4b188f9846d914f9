"""The page in a real browser, on the whole stack with the fake engine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from api.stack import Stack
from settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on PATH"),
]

#: For a browser that runs as root in a container, and leaves the network alone.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
TEXT = (
    "The harbour of Lisse was opened in 1912 by its first master, Anna Brandt.\n\n"
    "It has eleven cranes. None of them is taller than the church <b>tower</b> beside it."
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(Settings(_env_file=None, data=folder, engine="fake", port=0, heartbeat_s=0.1)) as stack:
        yield stack.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def page(request: pytest.FixtureRequest, browser: Browser, url: str) -> Iterator[Page]:
    """The first page, in a browser that knows nothing yet; whatever it complains about fails the test."""
    complaints: list[str] = []
    with browser.new_context(base_url=url, java_script_enabled=request.param) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto("/")
        yield page
    refusals = [said for said in complaints if "status of 422" not in said]
    assert not refusals


@pytest.fixture
def harbour(tmp_path: Path) -> Path:
    path = tmp_path / "harbour of Lisse.txt"
    path.write_text(TEXT)
    return path


def test_a_question_is_answered_and_its_quotation_is_marked_on_the_page(page: Page, harbour: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("input[name=file]", harbour)
    page.get_by_role("radio", name="Ask").check(force=True)
    page.get_by_role("textbox", name="Questions").fill("Who opened the harbour?")
    page.get_by_role("button", name="Start").click()

    expect(page).to_have_url(re.compile("/jobs/job_"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Who opened the harbour?")
    expect(page.get_by_text("verified").first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", name="What was read").locator("..")).to_contain_text("Read 1 of 1")

    quotation = page.locator(".citations a").first
    words = quotation.inner_text().strip("“”")
    assert words in TEXT
    quotation.click()
    expect(page.locator("#quote")).to_have_text(words)
    expect(page.locator("#quote")).to_be_in_viewport()
    expect(page.locator("article .text")).to_contain_text("taller than the church <b>tower</b>")

    page.locator("a.close").click()
    expect(page.locator("#quote")).to_have_count(0)
    page.get_by_role("textbox", name="Ask again").fill("How many cranes are there?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("How many cranes are there?")
    expect(page.get_by_text("tokens were known from an earlier job")).to_be_visible(timeout=60_000)

    page.emulate_media(media="print")
    expect(page.get_by_role("heading", name="What was read")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_hidden()
    expect(page.get_by_role("link", name="Jobs")).to_be_hidden()


def test_what_is_wrong_with_a_form_is_said_and_what_was_filled_in_stays(page: Page, harbour: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("input[name=file]", harbour)
    page.get_by_role("radio", name="Compare").check(force=True)
    page.get_by_role("textbox", name="Focus").fill("Cranes")
    page.get_by_role("button", name="Start").click()

    expect(page.get_by_role("alert")).to_contain_text("two documents, or one Word file")
    expect(page.get_by_role("alert")).to_contain_text("invalid_request")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(page.get_by_role("radio", name="Compare")).to_be_checked()
    expect(page.get_by_role("textbox", name="Focus")).to_have_value("Cranes")


@pytest.mark.parametrize("page", [True], indirect=True, ids=["scripts"])
def test_who_comes_back_sees_the_files_that_are_still_chosen(page: Page, harbour: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("input[name=file]", harbour)
    page.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile("/jobs/job_"))
    page.go_back()

    expect(page.locator("#file-list")).to_contain_text("harbour of Lisse.txt")


@pytest.mark.parametrize("page", [True], indirect=True, ids=["scripts"])
def test_two_clicks_ask_once(page: Page, harbour: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("input[name=file]", harbour)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="What was read")).to_be_visible(timeout=60_000)
    page.get_by_role("textbox", name="Ask again").fill("Is it asked once?")
    page.get_by_role("button", name="Ask").dblclick()

    expect(page.get_by_role("heading", level=1)).to_have_text("Is it asked once?")
    page.goto("/jobs")
    expect(page.get_by_role("link", name="Is it asked once?")).to_have_count(1)
