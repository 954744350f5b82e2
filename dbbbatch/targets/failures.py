"""What an exception is about: one file, storage, or the disk of a target; and its causes.

The code of a target may have wrapped it, once or several times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from dbbbatch.files import checksum, faults, names
from dbbbatch.files.tree import outside
from dbbbatch.targets.plugin import NotReady, StoredFile


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, outermost first."""
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        yield at
        seen.add(id(at))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def disk_away(error: BaseException) -> bool:
    """Return whether an error came from a disk that is unavailable, failing or full.

    An `OSError` without a number, as cfitsio and astropy raise, is about the file.
    """
    return any(
        isinstance(one, OSError) and faults.affects_every_file(one, writing=True)
        for one in chain(error)
    )


def require_storage(file: StoredFile, error: OSError) -> None:
    """Raise unless an error of looking at a file of storage, or of reading it, is that file's own.

    Raises
    ------
    NotReady
        The error affects every file, or storage itself cannot be looked into now.
    """
    root = file.path.removesuffix(f"/{names.join(file.relpath, file.filename)}")
    try:
        if faults.affects_every_file(error):
            raise error
        os.stat(f"{root}/.")
    except OSError as general:
        raise NotReady(str(faults.of_the_machine(general, root))) from general


def is_unreadable(file: StoredFile) -> bool:
    """Return whether a file of storage cannot be read to its end, which is then its own fault.

    Raises
    ------
    NotReady
        No file of storage can be read now.
    """
    try:
        checksum.compute(outside(file.path))
    except OSError as error:
        require_storage(file, error)
        return True
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without what SQLAlchemy adds to it."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
