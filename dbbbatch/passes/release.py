"""What a person sees of a quarantine: the reason beside a file, and the way back."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from dbbbatch.config import Handoff, Section
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import UsageError
from dbbbatch.files import names, place
from dbbbatch.passes.quarantine import Quarantining

#: Added to the name of a quarantined file: the text file that says why it is there.
REASON = ".reason"


class Explained(Quarantining):
    """A quarantine in which the reason stands beside each file."""

    def _record(self, done: list[Quarantine], stayed: list[Quarantine]) -> None:
        for row in done:
            # Not worth a failure: the table has the reason too, and some names are too long.
            with suppress(OSError):
                place.write_new(_reason(row), f"{row.reason}\n")
        super()._record(done, stayed)


def is_reason(path: str) -> bool:
    """Tell whether a file of a quarantine is the reason of another one."""
    return path.endswith(REASON) and os.path.lexists(path.removesuffix(REASON))


def reason_beside(path: str) -> str:
    """Return what stands beside a file of a quarantine as its reason; '' if nothing does."""
    try:
        with open(path + REASON, encoding="utf-8", errors="replace") as file:
            return file.read(2000).strip()
    except OSError:
        return ""


def source_of(section: Section) -> str:
    """Give the directory that the files of a quarantine came from.

    Raises
    ------
    UsageError
        The section has no quarantine.
    """
    source = getattr(section, "buffer", None) or getattr(section, "source", None)
    if source is None:
        raise UsageError(f"{section.label} moves no files aside")
    return str(source)


def release(section: Section, row: Quarantine, new_name: str = "") -> str:
    """Move a file back to where it came from, so that the next pass takes it again.

    Parameters
    ----------
    section : `Section`
        Whose file it is.
    row : `Quarantine`
        Which file.
    new_name : `str`
        The name under which it is accepted as a new file: in the same
        directory, or a relative path. Its own by default.

    Returns
    -------
    path : `str`
        Where it is now.

    Raises
    ------
    UsageError
        Its place is taken, its new name is of no use, or it is no longer in quarantine.
    """
    rel = _target(row, new_name)
    source = source_of(section)
    path = os.path.join(source, rel)
    aside = names.from_text(row.path)
    shown = names.printable(path)
    connect.transact(lambda: row.releasing(names.to_text(path)))
    try:
        if os.path.lexists(aside):
            place.make_directories(source, os.path.dirname(rel))
            _move(aside, path)
            place.sync_directory(os.path.dirname(path))
        elif not _is_back(path, row):
            raise UsageError(f"{names.printable(aside)}: is no longer there")
    except FileExistsError:
        raise UsageError(f"{shown}: another file has this name; move it away first") from None
    except OSError as error:
        raise UsageError(f"{shown}: cannot be put back: {error.strerror}") from None
    place.remove_if_there(_reason(row))

    def write() -> None:
        row.released(connect.now())
        if isinstance(section, Handoff) and not new_name:
            HandoffFile.released(row)

    connect.transact(write)
    return path


def _target(row: Quarantine, new_name: str) -> str:
    relpath = names.from_text(row.relpath)
    if not new_name:
        return names.join(relpath, names.from_text(row.filename))
    parts = new_name.split("/")
    if {"", ".", ".."} & set(parts):
        raise UsageError(f"{new_name}: a name, or a relative path, is wanted")
    if parts[-1].startswith(place.TEMPORARY_PREFIX):
        raise UsageError(f"{new_name}: the names of unfinished copies begin so")
    return new_name if "/" in new_name else names.join(relpath, new_name)


def _move(aside: str, path: str) -> None:
    try:
        place.place(aside, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        place.copy_into(aside, path, owner="release")
        place.sync_directory(os.path.dirname(path))
        os.unlink(aside)


def _is_back(path: str, row: Quarantine) -> bool:
    """Tell whether an earlier release was cut off after it had moved the file."""
    with suppress(OSError):
        status = os.lstat(path)
        return (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.mtime_ns)
    return False


def _reason(row: Quarantine) -> str:
    return names.from_text(row.path) + REASON
