"""What a file is, by its content first and its name second."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from parsers.archive import COMPOUND, open_zip, read_member
from parsers.encoding import is_text
from parsers.errors import Empty, Unsupported

PDF = "application/pdf"
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

EPUB = "application/epub+zip"
OPENDOCUMENT = "application/vnd.oasis.opendocument.text"
RTF = "application/rtf"
SLIDES = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
SHEETS = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
SEPARATED = "text/csv"
ZIP = "application/zip"

#: Media type by the end of the name.
BY_SUFFIX = {
    ".pdf": PDF, ".docx": WORD, ".docm": WORD, ".dotx": WORD, ".html": HTML, ".htm": HTML, ".xhtml": HTML,
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".txt": TEXT, ".epub": EPUB, ".odt": OPENDOCUMENT, ".rtf": RTF,
    ".pptx": SLIDES, ".pptm": SLIDES, ".ppsx": SLIDES, ".xlsx": SHEETS, ".xlsm": SHEETS, ".csv": SEPARATED,
    ".tsv": SEPARATED, ".zip": ZIP,
}  # fmt: skip
KINDS = {
    PDF: "PDF", WORD: "Word", HTML: "HTML", MARKDOWN: "Markdown", TEXT: "plain text", EPUB: "EPUB",
    OPENDOCUMENT: "OpenDocument", RTF: "RTF", SLIDES: "PowerPoint", SHEETS: "Excel",
    SEPARATED: "separated values", ZIP: "a zip archive",
}  # fmt: skip

_HEAD_BYTES = 1 << 16
#: What a PDF holds that has lost its header, or has something before it.
_PDF_INSIDE = re.compile(rb"%PDF-|\b\d+ \d+ obj\b")
#: What was passed is not looked at again (`*+`): comments may be taken together in too many ways.
_HTML = re.compile(
    rb"\A\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*+<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_TAG = re.compile(rb"<[a-z][^>]*>", re.I)
#: Storage name inside the container of a Word file with a password (MS-OFFCRYPTO, section 2.3.4.4).
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")

#: A member that a zip has, by the kind of document it is.
_PACKAGES = (
    (re.compile(r"word/[^/]+\.xml"), WORD),
    (re.compile(r"xl/[^/]+\.xml"), SHEETS),
    (re.compile(r"ppt/[^/]+\.xml"), SLIDES),
    (re.compile(r"META-INF/container\.xml"), EPUB),
)
_OFFICE = (WORD, SHEETS, SLIDES)
#: What every package of Office has (ECMA-376 part 2, section 7.2.3).
_CONTENT_TYPES = "[Content_Types].xml"
_MIMETYPE = "mimetype"
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


def sniff(path: Path, filename: str, password: str | None = None) -> str:
    """Media type of the file at `path`, one of those above.

    Content decides; the name only tells the kinds of text apart. Raises Unsupported, Encrypted, WrongPassword
    (both for Office files), Empty (no bytes at all), Damaged (a zip without directory).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    named = BY_SUFFIX.get(Path(filename).suffix.lower())
    if not head:
        raise Empty("The file has no bytes. Check that it was saved and sent completely.")
    if head.lstrip().startswith(b"%PDF-") or (named == PDF and _PDF_INSIDE.search(head)):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return _zip(path, None, named)
    if head.startswith(COMPOUND):
        return _compound(path, password, named)
    if head.startswith(b"{\\rtf"):
        return RTF
    if is_text(head):
        return _text(head, named)
    raise _refusal(next((name for magic, name in _NAMES if head.startswith(magic)), "of an unknown kind"))


def _text(head: bytes, named: str | None) -> str:
    letters = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0").replace(b"\0", b"")  # tags in UTF-16 are ASCII, too
    if _HTML.match(letters) or (named == HTML and _TAG.search(letters)):
        return HTML
    return named if named in {MARKDOWN, SEPARATED} else TEXT


def _zip(path: Path, password: str | None, named: str | None) -> str:
    with open_zip(path, password) as archive:
        parts = archive.namelist()
        said = read_member(archive, _MIMETYPE, max_bytes=_HEAD_BYTES) or b""
    for member, kind in _PACKAGES:
        if any(map(member.fullmatch, parts)):
            return kind
    if _CONTENT_TYPES in parts:
        if named in _OFFICE:
            return named
        raise _refusal("an Office file of another kind", "Save it as .docx, .xlsx or .pptx and send that.")
    if said.strip() == OPENDOCUMENT.encode():
        return OPENDOCUMENT
    if "content.xml" in parts:
        raise _refusal("an OpenDocument file that is no text", "Save it as PDF and send that.")
    if named not in {None, ZIP}:
        raise _refusal(f"a zip archive, not {KINDS[named]}", "Open it in the program that made it.")
    return ZIP


def _compound(path: Path, password: str | None, named: str | None) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        locked = content.find(_ENCRYPTED_PACKAGE) >= 0
    if locked:
        return _zip(path, password, named)
    raise _refusal("an Office file from before 2007", "Save it as .docx and send that.")


def _refusal(name: str, advice: str | None = None) -> Unsupported:
    return Unsupported(f"The file is {name}, which is not read. {advice or Unsupported.advice}")
