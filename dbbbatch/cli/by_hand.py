"""Which files `dbb retry` and `dbb ignore` change, and how."""

from __future__ import annotations

import fnmatch
import functools
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import click

from dbbbatch.cli import options, output
from dbbbatch.cli.operator import Operator
from dbbbatch.config import fields
from dbbbatch.config.sections import Finder, Handoff, Target
from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import HandoffStatus, IngestStatus, WhyRemembered
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import UsageError
from dbbbatch.files import names, place
from dbbbatch.files.batches import batched

#: Files changed in one transaction.
_CHANGED_TOGETHER = 5000

#: A selected file: relpath and filename as in the database, and its recorded reason or error.
Selected = tuple[str, str, str]

#: Some files, and what changes them in one transaction and returns how many it changed.
Change = tuple[Sequence[Selected], Callable[[], int]]


@dataclass(frozen=True)
class Selection:
    """Which files of a section to change.

    Attributes
    ----------
    match : `tuple` [`str`]
        Only relative paths that match one of these globs.
    reason : `str` or `None`
        Only files whose recorded reason or error holds this text; ``*`` stands for anything.
    statuses : `tuple` [`str`]
        Only files with one of these.
    since : `datetime.datetime` or `None`
        Only files whose status changed then or later (UTC).
    """

    match: tuple[str, ...]
    reason: str | None
    statuses: tuple[str, ...] = ()
    since: datetime | None = None

    def includes(self, relpath: str, filename: str, reason: str) -> bool:
        """Return whether a file, named as in the database, has such a path and reason."""
        # No glob: reasons hold brackets, and must work when pasted.
        pattern = ".*".join(map(re.escape, (self.reason or "").split("*")))
        if not re.search(pattern, reason, re.DOTALL):
            return False
        name = names.readable(names.join(relpath, filename))
        return not self.match or any(fnmatch.fnmatchcase(name, glob) for glob in self.match)

    def chosen(self, usual: Sequence[str], if_named: Sequence[str]) -> list[str]:
        """Return the selected statuses, or the usual ones if none is selected.

        Raises
        ------
        UsageError
            If there is no such status, or files of it are not changed by hand.
        """
        asked = [word.upper() for word in self.statuses]
        for word in asked:
            if word not in (known := [*usual, *if_named]):
                raise UsageError(f"--status {word}: not for this{fields.nearest(word, known)}")
        return asked or list(usual)


def by_name_and_reason(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --match and --reason to a command."""
    match = click.option(
        "--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of several)."
    )
    reason = click.option(
        "--reason",
        metavar="TEXT",
        help="Only where the recorded reason holds this text; * stands for anything.",
    )
    return match(reason(command))


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make a `Selection`, which the command gets as ``selection``."""

    @functools.wraps(command)
    def with_selection(*args: Any, **given: Any) -> Any:
        keys = ("match", "reason", "statuses", "since")
        selection = Selection(**{key: given.pop(key) for key in keys})
        return command(*args, selection=selection, **given)

    made: Callable[..., Any] = with_selection
    for option in (
        click.option("--dry-run", is_flag=True, help="Only list the files, and why."),
        click.option(
            "--since",
            metavar="TIME",
            callback=options.parsed(options.since),
            help="Only what changed since then: a date, or 12h, 7d.",
        ),
        by_name_and_reason,
        click.option(
            "--status", "statuses", multiple=True, help="Only such files (any of several)."
        ),
        click.argument("label", metavar="KIND.NAME"),
    ):
        made = option(made)
    return made


class TargetFiles:
    """The files of a target.

    Like those of a handoff or finder, they have the statuses that `dbb retry` and `dbb ignore`
    change, usually or only if asked for by --status.
    """

    retried: Sequence[str] = (IngestStatus.FAILURE, IngestStatus.UNKNOWN, IngestStatus.INVALID)
    retried_if_named: Sequence[str] = (
        IngestStatus.SUCCESS,
        IngestStatus.IGNORED,
        IngestStatus.BACKFILL,
        IngestStatus.UNTRIED,
    )
    left_alone: Sequence[str] = (
        IngestStatus.UNTRIED,
        IngestStatus.RERUN,
        *retried,
        IngestStatus.BACKFILL,
    )
    left_alone_if_named: Sequence[str] = ()

    def __init__(self, site: str, section: Target) -> None:
        found = connect.read(TargetRow.named, site, section.name)
        if found is None:
            raise UsageError(f"{section.label} has never run: nothing is known of any file")
        self._target: int = found.id

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Make files due again."""
        rerun = partial(IngestState.rerun, self._target, statuses=statuses, why=why)
        return self._changes(selection, statuses, rerun)

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Offer files no longer."""
        ignore = partial(IngestState.ignore, self._target, statuses=statuses, why=why)
        return self._changes(selection, statuses, ignore)

    def _changes(
        self, selection: Selection, statuses: Sequence[str], change: Callable[[list[int]], int]
    ) -> Iterator[Change]:
        def page(after: int) -> list[tuple[int, str, str, str]]:
            since = selection.since
            return IngestState.page(self._target, statuses, since, after, _CHANGED_TOGETHER)

        return _changes_of(selection, page, change)


class HandoffFiles:
    """The files of a handoff."""

    retried: Sequence[str] = ("FOUND", "VANISHED")
    retried_if_named: Sequence[str] = ("IGNORED",)
    left_alone: Sequence[str] = ("FOUND",)
    left_alone_if_named: Sequence[str] = ("HELD", "QUARANTINED")

    def __init__(self, site: str, section: Handoff) -> None:
        self._site = site
        self._section = section

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Let files be sent as if they were new."""
        again = partial(HandoffFile.again, statuses=statuses, why=why)
        return self._changes(selection, statuses, again, tried=True)

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Leave files where they are."""
        # The table of the quarantine has everything that is in it, also after a rebuild.
        others = [status for status in statuses if status != "QUARANTINED"]
        ignored = partial(HandoffFile.ignored, statuses=others, reason=why)
        if others:
            yield from self._changes(selection, others, ignored)
        if len(others) < len(statuses):
            yield from _leave_in_quarantine(self._site, self._section.label, selection, why)

    def _changes(
        self,
        selection: Selection,
        statuses: Sequence[str],
        change: Callable[[list[int]], int],
        tried: bool = False,
    ) -> Iterator[Change]:
        _refuse_since(selection)

        def page(after: int) -> list[tuple[int, str, str, str]]:
            key = (self._site, self._section.name)
            return HandoffFile.page(*key, statuses, after, _CHANGED_TOGETHER, tried)

        return _changes_of(selection, page, change)


class FinderFiles:
    """The files that a finder could not store, or quarantined."""

    retried: Sequence[str] = ("FAILED",)
    retried_if_named: Sequence[str] = ()
    left_alone: Sequence[str] = ("QUARANTINED",)
    left_alone_if_named: Sequence[str] = ("GIVEN_UP",)

    def __init__(self, site: str, section: Finder) -> None:
        self._site = site
        self._section = section

    def retry(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Let files of the source be stored as if they were new."""
        for status in statuses:
            yield from self._forget(selection, WhyRemembered(status), why)

    def ignore(self, selection: Selection, statuses: Sequence[str], why: str) -> Iterator[Change]:
        """Leave files in quarantine, or wait for them no longer."""
        if "GIVEN_UP" in statuses:
            yield from self._forget(selection, WhyRemembered.GIVEN_UP, why)
        if "QUARANTINED" in statuses:
            yield from _leave_in_quarantine(self._site, self._section.label, selection, why)

    def _forget(self, selection: Selection, verdict: WhyRemembered, why: str) -> Iterator[Change]:
        _refuse_since(selection)
        key = (self._site, self._section.name, verdict)
        remembered = partial(Remembered.all_with, *key, _CHANGED_TOGETHER)
        for rows in connect.pages(remembered, ("", ""), "relpath", "filename"):
            files = [(row.relpath, row.filename, row.message) for row in rows]
            files = [file for file in files if selection.includes(*file)]
            yield files, partial(Remembered.drop_those, *key, [file[:2] for file in files], why)


def naming_files(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments FILE… and the option --from-file; the command gets both as ``files``."""

    @functools.wraps(command)
    def with_files(*args: Any, **given: Any) -> Any:
        files = [*given.pop("files"), *given.pop("listed")]
        if not files:
            raise click.UsageError("which files? Name them, or give --from-file")
        return command(*args, files=files, **given)

    listed = click.option(
        "--from-file",
        "listed",
        metavar="LIST",
        type=click.File("r", errors="surrogateescape"),
        callback=_lines_of,
        help="Also the files that LIST names, one a line; - is stdin.",
    )
    made: Callable[..., Any] = click.argument("files", metavar="FILE...", nargs=-1)(with_files)
    return listed(made)


def _lines_of(_: click.Context, __: click.Parameter, stream: Any) -> list[str]:
    try:
        return [line.rstrip("\n") for line in stream or () if line.strip()]
    except OSError as error:
        raise click.BadParameter(str(error.strerror)) from None


def held_files(
    site: str, section: Handoff, files: Iterable[str]
) -> tuple[list[HandoffRow], list[str]]:
    """Find files in the holding area by their names there, or as they were in the buffer.

    Parameters
    ----------
    site : `str`
    section : `Handoff`
    files : iterable of `str`
        Paths in the holding area or the buffer, relative to them, or globs of such.

    Returns
    -------
    rows : `list` [ `dbbbatch.database.models.handoff.HandoffRow` ]
        Those that are HELD, each once.
    problems : `list` [ `str` ]
        Why nothing is found for some.
    """
    rows: dict[int, HandoffRow] = {}
    problems = []
    for file in files:
        found, problem = _held_as_named(site, section, file)
        if not found and re.search(r"[*?[]", file):
            found = list(_held_that_match(site, section, _relative(section.holding, file)))
            problem = "" if found else f"{file}: no held file of {section.label} is like this"
        rows |= {row.id: row for row in found}
        problems += [problem] if problem else []
    return [*rows.values()], problems


def _held_as_named(site: str, section: Handoff, file: str) -> tuple[list[HandoffRow], str]:
    """Return the one held file that has a name, or why there is none."""
    in_holding = file.startswith(f"{section.holding}/")
    rel = _relative(section.buffer, _relative(section.holding, file)).removeprefix("./")
    # As in the file system, or as in the database, which takes only what UTF-8 can write.
    spellings = {names.to_text(rel), rel.encode("utf-8", "replace").decode()}
    paths = [
        (relpath, base)
        for relpath, filename in map(names.split, spellings)
        for base in {filename, place.without_version(filename)}
    ]
    known = connect.read(HandoffFile.known, site, section.name, paths)
    if in_holding:
        known = [row for row in known if _is_named(row, row.held_as, spellings)]
    else:
        known = [
            row
            for row in known
            if any(_is_named(row, name, spellings) for name in (row.held_as, row.filename))
        ]
    held = [row for row in known if row.status == HandoffStatus.HELD]
    if len(held) == 1:
        return held, ""
    if held:
        where = ", ".join(shown_in_holding(section, row) for row in held)
        return [], f"{file}: {len(held)} versions of it are held; name one of them: {where}"
    if known:
        return [], f"{file}: is not in the holding area: {known[-1].status}"
    return [], f"{file}: the table knows no such file of {section.label}"


def _held_that_match(site: str, section: Handoff, glob: str) -> Iterator[HandoffRow]:
    """Yield the held files whose name in the holding area matches a glob."""
    page = partial(HandoffFile.held_files, site, section.name, limit=_CHANGED_TOGETHER)
    for rows in connect.pages(lambda after: page(after=after), None, "held_at", "id"):
        for row in rows:
            name = names.readable(names.join(row.relpath, row.held_as or ""))
            if fnmatch.fnmatchcase(name, glob):
                yield row


def shown_in_holding(section: Handoff, row: HandoffRow) -> str:
    """Return the path of a held file, for a message."""
    name = names.readable(names.join(row.relpath, row.held_as or ""))
    return names.printable(f"{section.holding}/{name}")


def _is_named(row: HandoffRow, filename: str | None, spellings: set[str]) -> bool:
    return filename is not None and names.join(row.relpath, filename) in spellings


def _relative(root: str, path: str) -> str:
    return path.removeprefix(f"{root}/")


def files_of(operator: Operator, label: str) -> TargetFiles | HandoffFiles | FinderFiles:
    """Return the files of KIND.NAME."""
    section = operator.settings.labelled(label)
    if isinstance(section, Target):
        return TargetFiles(operator.site, section)
    if isinstance(section, Handoff):
        return HandoffFiles(operator.site, section)
    return FinderFiles(operator.site, section)


def waiting(site: str, label: str | None, selection: Selection) -> list[Quarantine]:
    """Return the selected files of a quarantine that wait for a person."""
    rows = connect.read(lambda: list(Quarantine.waiting(site, label)))
    return [
        row
        for row in rows
        if row.quarantined_at is not None
        and selection.includes(row.relpath, row.filename, row.reason)
    ]


def apply(changes: Iterable[Change], dry_run: bool) -> int:
    """Make each change in a transaction, or only list its files; return how many files."""
    count = 0
    for files, change in changes:
        if dry_run:
            for relpath, filename, reason in files:
                name = names.printable(names.readable(names.join(relpath, filename)))
                output.line(f"{name}: {' '.join(reason.split())}" if reason else name)
            count += len(files)
        elif files:
            count += _apply_one(change)
    return count


def summary(count: int, label: str, dry_run: bool, what: str) -> str:
    """Return the line that ends a command: how many files of KIND.NAME were, or would be, what."""
    are = "would be" if dry_run else "is" if count == 1 else "are"
    return f"{names.counted(count, 'file')} of {label} {are} {what}"


def user_and_host() -> str:
    """Return the user of the command, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def _changes_of(
    selection: Selection,
    page: Callable[[int], list[tuple[int, str, str, str]]],
    change: Callable[[list[int]], int],
) -> Iterator[Change]:
    rows = connect.long_read(page, 0)
    while rows:
        chosen = [row for row in rows if selection.includes(*row[1:])]
        yield [row[1:] for row in chosen], partial(change, [row[0] for row in chosen])
        rows = connect.long_read(page, rows[-1][0])


def _leave_in_quarantine(site: str, label: str, selection: Selection, why: str) -> Iterator[Change]:
    _refuse_since(selection)
    for rows in batched(waiting(site, label, selection), _CHANGED_TOGETHER):
        files = [(row.relpath, row.filename, row.reason) for row in rows]
        yield files, partial(_leave_rows, rows, why)


def _leave_rows(rows: Sequence[Quarantine], why: str) -> int:
    when = connect.now()
    left = [row for row in rows if row.left(when, why)]
    for row in left:
        if row.label.startswith("handoff."):
            HandoffFile.left_aside(row, why)
    return len(left)


def _refuse_since(selection: Selection) -> None:
    if selection.since is not None:
        raise UsageError("--since works for targets only: other files have their own times")


def _apply_one(change: Callable[[], int]) -> int:
    # The first try of a transaction counts: a repeated one may find its work done.
    tries: list[int] = []
    connect.write(lambda: tries.append(change()))
    return max(tries)
