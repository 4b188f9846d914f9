"""Citations: what is found is given its page, what is not is never called verified."""

from __future__ import annotations

import random

import pytest

from parsers import Document, Page
from worker.citations import put_right, quotations, unique, verify
from worker.source import Source


def source(*pages: str, document_id: str = "doc_a", paged: bool = True) -> Source:
    numbered = tuple(Page(number, text) for number, text in enumerate(pages, 1))
    return Source(document_id, "a.txt", Document(numbered, None, "text/plain", paged, (), "text/1"))


REPORT = source(
    "The works at Bergen were opened in 1912.",
    "The company employs 1,204 people,\nmost of them in pro-\nduction.",
    "",
    "“Quality first” is its motto, and has been since the beginning.",
)


@pytest.mark.parametrize(
    ("quote", "page", "match"),
    [
        ("opened in 1912", 1, "exact"),
        ("employs 1,204 people, most of them in production", 2, "normalized"),
        ("EMPLOYS 1,204 PEOPLE", 2, "normalized"),
        ('"Quality first" is its motto', 4, "normalized"),
    ],
)
def test_a_quotation_is_given_the_page_it_stands_on(quote: str, page: int, match: str) -> None:
    citation = verify(quote, [REPORT])
    assert (citation["page"], citation["match"], citation["verified"]) == (page, match, True)
    assert citation["place"] == f"page {page}"


@pytest.mark.parametrize("at", [0, 800, 1_000, 4_700])
def test_the_closest_passage_is_found_wherever_it_stands(at: int) -> None:
    text = "".join(random.Random(1).choices("abcdefghij", k=5_000))
    passage = text[at : at + 300]
    citation = verify(passage[:100] + "zz" + passage[102:200] + "z" + passage[201:], [source(text)])
    assert (citation["match"], citation["start"], citation["end"]) == ("close", at, at + 300)


def test_a_near_copy_of_what_a_text_says_over_and_over_is_close() -> None:
    citation = verify("0 | " * 50 + "1 | " + "0 | " * 49, [source(*["0 | " * 1_000] * 100)])
    assert (citation["match"], citation["score"]) == ("close", 0.995)


def test_offsets_cut_the_quotation_out_of_its_page() -> None:
    citation = verify("1,204 people, most of them", [REPORT])
    text = REPORT.document.pages[1].text[citation["start"] : citation["end"]]
    assert text == "1,204 people,\nmost of them"


def test_a_nearly_right_quotation_is_shown_where_it_is_close_to_but_not_verified() -> None:
    citation = verify("The works at Bergen were opened in 1913.", [REPORT])
    assert (citation["page"], citation["match"], citation["verified"]) == (1, "close", False)
    assert 0.9 <= citation["score"] < 1


@pytest.mark.parametrize("quote", ["The company was dissolved in the spring of that year.", "", "   ", "zz"])
def test_an_invented_quotation_has_no_page(quote: str) -> None:
    citation = verify(quote, [REPORT])
    assert (citation["page"], citation["match"], citation["verified"]) == (None, "none", False)


def test_an_invented_quotation_is_of_no_document() -> None:
    assert verify("The company was dissolved in the spring of that year.", [REPORT])["document_id"] is None


def test_a_quotation_with_slips_is_found_in_a_long_document() -> None:
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(3_000)]
    pages = [" ".join(rng.choices(words, k=400)) for _ in range(100)]
    long = source(*pages)
    for number in rng.sample(range(100), 40):
        begin = rng.randrange(1_000)
        quote = list(pages[number][begin : begin + 200])
        for _ in range(6):
            quote[rng.randrange(len(quote))] = "z"
        citation = verify("".join(quote), [long])
        assert (citation["page"], citation["match"]) == (number + 1, "close")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("It was “opened in 1912” (page 7).", "It was “opened in 1912” (page 1)."),
        ("Page 31 says “opened in 1912”.", "Page 1 says “opened in 1912”."),
        ("第 9 页：“opened in 1912”", "第 1 页：“opened in 1912”"),
        ("It was “opened in 1912”, p. 4 of 12.", "It was “opened in 1912”, p. 1 of 12."),
        ("On page 7 there is more. “opened in 1912”", "On page 7 there is more. “opened in 1912”"),
    ],
)
def test_a_wrong_page_beside_a_quotation_is_put_right(said: str, right: str) -> None:
    assert put_right(said, [verify("opened in 1912", [REPORT])]) == right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("“opened in 1912” (page 7)", "“opened in 1912” (section 1, paragraph 1)"),
        ("第7页：“opened in 1912”", "section 1, paragraph 1：“opened in 1912”"),
    ],
)
def test_a_page_of_a_document_without_pages_gives_way_to_the_place(said: str, right: str) -> None:
    web = source("It was opened in 1912.", paged=False)
    assert put_right(said, [verify("opened in 1912", [web])]) == right


def test_the_document_is_the_one_it_was_found_in() -> None:
    other = source("Nothing of the sort.", "The company employs 7 people.", document_id="doc_b")
    assert verify("employs 7 people", [REPORT, other])["document_id"] == "doc_b"


def test_a_document_without_sheets_is_cited_by_section() -> None:
    assert (
        verify("opened in 1912", [source("It was opened in 1912.", paged=False)])["place"]
        == "section 1, paragraph 1"
    )


def test_a_quotation_over_a_page_break_is_on_the_page_it_begins_on() -> None:
    broken = source("The first half of it,", "and the second half of it.")
    assert verify("half of it, and the second", [broken])["page"] == 1


def test_characters_beyond_the_basic_plane_keep_offsets_right() -> None:
    page = "𝒜𝒷𝒸 — the mark 🂡 stands before\nthe words that are quoted here."
    citation = verify("stands before the words that", [source(page)])
    assert page[citation["start"] : citation["end"]] == "stands before\nthe words that"


def test_a_letter_that_is_two_in_lower_case_spoils_nothing() -> None:
    page = "İstanbul is where the company was founded in 1912."
    citation = verify("THE COMPANY WAS FOUNDED", [source(page)])
    assert page[citation["start"] : citation["end"]] == "the company was founded"


def test_only_what_is_long_enough_between_marks_is_a_quotation() -> None:
    text = 'He said "no", then “the company employs 1,204 people” and 「公司共有员工一千二百人」.'
    assert quotations(text) == ["the company employs 1,204 people", "公司共有员工一千二百人"]


def test_the_same_passage_is_cited_once() -> None:
    twice = [verify("opened in 1912", [REPORT]), verify("opened  in 1912", [REPORT])]
    assert len(unique(twice)) == 1


def test_what_stands_between_two_quotations_is_none() -> None:
    answer = (
        'The "Lessee" is obliged to pay the agreed sum, the "Rent". It says: "The rent is due in advance."'
    )
    assert quotations(answer) == ["The rent is due in advance."]


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("The work takes 23 weeks", "The work takes 2-3 weeks"),
        ("The outcome was 5 million", "The outcome was –5 million"),
        ("The penalty for each day is 10", "The penalty for each day is 100 euros"),
        ("The penalty for each day is 1", "The penalty for each day is 1.5 euros"),
        ("000 euros are the penalty for a day", "1,000 euros are the penalty for a day"),
    ],
)
def test_another_number_is_another_statement(quote: str, text: str) -> None:
    assert not verify(quote, [source(text)])["verified"]


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("The work takes 2-3 weeks", "The work takes 2 –\n3 weeks"),
        ("The rent of COVID-19 days is 10.", "The rent of COVID 19 days is 10. It is due."),
        ("It is 10 a day", "It is 100 or, after a year, it is 1,000. It is 10 a day."),
    ],
)
def test_the_same_number_set_otherwise_is_the_same_statement(quote: str, text: str) -> None:
    assert verify(quote, [source(text)])["verified"]


def test_a_range_of_pages_is_left_as_it_is() -> None:
    text = "“The works at Bergen were opened in 1912.” (pages 1-3)"
    assert (
        put_right(
            text, [verify(quotations(text)[0], [source("", "The works at Bergen were opened in 1912.")])]
        )
        == text
    )
