"""Measuring the sides of a comparison in turn, and the table of their medians.

A side costs wall time and processor time. The latter is that of every process below this one: of
the command, of the servers that the benchmark started, and of what both left behind. Seconds differ
from machine to machine and with what else it does; ratios measured in one run, the sides in turn,
hold. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: PR_SET_CHILD_SUBREAPER of prctl(2).
_ADOPT_ORPHANS = 36

#: Seconds in which what a command left behind, such as the session of a server, comes to its end.
_AFTERWARDS = 10.0

#: Processes that count for no side, such as a delayed line; they have no children.
left_out: set[int] = set()


class Cost(NamedTuple):
    """What a side cost.

    Attributes
    ----------
    wall : `float`
        Seconds until it ended.
    cpu : `float`
        Processor seconds, of the user and of the system, of all processes.
    """

    wall: float
    cpu: float


class Meter:
    """Gives what was done between its begin and its end as `cost`."""

    cost: Cost


#: prepares, runs and measures one side once
Side = Callable[[], Cost]


def arguments(
    description: str | None,
    parts: Sequence[str] = (),
    more: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> argparse.Namespace:
    """What every benchmark understands: --quick, --repeats, --directory, and which parts.

    From then on orphans of all processes that are started belong to this one.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: a look only")
    parser.add_argument("--repeats", type=int, default=5, help="times that each side runs")
    parser.add_argument("--directory", help="where to work (default: a temporary directory)")
    if parts:
        parser.add_argument("part", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    more(parser)
    given = parser.parse_args()
    # As it is where it is installed: a pass does not compile its modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # So that servers and files are cleared away then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
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


def cost(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    memory: list[float] | None = None,
) -> Cost:
    """Run a command and return what it cost; `memory` is given its peak in MiB.

    Raises
    ------
    RuntimeError
        It left with another exit code than `codes`.
    """
    with metered() as meter, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {code}\n{text}")
    if memory is not None:
        memory.append(used.ru_maxrss / 1024)
    return meter.cost


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure what is done meanwhile; give its cost when it is over.

    What is left to write is written first. Wall time ends with the body; processor time, when what
    the body left behind has ended, or after `_AFTERWARDS` seconds.
    """
    os.sync()
    earlier = _below()
    used, begin = processor_seconds(), time.perf_counter()
    meter = Meter()
    yield meter
    wall = time.perf_counter() - begin
    while time.perf_counter() < begin + wall + _AFTERWARDS:
        later = _below()
        if all(later[pid].state == "Z" for pid in later.keys() - earlier.keys()):
            break
        time.sleep(0.05)
    meter.cost = Cost(wall, processor_seconds() - used)
    for pid, process in later.items() - earlier.items():
        if process.state == "Z" and process.parent == os.getpid():
            os.waitpid(pid, 0)


def adopt_orphans() -> None:
    """Become the parent of each process below this one whose own parent ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def processor_seconds() -> float:
    """Return the processor time so far of this process and of all that it started.

    A process that ended counts with the parent that waited for it, and until then by itself. A
    parent that ignores SIGCHLD waits for none: its children are not counted. No shell, sshd, rsync
    or PostgreSQL does that. What the kernel does in threads of its own counts for nobody.
    """
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = sum(process.ticks for pid, process in _below().items() if pid not in left_out)
    used = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return used + ticks / os.sysconf("SC_CLK_TCK")


def processes() -> list[int]:
    """Return the processes below this one that are measured."""
    return [pid for pid in _below() if pid not in left_out]


class _Process(NamedTuple):
    """A process; `ticks` are its own and those of the children that it waited for."""

    parent: int
    state: str
    ticks: int


def _below() -> dict[int, _Process]:
    """Return the processes below this one."""
    everything: dict[int, _Process] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with (
                suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{name}/stat") as file,
            ):
                fields = file.read().rpartition(")")[2].split()
                process = _Process(int(fields[1]), fields[0], sum(map(int, fields[11:15])))
                everything[int(name)] = process
                children.setdefault(process.parent, []).append(int(name))
    found = {}
    waiting = children.get(os.getpid(), [])
    while waiting:
        pid = waiting.pop()
        found[pid] = everything[pid]
        waiting += children.get(pid, [])
    return found


def in_turn(sides: Mapping[str, Side], repeats: int) -> dict[str, list[Cost]]:
    """Run every side once, in changing order, and all of that `repeats` times."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            costs[name].append(cost := sides[name]())
            print(f"  {name}: {cost.wall:.2f} s, CPU {cost.cpu:.2f} s", file=sys.stderr, flush=True)
    return costs


def show(
    title: str,
    costs: Mapping[str, Sequence[Cost]],
    floor: str,
    *,
    wanted: Mapping[str, str] | None = None,
    wanted_cpu: Mapping[str, str] | None = None,
    amount: float = 0,
    unit: str = "",
    rate: bool = False,
) -> None:
    """Print a table of medians.

    Parameters
    ----------
    floor
        The side that the others are compared with.
    wanted, wanted_cpu
        For sides that have one, the figure aimed at, as text: of the ratio of wall time or rate,
        and of that of processor time.
    amount, unit
        What each run handled, to tell it a second.
    rate
        Compare rates instead of times: 0.5 is half as fast as the floor.
    """
    base = statistics.median(cost.wall for cost in costs[floor])
    base_cpu = statistics.median(cost.cpu for cost in costs[floor])
    per_second = f"{unit}/s" if amount else ""
    rows = [("", "median", "range", per_second, "ratio", "wanted", "CPU", "ratio", "wanted")]
    for name, values in costs.items():
        wall = [cost.wall for cost in values]
        median, cpu = statistics.median(wall), statistics.median(cost.cpu for cost in values)
        rows.append(
            (
                name,
                f"{median:.3f} s",
                f"{min(wall):.3f}-{max(wall):.3f}",
                f"{amount / median:,.0f}" if amount else "",
                f"{(base / median if rate else median / base):.2f}",
                (wanted or {}).get(name, "floor" if name == floor else ""),
                f"{cpu:.2f} s",
                f"{cpu / base_cpu:.2f}",
                (wanted_cpu or {}).get(name, ""),
            )
        )
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\n{title}  ({'rate' if rate else 'time'} by that of {floor}; load {load})")
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
    """Write `files` different files of `size` bytes into so many dated directories.

    One directory after the other, as nights and exposures are written.
    """
    content = bytearray(os.urandom(size))
    for each in range(directories):
        night = directory / f"2026-11-{1 + each % 28:02}" / f"{each}"
        first, end = (files * number // directories for number in (each, each + 1))
        if first < end:
            night.mkdir(parents=True, exist_ok=True)
        for number in range(start + first, start + end):
            mark = f"{number:016}".encode()[:size]
            content[: len(mark)] = mark
            (night / f"AT_O_{number:08}.fits").write_bytes(content)
