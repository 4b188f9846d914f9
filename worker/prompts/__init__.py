"""Prompts: Markdown files with `$names` to fill in; one system prompt for all, so that jobs share a read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent
#: What surrounds every kind's own prompt.
_COMMON = ("system", "combine", "quote", "tools")


class Prompts:
    """The prompt files, read at start-up.

    A file in a folder of one's own replaces ours of the same name; under a new name it makes a kind of job
    that takes `$instruction`, `$focus` and `$language`.
    """

    def __init__(self, own: Path | None = None) -> None:
        ours, theirs = _texts(FOLDER), _texts(own) if own else {}
        self._texts = ours | theirs
        #: Names of the kinds that the folder of one's own adds.
        self.own_kinds: Sequence[str] = sorted(theirs.keys() - ours.keys())

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
        """`name@` and eight hex digits that change with the wording of the prompt or what surrounds it.

        The prompts of a kind's styles (`name-style`) count as its own.
        """
        parts = [part for part in self._texts if part in {*_COMMON, name} or part.startswith(f"{name}-")]
        words = "\0".join(self._texts[part] for part in parts)
        return f"{name}@{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _texts(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
