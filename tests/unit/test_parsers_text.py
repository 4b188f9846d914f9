"""Plain text and Markdown: pages at form feeds, else sections; encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsers import Document, Empty, parse_in_process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def read(path: Path, content: bytes, filename: str = "a.txt") -> Document:
    path.write_bytes(content)
    return parse_in_process(path, filename=filename)


def test_form_feeds_separate_pages(path: Path) -> None:
    document = read(path, b"RFC 1\n\n[Page 1]\n\x0cSecond\n\x0c")
    assert [page.text for page in document.pages] == ["RFC 1\n\n[Page 1]", "Second"]
    assert document.paged


def test_a_text_without_form_feeds_has_sections(path: Path) -> None:
    document = read(path, ("A sentence of the book. " * 20 + "\r\n\r\n").encode() * 40)
    assert not document.paged
    assert len(document.pages) > 5
    assert all(page.text.endswith(".") and len(page.text) <= 3000 for page in document.pages)


def test_markdown_is_text(path: Path) -> None:
    document = read(path, b"# Title\n\n- item", "README.md")
    assert document.media_type == "text/markdown"
    assert document.pages[0].text == "# Title\n\n- item"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_in_any_form_is_read_without_a_warning(path: Path, encoding: str) -> None:
    document = read(path, "Überall steht 第一条.".encode(encoding))
    assert document.pages[0].text == "Überall steht 第一条."
    assert document.warnings == ()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "第一条 为了惩罚犯罪，保护人民，根据宪法，结合我国同犯罪作斗争的具体经验。\n" * 5),
        ("cp1251", "Договор аренды жилого помещения между арендодателем и арендатором.\n" * 5),
        ("shift_jis", "この契約は、賃貸人と賃借人との間で締結されるものとする。\n" * 5),
        ("cp1252", "O locatário não pode sublocar o imóvel, e as partes são obrigadas à manutenção.\n"),
        ("cp1252", "Le preneur s'engage à payer le loyer là où il l'a reçu, dans les trois mois.\n"),
        ("cp1254", "O gün o da geldi. O da bir şey demedi, o ise ona baktı.\n"),
        ("cp1254", "Toplantıya katılanlar: Ayşe Yılmaz, Mehmet Öz, Gülşah Işık.\n"),
        ("cp1250", "Najemca jest zobowiązany do zapłaty czynszu. Właściciel może żądać usunięcia szkód.\n"),
    ],
)
def test_an_older_encoding_is_guessed_and_told(path: Path, encoding: str, text: str) -> None:
    document = read(path, text.encode(encoding))
    assert document.pages[0].text == text.strip()
    assert "was read as" in document.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "The tenant, Mr. Novotný of the Týn church, pays for the flat.\n",
        "Leigan skal rindast fyrsta dag í hvørjum mánaði; tað er ásett í lóg. Nýggj leiga.\n",
        "Leigjandi skal greiða leiguna fyrirfram. Það er óheimilt að framleigja húsnæðið. Þinglýsing.\n",
    ],
)
def test_what_has_letters_at_the_places_of_turkish_ones_is_not_turkish(path: Path, text: str) -> None:
    assert "cp1254" not in read(path, text.encode("cp1252")).warnings[0]


def test_blank_text_is_empty(path: Path) -> None:
    with pytest.raises(Empty):
        read(path, b" \n\x0c\n ")


def test_a_broken_character_spoils_no_other(path: Path) -> None:
    law = "第一条 为了惩罚犯罪，保护人民，根据宪法。"
    document = read(path, law.encode() + b"\xff\x92" + law.encode())
    assert document.pages[0].text == f"{law}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}{law}"
    assert "no known encoding" in document.warnings[0]


def test_japanese_of_seven_bits_is_no_english(path: Path) -> None:
    text = "この契約は、賃貸人と賃借人との間で締結される。"
    assert read(path, text.encode("iso2022_jp")).pages[0].text == text


def test_a_form_feed_between_chapters_makes_no_pages(path: Path) -> None:
    chapter = "A sentence of the book. " * 2_000
    document = read(path, f"{chapter}\f{chapter}".encode())
    assert not document.paged
    assert all(len(page.text) <= 3000 for page in document.pages)


@pytest.mark.parametrize("code", ["```x``` is code", "````\n```\n# none\n```\n````", "~~~ `\n# none\n~~~~"])
def test_code_in_markdown_ends_where_it_says(path: Path, code: str) -> None:
    document = read(path, f"{code}\n\n# Rent\n\n900".encode(), "a.md")
    assert [section.title for section in document.sections] == ["Rent"]
