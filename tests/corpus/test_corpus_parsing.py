"""Real and hostile documents. They lie in ../shared/corpus, or where UNABRIDGED_CORPUS says."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parsers import Document, Encrypted, Limits, ParseError, TooLarge, TooManyPages, parse

CORPUS = Path(os.environ.get("UNABRIDGED_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}"),
]


def read(name: str, password: str | None = None) -> Document:
    return parse(CORPUS / name, filename=Path(name).name, password=password)


def words(document: Document) -> set[str]:
    return {word for page in document.pages for word in re.findall(r"\w{4,}", page.text)}


@pytest.mark.parametrize(
    ("name", "pages"),
    [
        ("eval/mmlongbench-doc/mmdetection-readthedocs-io-en-v2.18.0.pdf", 468),
        ("long/fsharp/FSharpSpec-4.1-latest.pdf", 333),
        ("long/riscv/riscv-spec-v2.2.pdf", 145),
        ("long/unstructured/pdf2image-memory-error-test-400p.pdf", 400),
        ("long/us-gov/NIST.SP.800-171r2.pdf", 113),
        ("long/zh/中华人民共和国民法典.pdf", 234),
        ("parsing/zh_law_docx/中华人民共和国劳动法.docx", 26),
    ],
)
def test_a_long_document_has_all_its_pages(name: str, pages: int) -> None:
    document = read(name)
    assert document.paged
    assert len(document.pages) == pages
    assert len(document.blank_pages) < pages / 20


def test_printed_page_numbers_are_read() -> None:
    labels = [page.label for page in read("long/riscv/riscv-spec-v2.2.pdf").pages]
    assert labels[2:4] == ["i", "ii"]
    assert labels[12] == "1"


def test_a_manual_full_of_numbers_is_labelled_by_its_page_numbers_and_keeps_its_headings() -> None:
    pages = read("long/unstructured/pdf2image-memory-error-test-400p.pdf").pages
    assert [page.label for page in pages[6:399]] == [str(number) for number in range(1, 394)]
    assert "Exhibit 2.3.59-8 (01-17-2005)" in pages[30].text


def test_a_table_over_many_pages_keeps_its_head_on_each() -> None:
    tables = read("long/us-gov/NIST.SP.800-171r2.pdf").tables
    heads = [table.rows[0][1:] for table in tables if table.page in range(98, 112)]
    assert heads.count(("NIST SP 800-53", "TAILORING")) >= 10


@pytest.mark.parametrize(
    "name", ["long/typescript/TypeScript Language Specification", "long/fsharp/FSharpSpec-4.1-latest"]
)
def test_a_word_file_says_what_its_pdf_twin_says(name: str) -> None:
    word, pdf = words(read(f"{name}.docx")), words(read(f"{name}.pdf"))
    assert len(word & pdf) > 0.93 * len(word | pdf)


def test_a_word_file_says_what_its_markdown_twin_says() -> None:
    word, markdown = words(read("long/rust-book/chapter03.docx")), words(read("long/rust-book/chapter03.md"))
    assert len(word & markdown) > 0.9 * len(markdown)


def test_no_page_numbers_are_made_up() -> None:
    assert not read("long/unstructured/handbook-872p.docx").paged


def test_a_long_page_of_html_is_read_to_its_end() -> None:
    document = read("long/rfc-html/rfc9110.html")
    assert document.title == "RFC 9110 - HTTP Semantics"
    assert document.characters > 440_000
    assert "Authors' Addresses" in document.pages[-1].text


@pytest.mark.parametrize("name", ["zh_gb18030_meta.html", "zh_gbk_lies_utf8.html"])
def test_chinese_is_read_whatever_the_page_says_of_its_encoding(name: str) -> None:
    assert "中华人民共和国刑法" in read(f"nasty/encodings/{name}").pages[0].text


@pytest.mark.parametrize(
    ("name", "password", "text"),
    [
        ("aes-128.pdf", "foo", "Secret!"),
        ("aes-256.pdf", "baz", "Secret!"),
        ("encrypted_hello_world_r2.pdf", "hôtel", "Hello, world!"),
        ("r6-user-password.pdf", "asdfzxcv", "pdf encryption test"),
        ("testPassword4Spaces.pdf", "    ", "Just some text."),
    ],
)
def test_every_kind_of_pdf_encryption_is_opened(name: str, password: str, text: str) -> None:
    assert text in read(f"nasty/encrypted/{name}", password).pages[0].text
    with pytest.raises(Encrypted):
        read(f"nasty/encrypted/{name}")


def test_bombs_are_refused() -> None:
    with pytest.raises(TooLarge):
        read("nasty/bombs_office/zipbomb_1GiB.docx")
    with pytest.raises(TooManyPages, match="20,000"):
        read("nasty/huge/pages_20000.pdf")


def outcome(path: Path) -> str:
    try:
        return "text" if parse(path, filename=path.name, limits=Limits(wall_s=30)).characters else "nothing"
    except ParseError as exc:
        return exc.code


def test_every_nasty_file_ends_in_text_or_in_an_error_that_says_why() -> None:
    paths = [path for path in (CORPUS / "nasty").rglob("*") if path.is_file()]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        outcomes = set(threads.map(outcome, paths))
    assert "text" in outcomes
    assert outcomes <= {
        "text",
        "unsupported",
        "encrypted",
        "damaged",
        "too_large",
        "too_many_pages",
        "empty",
    }
