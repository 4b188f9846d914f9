"""Opening a zip file without trusting its directory."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from parsers.errors import Damaged, Encrypted, TooLarge, Unsupported, WrongPassword

_END = b"PK\x05\x06"
_END_BYTES = 22 + 0xFFFF
_MAX_DIRECTORY_BYTES = 4 << 20
#: Flag of a member with a password (APPNOTE.TXT, section 4.4.4).
_LOCKED = 1
#: How a compound file begins, in which Office wraps a package with a password (MS-OFFCRYPTO, section 2.3).
COMPOUND = b"\xd0\xcf\x11\xe0"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


def open_zip(path: Path, password: str | None = None) -> zipfile.ZipFile:
    """The zip at `path`, also one that Office encrypted.

    Raises Damaged where it has no directory, TooLarge where that is beyond any use, Encrypted, WrongPassword.
    `zipfile` loads the whole directory at once, which a made-up file can blow up to its own size.
    """
    with path.open("rb") as file:
        unlocked = _unlocked(file, password) if file.read(len(COMPOUND)) == COMPOUND else None
        tail = _tail(unlocked or file)
    end = tail.rfind(_END)
    if end < 0:
        raise Damaged("The file is cut short. Send it again, or save a new copy and send that.")
    if int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY_BYTES:
        raise TooLarge("The file lists far more parts than any document has. It is not read.")
    try:
        return zipfile.ZipFile(unlocked or path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise Damaged from exc


def read_member(archive: zipfile.ZipFile, name: str, *, max_bytes: int) -> bytes | None:
    """A member, None where there is no such. It is inflated only if it declares a bearable size.

    Raises Damaged, Encrypted, TooLarge.
    """
    try:
        entry = archive.getinfo(name)
    except KeyError:
        return None
    if entry.flag_bits & _LOCKED:
        raise Encrypted("The archive is locked with a password. Pack it without one and send that.")
    if entry.file_size > max_bytes:
        raise TooLarge(
            f"{name} inflates to {entry.file_size:,} bytes; {max_bytes:,} are read at most. "
            "Split the document and send the parts."
        )
    try:
        return archive.read(entry)
    except _BROKEN as exc:  # zipfile stops at the declared size, so a lie about it ends here
        raise Damaged("The file is cut short or damaged. Save a new copy and send that.") from exc


def check_sizes(archive: zipfile.ZipFile, *, max_bytes: int) -> None:
    """Raise TooLarge where all members together declare more bytes than that."""
    total = sum(entry.file_size for entry in archive.infolist())
    if total > max_bytes:
        raise TooLarge(f"The file inflates to {total:,} bytes; {max_bytes:,} are read at most. Split it.")


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    return file.read()


def _unlocked(file: BinaryIO, password: str | None) -> BinaryIO:
    if password is None:
        raise Encrypted
    import msoffcrypto
    from msoffcrypto.exceptions import DecryptionError, FileFormatError, InvalidKeyError

    package = io.BytesIO()
    try:
        locked = msoffcrypto.OfficeFile(file)
        locked.load_key(password=password, verify_password=True)
        locked.decrypt(package)
    except InvalidKeyError as exc:
        raise WrongPassword from exc
    except (DecryptionError, FileFormatError, OSError, ValueError, KeyError) as exc:
        raise Unsupported(
            "The file is locked in a way that is not read. Send a copy without a password."
        ) from exc
    return package
