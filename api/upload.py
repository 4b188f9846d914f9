"""An upload: the file of a multipart form, and a file name that is safe to show."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import cast

from werkzeug.datastructures import FileStorage

from jobs.files import Incoming

#: Control characters, and marks that turn the direction of text (Unicode TR 36, section 2.7).
_DECEIVING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a request, which was written to disk and hashed while it came in."""

    file: Incoming
    filename: str

    @classmethod
    def of(cls, part: FileStorage) -> Upload:
        """The upload in a part of a form."""
        return cls(cast(Incoming, part.stream), clean(part.filename))


def clean(filename: str | None) -> str:
    """The last part of any system's path, composed (NFC), without what deceives; else `document`."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", filename or ""))[-1]
    return _DECEIVING.sub("", last).strip(" .") or "document"
