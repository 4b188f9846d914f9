"""Names and attributes of the XML elements of office files, read the way Word reads them."""

from __future__ import annotations

from typing import Any


def localname(element: Any) -> str:
    """The name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def get(element: Any, name: str) -> str:
    """An attribute in any namespace (Strict and Transitional files differ in it), "" where there is none."""
    return next((str(v) for k, v in element.attrib.items() if k.rpartition("}")[2] == name), "")


def value(element: Any) -> str:
    """The attribute `val` of an element, "" where either is missing."""
    return "" if element is None else get(element, "val")


def is_on(element: Any) -> bool:
    """Whether a switch such as <w:isLgl/> is set (section 17.17.4)."""
    return element is not None and value(element) not in {"0", "false", "off"}


def whole(text: str, default: int = 0) -> int:
    """The number that an attribute states, `default` where it states none."""
    return int(text) if text.isdecimal() and len(text) < 10 else default
