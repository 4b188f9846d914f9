"""How many tokens a page of keys and values holds; a module of its own, for those who need no torch."""

from __future__ import annotations

PAGE = 128
