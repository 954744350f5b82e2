"""A database with a bit of everything in it."""

from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect

Insert = Callable[..., int]


@pytest.fixture
def insert(database: Any) -> Insert:
    """Return a function that writes one row, ``insert("run", site=…, …)``, and gives its id."""

    def write(table: str, **values: Any) -> int:
        names = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        connect.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))
        if "id" not in {column.name for column in database.get_columns(table)}:
            return 0
        return int(connect.execute(f"SELECT MAX(id) FROM {table}").fetchone()[0])

    return write


@pytest.fixture
def run_row(insert: Insert) -> Callable[..., int]:
    """Return a function that writes a row of `run`."""

    def write(script: str, name: str, outcome: str, minute: int, **more: Any) -> int:
        values: dict[str, Any] = {
            "site": "summit",
            "host": "mountain",
            "pid": 1,
            "process_started": 0.0,
            "version": "1",
            "started": f"2026-11-24 06:{minute:02}:00.000000",
            "finished": f"2026-11-24 06:{minute:02}:30.000000",
            "exit_code": 0,
        }
        if outcome == "running":
            values |= {"finished": None, "exit_code": None}
        return insert("run", script=script, name=name, outcome=outcome, **values | more)

    return write


@pytest.fixture
def handoff_row(insert: Insert) -> Callable[..., int]:
    """Return a function that writes a row of `handoff_file`."""

    def write(filename: str, status: str, **more: Any) -> int:
        values: dict[str, Any] = {
            "site": "summit",
            "handoff": "latiss",
            "relpath": "night",
            "size_bytes": 1000,
            "mtime_ns": 1,
            "inode": 1,
            "discovered_at": "2026-11-24 05:00:00.000000",
        }
        return insert("handoff_file", filename=filename, status=status, **values | more)

    return write


@pytest.fixture
def stored(insert: Insert) -> Callable[..., int]:
    """Return a function that writes a row of `file`."""

    def write(filename: str, status: str = "STORED", **more: Any) -> int:
        values: dict[str, Any] = {
            "storage": "/data/storage",
            "relpath": "night",
            "size_bytes": 1000,
            "checksum": "md5:1234",
            "finder": "latiss",
            "added_on": "2026-11-24 05:10:00.000000",
        }
        return insert("file", filename=filename, status=status, **values | more)

    return write


@pytest.fixture
def target(insert: Insert) -> int:
    """Write a target, named gen3, and give its id."""
    return insert(
        "target",
        site="archive",
        name="gen3",
        storage="/data/storage",
        plugin="null",
        created_at="2026-11-24 01:00:00.000000",
    )


@pytest.fixture
def ingest_row(insert: Insert, target: int) -> Callable[..., int]:
    """Return a function that writes a row of `ingest_state`."""

    def write(file: int, status: str, **more: Any) -> int:
        values: dict[str, Any] = {"changed_at": "2026-11-24 05:20:00.000000"}
        return insert(
            "ingest_state", file_id=file, target_id=target, status=status, **values | more
        )

    return write
