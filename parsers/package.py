"""The zip package of an Office file (ECMA-376 part 2), opened with suspicion."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from typing import Any

from lxml import etree

from parsers.errors import Damaged, TooLarge

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)
_CUT_SHORT = "The Word file is cut short or damaged. Save a new copy from Word and send that."


class Package:
    """Parts by name, as parsed XML. A part is inflated only if it declares a bearable size."""

    def __init__(self, archive: zipfile.ZipFile, *, max_part_bytes: int) -> None:
        self._zip = archive
        self._max_part_bytes = max_part_bytes

    def xml(self, name: str) -> Any:
        """The root element of a part, None where there is no such part. Raises Damaged, TooLarge."""
        try:
            entry = self._zip.getinfo(name)
        except KeyError:
            return None
        if entry.file_size > self._max_part_bytes:
            raise TooLarge(
                f"{name} inflates to {entry.file_size:,} bytes; {self._max_part_bytes:,} are read at most. "
                "Split the document and send the parts."
            )
        try:
            return _root(self._zip.read(entry))
        except _BROKEN as exc:  # zipfile stops at the declared size, so a lie about it ends here
            raise Damaged(_CUT_SHORT) from exc

    def related(self, source: str, kind: str) -> str | None:
        """Name of the part that `source` ("" for the package) points to by a relationship of this kind."""
        folder, name = posixpath.split(source)
        links = self.xml(posixpath.join(folder, "_rels", f"{name}.rels"))
        for link in links if links is not None else ():
            if isinstance(link.tag, str) and link.get("Type", "").endswith(f"/{kind}"):
                return posixpath.normpath(posixpath.join("/", folder, link.get("Target", ""))).lstrip("/")
        return None


def _root(data: bytes) -> Any:
    # libxml2's own bounds stay on: 256 levels of nesting, and no expansion of entities.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as exc:
        if exc.code == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError from exc
        raise Damaged(_CUT_SHORT) from exc
    if root.getroottree().docinfo.doctype:
        raise Damaged("The Word file declares its own XML entities, which Word never does. It is not read.")
    return root
