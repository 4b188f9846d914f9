"""Every error has a stable code of its own and says what to do."""

from __future__ import annotations

import pytest

import parsers
from parsers.errors import BY_CODE

KINDS = [kind for kind in vars(parsers).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_every_public_error_is_found_by_its_code() -> None:
    assert set(BY_CODE.values()) == set(KINDS)
    assert all(kind.code == code for code, kind in BY_CODE.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_message_is_what_the_docstring_says(kind: type[parsers.ParseError]) -> None:
    assert str(kind()) == kind.__doc__
    assert str(kind("Something else.")) == "Something else."
