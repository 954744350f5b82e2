"""Which files `dbb retry` and `dbb ignore` are about, and how that is asked for."""

from __future__ import annotations

import fnmatch
import getpass
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click

from dbbbatch import keys
from dbbbatch.cli.dbb import Operator
from dbbbatch.config import Handoff, Target
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.status import Status
from dbbbatch.database.models.target import Target as TargetRow
from dbbbatch.errors import UsageError
from dbbbatch.files import names

#: Files changed in one transaction.
_TOGETHER = 5000


@dataclass(frozen=True)
class Selection:
    """Which files of a section are meant.

    Attributes
    ----------
    statuses : `tuple` [`str`]
        Only files with one of these.
    match : `tuple` [`str`]
        Only relative paths that match one of these globs.
    since : `datetime.datetime` or `None`
        Only files whose status changed then or later (UTC).
    dry_run : `bool`
        Only count them.
    """

    statuses: tuple[str, ...]
    match: tuple[str, ...]
    since: datetime | None
    dry_run: bool

    def includes(self, relpath: str, filename: str) -> bool:
        """Tell whether a file, named as in the database, is meant by its path."""
        if not self.match:
            return True
        name = names.from_text(names.join(relpath, filename))
        return any(fnmatch.fnmatchcase(name, glob) for glob in self.match)


class Since(click.ParamType):
    """A moment in UTC, or how long ago: 2026-11-24, '2026-11-24 18:00', 12h, 7d."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Turn an argument into naive UTC."""
        if isinstance(value, datetime):
            return value
        try:
            ago = timedelta(seconds=keys.duration(value))
            return datetime.now(UTC).replace(tzinfo=None) - ago
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value.removesuffix("Z"))
        except ValueError:
            self.fail(f"{value!r}: a date, a time in UTC, or a length of time is wanted")
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that make a `Selection`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only say how many files it would be."),
        click.option(
            "--since", type=Since(), help="Only what changed since then: a date, or 12h, 7d."
        ),
        click.option(
            "--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of)."
        ),
        click.option("--status", "statuses", multiple=True, help="Only such files (any of)."),
        click.argument("label", metavar="KIND.NAME"),
    ):
        command = option(command)
    return command


class OfTarget:
    """The files of a target, as a person may change them."""

    retried = (Status.FAILURE, Status.UNKNOWN, Status.INVALID)
    left_alone = (Status.UNTRIED, Status.RERUN, *retried, Status.BACKFILL)

    def __init__(self, site: str, section: Target) -> None:
        found = connect.look(lambda: TargetRow.named(site, section.name))
        if found is None:
            raise UsageError(f"{section.label} has never run: nothing is known of any file")
        self._target: int = found.id

    def pages(self, selection: Selection, statuses: Sequence[str]) -> Iterator[list[int]]:
        """Find the files that are meant, a few thousand at a time."""
        return _pages(
            selection,
            lambda after: IngestState.page(
                self._target, statuses, selection.since, after, _TOGETHER
            ),
        )

    def retry(self, ids: Sequence[int], statuses: Sequence[str], why: str) -> int:
        """Make files due again."""
        return IngestState.rerun(self._target, ids, statuses, why)

    def ignore(self, ids: Sequence[int], statuses: Sequence[str], why: str) -> int:
        """Leave files alone."""
        return IngestState.ignore(self._target, ids, statuses, why)


class OfHandoff:
    """The files of a handoff, as a person may change them."""

    retried = ("FOUND", "IGNORED", "VANISHED")
    left_alone = ("FOUND",)

    def __init__(self, site: str, section: Handoff) -> None:
        self._site = site
        self._name = section.name

    def pages(self, selection: Selection, statuses: Sequence[str]) -> Iterator[list[int]]:
        """Find the files that are meant, a few thousand at a time."""
        if selection.since is not None:
            raise UsageError("--since goes with a target: a handoff's files have their own times")
        return _pages(
            selection,
            lambda after: HandoffFile.page(self._site, self._name, statuses, after, _TOGETHER),
        )

    def retry(self, ids: Sequence[int], statuses: Sequence[str], why: str) -> int:
        """Let files be sent as if they were new."""
        return HandoffFile.again(ids)

    def ignore(self, ids: Sequence[int], statuses: Sequence[str], why: str) -> int:
        """Leave files in the buffer."""
        return HandoffFile.ignored(ids, why)


def _pages(
    selection: Selection, page: Callable[[int], list[tuple[int, str, str]]]
) -> Iterator[list[int]]:
    rows = connect.look(partial(page, 0))
    while rows:
        yield [row[0] for row in rows if selection.includes(row[1], row[2])]
        rows = connect.look(partial(page, rows[-1][0]))


def side(operator: Operator, label: str) -> OfTarget | OfHandoff:
    """Give the files of KIND.NAME.

    Raises
    ------
    UsageError
        If files of this kind are looked after in another way.
    """
    section = operator.settings.labelled(label)
    site = operator.settings.site.name
    if isinstance(section, Target):
        return OfTarget(site, section)
    if isinstance(section, Handoff):
        return OfHandoff(site, section)
    raise UsageError(f"{label}: `dbb quarantine` looks after the files that a finder moved aside")


def chosen(selection: Selection, usual: Sequence[str]) -> list[str]:
    """Give the statuses that are meant: those asked for, which a person may change, or the usual.

    Raises
    ------
    UsageError
        If there is no such status, or files of it are not changed by hand.
    """
    asked = [word.upper() for word in selection.statuses]
    for word in asked:
        if word not in usual:
            raise UsageError(f"--status {word}: not for this{keys.nearest(word, list(usual))}")
    return asked or list(usual)


def apply(pages: Iterable[list[int]], dry_run: bool, change: Callable[[Sequence[int]], int]) -> int:
    """Change the files of each page in a transaction, and count them."""
    count = 0
    for ids in pages:
        if not ids:
            continue
        # The first try of a transaction counts: a repeated one may find its work done.
        tries: list[int] = []

        def once(ids: list[int] = ids, tries: list[int] = tries) -> None:
            tries.append(change(ids))

        if dry_run:
            tries.append(len(ids))
        else:
            connect.transact(once)
        count += max(tries)
    return count


def who() -> str:
    """Say who typed the command, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
