"""Why a file could not be turned into text.

    ParseError            parse_failed
    ├── Unsupported       unsupported
    ├── Encrypted         encrypted
    ├── WrongPassword     wrong_password
    ├── Damaged           damaged
    ├── TooLarge          too_large
    ├── TooManyPages      too_many_pages
    ├── TimedOut          timed_out
    ├── OutOfMemory       memory_exceeded
    └── Empty             empty

`code` is stable and may be stored. The docstring of a class is its default message and says what to do.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class ParseError(Exception):
    """The parser stopped for a reason it does not know. Report this file to whoever runs the service."""

    code: ClassVar[str] = "parse_failed"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class Unsupported(ParseError):
    """This kind of file is not read. Send PDF, Word, HTML, EPUB, ODT, RTF, PowerPoint, Excel or text."""

    code = "unsupported"
    advice: ClassVar[str] = "Send PDF, Word, HTML, EPUB, ODT, RTF, PowerPoint, Excel or text."


class Encrypted(ParseError):
    """The file is locked with a password. Send the password with it, or a copy without one."""

    code = "encrypted"


class WrongPassword(ParseError):
    """The password does not open this file. Check it and try again."""

    code = "wrong_password"


class Damaged(ParseError):
    """The file is damaged. Open it in the program that made it, save a new copy and send that."""

    code = "damaged"


class TooLarge(ParseError):
    """The file is larger than this service reads. Split it and send the parts."""

    code = "too_large"


class TooManyPages(ParseError):
    """The file has more pages than this service reads. Split it and send the parts."""

    code = "too_many_pages"


class TimedOut(ParseError):
    """Reading the file took too long and was stopped. Split it and send the parts."""

    code = "timed_out"


class OutOfMemory(ParseError):
    """Reading the file took more memory than is allowed. Split it and send the parts."""

    code = "memory_exceeded"


class Empty(ParseError):
    """The file holds no text. Check that it is the right one."""

    code = "empty"


_KINDS: tuple[type[ParseError], ...] = (ParseError, *ParseError.__subclasses__())
BY_CODE = {kind.code: kind for kind in _KINDS}
