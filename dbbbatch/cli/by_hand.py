"""Which files `dbb retry`, `ignore` and `quarantine` are about, and how that is asked for."""

from __future__ import annotations

import fnmatch
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator
from dbbbatch.config import fields
from dbbbatch.config.sections import Finder, Handoff, Target
from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import IngestStatus, WhyRemembered
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import UsageError
from dbbbatch.files import names
from dbbbatch.files.batches import batched

#: Files changed in one transaction.
_CHANGED_TOGETHER = 5000


@dataclass(frozen=True)
class Selection:
    """Which files of a section are meant.

    Attributes
    ----------
    statuses : `tuple` [`str`]
        Only files with one of these.
    match : `tuple` [`str`]
        Only relative paths that match one of these globs.
    reason : `str` or `None`
        Only files whose recorded reason or error holds this text; ``*`` stands for anything.
    since : `datetime.datetime` or `None`
        Only files whose status changed then or later (UTC).
    """

    match: tuple[str, ...]
    reason: str | None
    statuses: tuple[str, ...] = ()
    since: datetime | None = None

    def includes(self, relpath: str, filename: str, reason: str) -> bool:
        """Return whether a file, named as in the database, is meant by its path and reason."""
        # No glob: reasons have brackets in them, and must be able to be pasted.
        wanted = ".*".join(map(re.escape, (self.reason or "").split("*")))
        if not re.search(wanted, reason, re.DOTALL):
            return False
        if not self.match:
            return True
        name = names.readable(names.join(relpath, filename))
        return any(fnmatch.fnmatchcase(name, glob) for glob in self.match)


class Selected(NamedTuple):
    """A file that is meant: named as in the database, with its recorded reason or error."""

    relpath: str
    filename: str
    reason: str


class Change(NamedTuple):
    """A change of some files, to be made in one transaction."""

    files: Sequence[Selected]
    make: Callable[[], int]


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
            ago = timedelta(seconds=fields.duration(value))
            return datetime.now(UTC).replace(tzinfo=None) - ago
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value.removesuffix("Z"))
        except ValueError:
            self.fail(f"{value!r}: a date, a time in UTC, or a length of time is wanted")
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def by_name_and_reason(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command --match and --reason."""
    for option in (
        click.option(
            "--reason",
            metavar="TEXT",
            help="Only where the recorded reason holds this text; * stands for anything.",
        ),
        click.option(
            "--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of)."
        ),
    ):
        command = option(command)
    return command


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command the options that make a `Selection`."""
    for option in (
        click.option(
            "--dry-run", is_flag=True, help="Only list the files that it would be, and why."
        ),
        click.option(
            "--since", type=Since(), help="Only what changed since then: a date, or 12h, 7d."
        ),
        by_name_and_reason,
        click.option("--status", "statuses", multiple=True, help="Only such files (any of)."),
        click.argument("label", metavar="KIND.NAME"),
    ):
        command = option(command)
    return command


class TargetFiles:
    """The files of a target, as a person may change them."""

    retried = (IngestStatus.FAILURE, IngestStatus.UNKNOWN, IngestStatus.INVALID)
    retried_if_named = (
        IngestStatus.SUCCESS,
        IngestStatus.IGNORED,
        IngestStatus.BACKFILL,
        IngestStatus.UNTRIED,
    )
    left_alone = (IngestStatus.UNTRIED, IngestStatus.RERUN, *retried, IngestStatus.BACKFILL)
    left_alone_if_named = ()

    def __init__(self, site: str, section: Target) -> None:
        found = connect.read(TargetRow.named, site, section.name)
        if found is None:
            raise UsageError(f"{section.label} has never run: nothing is known of any file")
        self._target: int = found.id

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Make files due again."""
        for ids, files in self._pages(selection, statuses):
            yield Change(files, partial(IngestState.rerun, self._target, ids, statuses, why))

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Leave files alone."""
        for ids, files in self._pages(selection, statuses):
            yield Change(files, partial(IngestState.ignore, self._target, ids, statuses, why))

    def _pages(self, selection: Selection, statuses: Sequence[str]) -> Iterator[Page]:
        return _pages_of(
            selection,
            lambda after: IngestState.page(
                self._target, statuses, selection.since, after, _CHANGED_TOGETHER
            ),
        )


class HandoffFiles:
    """The files of a handoff, as a person may change them."""

    retried = ("FOUND", "VANISHED")
    retried_if_named = ("IGNORED",)
    left_alone = ("FOUND",)
    left_alone_if_named = ("HELD", "QUARANTINED")

    def __init__(self, site: str, section: Handoff) -> None:
        self._site = site
        self._name = section.name
        self._aside = FinderFiles(site, section)

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Let files be sent as if they were new."""
        for ids, files in self._pages(selection, statuses, tried=True):
            yield Change(files, partial(HandoffFile.again, ids, statuses))

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Leave files where they are."""
        # The table of the quarantine has all that is in it, also after a rebuild.
        others = [status for status in statuses if status != "QUARANTINED"]
        for ids, files in self._pages(selection, others):
            yield Change(files, partial(HandoffFile.ignored, ids, others, why))
        if len(others) < len(statuses):
            yield from self._aside.ignore(selection, ["QUARANTINED"], why)

    def _pages(
        self, selection: Selection, statuses: Sequence[str], tried: bool = False
    ) -> Iterator[Page]:
        _without_since(selection)
        if not statuses:
            return iter(())
        return _pages_of(
            selection,
            lambda after: HandoffFile.page(
                self._site, self._name, statuses, after, _CHANGED_TOGETHER, tried
            ),
        )


class FinderFiles:
    """What a finder could not store, and what it or a handoff moved aside, as a person may say."""

    retried = ("FAILED",)
    retried_if_named = ()
    left_alone = ("QUARANTINED",)
    left_alone_if_named = ("GIVEN_UP",)

    def __init__(self, site: str, section: Finder | Handoff) -> None:
        self._site = site
        self._name = section.name
        self._label = section.label

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Let files of the source be stored as if they were new."""
        for status in statuses:
            yield from self._out_of_mind(selection, WhyRemembered(status))

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Leave files in quarantine, or await them no more."""
        _without_since(selection)
        if "GIVEN_UP" in statuses:
            yield from self._out_of_mind(selection, WhyRemembered.GIVEN_UP)
        if "QUARANTINED" in statuses:
            rows = waiting(self._site, self._label, selection)
            for some in batched(rows, _CHANGED_TOGETHER):
                files = [Selected(row.relpath, row.filename, row.reason) for row in some]
                yield Change(files, partial(_leave_aside, some, why))

    def _out_of_mind(self, selection: Selection, verdict: WhyRemembered) -> Iterator[Change]:
        _without_since(selection)
        site, name = self._site, self._name
        remembered = partial(Remembered.all_with, site, name, verdict, _CHANGED_TOGETHER)
        for rows in connect.pages(remembered, ("", ""), "relpath", "filename"):
            files = [Selected(row.relpath, row.filename, row.message) for row in rows]
            files = [file for file in files if selection.includes(*file)]
            paths = [(file.relpath, file.filename) for file in files]
            yield Change(files, partial(Remembered.drop_those, site, name, verdict, paths))


def waiting(site: str, label: str | None, selection: Selection) -> list[Quarantine]:
    """Return the files of a quarantine that wait for a person and are meant."""
    return connect.read(
        lambda: [
            row
            for row in Quarantine.waiting(site, label)
            if row.quarantined_at is not None
            and selection.includes(row.relpath, row.filename, row.reason)
        ]
    )


def _leave_aside(rows: Sequence[Quarantine], why: str) -> int:
    when = connect.now()
    count = 0
    for row in rows:
        if row.left(when, why):
            count += 1
            if row.label.startswith("handoff."):
                HandoffFile.left_aside(row, why)
    return count


def _without_since(selection: Selection) -> None:
    if selection.since is not None:
        raise UsageError("--since goes with a target: other files have their own times")


#: The ids of some files, and the files.
Page = tuple[list[int], list[Selected]]


def _pages_of(
    selection: Selection, page: Callable[[int], list[tuple[int, str, str, str]]]
) -> Iterator[Page]:
    rows = connect.long_read(page, 0)
    while rows:
        meant = [row for row in rows if selection.includes(*row[1:])]
        yield [row[0] for row in meant], [Selected(*row[1:]) for row in meant]
        rows = connect.long_read(page, rows[-1][0])


def files_of(operator: Operator, label: str) -> TargetFiles | HandoffFiles | FinderFiles:
    """Return the files of KIND.NAME."""
    section = operator.settings.labelled(label)
    site = operator.settings.site.name
    if isinstance(section, Target):
        return TargetFiles(site, section)
    if isinstance(section, Handoff):
        return HandoffFiles(site, section)
    return FinderFiles(site, section)


def chosen(selection: Selection, usual: Sequence[str], if_named: Sequence[str]) -> list[str]:
    """Return the statuses that are meant: those asked for, which a person may change, or the usual.

    Raises
    ------
    UsageError
        If there is no such status, or files of it are not changed by hand.
    """
    asked = [word.upper() for word in selection.statuses]
    for word in asked:
        if word not in (known := [*usual, *if_named]):
            raise UsageError(f"--status {word}: not for this{fields.nearest(word, known)}")
    return asked or list(usual)


def apply(changes: Iterable[Change], dry_run: bool) -> int:
    """Make each change in a transaction, or only list its files; count the files."""
    count = 0
    for change in changes:
        if not change.files:
            continue
        # The first try of a transaction counts: a repeated one may find its work done.
        tries: list[int] = []

        def once(change: Change = change, tries: list[int] = tries) -> None:
            tries.append(change.make())

        if dry_run:
            for file in change.files:
                output.line(_line(file))
            tries.append(len(change.files))
        else:
            connect.write(once)
        count += max(tries)
    return count


def _line(file: Selected) -> str:
    name = names.printable(names.readable(names.join(file.relpath, file.filename)))
    return f"{name}: {' '.join(file.reason.split())}" if file.reason else name


def who() -> str:
    """Return who typed the command, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
