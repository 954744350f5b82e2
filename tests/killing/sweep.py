"""Kill a pass at one point after another; one clean pass must give the undisturbed result."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.killing.picture import difference
from tests.killing.preloaded import is_script, shared
from tests.killing.supervisor import DATABASE, Call, Report, supervise

SiteType = TypeVar("SiteType")

#: failures that are spelled out; the others are counted
_SHOWN = 5


@dataclass(frozen=True)
class Swept:
    """How a sweep went: the calls of an undisturbed pass, and the points at which it was killed.

    `phases` is how many kills were in which step of a change (`tests.killing.phases`).
    `seen` is what the site looked like after the undisturbed pass, and so after all the others.
    """

    counted: int
    tried: int
    reached: int
    phases: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        text = f"killed before {self.reached} of {self.counted} changes"
        if self.reached < self.tried:
            text += f" ({self.tried - self.reached} passes ended before their point came)"
        named = [f"{count} in {phase}" for phase, count in sorted(self.phases.items()) if phase]
        return "; ".join([text, *named])


def density(default: int) -> int:
    """Every how many-th point is tried: `DBB_KILL_EVERY`, or what the test says."""
    return max(1, int(os.environ.get("DBB_KILL_EVERY") or default))


def sweep(
    make_site: Callable[[Path], AbstractContextManager[SiteType]],
    command: Callable[[SiteType], Sequence[str | os.PathLike[str]]],
    look: Callable[[SiteType], Mapping[str, Any]],
    *,
    every: int = 1,
    points: Iterable[int] | None = None,
    finish: Callable[[SiteType], Sequence[str | os.PathLike[str]]] | None = None,
    then: Callable[[SiteType], Sequence[str | os.PathLike[str]]] | None = None,
    exit_codes: Sequence[int] = (0,),
    workers: int | None = None,
    database: Sequence[str] = DATABASE,
    streams: bool = False,
    spare: Sequence[str] = (),
    timeout: float = 120,
) -> Swept:
    """Kill a pass before its Nth change, for many N, each time on a fresh site.

    Parameters
    ----------
    make_site
        Builds a site in the directory given, alike each time, as a context manager that removes
        what is not in that directory (a database). Called in several threads.
    command
        The command line of the pass over a site.
    look
        What a site looks like in the end: `picture.disk` and `picture.tables`, say.
    every
        Try every so many-th point, unless `DBB_KILL_EVERY` says otherwise, and always the last.
    points
        These points instead.
    finish
        The command line of the one clean pass that follows, if it is another.
    then
        The command line of a pass that cron makes after each of them, the killed one too.
    exit_codes
        What the undisturbed and the clean pass may return.
    workers
        Points tried at a time; as many as there are processors by default.
    database, streams, spare, timeout
        As of `supervisor.supervise`.

    Raises
    ------
    AssertionError
        Saying after which kills the result was not the undisturbed one, and what was different.
    """
    supervising: dict[str, Any] = {
        "database": database,
        "streams": streams,
        "spare": spare,
    }

    def run(command: Sequence[str | os.PathLike[str]], **more: Any) -> Report:
        start = shared().serve if is_script(command) else None
        return supervise(command, start=start, timeout=timeout, **more)

    def undisturbed() -> tuple[int, Mapping[str, Any]]:
        with _directory() as directory, make_site(directory) as site:
            report = run(command(site), **supervising)
            assert report.exit_code in exit_codes, f"undisturbed: {report}"
            if then:
                run(then(site), held=False)
            return report.counted, look(site)

    def killed_at(point: int) -> tuple[Call | None, str]:
        """The call that was prevented, if it came, and what is wrong after a clean pass."""
        with _directory() as directory, make_site(directory) as site:
            report = run(command(site), kill_at=point, **supervising)
            if then:
                run(then(site), held=False)
            clean = run((finish or command)(site), held=False)
            if then:
                run(then(site), held=False)
            wrong = difference(expected, look(site))
            if clean.exit_code not in exit_codes:
                wrong.insert(0, f"the clean pass gave {clean.exit_code}")
            said = f"{clean.stdout}{clean.stderr}".strip()
            if wrong and said:
                wrong.append(f"it said: {said}")
            text = "\n    ".join([f"killed before {report.killed}:", *wrong]) if wrong else ""
            return report.killed, text

    counted, expected = undisturbed()
    if points is None:
        points = {*range(1, counted + 1, density(every)), counted}
    chosen = sorted(points)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = list(pool.map(killed_at, chosen))
    failures = [text for _, text in results if text]
    if failures:
        shown = "\n".join(failures[:_SHOWN])
        raise AssertionError(
            f"{len(failures)} of {len(chosen)} kills were not made good by a clean pass:\n{shown}"
        )
    killed = [call for call, _ in results if call is not None]
    phases = Counter(call.phase for call in killed)
    return Swept(counted, len(chosen), len(killed), phases, expected)


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        yield Path(name)
