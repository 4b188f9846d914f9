"""The zip package of an Office file (ECMA-376 part 2), opened with suspicion."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any

from lxml import etree

from parsers.archive import read_member
from parsers.errors import Damaged


class Package:
    """Parts by name, as parsed XML. A part is inflated only if it declares a bearable size."""

    def __init__(self, archive: zipfile.ZipFile, *, max_part_bytes: int) -> None:
        self._zip = archive
        self._max_part_bytes = max_part_bytes

    def xml(self, name: str) -> Any:
        """The root element of a part, None where there is no such part. Raises Damaged, TooLarge."""
        data = self.data(name)
        return None if data is None else parse_xml(data)

    def data(self, name: str) -> bytes | None:
        """The bytes of a part, None where there is no such part. Raises Damaged, TooLarge."""
        return read_member(self._zip, name, max_bytes=self._max_part_bytes)

    def related(self, source: str, kind: str) -> str | None:
        """Name of the first part that `source` ("" for the package) points to by such a relationship."""
        return next(self.all_related(source, kind), None)

    def all_related(self, source: str, kind: str) -> Iterator[str]:
        """Names of all parts that `source` points to by a relationship of this kind."""
        return (name for _, name in self.links(source, kind))

    def links(self, source: str, kind: str) -> Iterator[tuple[str, str]]:
        """Identity and target of each such relationship."""
        folder, name = posixpath.split(source)
        links = self.xml(posixpath.join(folder, "_rels", f"{name}.rels"))
        for link in links if links is not None else ():
            if isinstance(link.tag, str) and link.get("Type", "").endswith(f"/{kind}"):
                target = posixpath.normpath(posixpath.join("/", folder, link.get("Target", "")))
                yield link.get("Id", ""), target.lstrip("/")


def parse_xml(data: bytes) -> Any:
    """The root element of an XML part. Raises Damaged, also where it declares entities."""
    # libxml2's own bounds stay on: 256 levels of nesting, and no expansion of entities.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as exc:
        if exc.code == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError from exc
        raise Damaged("The file is cut short or damaged. Save a new copy and send that.") from exc
    if (
        root.getroottree().docinfo.internalDTD is not None
        and root.getroottree().docinfo.internalDTD.entities()
    ):
        raise Damaged("The file declares its own XML entities, which no office program does. It is not read.")
    return root
