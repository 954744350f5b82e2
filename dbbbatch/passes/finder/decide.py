"""What to do with a file whose path the table knows already: decided without a disk."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from dbbbatch.database.models.file import FileRow
from dbbbatch.database.models.statuses import FileStatus


class Fate(Enum):
    """What becomes of a file in a finder's source."""

    #: New: store it.
    ARRIVES = "arrives"
    #: Known, but storage has it no more: store it again.
    RETURNS = "returns"
    #: Stored already, the same: the alternative action.
    DUPLICATE = "duplicate"
    #: Must not be stored under this name: quarantine it, with the reason.
    CONFLICT = "conflict"
    #: Storage has a file of this name, and the table not, or not there: compare the two.
    ORPHAN = "orphan"
    #: Another finder is storing a file of this name: look again in the next pass.
    BUSY = "busy"
    #: Source and storage lead to this one file: it is never moved or removed.
    ITSELF = "itself"


class Decision(NamedTuple):
    """A verdict, and for a conflict its reason."""

    verdict: Fate
    reason: str = ""


def decide(known: FileRow | None, same: bool, size_there: int | None) -> Decision:
    """Decide what becomes of a file.

    Parameters
    ----------
    known : `FileRow` or `None`
        What the table says about its path.
    same : `bool`
        Whether size and checksum are those of the table.
    size_there : `int` or `None`
        Size of the file that storage has at this path; `None` if it has none.
    """
    if known is None or known.status == FileStatus.FORGOTTEN:
        if size_there is not None:
            return Decision(Fate.ORPHAN)
        return Decision(Fate.RETURNS if known else Fate.ARRIVES)
    if known.status == FileStatus.ARRIVING:
        return Decision(Fate.BUSY)
    if known.status == FileStatus.QUARANTINED:
        return _conflict("a file of this name was taken out of storage; ask `dbb history`")
    if not same:
        verb = "holds" if size_there is not None else "has lost, but held"
        return _conflict(f"storage {verb} other content under this name")
    if known.status == FileStatus.CORRUPT:
        return _conflict("the stored file is corrupt; this one has the content it should have")
    if size_there is None:
        return Decision(Fate.RETURNS)
    if size_there != known.size_bytes:
        return _conflict(
            f"the stored file has {size_there} bytes instead of {known.size_bytes}; this one has "
            "the content it should have"
        )
    if known.status == FileStatus.MISSING:
        return Decision(Fate.ORPHAN)
    return Decision(Fate.DUPLICATE)


def _conflict(reason: str) -> Decision:
    return Decision(Fate.CONFLICT, reason)
