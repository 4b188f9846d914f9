"""How many tokens a page of keys and values holds; a module of its own, for plans are made without torch."""

from __future__ import annotations

PAGE = 128
