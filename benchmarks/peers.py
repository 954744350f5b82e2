"""Ours beside others, as a page: docs/benchmarks.md with plots, and the machine named.

The handoff beside rsync, tar, scp, rclone and bbcp (those that are installed), on loopback and over
a line that delays each direction by 75 ms; the finder and the ingester beside the least that must
be done; and how each grows with the number of files. The sides run in turn, and again while there
is time. Memory and connections are taken in a run of their own, which is not timed.

    python benchmarks/peers.py --minutes 15
    python benchmarks/peers.py --minutes 600 --sizes 1000 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import finder
import handoff
import ingester
import measure

PARTS = ("handoff", "delayed", "floors", "growth")

#: The share of the time that each part may take.
SHARES = {"handoff": 0.35, "delayed": 0.25, "floors": 0.15, "growth": 0.25}

#: Sides that wait for the line with each file: over the delayed one they move few files only.
WAITING = ("scp", "rclone")

#: Files, bytes of each, directories, and whether `WAITING` sides run, too.
ON_LOOPBACK = ((10_000, 64 << 10, 50, True), (100, 4 << 20, 5, True))
DELAYED = ((40, 64 << 10, 4, True), (2000, 64 << 10, 50, False), (80, 4 << 20, 4, False))

#: Seconds between two looks at the memory of all processes.
LOOK = 0.02


@dataclass
class Result:
    """What the runs of one side cost, and the memory (MiB) and connections of another one."""

    costs: list[measure.Cost] = field(default_factory=list)
    memory: float = 0.0
    connections: int | None = None


@dataclass
class Comparison:
    """A table of the page.

    Attributes
    ----------
    title : `str`
    files, size_bytes : `int`
        What each run handles.
    results : `dict` [ `str`, `Result` ]
        By side; the first is what the others are compared with.
    """

    title: str
    files: int
    size_bytes: int
    results: dict[str, Result] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the table."""
        yield f"### {self.title}\n"
        yield "| | files/s | MB/s | seconds | spread | CPU s | peak MiB | connections |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        for name, result in self.results.items():
            wall = [cost.wall for cost in result.costs]
            median = statistics.median(wall)
            cells = [
                name.replace("|", "\\|"),
                f"{self.files / median:,.0f}",
                f"{self.size_bytes / median / 1e6:,.1f}",
                f"{median:.2f}",
                f"{min(wall):.2f} to {max(wall):.2f} ({len(wall)})",
                f"{statistics.median(cost.cpu for cost in result.costs):.2f}",
                f"{result.memory:.0f}",
                "" if result.connections is None else str(result.connections),
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""


class Timed:
    """Runs sides in turn until each has run often enough, or the time is up."""

    def __init__(self, repeats: int, logins: Callable[[], int] | None = None) -> None:
        self._repeats = repeats
        self._logins = logins
        self.until = 0.0

    def compare(self, made: Comparison, sides: Mapping[str, measure.Side]) -> Comparison:
        """Measure the sides into a comparison; each at least once."""
        for turn in range(self._repeats):
            if turn and time.monotonic() > self.until:
                break
            for name, costs in measure.in_turn(sides, 1).items():
                made.results.setdefault(name, Result()).costs += costs
        for name, side in sides.items():
            before = self._logins() if self._logins else 0
            with peak_memory() as peak:
                side()
            made.results[name].memory = peak[0]
            if self._logins:
                made.results[name].connections = self._logins() - before
        return made


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Give the peak of the memory of all processes below this one, beyond what they have now."""
    over, peak = threading.Event(), [0.0]
    before = _resident()

    def look() -> None:
        while not over.wait(LOOK):
            peak[0] = max(peak[0], _resident() - before)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peak
    finally:
        over.set()
        looking.join()


def _resident() -> float:
    pages = 0
    for pid in measure.processes():
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue  # it has just ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def bbcp(bench: handoff.Bench, pool: Path) -> measure.Cost:
    """One bbcp of everything, over connections of its own."""
    return handoff.copied(
        bench,
        pool,
        lambda site: (
            f"bbcp -r -S '{bench.ssh} -l %U %H bbcp' {site.buffer}/* {bench.far}:{site.far_buffer}/"
        ),
    )


def ways(
    bench: handoff.Bench, pool: Path, *, delayed: bool, waiting: bool
) -> dict[str, measure.Side]:
    """The peers that are here, and both ways of dbb-handoff; `waiting` ones only if wanted."""
    sides = {**handoff.peers(bench, pool), **bench.ours(pool)}
    if not delayed and shutil.which("bbcp"):
        sides["bbcp"] = lambda: bbcp(bench, pool)
    return {name: side for name, side in sides.items() if waiting or name not in WAITING}


def handoffs(bench: handoff.Bench, timed: Timed, *, delayed: bool) -> Iterator[Comparison]:
    """Small and large files, on loopback or over the delayed line."""
    where = "a line that delays each direction by 75 ms" if delayed else "loopback"
    amounts = DELAYED if delayed else ON_LOOPBACK
    begin, share = time.monotonic(), timed.until - time.monotonic()
    until = timed.until
    for number, (files, size, directories, waiting) in enumerate(amounts, 1):
        files = max(2, files // bench.less)
        timed.until = begin + share * number / len(amounts)
        pool = bench.pool(files, size, directories)
        title = f"{files:,} files of {size >> 10:,} KiB, {where}"
        sides = ways(bench, pool, delayed=delayed, waiting=waiting)
        yield timed.compare(Comparison(title, files, files * size), sides)
        shutil.rmtree(pool)
    timed.until = until


def floors(
    finding: finder.Bench, ingesting: ingester.Bench, timed: Timed, less: int
) -> Iterator[Comparison]:
    """The finder and the least that it must do; the ingester on both databases."""
    files = 5000 // less
    pool = finding.pool(files, 64 << 10, 50)
    title = f"Finder: {files:,} files of 64 KiB, one file system"
    sides = {
        "hash, place, sync, insert": lambda: finder.floor(finding, pool),
        "dbb-finder, SQLite": lambda: finder.ours(finding, pool, "sqlite"),
        "dbb-finder, PostgreSQL": lambda: finder.ours(finding, pool, "postgresql"),
    }
    yield timed.compare(Comparison(title, files, files << 16), sides)
    shutil.rmtree(pool)
    with ingesting.site("sqlite") as light, ingesting.site("postgresql") as heavy:
        sides = {
            "dbb-ingester, SQLite": lambda: ingester.ingest(ingesting, light, files),
            "dbb-ingester, PostgreSQL": lambda: ingester.ingest(ingesting, heavy, files),
        }
        title = f"Ingester: {files:,} files to a target that does nothing"
        yield timed.compare(Comparison(title, files, files * 64), sides)


def growth(
    bench: handoff.Bench, finding: finder.Bench, ingesting: ingester.Bench, sizes: Sequence[int]
) -> dict[str, list[tuple[int, measure.Cost]]]:
    """One run of each with more and more files of 1 KiB."""
    grown: dict[str, list[tuple[int, measure.Cost]]] = {}
    for files in sizes:
        pool = bench.pool(files, 1024, max(10, files // 500))
        with ingesting.site("sqlite") as site:
            sides: dict[str, measure.Side] = {
                "rsync": partial(handoff.rsync, bench, pool),
                "dbb-handoff": partial(handoff.ours, bench, pool, "stream"),
                "dbb-finder": partial(finder.ours, finding, pool, "sqlite"),
                "dbb-ingester": partial(ingester.ingest, ingesting, site, files),
            }
            for name, costs in measure.in_turn(sides, 1).items():
                grown.setdefault(name, []).append((files, costs[0]))
        shutil.rmtree(pool)
    return grown


def machine() -> Iterator[str]:
    """Yield what the figures belong to."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"{len(os.sched_getaffinity(0))} x {cpu}, {memory:.0f} GiB"
    yield f"Linux {platform.release()}, Python {platform.python_version()}"
    for command in (["rsync", "--version"], ["rclone", "version"], ["ssh", "-V"], ["bbcp", "-#"]):
        if shutil.which(command[0]):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            yield (ran.stdout or ran.stderr).strip().partition("\n")[0]
    yield f"load {os.getloadavg()[2]:.1f} (mean of 15 minutes)"


def plots(grown: Mapping[str, Sequence[tuple[int, measure.Cost]]], path: Path) -> None:
    """Draw how wall and processor time grow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, what in zip(axes, ("wall", "cpu"), strict=True):
        for name, points in grown.items():
            values = [getattr(cost, what) for _, cost in points]
            axis.loglog([files for files, _ in points], values, marker="o", label=name)
        axis.set_xlabel("files of 1 KiB")
        axis.set_ylabel({"wall": "seconds", "cpu": "CPU seconds of all processes"}[what])
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


HEAD = """\
# Benchmarks

Made on {date} by `{command}`.
Figures belong to this machine:

{machine}

Each side ran in turn with the others. Seconds are the median, with the range and the number of
runs. CPU is that of all processes, here and at the far end; memory is the peak of their resident
memory together, and connections are logins at the far end, both from a run of their own. Only the
two sides of `dbb-handoff` verify what arrived, make it durable, place it without overwriting, hold
the original and record all that; the others copy. Over the delayed line scp and rclone wait for
each file, so only the table of few files has them.
"""


def page(
    command: str,
    made: Sequence[Comparison],
    grown: Mapping[str, Sequence[tuple[int, measure.Cost]]],
) -> Iterator[str]:
    """Yield the lines of docs/benchmarks.md."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield HEAD.format(
        command=command, date=today, machine="\n".join(f"* {line}" for line in machine())
    )
    for comparison in made:
        yield from comparison.lines()
    if grown:
        sizes = [files for files, _ in next(iter(grown.values()))]
        yield "### More and more files\n"
        yield "Files of 1 KiB, one run each; seconds and CPU seconds.\n"
        yield f"| | {' | '.join(f'{files:,}' for files in sizes)} |"
        yield f"| --- |{' ---: |' * len(sizes)}"
        for name, points in grown.items():
            cells = (f"{cost.wall:.1f}, {cost.cpu:.1f}" for _, cost in points)
            yield f"| {name} | {' | '.join(cells)} |"
        yield "\n![How time grows with the number of files](images/benchmarks.png)"


def run(given: argparse.Namespace, directory: Path, server: Any, databases: Any) -> None:
    """Measure the parts, and write the page and its picture."""
    less = 10 if given.quick else 1
    bench = handoff.Bench(directory, server, given)
    finding = finder.Bench(directory, databases, given.repeats, less)
    ingesting = ingester.Bench(directory, databases, given.repeats, less)
    timed = Timed(given.repeats, lambda: server.log().count("Accepted publickey"))
    made: list[Comparison] = []
    grown: dict[str, list[tuple[int, measure.Cost]]] = {}
    parts = given.part or PARTS
    whole = sum(SHARES[part] for part in parts)
    for part in parts:
        timed.until = time.monotonic() + 60 * given.minutes * SHARES[part] / whole
        if part == "handoff":
            made += handoffs(bench, timed, delayed=False)
        elif part == "delayed":
            with handoff.delayed(bench) as far:
                made += handoffs(far, timed, delayed=True)
        elif part == "floors":
            alone = Timed(given.repeats)
            alone.until = timed.until
            made += floors(finding, ingesting, alone, less)
        else:
            grown = growth(bench, finding, ingesting, [files // less for files in given.sizes])
    given.page.parent.mkdir(parents=True, exist_ok=True)
    if grown:
        plots(grown, given.page.parent / "images" / "benchmarks.png")
    command = " ".join(
        ["python benchmarks/peers.py", *given.part, f"--minutes {given.minutes:g}"]
        + ["--quick"] * given.quick
        + ["--sizes", *map(str, given.sizes)]
    )
    given.page.write_text("\n".join(page(command, made, grown)).rstrip() + "\n")
    print(f"written: {given.page}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark understands besides."""
    parser.add_argument("--minutes", type=float, default=15.0, help="about how long it may take")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1000, 3000, 10_000, 30_000],
        help="numbers of files, of the part growth (default: up to 30,000)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=measure.ROOT / "docs" / "benchmarks.md",
        help="where to write the page (default: docs/benchmarks.md)",
    )


def main() -> None:
    """Write the page."""
    given = measure.arguments(__doc__, PARTS, add_arguments)
    given.transfer, given.side = ["stream", "rsync"], None
    from tests.support import ssh

    if what := ssh.missing():
        sys.exit(what)
    with (
        measure.working_directory(given.directory) as directory,
        measure.databases(directory / "databases") as databases,
    ):
        (directory / "ssh").mkdir()
        server = ssh.SshServer(directory / "ssh")
        server.start()
        try:
            run(given, directory, server, databases)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
