"""Formulas of Office files on a line, as one would type them (ECMA-376 part 1, section 22.1; UnicodeMath)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from parsers.attributes import get, localname

#: What follows is raised, in text that `powers` is to see.
RAISED = "\x1f"
_POWER = re.compile("(?<=[0-9])\x1f(?=[-−]?[0-9])")
#: Needs no brackets: a word or a number, or one sign.
_SINGLE = re.compile(r"[\w.]*|.")


def linear(element: Any, text: Callable[[Any], str]) -> str | None:
    """An element of a formula as text, or None for one that has no form of its own.

    `text`: of an element inside it.
    """

    def part(name: str) -> str:
        return "".join(text(child) for child in element.findall(f"{{*}}{name}"))

    def sign(name: str, default: str) -> str:
        return _property(element, name, default)

    line = None
    match localname(element):
        case "d":
            inside = sign("sepChr", "|").join(text(child) for child in element.findall("{*}e"))
            line = sign("begChr", "(") + inside + sign("endChr", ")")
        case "f":
            bar = "¦" if sign("type", "bar") == "noBar" else "/"
            line = _grouped(part("num")) + bar + _grouped(part("den"))
        case "nary":
            limits = _script("_", part("sub")) + _script("^", part("sup"))
            line = f"{sign('chr', '∫')}{limits} {part('e')}"
        case "rad":
            line = part("deg") + "√" + _grouped(part("e"))
        case "func":
            line = f"{part('fName')} {part('e')}"
        case "sSub" | "sSup" | "sSubSup":
            line = part("e") + _script("_", part("sub")) + _script("^", part("sup"))
    return line


def powers(text: str) -> str:
    """Text in which a number raised behind a number is a power: 10^6, not 106."""
    return _POWER.sub("^", text).replace(RAISED, "")


def _grouped(text: str) -> str:
    return text if _SINGLE.fullmatch(text) else f"({text})"


def _script(mark: str, text: str) -> str:
    return text and mark + _grouped(text)


def _property(element: Any, name: str, default: str) -> str:
    found = element.find(f"{{*}}{localname(element)}Pr/{{*}}{name}")
    return default if found is None else get(found, "val") or ""
