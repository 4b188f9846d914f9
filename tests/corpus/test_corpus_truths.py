"""What is known of real documents: pages, titles on pages, phrases, twins in two formats, passwords."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parsers import Document, Limits, ParseError, parse

CORPUS = Path(os.environ.get("UNABRIDGED_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}"),
]

#: Recognising pictures takes minutes, and none of these truths is about it.
LIMITS = Limits(max_ocr_pages=0)
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")
_TAGS = re.compile(r"<[^>]+>|!?\[([^\]]*)\]\([^)]*\)")


@functools.cache
def read(name: str, password: str | None = None) -> Document:
    return parse(CORPUS / name, filename=Path(name).name, password=password, limits=LIMITS)


def outcome(name: str, password: str | None = None) -> Document | str:
    """The document, or the code of the error."""
    try:
        return read(name, password)
    except ParseError as exc:
        return exc.code


def index() -> list[dict[str, str]]:
    if not CORPUS.is_dir():
        return []
    with (CORPUS / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def truth(name: str) -> Any:
    return json.loads((CORPUS / name).read_text(encoding="utf-8"))


def text(document: Document) -> str:
    return "\n".join(page.text for page in document.pages)


def squeezed(words: str) -> str:
    """Letters and figures alone: what lines and hyphens do to a phrase is none of its matter."""
    return re.sub(r"[\W_]+", "", words).lower()


def likeness(one: str, two: str) -> float:
    counts = [Counter(_WORD.findall(words.lower())) for words in (one, two)]
    return 2 * (counts[0] & counts[1]).total() / (counts[0].total() + counts[1].total())


def test_every_pdf_has_as_many_pages_as_is_known() -> None:
    wrong: dict[str, tuple[int | str, int]] = {}
    for row in index():
        known = re.match(r"(\d+)p", row["pages_or_chars"])
        if row["kind"] == "pdf" and known:
            found = outcome(row["file"])
            if isinstance(found, Document):
                if len(found.pages) != int(known[1]):
                    wrong[row["file"]] = (len(found.pages), int(known[1]))
            elif found not in {"empty", "damaged", "too_many_pages"}:
                wrong[row["file"]] = (found, int(known[1]))
    assert not wrong


def test_titles_stand_on_the_pages_that_the_outlines_name() -> None:
    found = known = 0
    for name, outline in truth("long/truth/outlines_public.json").items():
        pages = [squeezed(page.text) for page in read(name).pages]
        assert len(pages) == outline["pages"]
        known += len(outline["items"])
        found += sum(squeezed(item["title"]) in pages[item["page"] - 1] for item in outline["items"])
    assert found >= 0.95 * known


def test_outlines_become_sections() -> None:
    for name, outline in truth("long/truth/outlines_public.json").items():
        sections = {(squeezed(section.title), section.page) for section in read(name).sections}
        assert {(squeezed(item["title"]), item["page"]) for item in outline["items"]} <= sections


def test_every_article_of_the_civil_code_stands_on_its_page() -> None:
    pages = [squeezed(page.text) for page in read("long/zh/中华人民共和国民法典.pdf").pages]
    for article in truth("long/truth/civil_code_articles.json"):
        first, last = article["page"] - 1, article["page_end"]
        assert squeezed(article["text"]) in "".join(pages[first:last]), article["article"]


def test_every_requirement_of_nist_stands_on_its_page() -> None:
    pages = [squeezed(page.text) for page in read("long/us-gov/NIST.SP.800-171r2.pdf").pages]
    for requirement in truth("long/truth/nist_800_171r2_requirements.json"):
        assert squeezed(requirement["text"]) in pages[requirement["page"] - 1], requirement["id"]


def test_the_evidence_of_answers_stands_on_its_pages() -> None:
    for question in truth("eval/made_here/mini_qa_public.json"):
        document = read(question["file"])
        named = question.get("pages_1based") or []
        if document.paged and named:
            pages = [squeezed(document.pages[number - 1].text) for number in named]
            assert any(squeezed(question["evidence"]) in page for page in pages), question["evidence"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("long/fsharp/FSharpSpec-4.1-latest.docx", "long/fsharp/FSharpSpec-4.1-latest.pdf"),
        (
            "long/typescript/TypeScript Language Specification.docx",
            "long/typescript/TypeScript Language Specification.pdf",
        ),
        (
            "parsing/zh_law_docx/中华人民共和国民营经济促进法.pdf",
            "parsing/zh_law_docx/中华人民共和国民营经济促进法.txt",
        ),
    ],
)
def test_twins_say_the_same(one: str, two: str) -> None:
    assert likeness(text(read(one)), text(read(two))) >= 0.95


def test_arabic_is_read_letter_by_letter() -> None:
    known = (CORPUS / "parsing/docling_pdf/right_to_left_01.md").read_text(encoding="utf-8")
    assert likeness(text(read("parsing/docling_pdf/right_to_left_01.pdf")), known) >= 0.93


@pytest.mark.parametrize("chapter", [1, 3, 5, 9, 11, 13, 15, 19])
def test_a_chapter_in_word_says_what_another_edition_says(chapter: int) -> None:
    markdown = (CORPUS / f"long/rust-book/chapter{chapter:02}.md").read_text(encoding="utf-8")
    document = read(f"long/rust-book/chapter{chapter:02}.docx")
    assert likeness(text(document), _TAGS.sub(r"\1", markdown)) >= 0.92


def test_html_says_what_people_read_in_it() -> None:
    book = text(read("long/gutenberg/2701-h.htm"))
    assert "Call me Ishmael." in book
    likenesses = {
        row["file"]: likeness(text(read(row["file"])), _TAGS.sub(r"\1", (CORPUS / row["truth"]).read_text()))
        for row in index()
        if row["kind"] in {"html", "htm"} and row["truth"].endswith(".md")
    }
    assert sum(likenesses.values()) / len(likenesses) >= 0.90


def test_every_known_password_opens_its_file() -> None:
    opened = 0
    for row in index():
        known = re.match(r'"?(?:password: |user=)(?:user=)?(\S+?)(?: owner=\S+)?[;" ]', row["truth"] + " ")
        checked = "[checked" in row["truth"] and not row["file"].endswith(".doc")
        if known and checked and not known[1].startswith(("(", "only", "edit", "owner")):
            found = outcome(row["file"], known[1])
            assert isinstance(found, Document) or found == "empty", row[
                "file"
            ]  # it opened, and holds no text
            opened += 1
    assert opened >= 15
