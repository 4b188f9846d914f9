"""The language of a text."""

from __future__ import annotations

import pytest

from parsers.language import language


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "en",
            "The tenant pays the rent to the landlord on the third day of every month, and that is final.",
        ),
        (
            "de",
            "Der Mieter zahlt die Miete, und das ist nicht mit den Kosten von einer Wohnung zu verwechseln.",
        ),
        ("fr", "Le locataire paie les loyers dans le mois, et cela est pour le propriétaire une condition."),
        ("zh", "承租人应当按照约定的期限支付租金，逾期支付的，出租人可以解除合同。"),
        ("ja", "賃借人は、毎月末日までに翌月分の賃料を賃貸人に支払うものとする。"),
        ("ru", "Арендатор обязан вносить арендную плату до третьего числа каждого месяца."),
        (None, "42 17 +3 = 62"),
        (None, "lorem xyzzy plugh frobnicate quux wibble wobble flob"),
    ],
)
def test_a_language_is_known_by_its_letters_and_commonest_words(code: str | None, text: str) -> None:
    assert language(text) == code
