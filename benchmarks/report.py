#!/usr/bin/env python3
"""Reports over nights: time and memory, with a million files, 30 nights and three targets.

Sides: the numbers alone (`nights`), and `dbb-report` with pages. Wanted: under 20 s and 300 MiB.
Needs nothing else; with `postgresql` as a part, a PostgreSQL that the tests can start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import history
import measure

NIGHTS = 30
TARGETS = ("one", "two", "three")

#: What `dbb-report` does without its pages.
NUMBERS = """
import sys
from dbbbatch.config.load import load
from dbbbatch.database import connect
from dbbbatch.report.night_rows import nights
settings = load(sys.argv[1])
connect.connect(settings.database, readonly=True)
found = nights(settings)
steps = {step.name: sum(night.steps[n].files for night in found)
         for n, step in enumerate(found[0].steps)}
print(sum(night.files for night in found), steps)
"""


def fill(url: str, storage: Path, files: int) -> None:
    """Rows of files of the last 30 nights: most of them ingested, a few waiting or failing."""
    for target in TARGETS:
        history.target_is_known(url, storage, target)
    numbers = history.numbers(url, files)
    share = f"({NIGHTS} * 86400.0 * (n - 1) / {files})"
    if url.startswith("sqlite:"):
        at = (
            f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{NIGHTS} days', {share} || ' seconds',"
            " {} || ' seconds')"
        )
        day = f"date('now', '-{NIGHTS} days', '-12 hours', {share} || ' seconds')"
    else:
        at = (
            f"now() AT TIME ZONE 'UTC' - interval '{NIGHTS} days' + {share} * interval '1 second'"
            " + {} * interval '1 second'"
        )
        day = f"CAST({at.format(-43200)} AS date)"
    name = "'AT_O_' || n || '.fits'"
    with history.connected(url) as execute:
        execute(
            "INSERT INTO handoff_file (site, handoff, relpath, filename, size_bytes, mtime_ns,"
            " inode, checksum, status, discovered_at, delivered_at, held_at, error)"
            f" SELECT 'summit', 'latiss', {day}, {name}, 65536 + n % 1000, n, n, 'blake2b:' || n,"
            " CASE WHEN n % 1000 = 0 THEN 'FOUND' ELSE 'HELD' END,"
            f" {at.format(0)}, CASE WHEN n % 1000 > 0 THEN {at.format('(5 + n % 100)')} END,"
            f" CASE WHEN n % 1000 > 0 THEN {at.format('(6 + n % 100)')} END,"
            f" CASE WHEN n % 1000 = 0 THEN 'exit code ' || n END FROM {numbers}"
        )
        execute(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
            f" added_on) SELECT '{storage}', {day}, {name}, 65536 + n % 1000, 'blake2b:' || n,"
            f" 'STORED', 'latiss', {at.format('(10 + n % 200)')}"
            f" FROM {numbers} WHERE n % 1000 > 0"
        )
        execute(
            "INSERT INTO ingest_state (file_id, target_id, status, changed_at, message)"
            " SELECT file.id, target.id,"
            " CASE WHEN file.id % 500 = target.id THEN 'FAILURE' ELSE 'SUCCESS' END,"
            " file.added_on, CASE WHEN file.id % 500 = target.id THEN 'error ' || file.id"
            " ELSE '' END FROM file CROSS JOIN target"
        )
        execute("ANALYZE")


def measured(url: str, directory: Path, files: int) -> None:
    """Print the wall time, the processor time and the peak memory of each side."""
    storage = directory / "storage"
    fill(url, storage, files)
    config = directory / "dbb.toml"
    config.write_text(
        f'[site]\nname = "summit"\nstate = "{directory / "state"}"\n[database]\nurl = "{url}"\n'
    )
    (directory / "state").mkdir()
    env = {**os.environ, "PYTHONPATH": str(measure.ROOT)}
    sides = {
        "numbers": [sys.executable, "-c", NUMBERS, str(config)],
        "dbb-report": [*measure.script("dbb-report"), "-c", str(config), str(directory / "pages")],
    }
    rows = [("", "seconds", "processor", "MiB")]
    for name, command in sides.items():
        memory: list[float] = []
        took = measure.cost(command, env=env, codes=(0, 1, 2, 3), memory=memory)
        rows.append((name, f"{took.wall:.1f}", f"{took.cpu:.1f}", f"{memory[0]:.0f}"))
    print(f"\n{files:,} files, {NIGHTS} nights, {len(TARGETS)} targets, {url.partition(':')[0]}")
    measure.print_rows(rows)


def main() -> None:
    """Measure on each database that is asked for; by default on SQLite."""
    given = measure.arguments(__doc__, ("sqlite", "postgresql"))
    files = 100_000 if given.quick else 1_000_000
    with (
        measure.working_directory(given.directory) as directory,
        measure.databases(directory / "databases") as databases,
    ):
        for backend in given.part or ["sqlite"]:
            here = directory / backend
            here.mkdir()
            with databases.fresh(backend, here) as url:
                measured(url, here, files)


if __name__ == "__main__":
    main()
