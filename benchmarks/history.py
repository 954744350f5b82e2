"""Databases with years of history, made by a few statements instead of by years of passes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

Execute = Callable[[str], Any]

#: what happened to each old file, in order
EVENTS = ("UNTRIED", "PENDING", "FAILURE", "PENDING", "SUCCESS")


def stored(url: str, storage: Path, files: int) -> None:
    """Rows of files that were stored long ago, at paths of their own."""
    with connected(url) as execute:
        execute(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
            f" added_on) SELECT '{storage}', 'old/' || (n / 1000), 'old-' || n || '.fits', 65536,"
            " 'blake2b:' || n, 'STORED', 'latiss', '2020-01-01 00:00:00'"
            f" FROM {numbers(url, files)}"
        )
        execute("ANALYZE")


def ingested(url: str, storage: Path, target: str, files: int) -> None:
    """Old files, each of them ingested after one failure: five events."""
    target_is_known(url, storage, target)
    stored(url, storage, files)
    with connected(url) as execute:
        old = f"FROM file, target WHERE target.name = '{target}' AND relpath LIKE 'old/%'"
        execute(
            "INSERT INTO ingest_state (file_id, target_id, status, attempts, changed_at)"
            f" SELECT file.id, target.id, 'SUCCESS', 2, '2020-01-01 00:00:05' {old}"
        )
        for number, status in enumerate(EVENTS):
            execute(
                "INSERT INTO ingest_event (file_id, target_id, status, start_time, duration,"
                f" run_id, number) SELECT file.id, target.id, '{status}',"
                f" '2020-01-01 00:00:0{number}', 0.5, -1, file.id * {len(EVENTS)} + {number} {old}"
            )
        execute("ANALYZE")


def due(url: str, storage: Path, target: str, relpaths: list[str], size: int) -> None:
    """Rows of files that are there and untried."""
    target_is_known(url, storage, target)
    with connected(url) as execute:
        for start in range(0, len(relpaths), 500):
            values = ", ".join(
                f"('{storage}', '{rel.rpartition('/')[0]}', '{rel.rpartition('/')[2]}', {size},"
                f" 'blake2b:{'0' * 128}', 'STORED', 'latiss', '2026-11-24 00:00:00')"
                for rel in relpaths[start : start + 500]
            )
            execute(
                "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                f" finder, added_on) VALUES {values}"
            )
        new = (
            f"FROM file, target WHERE target.name = '{target}' AND NOT EXISTS (SELECT 1 FROM"
            " ingest_state s WHERE s.file_id = file.id AND s.target_id = target.id)"
        )
        execute(
            "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
            f" SELECT file.id, target.id, 'UNTRIED', '2026-11-24 00:00:00' {new}"
        )


def target_is_known(url: str, storage: Path, target: str) -> None:
    """The row of a target, as its ingester would make it."""
    with connected(url) as execute:
        execute(
            "INSERT INTO target (site, name, storage, plugin, created_at) VALUES ('summit',"
            f" '{target}', '{storage}', 'null', '2020-01-01 00:00:00')"
            " ON CONFLICT (site, name) DO NOTHING"
        )


def count(url: str, query: str) -> int:
    """The number that a query gives."""
    return int(rows(url, query)[0][0])


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows that a query gives."""
    with connected(url) as execute:
        return execute(query).fetchall()


def numbers(url: str, count: int) -> str:
    if url.startswith("sqlite:"):
        return (
            f"(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})"
            " SELECT n FROM s) AS numbers"
        )
    return f"generate_series(1, {count}) AS numbers(n)"


@contextmanager
def connected(url: str) -> Iterator[Execute]:
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            yield connection.execute
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            yield connection.execute
