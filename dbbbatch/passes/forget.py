"""Taking files out of the truth about storage because a person decided so."""

from __future__ import annotations

import os
import stat

from dbbbatch.config import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.status import Status
from dbbbatch.database.models.storage import File, FileStatus
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import faults, names, place, scan
from dbbbatch.passes.finder.work import name_of

#: An ingest that is to come, or to be tried again, comes no more.
_TO_COME = (Status.UNTRIED, Status.RERUN, Status.FAILURE, Status.UNKNOWN, Status.BACKFILL)


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
        The table does not know it, or storage has it.
    TryLater
        Storage is away, or an ingester or a finder has the file in hand.
    """
    if away := faults.away(finder.storage, finder.sentinel):
        raise TryLater(away)
    shown = names.printable(rel)
    name = name_of(rel)
    known = connect.look(lambda: File.known(finder.storage, [name])).get(name)
    if known is None:
        return _forget_what_was_awaited(site, finder, name, shown)
    there, other = _what_is_there(finder, rel)
    if there and not remove:
        raise UsageError(
            f"{shown}: storage has it; --remove takes it out of storage as well, for good"
        )
    connect.transact(lambda: _record(known.id, why))
    if not there:
        stays = f"; {other}, and stays" if other else ""
        return f"{shown}: forgotten; its history stays{stays}"
    path = os.path.join(finder.storage, rel)
    connect.transact(lambda: _remove(known.id, path, there))
    place.sync_directory(os.path.dirname(path))
    return f"{shown}: forgotten, and removed from storage; its history stays"


def _record(number: int, why: str) -> None:
    # Locked, so that no ingester takes it before it is forgotten.
    if _status(number) in (FileStatus.ARRIVING, None):
        raise TryLater("a finder has it in hand; try again when its pass is over")
    rows = connect.execute(
        f"SELECT target_id, status FROM ingest_state WHERE file_id = ?{_lock()}", [number]
    ).fetchall()
    for target, status in rows:
        if status == Status.PENDING:
            raise TryLater("an ingester has it in hand; try again when its pass is over")
        if status in _TO_COME:
            IngestState.ignore(target, [number], [status], why)
    File.forget([number], why)


def _remove(number: int, path: str, seen: os.stat_result) -> None:
    """Remove a file while no finder can take it up again; twice equals once."""
    if _status(number) != FileStatus.FORGOTTEN:
        raise TryLater("a finder took it up again; it stays")
    try:
        if not os.path.samestat(os.lstat(path), seen):
            raise TryLater(f"{names.printable(path)}: is another file by now, and stays")
        os.unlink(path)
    except FileNotFoundError:
        return


def _status(number: int) -> str | None:
    """Return the status of a file, which nobody changes before the transaction ends."""
    row = connect.execute(f"SELECT status FROM file WHERE id = ?{_lock()}", [number]).fetchone()
    return row[0] if row else None


def _lock() -> str:
    return " FOR UPDATE" if connect.on_postgresql() else ""


def _forget_what_was_awaited(site: str, finder: Finder, name: tuple[str, str], shown: str) -> str:
    if not connect.look(lambda: FinderLeft.among(site, finder.name, [name])):
        raise UsageError(f"{shown}: the table knows no such file in {finder.storage}")
    connect.transact(lambda: FinderLeft.drop(site, finder.name, [name]))
    return f"{shown}: was never stored; {finder.label} has it in mind no more"


def _what_is_there(finder: Finder, rel: str) -> tuple[os.stat_result | None, str]:
    """Return the file of storage that has a name, or what else is there instead."""
    relpath, _ = names.split(rel)
    if rel.startswith("/") or ".." in rel.split("/"):
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
        raise TryLater(f"{names.printable(rel)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        return None, f"{scan.kind(status.st_mode)} is in its place"
    return status, ""
