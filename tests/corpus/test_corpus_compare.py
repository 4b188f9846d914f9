"""Comparing versions of real texts: no change of a known list is missed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from parsers import parse
from worker.revision import Revision, compare, plain
from worker.source import Source

CORPUS = Path(os.environ.get("UNABRIDGED_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
EXAMPLES = Path(__file__).parents[2] / "examples"
#: At least this share of the known changes must be found.
RECALL = 0.99

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}")


def source(path: Path) -> Source:
    return Source(path.name, path.name, parse(path, filename=path.name))


def sides(revision: Revision) -> tuple[str, str]:
    """The text of every paragraph that a change stands on, before and after, without blanks."""
    changes = [change for change in revision.changes if change.kind != "renumbered"]
    before = "|".join(plain(change.before.text) for change in changes if change.before)
    after = "|".join(plain(change.after.text) for change in changes if change.after)
    return before.replace(" ", ""), after.replace(" ", "")


def sentences(text: str | None) -> set[str]:
    """Sentences of an article, without blanks and without the numbers at their heads."""
    parts = re.split(r"(?<=。)|\n", text or "")
    return {re.sub(r"^（[^）]{1,3}）", "", "".join(part.split())) for part in parts} - {""}


@pytest.mark.corpus
@needs_corpus
def test_every_known_amendment_of_a_law_is_found() -> None:
    law = CORPUS / "long/zh"
    revision = compare(source(law / "民事诉讼法(2021-12-24).md"), source(law / "民事诉讼法(2023-09-01).md"))
    before, after = sides(revision)
    known = json.loads((CORPUS / "long/truth/compare_zh_civil_procedure_2021_2023.json").read_text())[
        "changes"
    ]
    found = [
        all(part in before for part in sentences(change.get("old_text")) - sentences(change.get("new_text")))
        and all(
            part in after for part in sentences(change.get("new_text")) - sentences(change.get("old_text"))
        )
        for change in known
    ]
    assert sum(found) >= RECALL * len(known)
    assert revision.same_text
    assert revision.unchanged > 750  # and what did not change is left alone


def test_every_known_change_of_the_example_contract_is_found() -> None:
    revision = compare(source(EXAMPLES / "contract-v1.docx"), source(EXAMPLES / "contract-v2.docx"))
    before, after = sides(revision)
    known = json.loads((EXAMPLES / "truth.json").read_text())["comparison"]["changes"]
    for change in known:
        for side, text in (("before", before), ("after", after)):
            if change[side]:
                assert plain(change[side]).replace(" ", "") in text
    # Beside them: the line at the head, two comments in three paragraphs, 4.6 as one removed and one added.
    assert len(revision.changes) <= len(known) + 5
