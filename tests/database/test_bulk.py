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

    def test_nothing(self) -> None:
        self.keep()
        assert self.kept("number") == []


def test_cleaned_text_fits_any_column() -> None:
    assert bulk.clean("a\0b\udcff") == "a\\x00b\\udcff"


def test_cleaned_text_is_not_endless() -> None:
    assert len(bulk.clean("x" * 10_000)) == 2000
