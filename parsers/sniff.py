"""What a file is, by its content first and its name second."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from parsers.archive import open_zip
from parsers.encoding import is_text
from parsers.errors import Empty, Encrypted, Unsupported

PDF = "application/pdf"
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

#: Media type by the end of the name.
BY_SUFFIX = {
    ".pdf": PDF, ".docx": WORD, ".docm": WORD, ".dotx": WORD, ".html": HTML, ".htm": HTML, ".xhtml": HTML,
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".txt": TEXT,
}  # fmt: skip
KINDS = {PDF: "PDF", WORD: "Word", HTML: "HTML", MARKDOWN: "Markdown", TEXT: "plain text"}

_HEAD_BYTES = 1 << 16
#: What a PDF holds that has lost its header, or has something before it.
_PDF_INSIDE = re.compile(rb"%PDF-|\b\d+ \d+ obj\b")
_HTML = re.compile(
    rb"\A\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_TAG = re.compile(rb"<[a-z][^>]*>", re.I)
#: Storage name inside the container of a Word file with a password (MS-OFFCRYPTO, section 2.3.4.4).
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")

_PACKAGES = (
    ("xl/", "an Excel workbook"),
    ("ppt/", "a PowerPoint presentation"),
    ("content.xml", "an OpenDocument file"),
)
_NAMES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)


def sniff(path: Path, filename: str) -> str:
    """Media type of the file at `path`, one of the five above.

    Content decides; the name only tells the kinds of text apart. Raises Unsupported, Encrypted (a Word file
    with a password), Empty (no bytes at all), Damaged (a zip without directory).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    named = BY_SUFFIX.get(Path(filename).suffix.lower())
    if not head:
        raise Empty("The file has no bytes. Check that it was saved and sent completely.")
    if head.lstrip().startswith(b"%PDF-") or (named == PDF and _PDF_INSIDE.search(head)):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise _compound(path)
    if head.startswith(b"{\\rtf"):
        raise _refusal("an RTF file", "Save it as .docx and send that.")
    if is_text(head):
        return _text(head, named)
    raise _refusal(next((name for magic, name in _NAMES if head.startswith(magic)), "of an unknown kind"))


def _text(head: bytes, named: str | None) -> str:
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")) or (named == HTML and _TAG.search(head)):
        return HTML
    return MARKDOWN if named == MARKDOWN else TEXT


def _zip(path: Path) -> str:
    with open_zip(path) as archive:
        parts = archive.namelist()
    if any(part.startswith("word/") for part in parts):
        return WORD
    for beginning, name in _PACKAGES:
        if any(part.startswith(beginning) for part in parts):
            raise _refusal(name)
    raise _refusal("a zip archive", "Unpack it and send the documents in it.")


def _compound(path: Path) -> Unsupported | Encrypted:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        locked = content.find(_ENCRYPTED_PACKAGE) >= 0
    if locked:
        return Encrypted("The Word file is locked with a password. Save a copy without one and send that.")
    return _refusal("an Office file from before 2007", "Save it as .docx and send that.")


def _refusal(
    name: str, advice: str = "Send a PDF, a Word document (.docx), an HTML page or plain text."
) -> Unsupported:
    return Unsupported(f"The file is {name}, which is not read. {advice}")
