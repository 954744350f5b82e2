"""dbb-ingester with the null target: what recording costs, and that history and crashes do not.

Wanted: at least 5,000 files a second on SQLite and 3,000 on PostgreSQL; at most 1.2 times as long
with a million ingested files and five million events; the same for a pass with nothing due; four
passes at a time on PostgreSQL, one killed every 0.2 s, give each file exactly one SUCCESS.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import history
import measure

PARTS = ("rate", "idle", "killed")
BACKENDS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
TARGET = "a"
KILL_EVERY = 0.2
#: seconds after which no more is killed, on a machine too slow to get on between two kills
LONGEST = 120


@dataclass
class Bench:
    """A place to work in, what makes databases, and how much to do."""

    directory: Path
    databases: object
    repeats: int
    less: int
    made: dict[Path, int] = field(default_factory=dict)

    @contextmanager
    def site(self, backend: str, old: int = 0, **keys: object) -> Iterator[object]:
        """A site whose database holds so many files ingested long ago."""
        from tests.support.site import Site

        with (
            tempfile.TemporaryDirectory(prefix="site-", dir=self.directory) as name,
            self.databases.fresh(backend, Path(name)) as url,
        ):
            site = Site(Path(name) / "site", url).write(**keys)
            (site.storage / ".dbb-storage").touch()
            if old:
                history.ingested(url, site.storage, TARGET, old)
            yield site

    def add(self, site: object, files: int) -> None:
        """Put new files into a site's storage and make them due."""
        start = self.made.get(site.root, 0)
        self.made[site.root] = start + files
        measure.make_files(site.storage / f"new-{start}", files, 64, 50, start)
        relpaths = [
            str(path.relative_to(site.storage))
            for path in (site.storage / f"new-{start}").rglob("*.fits")
        ]
        history.due(site.database_url, site.storage, TARGET, relpaths, 64)


def ingest(bench: Bench, site: object, files: int) -> measure.Cost:
    """A pass over new files; checked to have ingested them all, with both events."""
    before = events(site, "SUCCESS"), events(site, "PENDING")
    bench.add(site, files)
    took = measure.cost(ingester(site))
    after = events(site, "SUCCESS"), events(site, "PENDING")
    if after != (before[0] + files, before[1] + files):
        raise RuntimeError(f"SUCCESS and PENDING events before: {before}, after: {after}")
    return took


def rate(bench: Bench) -> None:
    """New files, with and without a history."""
    files, old = 10_000 // bench.less, 1_000_000 // bench.less
    for backend, name in BACKENDS.items():
        with bench.site(backend) as young, bench.site(backend, old) as aged:
            times = measure.in_turn(
                {
                    "no history": lambda s=young: ingest(bench, s, files),
                    "with history": lambda s=aged: ingest(bench, s, files),
                },
                bench.repeats,
            )
        least = {"sqlite": 5000, "postgresql": 3000}[backend]
        measure.show(
            f"{files:,} files to null on {name}; history: {old:,} files, {5 * old:,} events",
            times,
            "no history",
            wanted={"no history": f">= {least:,}/s", "with history": "<= 1.2"},
            amount=files,
            unit="files",
        )


def idle(bench: Bench) -> None:
    """A pass with nothing due."""
    old = 1_000_000 // bench.less
    for backend, name in BACKENDS.items():
        with bench.site(backend) as young, bench.site(backend, old) as aged:
            measure.cost(ingester(aged))
            times = measure.in_turn(
                {
                    "empty database": lambda s=young: measure.cost(ingester(s)),
                    "with history": lambda s=aged: measure.cost(ingester(s)),
                },
                max(9, bench.repeats),
            )
        measure.show(
            f"nothing due on {name}; history: {old:,} files, {5 * old:,} events",
            times,
            "empty database",
            wanted={"with history": "<= 1.2"},
        )


def killed(bench: Bench) -> None:
    """Four passes at a time, one killed every 0.2 s, until all is ingested."""
    files = 100_000 // bench.less
    keys = {"targets": {TARGET: {"passes": 4, "batch_files": 500}}}
    with bench.site("postgresql", **keys) as site:
        bench.add(site, files)
        begin = time.perf_counter()
        kills = 0
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    ingester(site), stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

            passes = [start() for _ in range(4)]
            while waiting(site):
                time.sleep(KILL_EVERY)
                # One that has files in hand: a pass needs longer to start than that.
                holding = holders(site)
                victims = [each for each in passes if each.pid in holding]
                if victims and time.perf_counter() - begin < LONGEST:
                    victim = random.choice(victims)
                    victim.kill()
                    kills += 1
                    victim.wait()
                passes = [each if each.poll() is None else start() for each in passes]
            codes = [each.wait() for each in passes]
            took = time.perf_counter() - begin
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
        last = subprocess.run(ingester(site), capture_output=True, check=False)
        per_file = (
            "SELECT count(*) FROM (SELECT file_id FROM ingest_event WHERE status = 'SUCCESS'"
            " GROUP BY file_id HAVING count(*) {}) AS counted"
        )
        stuck = "SELECT count(*) FROM ingest_state WHERE status <> 'SUCCESS'"
        print(f"\n{files:,} files, four passes at a time on PostgreSQL, one killed every 0.2 s")
        measure.print_rows(
            [
                ("", "figure", "wanted"),
                ("kills", f"{kills:,}", ""),
                ("duration", f"{took:.1f} s", ""),
                ("exit codes in the end", f"{[*codes, last.returncode]}", "0"),
                (
                    "files with one SUCCESS",
                    f"{history.count(site.database_url, per_file.format('= 1')):,}",
                    f"{files:,}",
                ),
                (
                    "files with more",
                    f"{history.count(site.database_url, per_file.format('> 1')):,}",
                    "0",
                ),
                ("files not SUCCESS", f"{history.count(site.database_url, stuck):,}", "0"),
            ]
        )
        if said:
            print(f"  said: {said.splitlines()[0]} (and {len(said.splitlines()) - 1} more lines)")


def ingester(site: object) -> list[str]:
    """The command line of a pass."""
    return [*measure.script("dbb-ingester"), "-c", str(site.config), TARGET]


def events(site: object, status: str) -> int:
    """How many events say so; old ones are not counted again each time."""
    return history.count(
        site.database_url,
        f"SELECT count(*) FROM ingest_event WHERE status = '{status}' AND run_id > 0",
    )


def holders(site: object) -> set[int]:
    """The processes of the passes that have files in hand."""
    query = "SELECT r.pid FROM ingest_claim c JOIN run r ON r.id = c.run_id"
    return {row[0] for row in history.rows(site.database_url, query)}


def waiting(site: object) -> bool:
    """Whether a file is not ingested."""
    return bool(
        history.count(
            site.database_url,
            "SELECT count(*) FROM (SELECT 1 FROM ingest_state WHERE status <> 'SUCCESS' LIMIT 1)"
            " AS one",
        )
    )


def main() -> None:
    """Print a table for each part."""
    given = measure.arguments(__doc__, PARTS)
    with (
        measure.working_directory(given.directory) as directory,
        measure.databases(directory / "databases") as databases,
    ):
        bench = Bench(directory, databases, given.repeats, 10 if given.quick else 1)
        for part in given.part or PARTS:
            {"rate": rate, "idle": idle, "killed": killed}[part](bench)


if __name__ == "__main__":
    main()
