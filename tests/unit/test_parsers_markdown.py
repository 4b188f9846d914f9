"""Tables are Markdown, and are found again in the text."""

from __future__ import annotations

from parsers.markdown import is_table, table, tables


def test_a_table_is_found_again_where_it_stands() -> None:
    rows = (("Item", "EUR"), ("Rent | heat", "900"), ("", "80"))
    text = f"Costs\n\n{table(rows)}\n\nThat is all."
    [found] = tables(text, page=3)
    assert found.rows == rows
    assert found.page == 3
    assert text[found.start : found.end] == table(rows)


def test_short_rows_are_filled_up_and_lines_within_cells_joined() -> None:
    assert table([["a\nb", "c"], ["d"]]) == "| a b | c |\n| --- | --- |\n| d |  |"


def test_one_row_or_one_column_is_no_table() -> None:
    assert is_table([["a", "b"], ["c", ""]])
    assert not is_table([["a", "b"]])
    assert not is_table([["a", ""], ["b", ""]])


def test_bars_in_a_text_are_no_table() -> None:
    assert list(tables("| a | b |\nno ruling\n| c |", page=1)) == []
