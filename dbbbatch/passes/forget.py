"""Taking files out of the truth about storage because a person decided so."""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress
from typing import NamedTuple

from dbbbatch.areas.storage.missing import MissingDirectories, if_it_is_lost
from dbbbatch.config.sections import Finder
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File, Name
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.ingest import IngestEvent, IngestState
from dbbbatch.database.models.statuses import FileStatus, IngestStatus, WhyRemembered
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import faults, names, place, scan
from dbbbatch.files.roots import Roots
from dbbbatch.passes.finder.work import name_of

#: An ingest that is to come, or to be tried again, comes no more.
_TO_COME = (IngestStatus.UNTRIED, IngestStatus.RERUN, IngestStatus.FAILURE, IngestStatus.UNKNOWN)


class NotNow(TryLater):
    """This file cannot be forgotten now; others may be."""


class _Before(NamedTuple):
    """What a file was, and which targets were to be offered it, before it was forgotten."""

    status: str
    error: str | None
    put_off: list[int]


def forget(site: str, finder: Finder, rel: str, remove: bool, why: str) -> str:
    """Take one file out of the truth; its history stays.

    Parameters
    ----------
    site : `str`
        Whose.
    finder : `Finder`
        Says which storage area.
    rel : `str`
        Path relative to storage.
    remove : `bool`
        Remove the file from storage as well; else storage must not have it any more. What is
        there without being a regular file of storage's own is neither removed nor in the way.
    why : `str`
        For the history.

    Returns
    -------
    what : `str`
        What was done, for the operator.

    Raises
    ------
    UsageError
        The table does not know it, or storage has it, or does not let it be removed.
    NotNow
        An ingester or a finder has the file in hand, or its directory looks unmounted.
    TryLater
        Storage is away.
    """
    with closing(Roots()) as roots:
        return _forget(site, finder, rel, remove, why, roots)


def _forget(site: str, finder: Finder, rel: str, remove: bool, why: str, roots: Roots) -> str:
    roots.require(finder.storage, finder.sentinel)
    shown = names.printable(rel)
    name = name_of(rel)
    known = connect.read(File.known, finder.storage, [name]).get(name)
    if known is None and not connect.read(Remembered.among, site, finder.name, [name]):
        raise UsageError(f"{shown}: the table knows no such file in {finder.storage}")
    if top := MissingDirectories(finder.storage).unmounted(names.split(rel)[0]):
        raise NotNow(
            f"{shown}: {names.printable(top)} is not there or empty; that looks unmounted, and "
            f"nothing is forgotten ({if_it_is_lost(finder, top)}, and forget it then)"
        )
    there, other = _what_is_there(finder, rel)
    roots.require(finder.storage, finder.sentinel)
    if known is None:
        if there:
            raise UsageError(
                f"{shown}: storage has it, though the table does not know it; `dbb-auditor "
                f"{finder.name} --adopt` records it, and then it can be removed"
            )
        connect.write(_drop_memory, site, finder, name)
        return f"{shown}: was never stored; {finder.label} has it in mind no more"
    if there and not remove:
        raise UsageError(
            f"{shown}: storage has it; --remove takes it out of storage as well, for good"
        )

    def record() -> _Before:
        if not there:
            _drop_memory(site, finder, name)
        return _record_forgotten(known.id, shown, why)

    before = connect.write(record)
    if not there:
        stays = f"; {other}, and stays" if other else ""
        return f"{shown}: forgotten; its history stays{stays}"

    def take_away() -> None:
        _remove_stored(known.id, shown, os.path.join(finder.storage, rel), there)
        _drop_memory(site, finder, name)

    try:
        connect.write(take_away)
    except OSError as error:
        trouble = f"cannot be removed: {error.strerror}"
        connect.write(_take_back, known.id, before, f"forgotten no more: {trouble}")
        kind = TryLater if faults.affects_every_file(error) else UsageError
        raise kind(f"{shown}: {trouble}; it is not forgotten") from None
    with suppress(FileNotFoundError):
        place.sync_directory(os.path.dirname(os.path.join(finder.storage, rel)))
    return f"{shown}: forgotten, and removed from storage; its history stays"


def _record_forgotten(number: int, shown: str, why: str) -> _Before:
    # Locked, so that no ingester takes it before it is forgotten.
    before = _Before(*_row(number), [])
    if before.status in (FileStatus.ARRIVING, ""):
        raise NotNow(f"{shown}: a finder has it in hand; try again when its pass is over")
    if before.status == FileStatus.FORGOTTEN:
        return before
    now = connect.now()
    states = _states(number)
    for target, name, status, held in states:
        if held:
            raise NotNow(
                f"{shown}: the ingester of {name} has it in hand; try again when its pass is over"
            )
        if status in _TO_COME:
            IngestState.ignore(target, [number], [status], why)
            before.put_off.append(target)
    # No status of an ingest: it was no attempt, whatever came of the last one.
    noted = [target for target, _, _, _ in states if target not in before.put_off]
    IngestEvent.record(
        [
            (number, target, FileStatus.FORGOTTEN, now, None, "", bulk.clean(why), None, 0)
            for target in noted
        ]
    )
    File.forget([number], why if states else f"{why}, {now:%Y-%m-%d %H:%M} UTC")
    return before


def _remove_stored(number: int, shown: str, path: str, seen: os.stat_result) -> None:
    """Remove a file while no finder can take it up again; twice equals once."""
    if _row(number)[0] != FileStatus.FORGOTTEN:
        raise NotNow(f"{shown}: a finder took it up again; it stays")
    try:
        if not os.path.samestat(os.lstat(path), seen):
            raise NotNow(f"{shown}: is another file by now, and stays")
        os.unlink(path)
    except FileNotFoundError:
        return


def _take_back(number: int, before: _Before, why: str) -> None:
    """Let a file that cannot be removed be what it was, and be offered where it was to be."""
    if _row(number)[0] == FileStatus.FORGOTTEN:
        File.keep(number, before.status, before.error)
        for target in before.put_off:
            IngestState.rerun(target, [number], [IngestStatus.IGNORED], why)


def _row(number: int) -> tuple[str, str | None]:
    """Return status and error of a file, which nobody changes before the transaction ends."""
    sql = f"SELECT status, error FROM file WHERE id = ?{_lock('file')}"
    row = connect.execute(sql, [number]).fetchone()
    return (row[0], row[1]) if row else ("", None)


def _states(number: int) -> list[tuple[int, str, str, bool]]:
    """Return target, its name, the status with it, and whether its ingester has the file in hand.

    A target that is retired has no pass that would ever end what a dead one held.
    """
    rows = connect.execute(
        "SELECT s.target_id, t.name, s.status, t.retired_at, c.expires_at FROM ingest_state s"
        " JOIN target t ON t.id = s.target_id LEFT JOIN ingest_claim c ON c.run_id = s.claim"
        f" WHERE s.file_id = ? ORDER BY s.target_id{_lock('s')}",
        [number],
    ).fetchall()
    now = connect.now()
    return [
        (
            target,
            f"target.{name}",
            status,
            status == IngestStatus.PENDING
            and (retired is None or (expires is not None and bulk.read_moment(expires) > now)),
        )
        for target, name, status, retired, expires in rows
    ]


def _lock(table: str) -> str:
    return f" FOR UPDATE OF {table}" if connect.on_postgresql() else ""


def _drop_memory(site: str, finder: Finder, name: Name) -> None:
    """Let a finder forget a file too, unless it has an original of it to remove yet."""
    left = Remembered.among(site, finder.name, [name]).get(name)
    if left is not None and left.verdict != WhyRemembered.MOVED:
        Remembered.drop(site, finder.name, [name])


def _what_is_there(finder: Finder, rel: str) -> tuple[os.stat_result | None, str]:
    """Return the file of storage that has a name, or what else is there instead."""
    relpath, _ = names.split(rel)
    if names.is_astray(rel):
        return None, "it leads out of storage to what is not ours"
    if rel == finder.sentinel:
        return None, "it is the sentinel of storage"
    try:
        if why := scan.detour(finder.storage, relpath):
            return None, f"{why}, so that what is there is not ours"
        status = os.lstat(os.path.join(finder.storage, rel))
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        later = TryLater if faults.affects_every_file(error) else NotNow
        raise later(f"{names.printable(rel)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        return None, f"{scan.kind(status.st_mode)} is in its place"
    return status, ""
