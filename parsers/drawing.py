"""What Office files draw: alternatives of one shape, diagrams (SmartArt), charts, signs of symbol fonts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from parsers import markdown
from parsers.package import Package

#: Signs of the font Symbol from 0x20 and from 0xA0 (Adobe, Symbol encoding), and some of Wingdings.
_SYMBOL = {
    **dict(enumerate(
        " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼",
        0x20,
    )),
    **dict(enumerate(
        "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪",
        0xA0,
    )),
    **dict(enumerate("〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭", 0xF1)),
}  # fmt: skip
_WINGDINGS = {
    0x6F: "☐", 0x71: "☐", 0x72: "☐", 0x78: "☒", 0xA7: "▪", 0xA8: "☐", 0xDF: "←", 0xE0: "→", 0xE1: "↑",
    0xE2: "↓", 0xE8: "→", 0xFB: "✗", 0xFC: "✓", 0xFD: "☒", 0xFE: "☑",
}  # fmt: skip
_WINGDINGS_2 = {0x4F: "✗", 0x50: "✓", 0x51: "☒", 0x52: "☑", 0x53: "☒", 0x54: "☒", 0x99: "☐", 0xA3: "☐"}
_FONTS = {"Symbol": _SYMBOL, "Wingdings": _WINGDINGS, "Wingdings 2": _WINGDINGS_2}
#: Fonts of symbols have their signs at these codes, too (ECMA-376 part 1, section 17.3.3.30).
_PRIVATE = 0xF000


def chosen(alternatives: Any) -> list[Any]:
    """Of an element's alternatives, the first that holds text or a drawing (part 3, section 7.5), if any."""
    holding = (choice for choice in alternatives for _ in choice.iter("{*}t", "{*}relIds", "{*}chart"))
    return [*islice(holding, 1)]


def drawn(package: Package, source: str, element: Any) -> Iterator[str]:
    """The texts of the diagrams and charts in an element of the part `source`."""
    for frame in element.iter("{*}relIds", "{*}chart") if element is not None else ():
        kind, name = ("diagramData", "dm") if frame.tag.endswith("}relIds") else ("chart", "id")
        linked = dict(package.links(source, kind)).get(link(frame, name))
        root = package.xml(linked) if linked else None
        if root is not None:
            yield from diagram(root) if kind == "diagramData" else chart(root)


def link(element: Any, name: str) -> str:
    """The relationship that an element names (Strict and Transitional files differ in its namespace)."""
    return next((str(v) for k, v in element.attrib.items() if k.endswith(f"/relationships}}{name}")), "")


def diagram(root: Any) -> Iterator[str]:
    """The texts of a diagram's data part (ECMA-376 part 1, section 21.4), in order."""
    for paragraph in root.iterfind("{*}ptLst/{*}pt/{*}t/{*}p"):
        text = "".join(run.text or "" for run in paragraph.iter("{*}t"))
        if text.strip():
            yield text


def chart(root: Any) -> Iterator[str]:
    """Titles of a chart part (ECMA-376 part 1, section 21.2), and its values, a column for each series."""
    for title in root.iter("{*}title"):
        text = "".join(run.text or "" for run in title.iter("{*}t"))
        if text.strip():
            yield text
    series = [*root.iter("{*}ser")]
    names = [" ".join(_points(one, "tx").values()) for one in series]
    places: dict[str, str] = {}
    for one in series:
        places |= _points(one, "cat", "xVal")
    columns = [
        {place: _rounded(value) for place, value in _points(one, "val", "yVal").items()} for one in series
    ]
    for column in columns:
        places = dict.fromkeys(column, "") | places
    rows = [[text, *(column.get(place, "") for column in columns)] for place, text in places.items()]
    if rows:
        yield markdown.table([["", *names], *rows])


def _rounded(number: str) -> str:
    """A number in fifteen digits, as Office shows it."""
    try:
        return f"{float(number):.15g}"
    except ValueError:
        return number


def _points(series: Any, *kinds: str) -> dict[str, str]:
    """The values that a file keeps of a series, by their places."""
    return {
        point.get("idx", ""): point.findtext("{*}v") or ""
        for kind in kinds
        for point in series.iterfind(f"{{*}}{kind}//{{*}}pt")
    }


def sign(font: str, code: str) -> str:
    """A character by its font and its hexadecimal code; U+FFFD for one of a font that is not known."""
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    private = _PRIVATE <= number <= _PRIVATE + 0xFF
    if font in _FONTS:
        return _FONTS[font].get(number - _PRIVATE * private, "\N{REPLACEMENT CHARACTER}")
    return chr(number) if 0 <= number <= 0xFFFF and not private else "\N{REPLACEMENT CHARACTER}"
