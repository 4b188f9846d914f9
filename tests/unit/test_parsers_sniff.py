"""What a file is, is decided by its content; its name only tells the kinds of text apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from data import documents

from parsers import Damaged, Empty, Encrypted, Unsupported, sniff
from parsers.sniff import (
    EPUB,
    HTML,
    MARKDOWN,
    OPENDOCUMENT,
    PDF,
    RTF,
    SEPARATED,
    SHEETS,
    SLIDES,
    TEXT,
    WORD,
    ZIP,
)  # fmt: skip

Kind = Callable[[bytes, str], str]


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    def sniff_bytes(content: bytes, filename: str) -> str:
        path = tmp_path / "upload"
        path.write_bytes(content)
        return sniff(path, filename)

    return sniff_bytes


A_PDF = documents.pdf(["Hello"])
A_WORD_FILE = documents.word(documents.paragraph("Hello"))


@pytest.mark.parametrize(
    ("content", "filename", "expected"),
    [
        (A_PDF, "a.pdf", PDF),
        (A_PDF, "a.docx", PDF),
        (A_PDF, "no-extension", PDF),
        (b"\r\n" + A_PDF, "mail.PDF", PDF),
        (b"junk before the header\n" + A_PDF, "a.pdf", PDF),
        (A_WORD_FILE, "a.docx", WORD),
        (A_WORD_FILE, "a.pdf", WORD),
        (b"<!DOCTYPE html><p>Hello", "a.html", HTML),
        (b"\xef\xbb\xbf  <!-- saved -->\n<HTML><body>Hello", "a.txt", HTML),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><p/></html>', "a.xhtml", HTML),
        (b"<p>a fragment</p>", "a.htm", HTML),
        ("<html><p>Überall".encode("utf-16"), "a.html", HTML),
        (b"<!-- one -->\n" * 60 + b"# Title", "a.md", MARKDOWN),
        (b"<!-- one -->\n" * 60 + b"<html>", "a.txt", HTML),
        (b"<p>a fragment</p>", "a.txt", TEXT),
        (b"no tags at all", "a.html", TEXT),
        (b"# Title", "README.md", MARKDOWN),
        (b"plain", "a.txt", TEXT),
        ("Überall".encode("utf-16"), "a.txt", TEXT),
        ("第一条 为了惩罚犯罪，保护人民，根据宪法。\n".encode("gb18030") * 20, "law.txt", TEXT),
        (b"{\\rtf1 Hello}", "a.doc", RTF),
        (b"a,b\n1,2\n", "a.csv", SEPARATED),
        (b"a,b\n1,2\n", "a.txt", TEXT),
        (documents.zip_of({"xl/workbook.xml": "<x/>"}), "a.docx", SHEETS),
        (documents.zip_of({"ppt/presentation.xml": "<x/>"}), "a.pptx", SLIDES),
        (documents.zip_of({"META-INF/container.xml": "<x/>"}), "a.epub", EPUB),
        (documents.zip_of({"mimetype": OPENDOCUMENT, "content.xml": "<x/>"}), "a.odt", OPENDOCUMENT),
        (documents.zip_of({"src/app.py": "print()"}), "code.zip", ZIP),
        (documents.zip_of({"word/count.py": "x", "xl/a.py": "x", "ppt/b/c.xml": "x"}), "code.zip", ZIP),
        (documents.zip_of({"[Content_Types].xml": "<x/>", "document.xml": "<x/>"}), "a.docx", WORD),
        (b"MZ is how this sentence begins.", "a.txt", TEXT),
    ],
)
def test_a_readable_file_is_known(kind: Kind, content: bytes, filename: str, expected: str) -> None:
    assert kind(content, filename) == expected


@pytest.mark.parametrize(
    ("content", "filename", "said"),
    [
        (b"MZ\x90\x00\x03\x00\x00\x00" + bytes(500), "invoice.pdf", "a Windows program"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "scan.pdf", "a PNG image"),
        (bytes(range(256)) * 4, "a.pdf", "of an unknown kind"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.doc", "before 2007"),
        (documents.zip_of({"content.xml": "<x/>"}), "a.ods", "an OpenDocument file that is no text"),
        (documents.zip_of({"hello.txt": "hi"}), "a.docx", "a zip archive, not Word"),
        (documents.zip_of({"[Content_Types].xml": "<x/>"}), "a.vsdx", "an Office file of another kind"),
    ],
)
def test_any_other_file_is_refused_by_name(kind: Kind, content: bytes, filename: str, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        kind(content, filename)


def test_a_file_without_bytes_is_empty(kind: Kind) -> None:
    with pytest.raises(Empty, match="no bytes"):
        kind(b"", "a.pdf")


def test_an_office_file_with_a_password_is_encrypted(kind: Kind) -> None:
    container = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le")
    with pytest.raises(Encrypted):
        kind(container, "a.docx")


def test_a_word_file_cut_short_is_damaged(kind: Kind) -> None:
    with pytest.raises(Damaged, match="cut short"):
        kind(A_WORD_FILE[: len(A_WORD_FILE) // 2], "a.docx")
