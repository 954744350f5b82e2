"""Let one system call after another fail; a clean pass must give the undisturbed result.

As `sweep`, but the call is not made and fails with an error of the machine, and the pass goes on:
it must end with a line and an exit code that says what now, and never as by a bug of ours.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from tests.killing.picture import difference
from tests.killing.preloaded import shared
from tests.killing.supervisor import Report, supervise
from tests.killing.sweep import Swept, _directory

SiteType = TypeVar("SiteType")

#: What disks, mounts and machines at their limits answer.
ERRORS = (
    errno.EIO,
    errno.ENOENT,
    errno.ESTALE,
    errno.EACCES,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EDQUOT,
    errno.EHOSTDOWN,
    errno.EMFILE,
    errno.ENOMEM,
    errno.EINTR,
)

#: Done, some files failed, try later, a person must act: never a bug, or a traceback.
CODES = (0, 1, 75, 78)

_SHOWN = 8


def distance(default: int) -> int:
    """Every how many-th pair of call and error is tried: `DBB_FAIL_EVERY`, or what the test says.

    With 1 each call fails with each error, which takes hours.
    """
    return max(1, int(os.environ.get("DBB_FAIL_EVERY") or default))


def fail_each(
    make_site: Callable[[Path], AbstractContextManager[SiteType]],
    command: Callable[[SiteType], Sequence[str | os.PathLike[str]]],
    look: Callable[[SiteType], Mapping[str, Any]],
    below: Callable[[SiteType], Sequence[str]],
    *,
    every: int = 101,
    finish: Callable[[SiteType], Sequence[str | os.PathLike[str]]] | None = None,
    exit_codes: Sequence[int] = (0,),
    codes: Sequence[int] = CODES,
    timeout: float = 120,
) -> Swept:
    """Let the Nth call on what lies below some directories fail, for many N, on fresh sites.

    Parameters
    ----------
    make_site, command, look, finish, timeout
        As of `sweep.sweep`.
    below
        The directories and files of a site whose calls are counted: what Python does when it
        starts, or imports, is left out.
    every
        Try every so many-th pair of call and error, unless `DBB_FAIL_EVERY` says otherwise.
    exit_codes
        What the undisturbed and the clean pass may return.
    codes
        What the pass may return whose call fails.

    Raises
    ------
    AssertionError
        Saying after which calls and errors something was wrong, and what.
    """

    def run(site: SiteType, words: Sequence[str | os.PathLike[str]], **more: Any) -> Report:
        return supervise(words, start=shared().serve, timeout=timeout, **more)

    def roots(site: SiteType) -> list[str]:
        return [f"{path}/" for path in below(site)]

    def undisturbed() -> tuple[int, Mapping[str, Any]]:
        with _directory() as directory, make_site(directory) as site:
            report = run(site, command(site), below=roots(site))
            assert report.exit_code in exit_codes, f"undisturbed: {report}"
            return report.counted, look(site)

    def failing_at(pair: tuple[int, int]) -> tuple[bool, str]:
        point, number = pair
        with _directory() as directory, make_site(directory) as site:
            report = run(site, command(site), kill_at=point, fail=number, below=roots(site))
            said = f"{report.stdout}{report.stderr}".strip()
            wrong = []
            if report.exit_code not in codes:
                wrong.append(f"it ended with {report.exit_code}")
            if report.exit_code in (75, 78) and not said:
                wrong.append("it ended without a word")
            if "Traceback" in said or "unforeseen" in said:
                wrong.append("it is taken for a bug")
            clean = run(site, (finish or command)(site), held=False)
            if clean.exit_code not in exit_codes:
                wrong.append(f"the clean pass gave {clean.exit_code}")
            wrong += difference(expected, look(site))
            if wrong:
                said = f"{said}\n{clean.stdout}{clean.stderr}".strip()
                wrong.append(f"it said ({report.exit_code}): {said}")
            name = errno.errorcode[number]
            text = "\n    ".join([f"{name} at {report.killed}:", *wrong]) if wrong else ""
            return report.killed is not None, text

    counted, expected = undisturbed()
    pairs = [(point, number) for point in range(1, counted + 1) for number in ERRORS]
    chosen = pairs[:: distance(every)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(failing_at, chosen))
    failures = [text for _, text in results if text]
    if failures:
        shown = "\n".join(failures[:_SHOWN])
        raise AssertionError(f"{len(failures)} of {len(chosen)} errors were not met well:\n{shown}")
    return Swept(counted, len(chosen), sum(reached for reached, _ in results), seen=expected)
