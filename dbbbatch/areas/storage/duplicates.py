"""Removing from the source what storage has already: proved anew for each file.

The file first gets a hidden name beside its own. If storage's file is gone then, source and storage
were two paths to one file, whatever the system says of them, and it gets its name back. What is to
be removed was recorded before, so that the pass after a kill finds what has its hidden name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial

from dbbbatch.areas.storage.store import StorageArea
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, identity, names, place, temporary
from dbbbatch.files.identity import Version


class NotVerified(Exception):
    """The stored copy was not proved to be there and whole, so the other one stays."""


class SameFile(NotVerified):
    """What was to be removed is the stored file."""


def recover_duplicates(
    area: StorageArea,
    most: int,
    sound: Callable[[Sequence[RememberedFile], str], list[RememberedFile]],
) -> int:
    """Remove what earlier passes had yet to remove; return how many files are dealt with.

    What storage has lost stays, and is looked at as a new file. `sound` leaves out rows that must
    not be followed.
    """
    count = 0
    moved = partial(Remembered.all_with, area.site, area.finder, WhyRemembered.MOVED, most)
    for page in connect.pages(moved, ("", ""), "relpath", "filename"):
        originals = sound(page, "finder_left")
        stuck = [
            error for _, error in remove_duplicates(area, originals) if isinstance(error, OSError)
        ]
        count += len(originals) - len(stuck)
    return count


def remove_duplicates(
    area: StorageArea, originals: Sequence[RememberedFile]
) -> list[tuple[RememberedFile, NotVerified | OSError]]:
    """Remove files that are recorded as MOVED, each after the proof that storage has it.

    Returns
    -------
    stay : `list`
        Those that stay, with the doubt; or, still recorded, with the error.

    Raises
    ------
    TryLater
        The disk is away.
    """
    keys = [(original.relpath, original.filename) for original in originals]
    known = connect.read(File.known, area.storage, keys)
    stay: list[tuple[RememberedFile, NotVerified | OSError]] = []
    dealt_with = []
    for original, key in zip(originals, keys, strict=True):
        try:
            _remove_one(area, original, known.get(key))
        except NotVerified as doubt:
            stay.append((original, doubt))
        except OSError as error:
            stay.append((original, error))
            continue
        dealt_with.append(key)
    connect.write(Remembered.drop, area.site, area.finder, dealt_with)
    return stay


def _remove_one(area: StorageArea, original: RememberedFile, known: FileRow | None) -> None:
    rel = names.rel_of(original)
    source, stored = names.below(area.source, rel), names.below(area.storage, rel)
    # Not by the host or the source's own path, which may be others when it is looked for.
    hidden = temporary.hidden_path(source, "removing", area.owner, rel)
    if not place.is_there(hidden):
        try:
            if Version.of_file(os.lstat(source)) != original[2:5]:
                return  # another file has its name: the next scan finds it
        except (FileNotFoundError, NotADirectoryError):
            return
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if identity.may_be_same_file(source, stored):
                raise SameFile("source and storage lead to the same file")
    # Also where a killed pass had linked the hidden name and not yet unlinked the other one.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        place.place(source, hidden)
    try:
        if not place.is_there(hidden):
            return  # taken away by somebody
        _prove(original, known, hidden, stored)
        os.unlink(hidden)
    except (NotVerified, OSError, TryLater):
        # Another file may have its name by now; then it is that one's next version.
        with contextlib.suppress(FileNotFoundError):
            place.place_versioned(hidden, *os.path.split(source))
        raise


def _prove(original: RememberedFile, known: FileRow | None, hidden: str, stored: str) -> None:
    """Raise `NotVerified` unless storage has what is hidden, as a file of its own."""
    if known is None or known.status != FileStatus.STORED or known.checksum != original.checksum:
        raise NotVerified("the table does not tell of this content as stored")
    try:
        if not stat.S_ISREG(os.lstat(stored).st_mode):
            raise NotVerified("the stored file is no regular file")
        same = checksum.matches(stored, known.checksum)
    except FileNotFoundError:
        raise SameFile("storage has lost it, or leads to this same file") from None
    except OSError as error:
        faults.raise_if_general(error, stored)
        raise NotVerified(f"the stored file cannot be read: {error.strerror}") from None
    if not same:
        raise NotVerified("the stored file does not have the content that the table tells of")
    if Version.of_file(os.lstat(hidden)) != original[2:5]:
        raise NotVerified("it was written to while it was looked at")
