"""Remove files from the source that storage has already, each after a new proof.

intend: each file is remembered as MOVED, with the checksum that it had when it was read.
act: give it a hidden name, prove that storage has the same as a file of its own, remove it.
record: it is no longer remembered, whether it was removed or may not be.
recover: is the file in the source under its own or its hidden name? Then act again.

It is hidden first because source and storage may be two paths to one file, whatever the system
says of them: then storage has lost it, and it gets its name back.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Sequence
from functools import partial

from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, identity, names, place, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry


class NotVerified(Exception):
    """It was not proved that storage has the file, whole: it stays in the source."""


class SameFile(NotVerified):
    """What was to be removed is the stored file."""


def remove_duplicates(
    area: StorageArea, originals: Sequence[RememberedFile]
) -> list[tuple[RememberedFile, NotVerified | OSError]]:
    """Remove files that storage has; return those that stay in the source, and why.

    Raises
    ------
    TryLater
        The disk is away.
    """
    intend(area, originals)
    stay = act(area, originals)
    record(area, originals, stay)
    return stay


def intend(area: StorageArea, originals: Sequence[RememberedFile]) -> None:
    """Record that files are to be removed."""
    connect.write(Remembered.remember, area.site, area.finder, originals)


def act(
    area: StorageArea, originals: Sequence[RememberedFile]
) -> list[tuple[RememberedFile, NotVerified | OSError]]:
    """Remove files, each after the proof; return those that stay, and why."""
    names_there = [(original.relpath, original.filename) for original in originals]
    known = connect.read(File.known, area.section.storage, names_there)
    stay: list[tuple[RememberedFile, NotVerified | OSError]] = []
    for original, name in zip(originals, names_there, strict=True):
        try:
            _remove_one(area, original, known.get(name))
        except (NotVerified, OSError) as error:
            stay.append((original, error))
    return stay


def record(
    area: StorageArea,
    originals: Sequence[RememberedFile],
    stay: Sequence[tuple[RememberedFile, NotVerified | OSError]],
) -> None:
    """Record that nothing is left to do, except where an error of the disk prevented it."""
    stuck = {original for original, error in stay if isinstance(error, OSError)}
    done = [(each.relpath, each.filename) for each in originals if each not in stuck]
    connect.write(Remembered.drop, area.site, area.finder, done)


def recover(
    area: StorageArea,
    most: int,
    sound: Callable[[Sequence[RememberedFile], str], list[RememberedFile]],
) -> int:
    """Remove what earlier passes had yet to remove; return how many files that concludes.

    What storage has lost stays, and the scan finds it as a new file. `sound` leaves out rows that
    must not be followed.
    """
    count = 0
    moved = partial(Remembered.all_with, area.site, area.finder, WhyRemembered.MOVED, most)
    for page in connect.pages(moved, ("", ""), "relpath", "filename"):
        area.forget()
        originals = sound(page, "finder_left")
        stay = act(area, originals)
        record(area, originals, stay)
        count += len(originals) - sum(isinstance(error, OSError) for _, error in stay)
    return count


def remove_original(area: StorageArea, original: RememberedFile) -> None:
    """Remove a file of which storage has just got a copy, without another proof.

    As `act`, it is hidden first: another file that has its name by then goes back to it.

    Raises
    ------
    FileNotFoundError
        It has just gone.
    OSError
        It cannot be removed now; `recover` tries again, also where it is hidden.
    """
    source = area.source.entry(names.rel_of(original))
    status = source.certain_status()
    if status is not None and Version.of_file(status) == Version.of_row(original):
        with contextlib.suppress(checksum.Changed):
            place.remove_same(source, status, _hidden_beside(area, source))


def _hidden_beside(area: StorageArea, source: Entry) -> Entry:
    """Return the name that a file has while it is removed."""
    # Not made from the host or the source's path, which may be others when it is looked for.
    return source.beside(temporary.hidden_path("", "removing", area.owner, source.rel))


def _remove_one(area: StorageArea, original: RememberedFile, known: FileRow | None) -> None:
    rel = names.rel_of(original)
    source, stored = area.source.entry(rel), area.storage.entry(rel)
    hidden = _hidden_beside(area, source)
    if hidden.certain_status() is None:
        status = source.certain_status()
        if status is None or Version.of_file(status) != Version.of_row(original):
            return  # it is gone, or another file has its name: the next scan finds that
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if identity.may_be_same_file(source, stored):
                raise SameFile("source and storage lead to the same file")
    # Also where a killed pass had linked the hidden name and not yet unlinked the other one.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        place.place(source, hidden)
    try:
        if hidden.certain_status() is None:
            return  # somebody took it away
        _prove(original, known, hidden, stored)
        hidden.unlink()
    except (NotVerified, OSError, TryLater):
        # Another file may have its name by now; then this becomes that one's next version.
        with contextlib.suppress(FileNotFoundError):
            place.place_versioned(hidden, source)
        raise


def _prove(original: RememberedFile, known: FileRow | None, hidden: Entry, stored: Entry) -> None:
    """Raise `NotVerified` unless storage has what is hidden, as a file of its own."""
    if known is None or known.status != FileStatus.STORED or known.checksum != original.checksum:
        raise NotVerified("the table does not tell of this content as stored")
    try:
        if not stat.S_ISREG(stored.lstat().st_mode):
            raise NotVerified("the stored file is no regular file")
        same = checksum.matches(stored, known.checksum)
    except FileNotFoundError:
        raise SameFile("storage has lost it, or leads to this same file") from None
    except OSError as error:
        faults.raise_if_general(error, stored.path)
        raise NotVerified(f"the stored file cannot be read: {error.strerror}") from None
    if not same:
        raise NotVerified("the stored file does not have the content that the table tells of")
    if Version.of_file(hidden.lstat()) != Version.of_row(original):
        raise NotVerified("it was written to while it was looked at")
