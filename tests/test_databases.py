"""The databases that the tests are given are real and apart from each other."""

from typing import Any

from dbbbatch.database import connect


def test_it_has_the_schema(database: Any) -> None:
    assert {"run", "file", "handoff_file", "target"} <= set(database.get_tables())


def test_an_empty_one_has_nothing(empty_database_url: str, backend: str) -> None:
    from dbbbatch.config.fields import defaults
    from dbbbatch.config.sections import Database

    made = connect.connect(defaults(Database, url=empty_database_url), check=False)
    assert made.get_tables() == []
    connect.disconnect()
    assert empty_database_url.startswith("sqlite" if backend == "sqlite" else "postgresql")
