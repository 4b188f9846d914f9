"""Prompts: Markdown files with `$names` to fill in; one system prompt for all, so that jobs share a read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent


class Prompts:
    """The prompt files of one folder, read at start-up."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}

    @property
    def system(self) -> str:
        """What the model is told before any document."""
        return self._texts["system"].strip()

    @property
    def quote(self) -> str:
        """The words after which the model copies a passage."""
        return self._texts["quote"].rstrip("\n")

    def fill(self, name: str, **values: str) -> str:
        """A prompt with its values put in; every `$name` in the file must be given."""
        return Template(self._texts[name]).substitute(values).rstrip()

    def fingerprint(self, name: str) -> str:
        """`name@` and eight hex digits that change with the wording of the prompt or what surrounds it."""
        words = "\0".join(self._texts[part] for part in ("system", name, "combine", "quote"))
        return f"{name}@{hashlib.sha256(words.encode()).hexdigest()[:8]}"
