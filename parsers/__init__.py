"""From the bytes of a document to pages of text, sections and tables, in a child process with limits.

document = parse(path, filename="lease.pdf", on_page=lambda done, total: ...)
for page in document.pages: ...
"""

from parsers.document import PARSER_VERSION, Document, Page
from parsers.errors import (
    Damaged,
    Empty,
    Encrypted,
    OutOfMemory,
    ParseError,
    TimedOut,
    TooLarge,
    TooManyPages,
    Unsupported,
    WrongPassword,
)
from parsers.limits import Limits
from parsers.reader import parse_in_process
from parsers.sandbox import Sandbox, parse
from parsers.sniff import sniff

__all__ = [
    "PARSER_VERSION",
    "Damaged",
    "Document",
    "Empty",
    "Encrypted",
    "Limits",
    "OutOfMemory",
    "Page",
    "ParseError",
    "Sandbox",
    "TimedOut",
    "TooLarge",
    "TooManyPages",
    "Unsupported",
    "WrongPassword",
    "parse",
    "parse_in_process",
    "sniff",
]
