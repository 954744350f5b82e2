"""Tables as wide as the terminal, whatever is in them."""

from dbbbatch.cli.table import table_lines, wrapped

COLUMNS = ["section", ">files", "why"]
ROWS = [["handoff.latiss", "1", "busy"], ["finder.latiss", "1,203", "the disk of it is full"]]


def text(rows: list[list[str]], width: int) -> list[str]:
    return ["".join(pieces) for pieces in table_lines(COLUMNS, rows, width)]


def test_a_table_that_fits_has_a_line_for_each_row() -> None:
    assert text(ROWS, 80) == [
        "section         files  why",
        "handoff.latiss      1  busy",
        "finder.latiss   1,203  the disk of it is full",
    ]


def test_a_last_column_that_does_not_fit_is_wrapped_between_words() -> None:
    assert text(ROWS, 40) == [
        "section         files  why",
        "handoff.latiss      1  busy",
        "finder.latiss   1,203  the disk of it is",
        "                       full",
    ]


def test_a_table_that_is_too_wide_is_stacked() -> None:
    assert text(ROWS, 30) == [
        "handoff.latiss",
        "    files: 1",
        "    why: busy",
        "finder.latiss",
        "    files: 1,203",
        "    why: the disk of it is",
        "    full",
    ]


def test_a_name_that_is_wider_than_the_terminal_is_whole() -> None:
    name = "a" * 50
    assert text([["x", "1", name]], 30)[-1].endswith(name)
    assert wrapped(f"see {name}-b now", 20) == ["see", f"{name}-b", "now"]


def test_a_number_stays_with_its_unit() -> None:
    assert wrapped("lasts for 12 min", 14) == ["lasts for", "12 min"]


def test_no_line_ends_in_a_blank() -> None:
    rows = [["a", "1", ""], ["b", "", "later"]]
    assert [line for line in text(rows, 80) if line != line.rstrip()] == []
