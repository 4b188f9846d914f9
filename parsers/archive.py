"""Opening a zip file without trusting its directory."""

from __future__ import annotations

import zipfile
from pathlib import Path

from parsers.errors import Damaged, TooLarge

_END = b"PK\x05\x06"
_END_BYTES = 22 + 0xFFFF
_MAX_DIRECTORY_BYTES = 4 << 20


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip at `path`. Raises Damaged where it has no directory, TooLarge where that is beyond any use.

    `zipfile` loads the whole directory at once, which a made-up file can blow up to its own size.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0:
        raise Damaged(
            "The Word file is cut short. Send it again, or save a new copy from Word and send that."
        )
    if int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY_BYTES:
        raise TooLarge("The Word file lists far more parts than any document has. It is not read.")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise Damaged from exc
