"""Saved text is keyed by PARSER_VERSION, so the version must change when the text does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from data import documents
from data.documents import paragraph

from parsers import PARSER_VERSION, parse_in_process

#: Digest of what each version makes of the files below. A new version gets a line of its own.
PROMISED = {
    "1": "2faa78eafc4e8317f17b60569a3a059a69e8e8d1d2ac87e897b6cce5de28354b",
    "2": "44738bf88383984ef68ed1966f215e37e525a2e87466d8eb297f692b74191ba6",
    "3": "8d0658942b91c60604e44dacfed3773cd1739c506d5168aaa355eb6b020bad6e",
    "4": "732fb97b74ff7733b7a12c044edd20136d3b39dfb025f8b694bc929fb9fe7e7d",
    "5": "5dc5cc1005ec383bddb601f8e06880b0c72386b9c239d66c528c07b73d3399d5",
    "6": "cf1ccfd211188777b646cbece952a679e619ad392d075d1c7c83d3e17b56ca0a",
    "7": "cf1ccfd211188777b646cbece952a679e619ad392d075d1c7c83d3e17b56ca0a",
}


def files() -> dict[str, bytes]:
    return {
        "a.pdf": documents.pdf(
            ["Rent (monthly)\nis due on the con-\ntract day.", ""], labels="0 << /S /r >>"
        ),
        "a.docx": documents.word(
            paragraph("Rent")
            + f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"
        ),
        "a.html": b"<h1>Rent</h1><ul><li>one<li>two</ul><table><tr><td>a<td>b</table><h2>Due</h2><p>The 3rd",
        "a.txt": "Paragraph of \ufb01ne text. \r\n\r\n".encode() * 400,
    }


def test_the_output_is_the_one_this_version_promised(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
        document = parse_in_process(tmp_path / name, filename=name)
        digest.update(json.dumps(document.to_json(), sort_keys=True).encode())
    assert digest.hexdigest() == PROMISED.get(PARSER_VERSION), "output changed: raise PARSER_VERSION"
