"""Forget a file of a storage area because a person decided so; its history stays.

intend: the file is FORGOTTEN, and the targets that were to be offered it ignore it.
act: remove the file from storage, if that was asked for and no finder has stored it again.
record: the finder no longer remembers it; in one transaction with act, which locks the row.
recover: a file that cannot be removed is what it was before. After a kill, the same command again
    removes what is still there.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress
from typing import NamedTuple

from dbbbatch.areas.storage.missing import MissingDirectories, if_it_is_lost
from dbbbatch.config.sections import Finder
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.ingest import IngestEvent, IngestState
from dbbbatch.database.models.statuses import FileStatus, IngestStatus, WhyRemembered
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import faults, names, scan
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, why_refused

#: Statuses of an ingest that is still to come, or to be tried again.
_TO_COME = (IngestStatus.UNTRIED, IngestStatus.RERUN, IngestStatus.FAILURE, IngestStatus.UNKNOWN)


class NotNow(TryLater):
    """A file cannot be forgotten now; others may be."""


class Before(NamedTuple):
    """What a file was before it was forgotten, and the targets that were to be offered it."""

    status: str
    error: str | None
    put_off: list[int]


def forget(site: str, finder: Finder, rel: str, remove: bool, why: str) -> str:
    """Forget one file; its history stays.

    Parameters
    ----------
    site : `str`
        Name of the site.
    finder : `Finder`
        Whose storage area.
    rel : `str`
        Path relative to storage.
    remove : `bool`
        Also remove the file from storage; else storage must no longer have it. Anything under its
        name that is no regular file of storage itself stays, and does not matter.
    why : `str`
        For the history.

    Returns
    -------
    what : `str`
        What was done, for the operator.

    Raises
    ------
    UsageError
        The table does not know it, or storage has it, or it cannot be removed.
    NotNow
        An ingester or a finder is at work on the file, or its directory looks unmounted.
    TryLater
        Storage is away.
    """
    with closing(Roots()) as roots:
        return Forgetting(site, finder, rel, why, roots).forget(remove)


class Forgetting:
    """One file that is to be forgotten; the parameters are those of `forget`."""

    def __init__(self, site: str, finder: Finder, rel: str, why: str, roots: Roots) -> None:
        self._site = site
        self._finder = finder
        self._rel = rel
        self._why = why
        self._roots = roots
        self._name = names.name_of(rel)
        self._shown = names.printable(rel)

    def forget(self, remove: bool) -> str:
        """Forget the file, as the function of this name does."""
        finder, shown = self._finder, self._shown
        self._roots.require(finder.storage, finder.sentinel)
        known = connect.read(File.known, finder.storage, [self._name]).get(self._name)
        if known is None and not connect.read(
            Remembered.among, self._site, finder.name, [self._name]
        ):
            raise UsageError(f"{shown}: the table knows no such file in {finder.storage}")
        storage = self._roots.tree(finder.storage)
        if top := MissingDirectories(storage).unmounted(names.split(self._rel)[0]):
            raise NotNow(
                f"{shown}: {names.printable(top)} is not there or empty; that looks unmounted, and "
                f"nothing is forgotten ({if_it_is_lost(finder, top)}, and forget it then)"
            )
        there, other = self._what_is_there()
        self._roots.require(finder.storage, finder.sentinel)
        if known is None:
            if there:
                raise UsageError(
                    f"{shown}: storage has it, though the table does not know it; `dbb-auditor "
                    f"{finder.name} --adopt` records it, and then it can be removed"
                )
            connect.write(self.record)
            return f"{shown}: was never stored; {finder.label} no longer remembers it"
        number = known.id
        if there is None:

            def forget() -> None:
                self.record()
                self.intend(number)

            connect.write(forget)
            stays = f"; {other}, and stays" if other else ""
            return f"{shown}: forgotten; its history stays{stays}"
        if not remove:
            raise UsageError(
                f"{shown}: storage has it; --remove takes it out of storage as well, for good"
            )
        before = connect.write(self.intend, number)
        stored = storage.entry(self._rel)

        def remove_it() -> None:
            self.act(number, stored, there)
            self.record()

        try:
            connect.write(remove_it)
        except OSError as error:
            trouble = f"cannot be removed: {why_refused(error, stored)}"
            connect.write(self.recover, number, before, f"forgotten no longer: {trouble}")
            kind = TryLater if faults.affects_every_file(error) else UsageError
            raise kind(f"{shown}: {trouble}; it is not forgotten") from None
        # Whatever has the directory's path by now: the file is removed.
        with suppress(FileNotFoundError, NotADirectoryError):
            storage.sync([names.split(self._rel)[0]])
        return f"{shown}: forgotten, and removed from storage; its history stays"

    def intend(self, number: int) -> Before:
        """Record that a file is forgotten, unless a finder or an ingester is at work on it."""
        # Locked, so that no ingester takes it before it is forgotten.
        before = Before(*_locked_row(number), [])
        if before.status in (FileStatus.ARRIVING, ""):
            raise NotNow(f"{self._shown}: a finder is storing it; try again after its pass")
        if before.status == FileStatus.FORGOTTEN:
            return before
        now = connect.now()
        states = _locked_states(number)
        noted = []
        for target, name, status, claimed in states:
            if claimed:
                raise NotNow(
                    f"{self._shown}: the ingester of target.{name} is at work on it; try again "
                    "after its pass"
                )
            if status in _TO_COME:
                IngestState.ignore(target, [number], [status], self._why)
                before.put_off.append(target)
            else:
                noted.append(target)
        # The event has no status of an ingest: it was no attempt, whatever came of the last one.
        why = bulk.clean(self._why)
        IngestEvent.record(
            [(number, each, FileStatus.FORGOTTEN, now, None, "", why, None, 0) for each in noted]
        )
        File.forget([number], self._why if states else f"{self._why}, {now:%Y-%m-%d %H:%M} UTC")
        return before

    def act(self, number: int, file: Entry, seen: os.stat_result) -> None:
        """Remove a file while no finder can store it again; twice equals once."""
        if _locked_row(number)[0] != FileStatus.FORGOTTEN:
            raise NotNow(f"{self._shown}: a finder has stored it again; it stays")
        try:
            if not os.path.samestat(file.lstat(), seen):
                raise NotNow(f"{self._shown}: is another file by now, and stays")
            file.unlink()
        except FileNotFoundError:
            if file.certain_status() is not None:  # not found for a moment only
                raise

    def record(self) -> None:
        """Let the finder forget the file, unless it has yet to remove its original."""
        row = Remembered.among(self._site, self._finder.name, [self._name]).get(self._name)
        if row is not None and row.verdict != WhyRemembered.MOVED:
            Remembered.drop(self._site, self._finder.name, [self._name])

    def recover(self, number: int, before: Before, why: str) -> None:
        """Make a file what it was, and let the targets that were to be offered it be so again."""
        if _locked_row(number)[0] == FileStatus.FORGOTTEN:
            File.keep(number, before.status, before.error)
            for target in before.put_off:
                IngestState.rerun(target, [number], [IngestStatus.IGNORED], why)

    def _what_is_there(self) -> tuple[os.stat_result | None, str]:
        """Return the file of storage that has the name, or what is there instead of one."""
        if names.is_astray(self._rel):
            return None, "its name leads out of storage"
        if self._rel == self._finder.sentinel:
            return None, "it is the sentinel of storage"
        storage = self._roots.tree(self._finder.storage)
        try:
            status = storage.entry(self._rel).lstat()
        except FileNotFoundError:
            return None, ""
        except NotADirectoryError:
            why = scan.detour(storage, names.split(self._rel)[0])
            return None, f"{why}, so that what is there is not part of storage" if why else ""
        except OSError as error:
            later = TryLater if faults.affects_every_file(error) else NotNow
            raise later(f"{self._shown}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            return None, f"{scan.kind(status.st_mode)} is in its place"
        return status, ""


def _locked_row(number: int) -> tuple[str, str | None]:
    """Return status and error of a file, which nobody changes before the transaction ends."""
    sql = f"SELECT status, error FROM file WHERE id = ?{connect.for_update()}"
    row = connect.execute(sql, [number]).fetchone()
    return (row[0], row[1]) if row else ("", None)


def _locked_states(number: int) -> list[tuple[int, str, str, bool]]:
    """Return target, its name, the status with it, and whether its ingester is at work on the file.

    A retired target has no pass that would ever end what a dead one claimed.
    """
    rows = connect.execute(
        "SELECT s.target_id, t.name, s.status, t.retired_at, c.expires_at FROM ingest_state s"
        " JOIN target t ON t.id = s.target_id LEFT JOIN ingest_claim c ON c.run_id = s.claim"
        f" WHERE s.file_id = ? ORDER BY s.target_id{connect.for_update(' OF s')}",
        [number],
    ).fetchall()
    now = connect.now()
    return [
        (
            target,
            name,
            status,
            status == IngestStatus.PENDING
            and (retired is None or (expires is not None and bulk.read_moment(expires) > now)),
        )
        for target, name, status, retired, expires in rows
    ]
