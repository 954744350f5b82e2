"""One statement for many rows: values arrive as they are, on both databases."""

from datetime import datetime

import peewee
import pytest

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import TimeField

VALUES = [
    "",
    "plain",
    'quote " and \\ backslash',
    "{braces}, comma, 'single'",
    "new\nline\ttab",
    " spaces ",
    "NULL",
    "ünïcode ☄",
    None,
]


@pytest.mark.usefixtures("database")
class TestForEach:
    @pytest.fixture(autouse=True)
    def table(self, database: object) -> None:
        connect.execute(
            "CREATE TEMPORARY TABLE kept (number INTEGER, word TEXT, at TIMESTAMP,"
            " share DOUBLE PRECISION)"
        )

    def keep(self, *rows: tuple[object, ...]) -> None:
        bulk.for_each(
            "INSERT INTO kept SELECT new.number, new.word, new.at, new.share FROM {new}",
            {
                "number": peewee.IntegerField(),
                "word": peewee.TextField(),
                "at": TimeField(),
                "share": peewee.DoubleField(),
            },
            rows,
        )

    def kept(self, column: str) -> list[object]:
        rows = connect.execute(f"SELECT {column} FROM kept ORDER BY number").fetchall()
        return [row[0] for row in rows]

    def test_texts(self) -> None:
        self.keep(*((number, word, None, None) for number, word in enumerate(VALUES)))
        assert self.kept("word") == VALUES

    def test_numbers(self) -> None:
        values = [0.1, -2.5e-9, 1e300, None]
        self.keep(*((number, None, None, value) for number, value in enumerate(values)))
        assert self.kept("share") == values

    def test_moments(self) -> None:
        moment = datetime(2026, 11, 24, 1, 2, 3, 4)
        self.keep((0, None, moment, None), (1, None, None, None))
        assert [bulk.read_moment(value) for value in self.kept("at")] == [moment, None]

    def test_values_by_which_a_row_is_found_and_those_of_all_rows(self) -> None:
        self.keep((1, "one", None, 0.5), (2, "two", None, 0.5), (3, "three", None, 0.5))
        columns = {"number": peewee.IntegerField(), "word": peewee.TextField()}
        count = bulk.for_each(
            "UPDATE kept SET word = new.word, share = ? FROM {new}"
            " WHERE kept.number = new.number AND COALESCE(kept.word, '') <> new.word",
            columns,
            [(1, "first"), (2, "two"), (9, "ninth")],
            [0.75],
        )
        assert count == 1
        assert self.kept("word") == ["first", "two", "three"]
        assert self.kept("share") == [0.75, 0.5, 0.5]

    def test_a_column_that_the_statement_does_not_read(self) -> None:
        self.keep((1, "one", None, None), (2, "two", None, None))
        columns = {
            "word": peewee.TextField(),
            "number": peewee.IntegerField(),
            "share": peewee.DoubleField(),
        }
        bulk.for_each(
            "INSERT INTO kept (number, word) SELECT kept.number + 10, ? FROM kept, {new}"
            " WHERE kept.number = new.number",
            columns,
            [("unused", 2, 0.5)],
            ["copy"],
        )
        assert self.kept("number") == [1, 2, 12]
        assert self.kept("word") == ["one", "two", "copy"]

    def test_nothing(self) -> None:
        self.keep()
        assert self.kept("number") == []


def test_cleaned_text_fits_any_column() -> None:
    assert bulk.clean("a\0b\udcff") == "a\\x00b\\udcff"


def test_cleaned_text_is_not_endless() -> None:
    assert len(bulk.clean("x" * 10_000)) == 2000
