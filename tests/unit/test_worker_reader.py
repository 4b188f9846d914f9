"""A reader tells what is being done now, also when one job asks several questions."""

from __future__ import annotations

from jobs.status import Phase
from worker.engine import FakeEngine, Sampling, Turn
from worker.reader import Reader, deadline_in
from worker.section import Section


def test_a_second_question_is_written_not_checked() -> None:
    engine = FakeEngine(lambda prompt: "Second." if "Two?" in prompt else "First.")
    section = Section("Read.", engine.tokenizer)
    section.add(0, 0, "[page 1]\n", "The works at Bergen were opened in 1912.")
    reader = Reader(engine, [section], deadline_in(60))
    reader.write(section, [Turn("user", "One?")], Sampling(), draft=0)
    reader.checking()
    reader.write(section, [Turn("user", "Two?")], Sampling(), draft=1)
    progress = reader.progress()
    assert (progress.phase, progress.draft) == (Phase.WRITING, "First.\n\nSecond.")
    assert reader.tally.check_s == 0


def test_before_the_sections_are_laid_out_nothing_is_read_of_an_unknown_total() -> None:
    progress = Reader(FakeEngine(), (), deadline_in(60)).progress()
    assert (progress.phase, progress.pages_done, progress.tokens_done, progress.eta_s) == (
        Phase.READING,
        0,
        0,
        None,
    )
