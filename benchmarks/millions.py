#!/usr/bin/env python3
"""Ten million files and 60 million events: what passes and commands cost, against 100,000 files.

Both databases are made by a few statements, on SQLite or on PostgreSQL (parts), with three targets.
Wanted: every command at most 1.2 times as slow. Ten million files take about 35 GB for a while and
a quarter of an hour on SQLite; `--files` makes it less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import history
import measure

TARGETS = ("one", "two", "three")

#: Files of a night, and in a transfer; each file has two events for each target.
NIGHT = 5000
BATCH = 100
EVENTS = ("UNTRIED", "SUCCESS")

#: Days since the last night of the history: reports over the last nights read none of it.
AGO = 60

#: New files of each turn, which every pass works on.
NEW = 200

#: One of so many files was in quarantine for a while, and missing for another.
TROUBLED = 10

#: What is filled, with its columns; `{…}` are `day` and `at`, see `_words`.
TABLES: Mapping[str, tuple[str, str]] = {
    "handoff_file": (
        "site, handoff, relpath, filename, size_bytes, mtime_ns, inode, checksum, status,"
        " discovered_at, delivered_at, confirmed_at, held_at, purged_at",
        "'summit', 'latiss', {day}, {name}, 65536, n, n, {sum}, 'PURGED', {at}, {at}, {at}, {at},"
        " {at} FROM {files}",
    ),
    "transfer_batch": (
        "run_id, site, handoff, attempt, status, files, size_bytes, started",
        f"1, 'summit', 'latiss', 'dbb-' || n, 'CLOSED', {BATCH}, 6553600, {{at}} FROM {{batches}}",
    ),
    "transfer_attempt": (
        "batch_id, handoff_file_id, outcome, checksum",
        f"(n - 1) / {BATCH} + 1, n, 'PLACED', {{sum}} FROM {{files}}",
    ),
    "file": (
        "storage, relpath, filename, size_bytes, checksum, status, finder, added_on, mtime_ns,"
        " inode, verified_at",
        "'{storage}', {day}, {name}, 65536, {sum}, 'STORED', 'latiss', {at}, n, n, {at}"
        " FROM {files}",
    ),
    "quarantine": (
        "site, label, relpath, filename, path, size_bytes, mtime_ns, inode, reason,"
        " quarantined_at, released_at, released_as",
        "'summit', 'finder.latiss', {day}, {name}, '/quarantine/' || n, 65536, n, n, 'damaged',"
        f" {{at}}, {{at}}, {{name}} FROM {{files}} WHERE n % {TROUBLED} = 0",
    ),
    "file_event": (
        "site, label, relpath, filename, at, was, becomes, message",
        "'summit', '{storage}', {day}, {name}, {at}, 'STORED', 'MISSING', 'not there'"
        f" FROM {{files}} WHERE n % {TROUBLED} = 0",
    ),
    "ingest_state": (
        "file_id, target_id, status, attempts, changed_at",
        "n, target.id, 'SUCCESS', 1, {at} FROM {files}, target",
    ),
    "ingest_event": (
        "file_id, target_id, status, start_time, duration, version, run_id, number",
        "n, target.id, e.status, {at}, 0.5, 'null 1', 1, (n - 1) * 6 + (target.id - 1) * 2 + e.k"
        " FROM {files}, target, (SELECT 0 AS k, 'UNTRIED' AS status UNION ALL SELECT 1, 'SUCCESS')"
        " AS e",
    ),
}


def fill(url: str, storage: Path, files: int) -> None:
    """Fill an empty database with old files: sent, purged, stored and ingested by each target."""
    for target in TARGETS:
        history.target_is_known(url, storage, target)
    with _loading(url) as execute:
        indexes = _without_indexes(url, execute)
        words = _words(url, storage, files)
        for table, (columns, values) in TABLES.items():
            began = time.monotonic()
            execute(f"INSERT INTO {table} ({columns}) SELECT {values.format(**words)}")
            print(f"  {table}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for statement in indexes:
            execute(statement)
        print(f"  indexes: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _loading(url: str) -> Iterator[history.Execute]:
    """Connect as is good for loading only: what a crash leaves is thrown away."""
    with history.connected(url) as execute:
        if url.startswith("sqlite:"):
            for pragma in ("journal_mode = off", "synchronous = off", "cache_size = -1000000"):
                execute(f"PRAGMA {pragma}")
            yield execute
            # What passes expect; else a reader would hold up a writer.
            execute("COMMIT")
            execute("PRAGMA journal_mode = wal")
        else:
            execute("SET synchronous_commit = off")
            execute("SET maintenance_work_mem = '1GB'")
            # References are not looked up.
            execute("SET session_replication_role = replica")
            yield execute
            execute("VACUUM (ANALYZE)")
            execute("CHECKPOINT")


def _without_indexes(url: str, execute: history.Execute) -> list[str]:
    """Drop what can be built faster afterwards, and return the statements that do so."""
    if url.startswith("sqlite:"):
        found = execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
    else:
        found = execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
            " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
        ).fetchall()
    for name, _ in found:
        execute(f"DROP INDEX {name}")
    return [statement for _, statement in found]


def _words(url: str, storage: Path, files: int) -> dict[str, str]:
    nights = -(-files // NIGHT)
    first = (int(time.time()) // 86400 - AGO - nights) * 86400
    seconds = f"{first} + (n - 1) * {86400 / NIGHT}"
    if url.startswith("sqlite:"):
        at = f"strftime('%Y-%m-%d %H:%M:%f000', {seconds}, 'unixepoch')"
        day = f"strftime('%Y-%m-%d', {seconds}, 'unixepoch')"
        name = "printf('AT_O_%010d.fits', n)"
    else:
        at = f"to_timestamp({seconds}) AT TIME ZONE 'UTC'"
        day = f"to_char({at}, 'YYYY-MM-DD')"
        name = "'AT_O_' || lpad(n::text, 10, '0') || '.fits'"
    return {
        "at": at,
        "day": day,
        "name": name,
        "sum": "'blake2b:' || substr('0123456789abcdef', n % 16 + 1, 1) || n",
        "files": history.numbers(url, files),
        "batches": history.numbers(url, -(-files // BATCH)),
        "storage": str(storage),
    }


class Site:
    """A site in a directory, whose database knows so many old files.

    Attributes
    ----------
    files : `int`
    """

    def __init__(self, directory: Path, url: str, files: int) -> None:
        self.files = files
        self._directory, self._turn = directory, 0
        ((self._night,),) = history.rows(url, f"SELECT relpath FROM file WHERE id = {files // 2}")
        self._buffer = directory / "buffer"
        for name in ("buffer", "holding", "staging", "far", "storage", "state"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "storage" / ".dbb-storage").touch()
        targets = "".join(
            f'[target.{name}]\nstorage = "{directory}/storage"\nplugin = "null"\n'
            for name in TARGETS
        )
        (directory / "dbb.toml").write_text(
            f'[site]\nname = "summit"\nstate = "{directory}/state"\n[database]\nurl = "{url}"\n'
            f'[handoff.latiss]\nbuffer = "{directory}/buffer"\nholding = "{directory}/holding"\n'
            f'quarantine = "{directory}/quarantine"\n[handoff.latiss.endpoint]\n'
            f'buffer = "{directory}/far"\nstaging = "{directory}/staging"\n[finder.latiss]\n'
            f'source = "{directory}/far"\nstorage = "{directory}/storage"\n'
            f'quarantine = "{directory}/quarantine-2"\n{targets}'
        )
        (directory / "quarantine").mkdir(exist_ok=True)
        (directory / "quarantine-2").mkdir(exist_ok=True)
        self._env = {**os.environ, "PYTHONPATH": str(measure.ROOT)}
        self._env["DBB_CONFIG"] = str(directory / "dbb.toml")

    def come(self, count: int = NEW) -> None:
        """Let so many new files come into the buffer."""
        self._turn += 1
        night = self._buffer / f"2026-11-{self._turn % 28 + 1:02}"
        night.mkdir(exist_ok=True)
        for number in range(count):
            (night / f"NEW_{self._turn:04}_{number:06}.fits").write_bytes(os.urandom(4096))

    def commands(self) -> dict[str, Sequence[str]]:
        """Return what is measured, in its order."""
        old = f"AT_O_{self.files // 2:010}.fits"
        return {
            "dbb-handoff": ["dbb-handoff"],
            "dbb-finder": ["dbb-finder"],
            "dbb-ingester": ["dbb-ingester", "--all"],
            "dbb-ingester ONE": ["dbb-ingester", "one"],
            "dbb-janitor": ["dbb-janitor"],
            "idle dbb-handoff": ["dbb-handoff"],
            "idle dbb-finder": ["dbb-finder"],
            "idle dbb-ingester": ["dbb-ingester", "one"],
            "dbb status": ["dbb", "status"],
            "dbb find NAME": ["dbb", "find", old],
            "dbb find BEGIN": ["dbb", "find", old[:-6]],
            "dbb find NIGHT": ["dbb", "find", self._night],
            "dbb find NIGHT/BEGIN*": ["dbb", "find", f"{self._night}/{old[:-6]}*"],
            "dbb find */BEGIN*": ["dbb", "find", f"*/{old[:-6]}*"],
            "dbb find BEGIN*": ["dbb", "find", f"{old[:-6]}*.fits"],
            "dbb history NAME": ["dbb", "history", old],
            "dbb list target": ["dbb", "list", "target.one"],
            "dbb-report": ["dbb-report", str(self._directory / "pages")],
            "dbb-report --metrics": ["dbb-report", "--metrics", str(self._directory / "dbb.prom")],
        }

    def cost(self, name: str) -> measure.Cost:
        """Run one of the commands and return what it cost."""
        script, *arguments = self.commands()[name]
        return measure.cost(
            [*measure.script(script), *arguments], env=self._env, codes=(0, 1, 2, 3)
        )


def measured(small: Site, large: Site, repeats: int) -> None:
    """Print what each command costs at both sites, run in turns."""
    costs: dict[str, dict[Site, list[measure.Cost]]] = {
        name: {small: [], large: []} for name in small.commands()
    }
    for turn in range(repeats + 1):
        for site in (small, large):
            site.come()
        for name in small.commands():
            for site in (small, large) if turn % 2 else (large, small):
                cost = site.cost(name)
                # The first turn fills caches.
                if turn:
                    costs[name][site].append(cost)
    rows = [("", *(f"{site.files:,}" for site in (small, large)), "ratio", "wall", "wall", "ratio")]
    for name, by_site in costs.items():
        cells = [name]
        for kind in ("cpu", "wall"):
            low, high = (
                statistics.median(getattr(cost, kind) for cost in by_site[site])
                for site in (small, large)
            )
            cells += [f"{low:.2f} s", f"{high:.2f} s", f"{high / low:.2f}"]
        rows.append(tuple(cells))
    measure.print_rows(rows)


def bytes_of_tables(url: str) -> list[tuple[str, int]]:
    """Return the bytes of each table with its indexes."""
    if url.startswith("sqlite:"):
        whole = os.stat(url.removeprefix("sqlite:///")).st_size
        return [("all", whole)]
    found = history.rows(
        url,
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = current_schema()::regnamespace ORDER BY 2 DESC LIMIT 6",
    )
    return [(name, int(size)) for name, size in found]


def sizes(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--files", type=int, default=10_000_000, help="files of the large database")
    parser.add_argument("--small", type=int, default=100_000, help="files of the small database")


def main() -> None:
    """Measure on each database that is asked for; by default on SQLite."""
    given: Any = measure.arguments(__doc__, ("sqlite", "postgresql"), sizes)
    files = given.files // 10 if given.quick else given.files
    with (
        measure.working_directory(given.directory) as directory,
        measure.databases(directory / "databases") as databases,
    ):
        for backend in given.part or ["sqlite"]:
            places = [directory / backend / name for name in ("small", "large")]
            for place in places:
                place.mkdir(parents=True)
            with (
                databases.fresh(backend, places[0]) as small,
                databases.fresh(backend, places[1]) as large,
            ):
                fill(small, places[0] / "storage", given.small)
                fill(large, places[1] / "storage", files)
                print(f"\n{backend}: {files:,} files against {given.small:,}; processor, wall")
                for name, size in bytes_of_tables(large):
                    print(f"  {name}: {size / files:.0f} bytes for each file")
                measured(
                    Site(places[0], small, given.small),
                    Site(places[1], large, files),
                    given.repeats,
                )


if __name__ == "__main__":
    main()
