"""Taking files out of the truth about storage because a person decided so."""

from __future__ import annotations

import os
import stat

from dbbbatch.config import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.status import Status
from dbbbatch.database.models.storage import File, FileStatus, Known
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import faults, names, place, rsync_log
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
        Remove the file from storage as well; else storage must not have it any more.
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
        Storage is away, or an ingester has the file in hand.
    """
    if away := faults.away(finder.storage, finder.sentinel):
        raise TryLater(away)
    shown = names.printable(rel)
    path = os.path.join(finder.storage, rel)
    if not rsync_log.inside(finder.storage, rel) or rel == finder.sentinel:
        raise UsageError(f"{shown}: a path relative to {finder.storage} is wanted")
    name = name_of(rel)
    known = connect.look(lambda: File.known(finder.storage, [name])).get(name)
    if known is None:
        return _forget_what_was_awaited(site, finder, name, shown)
    there = _is_there(path)
    if there and not remove:
        raise UsageError(
            f"{shown}: storage has it; --remove takes it out of storage as well, for good"
        )
    connect.transact(lambda: _record(finder.storage, known, why))
    if not there:
        return f"{shown}: forgotten; its history stays"
    os.unlink(path)
    place.sync_directory(os.path.dirname(path))
    return f"{shown}: forgotten, and removed from storage; its history stays"


def _record(storage: str, known: Known, why: str) -> None:
    if known.status == FileStatus.ARRIVING:
        raise TryLater("a finder has it in hand; try again when its pass is over")
    rows = connect.execute(
        "SELECT target_id, status FROM ingest_state WHERE file_id = ?", [known.id]
    ).fetchall()
    for target, status in rows:
        if status == Status.PENDING:
            raise TryLater("an ingester has it in hand; try again when its pass is over")
        if status in _TO_COME:
            IngestState.ignore(target, [known.id], [status], why)
    File.forget([known.id], why)


def _forget_what_was_awaited(site: str, finder: Finder, name: tuple[str, str], shown: str) -> str:
    if not connect.look(lambda: FinderLeft.among(site, finder.name, [name])):
        raise UsageError(f"{shown}: the table knows no such file in {finder.storage}")
    connect.transact(lambda: FinderLeft.drop(site, finder.name, [name]))
    return f"{shown}: was never stored; {finder.label} has it in mind no more"


def _is_there(path: str) -> bool:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{names.printable(path)}: is a directory")
    return True
