"""Office files with a password; a key is a hundred thousand hashes of it."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest
from data import documents
from msoffcrypto.format.ooxml import OOXMLFile

from parsers import Encrypted, WrongPassword, parse_in_process


def test_an_office_file_opens_with_its_password_only(tmp_path: Path) -> None:
    path, locked = tmp_path / "upload", io.BytesIO()
    with zipfile.ZipFile(
        plain := io.BytesIO(
            documents.word(documents.paragraph("Secret"), core=random.Random(1).randbytes(3000).hex())
        ),
        "a",
    ) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        )
    OOXMLFile(plain).encrypt("open sesame", locked)
    path.write_bytes(locked.getvalue())
    opened = parse_in_process(path, filename="a.docx", password="open sesame")
    assert opened.pages[0].text == "Secret"
    with pytest.raises(Encrypted):
        parse_in_process(path, filename="a.docx")
    with pytest.raises(WrongPassword):
        parse_in_process(path, filename="a.docx", password="guess")
