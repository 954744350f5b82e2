"""What a person sees of a quarantine: the reason beside a file, and the way back."""

from __future__ import annotations

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
            with suppress(OSError), open(_reason(row), "x", encoding="utf-8") as file:
                file.write(f"{row.reason}\n")
        super()._record(done, stayed)


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


def release(section: Section, row: Quarantine) -> str:
    """Move a file back to where it came from, so that the next pass takes it again.

    Returns
    -------
    path : `str`
        Where it is now.

    Raises
    ------
    UsageError
        Its place is taken, or it is no longer in quarantine.
    """
    relpath, filename = names.from_text(row.relpath), names.from_text(row.filename)
    source = source_of(section)
    path = os.path.join(source, names.join(relpath, filename))
    aside = names.from_text(row.path)
    shown = names.printable(path)
    connect.transact(lambda: row.releasing(names.to_text(path)))
    try:
        if os.path.lexists(aside):
            place.make_directories(source, relpath)
            place.place(aside, path)
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
        if isinstance(section, Handoff):
            HandoffFile.released(row)

    connect.transact(write)
    return path


def _is_back(path: str, row: Quarantine) -> bool:
    """Tell whether an earlier release was cut off after it had moved the file."""
    with suppress(OSError):
        status = os.lstat(path)
        return (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.mtime_ns)
    return False


def _reason(row: Quarantine) -> str:
    return names.from_text(row.path) + REASON
