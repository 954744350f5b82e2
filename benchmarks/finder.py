"""dbb-finder against the least that it has to do: a minimal loop, the hash alone, cp.

Wanted: small files at least 0.8 of the loop's rate (PostgreSQL 0.65), for at most 1.25 times its
processor time; large files at least 0.9 of the hash's rate; across file systems at most 1.15 times
as long as cp, sync and the hash in a row; a pass over an empty buffer at most 1.1 times as long
with two million rows; backfill of 100,000 files in constant memory.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import history
import measure

PARTS = ("small", "large", "across", "empty", "backfill")
CP_SYNC_HASH = "cp, sync, hash"
HASH_ALL = (
    "import hashlib, os, sys\n"
    "for top, _, names in os.walk(sys.argv[1]):\n"
    "    for name in names:\n"
    "        with open(os.path.join(top, name), 'rb', buffering=0) as file:\n"
    "            hashlib.file_digest(file, 'blake2b', _bufsize=1 << 20)\n"
)


@dataclass
class Bench:
    """A place to work in, what makes databases, and how much to do."""

    directory: Path
    databases: object
    repeats: int
    less: int

    @contextmanager
    def site(self, backend: str = "sqlite", **keys: object) -> Iterator[object]:
        """A fresh site on a fresh database."""
        from tests.support.site import Site

        with (
            tempfile.TemporaryDirectory(prefix="site-", dir=self.directory) as name,
            self.databases.fresh(backend, Path(name)) as url,
        ):
            site = Site(Path(name) / "site", url).write(**keys)
            (site.storage / ".dbb-storage").touch()
            yield site

    def pool(self, files: int, size: int, directories: int) -> Path:
        """Files that every run uses anew: they are renamed into place and back."""
        pool = self.directory / f"pool-{size}"
        measure.make_files(pool, files, size, directories)
        return pool


def ours(bench: Bench, pool: Path, backend: str) -> measure.Cost:
    """dbb-finder on one file system; checked to have stored everything."""
    with bench.site(backend) as site:
        swap(pool, site.far_buffer)
        expected = count(site.far_buffer)
        took = measure.cost(finder(site))
        check(site, expected)
        (site.storage / ".dbb-storage").unlink()
        swap(site.storage, pool)
    return took


def floor(bench: Bench, pool: Path) -> measure.Cost:
    """The minimal loop, on SQLite."""
    with bench.site() as site:
        swap(pool, site.far_buffer)
        loop = measure.ROOT / "benchmarks" / "finder_floor.py"
        database = site.database_url.removeprefix("sqlite:///")
        took = measure.cost([sys.executable, loop, site.far_buffer, site.storage, database])
        (site.storage / ".dbb-storage").unlink()
        swap(site.storage, pool)
    return took


def small(bench: Bench) -> None:
    """Small files: system calls and transactions are what they cost."""
    files = 10_250 // bench.less
    pool = bench.pool(files, 64 * 1024, 50)
    times = measure.in_turn(
        {
            "minimal loop": lambda: floor(bench, pool),
            "dbb-finder, SQLite": lambda: ours(bench, pool, "sqlite"),
            "dbb-finder, PostgreSQL": lambda: ours(bench, pool, "postgresql"),
        },
        bench.repeats,
    )
    measure.show(
        f"{files:,} files of 64 KiB, one file system",
        times,
        "minimal loop",
        wanted={"dbb-finder, SQLite": ">= 0.8", "dbb-finder, PostgreSQL": ">= 0.65"},
        wanted_cpu={"dbb-finder, SQLite": "<= 1.25", "dbb-finder, PostgreSQL": "<= 1.25"},
        amount=files,
        unit="files",
        rate=True,
    )
    shutil.rmtree(pool)


def large(bench: Bench) -> None:
    """Large files on one file system: the hash is what they cost."""
    files = max(2, 24 // bench.less)
    pool = bench.pool(files, 64 * 1024 * 1024, 2)
    times = measure.in_turn(
        {
            "hash alone": lambda: measure.cost([sys.executable, "-c", HASH_ALL, pool]),
            "dbb-finder": lambda: ours(bench, pool, "sqlite"),
        },
        bench.repeats,
    )
    measure.show(
        f"{files} files of 64 MiB, one file system",
        times,
        "hash alone",
        wanted={"dbb-finder": ">= 0.9"},
        amount=files * 64,
        unit="MiB",
        rate=True,
    )
    shutil.rmtree(pool)


def across(bench: Bench) -> None:
    """Large files from another file system: copying is what they cost."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == bench.directory.stat().st_dev:
        print("\nacross file systems: no second one here")
        return
    files = max(2, 24 // bench.less)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=other) as name:
        source = Path(name)
        pool = source / "pool"

        def copied() -> measure.Cost:
            measure.make_files(pool, files, 64 * 1024 * 1024, 2)
            with bench.site() as site:
                steps = (
                    f"cp -pr {pool} {site.storage}",
                    f"sync -f {site.storage}",
                    shlex.join([sys.executable, "-c", HASH_ALL, str(pool)]),
                )
                took = measure.cost(["sh", "-c", " && ".join(steps)])
            shutil.rmtree(pool)
            return took

        def moved() -> measure.Cost:
            measure.make_files(pool, files, 64 * 1024 * 1024, 2)
            with bench.site(finder={"source": pool}) as site:
                took = measure.cost(finder(site))
                check(site, files)
            shutil.rmtree(pool, ignore_errors=True)
            return took

        times = measure.in_turn({CP_SYNC_HASH: copied, "dbb-finder": moved}, bench.repeats)
    measure.show(
        f"{files} files of 64 MiB from another file system",
        times,
        CP_SYNC_HASH,
        wanted={"dbb-finder": "<= 1.15"},
        amount=files * 64,
        unit="MiB",
    )


def empty(bench: Bench) -> None:
    """What history costs a pass that finds nothing."""
    rows = 2_000_000 // bench.less
    for backend in ("sqlite", "postgresql"):
        with bench.site(backend) as young, bench.site(backend) as old:
            history.stored(old.database_url, old.storage, rows)
            measure.cost(finder(old))
            times = measure.in_turn(
                {
                    "no rows": lambda y=young: measure.cost(finder(y)),
                    f"{rows:,} rows": lambda o=old: measure.cost(finder(o)),
                },
                max(9, bench.repeats),
            )
            measure.show(
                f"a pass over an empty buffer, {backend}",
                times,
                "no rows",
                wanted={f"{rows:,} rows": "<= 1.1"},
            )


def backfill(bench: Bench) -> None:
    """Files that were in storage before us: memory, and what an interruption costs."""
    rows = [("", "duration", "peak memory", "recorded")]
    for files in (10_000 // bench.less, 100_000 // bench.less):
        with bench.site() as site:
            measure.make_files(site.storage, files, 1024, 100)
            memory: list[float] = []
            command = [*measure.script("dbb"), "backfill", "finder.latiss", "-c", site.config]
            took = measure.cost(command, memory=memory)
            recorded = history.count(site.database_url, "SELECT count(*) FROM file")
            rows.append(
                (f"{files:,}", f"{took.wall:.1f} s", f"{memory[0]:.0f} MiB", f"{recorded:,}")
            )
            again = measure.cost(command)
            rows.append((f"{files:,}, again", f"{again.wall:.1f} s", "", ""))
    with bench.site() as site:
        measure.make_files(site.storage, files, 1024, 100)
        command = [*measure.script("dbb"), "backfill", "finder.latiss", "-c", site.config]
        first = measure.cost([*command, "--limit", str(files // 2)])
        rest = measure.cost(command)
        recorded = history.count(site.database_url, "SELECT count(*) FROM file")
        rows.append(
            (
                f"{files:,}, half and half",
                f"{first.wall:.1f} + {rest.wall:.1f} s",
                "",
                f"{recorded:,}",
            )
        )
    print("\ndbb backfill of files of 1 KiB")
    measure.print_rows(rows)


def finder(site: object) -> list[str]:
    """The command line of a pass."""
    return [*measure.script("dbb-finder"), "-c", str(site.config)]


def check(site: object, expected: int) -> None:
    """Everything was stored, on disk and in the table."""
    found = count(site.storage) - 1  # the sentinel
    rows = history.count(site.database_url, "SELECT count(*) FROM file WHERE status = 'STORED'")
    if (found, rows) != (expected, expected):
        raise RuntimeError(f"of {expected} files {found} are in storage and {rows} in the table")


def swap(source: Path, target: Path) -> None:
    """Rename a tree to where an empty one may be, and leave an empty one behind."""
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    source.mkdir()


def count(directory: Path) -> int:
    """Files below."""
    return sum(len(names) for _, _, names in os.walk(directory))


def main() -> None:
    """Print a table for each part."""
    given = measure.arguments(__doc__, PARTS)
    with (
        measure.working_directory(given.directory) as directory,
        measure.databases(directory / "databases") as databases,
    ):
        bench = Bench(directory, databases, given.repeats, 10 if given.quick else 1)
        for part in given.part or PARTS:
            {
                "small": small,
                "large": large,
                "across": across,
                "empty": empty,
                "backfill": backfill,
            }[part](bench)


if __name__ == "__main__":
    main()
