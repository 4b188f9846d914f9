"""The example documents are what their README and truth.json say."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import docx
import pypdfium2
import pytest
from docx.oxml.ns import qn

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRUTH: dict[str, Any] = json.loads((EXAMPLES / "truth.json").read_text(encoding="utf-8"))
DOCUMENTS: dict[str, dict[str, Any]] = TRUTH["documents"]
CHANGES: list[dict[str, str | None]] = TRUTH["comparison"]["changes"]

Places = Mapping[int | str, str]


def squeeze(text: str) -> str:
    """Text without white space: line ends fall where the layout wants them."""
    return re.sub(r"\s", "", text)


def pages(name: str) -> Places:
    with closing(pypdfium2.PdfDocument(EXAMPLES / name)) as document:
        return {number: page.get_textpage().get_text_range() for number, page in enumerate(document, 1)}


def paragraph_text(paragraph: Any, *, accept: bool) -> str:
    """The paragraph with its tracked changes accepted, or rejected."""
    letters: list[str] = []
    for node in paragraph.iter(qn("w:t"), qn("w:delText"), qn("w:tab")):
        inside = {ancestor.tag for ancestor in node.iterancestors()}
        if qn("w:tabs") in inside or (qn("w:del") if accept else qn("w:ins")) in inside:
            continue
        letters.append(node.text if node.text is not None else "\t")
    return "".join(letters)


@cache
def paragraphs(name: str, *, accept: bool = True) -> list[str]:
    body = docx.Document(str(EXAMPLES / name)).element.body
    texts = (paragraph_text(paragraph, accept=accept) for paragraph in body.iter(qn("w:p")))
    return [text for text in texts if text]


def clauses(name: str) -> Places:
    """Clauses by number; a heading such as `2. Term` or `Schedule 1. Fees` opens a place too."""
    found: dict[int | str, str] = {}
    place = "Preamble"
    for text in paragraphs(name):
        opened = re.match(r"(\d+\.\d+|\(\w\))\t|(Schedule \d+|\d+)\. ", text)
        if opened:
            place = opened[1] or opened[2]
        found[place] = f"{found.get(place, '')} {text.partition(chr(9))[2] or text}"
    return found


class Page(HTMLParser):
    """An HTML file cut at its headings: `article` by number, `frame` for all text outside the article."""

    def __init__(self) -> None:
        super().__init__()
        self.article: dict[int | str, str] = {}
        self.frame = ""
        self.anchors: list[str] = []
        self.targets: list[str] = []
        self._open: list[str] = []
        self._place = "Title"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self._open.append(tag)
        if tag in {"p", "li", "th", "td", "dt", "dd"}:
            self.handle_data(" ")
        for name, value in attrs:
            if name == "id":
                self.anchors.append(value or "")
            elif name == "href":
                self.targets.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" not in self._open:
            self.frame += "" if "style" in self._open else data
            return
        if self._open[-1] in {"h2", "h3"}:
            number = re.match(r"[\d.]+|Appendix \w", data)
            assert number
            self._place = number[0]
        self.article.setdefault(self._place, "")
        self.article[self._place] += data


@pytest.fixture(scope="module")
def specification() -> Page:
    page = Page()
    page.feed((EXAMPLES / "specification.html").read_text(encoding="utf-8"))
    return page


READERS: dict[str, Callable[[str], Places]] = {".pdf": pages, ".docx": clauses}


@pytest.fixture(scope="module")
def texts(specification: Page) -> dict[str, Places]:
    read = {name: READERS[Path(name).suffix](name) for name in DOCUMENTS if Path(name).suffix in READERS}
    return {**read, "specification.html": specification.article}


def holds(places: Places, evidence: Mapping[str, Any]) -> bool:
    return squeeze(evidence["quote"]) in squeeze(places[evidence["place"]])


def test_the_readme_names_every_document_and_no_file_that_is_missing() -> None:
    here = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:sources/)?(?:\w[\w.-]*/)*[\w-]+\.\w+)`", readme))
    assert {name for name in here if not name.endswith((".py", ".md"))} <= named
    assert [name for name in named if not (EXAMPLES / name).is_file()] == []


def test_all_examples_with_their_sources_weigh_less_than_three_megabytes() -> None:
    shipped = [*EXAMPLES.glob("*.*"), *EXAMPLES.glob("sources/**/*.*")]
    assert sum(path.stat().st_size for path in shipped if path.is_file()) < 3_000_000


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_quotation_stands_at_the_place_given_for_it(name: str, texts: dict[str, Places]) -> None:
    for question in DOCUMENTS[name]["questions"]:
        assert question["evidence"]
        for evidence in question["evidence"]:
            assert holds(texts[name], evidence), evidence


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_expected_fact_is_in_its_answer(name: str) -> None:
    for question in DOCUMENTS[name]["questions"]:
        assert question["facts"]
        assert [fact for fact in question["facts"] if fact not in question["answer"]] == []


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if "pages" in document])
def test_a_pdf_has_its_title_and_pages_and_prints_the_physical_page_numbers(
    name: str, texts: dict[str, Places]
) -> None:
    assert len(texts[name]) == DOCUMENTS[name]["pages"]
    with closing(pypdfium2.PdfDocument(EXAMPLES / name)) as document:
        assert document.get_metadata_dict()["Title"] == DOCUMENTS[name]["title"]
    for number, text in texts[name].items():
        assert number == 1 or text.split()[-1] == str(number)


def test_each_contradiction_is_made_of_two_claims_that_stand_on_one_page_each(
    texts: dict[str, Places],
) -> None:
    assert len(TRUTH["contradictions"]) == 2
    for contradiction in TRUTH["contradictions"]:
        for claim in contradiction["claims"]:
            places = texts[contradiction["document"]]
            assert holds(places, claim)
            assert claim["value"] in claim["quote"]
            assert [place for place, text in places.items() if claim["value"] in text] == [claim["place"]]


def test_the_readme_tells_both_sides_of_each_contradiction() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for contradiction in TRUTH["contradictions"]:
        for claim in contradiction["claims"]:
            assert re.search(rf"{claim['value']}[^.]*page {claim['place']}\b", readme)


@pytest.mark.parametrize(
    ("page", "total", "parts"),
    [
        (12, "Group", ["Ship Systems", "Harbour & Dredge", "Service & Parts", "Rescue", "Central costs"]),
        (17, "Total order book", ["Ship Systems", "Harbour & Dredge", "Service & Parts", "Rescue"]),
        (32, "Profit for the year", ["Profit before tax", "Tax"]),
        (33, "Net assets", ["Total assets", "Total liabilities"]),
        (33, "Equity", ["Share capital and premium", "Retained profit and reserves"]),
        (35, "Total", ["Warranty", "Seal recall", "Closing of Dorrin", "Cleaning of land"]),
    ],
)
def test_the_accounts_add_up(page: int, total: str, parts: list[str], texts: dict[str, Places]) -> None:
    def row(label: str) -> list[int]:
        line = next(
            line for line in texts["annual-report.pdf"][page].splitlines() if line.startswith(label + " ")
        )
        cells = line.removeprefix(label).replace("–", "0.0").split()
        return [round(10 * float(cell.strip("()"))) * (-1 if cell.startswith("(") else 1) for cell in cells]

    assert [sum(column) for column in zip(*map(row, parts), strict=True)] == row(total)


def test_the_expected_extraction_fits_the_schema_and_the_report(texts: dict[str, Places]) -> None:
    schema = json.loads((EXAMPLES / TRUTH["extraction"]["schema"]).read_text(encoding="utf-8"))
    expected, evidence = TRUTH["extraction"]["expected"], TRUTH["extraction"]["evidence"]
    types = {"string": str, "integer": int, "number": float}
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"]) == set(expected) == set(evidence)
    for field, rule in schema["properties"].items():
        assert type(expected[field]) is types[rule["type"]]
        assert holds(texts["annual-report.pdf"], evidence[field])
        written = f"{expected[field]:,}" if field == "employees" else str(expected[field])
        assert written in evidence[field]["quote"]


def test_rejecting_the_tracked_changes_gives_the_first_draft() -> None:
    assert paragraphs("contract-v2.docx", accept=False) == paragraphs("contract-v1.docx")


def test_the_two_contracts_differ_in_the_listed_clauses_and_only_there() -> None:
    before, after = clauses("contract-v1.docx"), clauses("contract-v2.docx")
    differing = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
    assert differing == {change["clause"] for change in CHANGES}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change["clause"])
def test_a_listed_change_reads_as_described(change: dict[str, str]) -> None:
    before, after = (
        clauses(name).get(change["clause"], "") for name in ("contract-v1.docx", "contract-v2.docx")
    )
    assert change["after"] in after
    assert change["after"] not in before
    if change["kind"] == "added":
        assert before == ""
    else:
        assert change["before"] in before
        assert change["before"] not in after


def test_only_the_second_draft_carries_tracked_changes_and_they_name_author_and_date() -> None:
    def marks(name: str) -> list[Any]:
        return list(docx.Document(str(EXAMPLES / name)).element.body.iter(qn("w:ins"), qn("w:del")))

    assert marks("contract-v1.docx") == []
    tracked = marks("contract-v2.docx")
    assert {mark.tag for mark in tracked} == {qn("w:ins"), qn("w:del")}
    assert {mark.get(qn("w:author")) for mark in tracked} == {TRUTH["comparison"]["author"]}
    assert {mark.get(qn("w:date")) for mark in tracked} == {"2025-03-14T16:30:00Z"}
    identifiers = [mark.get(qn("w:id")) for mark in tracked]
    assert len(set(identifiers)) == len(identifiers)


def test_the_second_draft_carries_the_listed_comments() -> None:
    assert list(docx.Document(str(EXAMPLES / "contract-v1.docx")).comments) == []
    found = docx.Document(str(EXAMPLES / "contract-v2.docx")).comments
    for comment, expected in zip(found, TRUTH["comparison"]["comments"], strict=True):
        assert comment.author == expected["author"]
        assert comment.text.startswith(expected["quote"])


@pytest.mark.parametrize("name", ["contract-v1.docx", "contract-v2.docx"])
def test_a_contract_has_its_footnote_and_a_length_that_leaves_room_for_its_twin(name: str) -> None:
    document = docx.Document(str(EXAMPLES / name))
    assert 1_500 <= sum(len(text.split()) for text in paragraphs(name)) <= 1_900
    assert len(list(document.element.body.iter(qn("w:footnoteReference")))) == 1
    notes = next(
        part for part in document.part.package.iter_parts() if part.partname == "/word/footnotes.xml"
    )
    assert b"A list of public holidays in Ardenport" in notes.blob


def test_the_links_of_the_specification_lead_somewhere(specification: Page) -> None:
    assert len(set(specification.anchors)) == len(specification.anchors)
    assert {target.removeprefix("#") for target in specification.targets} <= set(specification.anchors)


def test_the_specification_is_long_enough_and_keeps_its_furniture_outside_the_article(
    specification: Page,
) -> None:
    article = " ".join(specification.article.values())
    assert 2_500 <= len(article.split()) <= 3_500
    assert {"MUST", "MUST NOT", "SHOULD", "MAY"} <= set(re.findall(r"MUST NOT|MUST|SHOULD|MAY", article))
    for furniture in ("Join us", "Privacy", "newsletter"):
        assert furniture in specification.frame
        assert furniture not in article


def test_the_checksums_of_the_worked_example_are_right(specification: Page) -> None:
    messages = re.findall(
        r"^[A-Z]+ +((?:[0-9a-f]{2}\s+)+)", specification.article["Appendix A"], re.MULTILINE
    )
    assert len(messages) == 5
    for message in map(bytes.fromhex, messages):
        assert int.from_bytes(message[10:12], "big") == len(message) - 14
        assert binascii.crc_hqx(message[:-2], 0xFFFF) == int.from_bytes(message[-2:], "big")


def test_the_chinese_guide_is_chinese_and_embeds_its_fonts(texts: dict[str, Places]) -> None:
    import pypdf

    text = squeeze("".join(texts["chinese.pdf"].values()))
    assert 1_500 <= len(text) <= 2_500
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 0.7 * len(text)
    resources: list[Any] = [page["/Resources"] for page in pypdf.PdfReader(EXAMPLES / "chinese.pdf").pages]
    fonts = [font.get_object() for resource in resources for font in resource["/Font"].values()]
    assert fonts
    for font in fonts:
        descriptor = font["/DescendantFonts"][0].get_object()["/FontDescriptor"].get_object()
        assert {"/FontFile2", "/FontFile3"} & set(descriptor)
