"""Timing the sides of a comparison in turn, and the table of their medians.

Seconds differ from machine to machine and with what else it does; ratios measured in one run, the
sides in turn, hold. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: prepares, runs and takes the time of one side once: seconds
Side = Callable[[], float]


def arguments(description: str | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """What every benchmark understands: --quick, --repeats, --directory, and which parts."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: a look only")
    parser.add_argument("--repeats", type=int, default=3, help="times that each side runs")
    parser.add_argument("--directory", help="where to work (default: a temporary directory)")
    if parts:
        parser.add_argument("part", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    given = parser.parse_args()
    # So that servers and files are cleared away then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if parts and (unknown := set(given.part) - set(parts)):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    return given


@contextmanager
def working_directory(given: str | None) -> Iterator[Path]:
    """A directory that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=given) as name:
        yield Path(name)


def script(name: str) -> list[str]:
    """The command line of one of our scripts."""
    return [sys.executable, str(ROOT / "bin" / name)]


def seconds(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    memory: list[float] | None = None,
) -> float:
    """Wall time of a command; `memory` is given its peak in MiB.

    Raises
    ------
    RuntimeError
        It left with another exit code than `codes`.
    """
    os.sync()
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env
        )
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - begin
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {code}\n{text}")
    if memory is not None:
        memory.append(used.ru_maxrss / 1024)
    return took


def in_turn(sides: Mapping[str, Side], repeats: int) -> dict[str, list[float]]:
    """Run every side once, in changing order, and all of that `repeats` times."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(sides[name]())
            print(f"  {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return times


def show(
    title: str,
    times: Mapping[str, Sequence[float]],
    floor: str,
    *,
    wanted: Mapping[str, str] | None = None,
    amount: float = 0,
    unit: str = "",
    rate: bool = False,
) -> None:
    """Print a table of medians.

    Parameters
    ----------
    floor
        The side that the others are compared with.
    wanted
        For sides that have one, the figure aimed at, as text.
    amount, unit
        What each run handled, to tell it a second.
    rate
        Compare rates instead of times: 0.5 is half as fast as the floor.
    """
    base = statistics.median(times[floor])
    rows = [("", "median", "range", f"{unit}/s" if amount else "", "ratio", "wanted")]
    for name, values in times.items():
        median = statistics.median(values)
        rows.append(
            (
                name,
                f"{median:.3f} s",
                f"{min(values):.3f}-{max(values):.3f}",
                f"{amount / median:,.0f}" if amount else "",
                f"{(base / median if rate else median / base):.2f}",
                (wanted or {}).get(name, "floor" if name == floor else ""),
            )
        )
    print(f"\n{title}  ({'rate' if rate else 'time'} by that of {floor})")
    print_rows(rows)


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def read_so_far() -> int:
    """Bytes that this process and the children it waited for asked to read."""
    with open("/proc/self/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def own_peak() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def databases(directory: Path) -> Iterator[Any]:
    """What makes databases, as the tests do, but with a PostgreSQL as durable as in life."""
    from tests.support.database import Databases

    directory.mkdir()
    made = Databases(directory)
    try:
        import psycopg

        with psycopg.connect(made.postgres.url("postgres"), autocommit=True) as connection:
            for name in ("fsync", "full_page_writes", "autovacuum"):
                connection.execute(f"ALTER SYSTEM RESET {name}")
            connection.execute("SELECT pg_reload_conf()")
        yield made
    finally:
        made.close()


def make_files(directory: Path, files: int, size: int, directories: int, start: int = 0) -> None:
    """Write `files` different files of `size` bytes, spread over so many dated directories."""
    content = bytearray(os.urandom(size))
    for number in range(files):
        night = (
            directory / f"2026-11-{1 + number % directories % 28:02}" / f"{number % directories}"
        )
        if number < directories:
            night.mkdir(parents=True, exist_ok=True)
        mark = f"{start + number:016}".encode()[:size]
        content[: len(mark)] = mark
        (night / f"AT_O_{start + number:08}.fits").write_bytes(content)
