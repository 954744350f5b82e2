"""The near end of a handoff: the files of its buffer, and the originals in its holding area.

What a name led to when it was looked at need not be what it leads to when it is used: others write
to a buffer. So a file is hashed and moved by the descriptor of its directory, and what was taken is
compared with its row before that is believed.

Only the disk is touched here; `dbbbatch.passes.handoff.holding` keeps the records of what is moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from dbbbatch.areas.endpoint.batch import FileFate, Prepared, SendStatus
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.errors import Interrupted, TryLater, key_of_missing
from dbbbatch.files import checksum, faults, mounts, names, place
from dbbbatch.files.identity import Version, inode_of
from dbbbatch.files.parallel import map_in_order, useful_threads
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree

#: Why a version is no longer there whose file was written to, or replaced: a later one is there.
REPLACED = "replaced in the buffer by another version"

_GONE = "no longer in the buffer"

_NO_DIRECTORY = "is no directory, or is reached through a symbolic link"

#: Threads that hash: until the first batch is hashed there is nothing else to do.
_JOBS = 2

#: The most digits of N in a version's name NAME.~N~.
_VERSION_DIGITS = 7

#: How many names of earlier copies are looked for, at most.
_MOST_VERSIONS = 1000


def require_areas(section: Handoff, roots: Roots) -> None:
    """Raise unless the buffer, the holding area and the quarantine are mounted.

    How full they are does not matter: moving files on one file system needs no room, and is what
    makes room on a full one.

    Raises
    ------
    TryLater
        One is missing, or on another file system than the buffer: not mounted.
    """
    for key in ("buffer", "holding", "quarantine"):
        path = getattr(section, key)
        if why := mounts.why_absent(path, f"{path} ({key}) is not there"):
            raise TryLater(why, key=key_of_missing(path))
        if not mounts.same_file_system(section.buffer, path):
            raise TryLater(
                f"{section.buffer} (buffer) and {path} ({key}) are on different file systems; is "
                "one of them not mounted?"
            )
        roots.require(path)


def remove_sent_directories(site: str, section: Handoff) -> int:
    """Remove old empty directories of the buffer from which files were sent; return how many.

    One that never held a file may have been made for files that are still to come.
    """

    def may_go(rel: str) -> bool:
        if any(pattern.search(rel) for pattern in section.keep_directories):
            return False
        return connect.read(HandoffFile.was_in, site, section.name, names.to_text(rel))

    return place.remove_empty_directories(section.buffer, section.expiration, may_go=may_go)


def entry_of(tree: Tree, row: HandoffRow) -> Entry:
    """Return the file of a row in a buffer, or under the same name in a holding area."""
    return tree.entry(names.rel_of(row))


def why_gone(file: Entry, row: HandoffRow) -> str:
    """Return why a file is no longer the version that a row records, or nothing if it is.

    What lies behind a link belongs to another tree, as it does for the scan.

    Raises
    ------
    OSError
        It cannot be looked at.
    """
    return _why_gone(file, file.status(), row)


def _why_gone(file: Entry, status: os.stat_result | None, row: HandoffRow) -> str:
    if status is not None:
        return "" if Version.of_file(status) == Version.of_row(row) else REPLACED
    with contextlib.suppress(FileNotFoundError):
        try:
            file.where()
        except NotADirectoryError:
            where = names.printable(file.relpath)
            return f"{_GONE}: {where} {_NO_DIRECTORY}"
    return _GONE


def _found_as(file: Entry, row: HandoffRow) -> HandoffRow | str | NotADirectoryError:
    """Return a row with the inode of its file, why that is gone, or why that is not certain."""
    try:
        if (status := file.certain_status()) is None:
            return _GONE
        if Version.of_file(status) == Version.of_row(row):
            return row
        return with_new_inode(file, row) or REPLACED
    except NotADirectoryError as error:
        error.strerror = f"{names.printable(os.path.dirname(file.path))} {_NO_DIRECTORY}"
        return error


def with_new_inode(file: Entry, row: HandoffRow) -> HandoffRow | None:
    """Return a row with the inode that its file has now, or nothing if more of it has changed.

    Some file systems (FUSE, FAT, CIFS) number files anew after a remount.

    Raises
    ------
    OSError
        It cannot be looked at; `NotADirectoryError`: its directory is a link by now.
    """
    algorithm, digest = _checksum_of(row)
    try:
        if not algorithm or not Version.of_file(file.lstat()).is_like(Version.of_row(row)):
            return None
        status, sums = checksum.read_file(file, [algorithm])
    except (FileNotFoundError, checksum.Changed, checksum.NotRegular):
        return None
    found = Version.of_file(status)
    if sums[algorithm] != digest or not found.is_like(Version.of_row(row)):
        return None
    return row._replace(inode=found.inode)


def open_version(file: Entry, row: HandoffRow) -> int:
    """Return a descriptor of the version that a row records, which its writer has closed.

    Raises
    ------
    checksum.Changed
        It is another version by now, or somebody has it open for writing.
    OSError
        It cannot be opened.
    """
    descriptor = checksum.open_closed(file)
    try:
        _require_version(descriptor, file, row)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_version(descriptor: int, file: Entry, row: HandoffRow) -> None:
    if Version.of_file(os.fstat(descriptor)) != Version.of_row(row):
        raise checksum.Changed(errno.EAGAIN, REPLACED, file.path)


def prepare_files(
    section: Handoff, tree: Tree, rows: Sequence[HandoffRow], *, read: bool
) -> Iterator[Prepared | FileFate | None]:
    """Yield what can be said of files before they are sent, in their order.

    Parameters
    ----------
    section : `Handoff`
    tree : `Tree`
        The buffer.
    rows : `~collections.abc.Sequence` [ `HandoffRow` ]
        The files.
    read : `bool`
        Hash each file unless that was done for this very version.

    Yields
    ------
    found : `Prepared`, `FileFate` or `None`
        Ready to be sent; or VANISHED or UNREADABLE; or not ready now: the next scan finds it again.

    Raises
    ------
    TryLater
        The disk, not these files, is at fault.
    """
    tree.forget()
    look = partial(_prepare, section.checksum, tree, read)
    yield from map_in_order(look, rows, useful_threads(rows, _JOBS) if read else 1)


def _prepare(wanted: str, tree: Tree, read: bool, row: HandoffRow) -> Prepared | FileFate | None:
    file = entry_of(tree, row)
    try:
        status = file.status()
        if what := _why_gone(file, status, row):
            again = with_new_inode(file, row) if what == REPLACED else None
            if again is None:
                return FileFate(SendStatus.VANISHED, what)
            row = again
        algorithm, digest = _checksum_of(row)
        item = Prepared(row, file.rel, digest if algorithm == wanted else "", status)
        if read and not item.digest:
            item.learn(wanted, _digest_read(file, row, wanted))
        return item
    except Interrupted:
        return None
    except OSError as error:
        return fate_of_unreadable(file, error)


def fate_of_unreadable(file: Entry, error: OSError) -> FileFate | None:
    """Return what an error makes of a file that was read; nothing if the next scan finds it again.

    Raises
    ------
    TryLater
        The disk, not this file, is at fault.
    """
    if isinstance(error, checksum.Changed):
        return None
    if isinstance(error, FileNotFoundError):
        return FileFate(SendStatus.VANISHED, _GONE)
    faults.raise_if_general(error, file.path)
    try:
        file.lstat()
    except OSError:
        return None  # the fault of its directory, which the scan reports
    return FileFate(SendStatus.UNREADABLE, f"cannot be read: {error.strerror}")


def _digest_read(file: Entry, row: HandoffRow, algorithm: str) -> str:
    """Return the checksum of the version that a row records, if its name led to it all the time."""
    descriptor = open_version(file, row)
    try:
        with faults.naming(file):
            digest = checksum.stream(descriptor, [algorithm])[algorithm]
        _require_version(descriptor, file, row)
    finally:
        os.close(descriptor)
    if what := why_gone(file, row):
        raise checksum.Changed(errno.EAGAIN, what, file.path)
    return digest


@dataclass
class Holding:
    """What came of originals that were to be moved to the holding area.

    Attributes
    ----------
    held : `list` [ `tuple` [ `HandoffRow`, `str` ] ]
        Those that are there: the row with its inode there, and the name.
    gone : `dict` [ `int`, `str` ]
        Those that are in neither place, by the id of their row, with the reason.
    strays : `list` [ `tuple` [ `HandoffRow`, `str`, `os.stat_result` ] ]
        Files there with the names of those that are gone, or of versions of them. They may have
        been moved instead of an original.
    stuck : `list` [ `tuple` [ `HandoffRow`, `OSError` ] ]
        Those that could not be moved.
    """

    held: list[tuple[HandoffRow, str]] = field(default_factory=list)
    gone: dict[int, str] = field(default_factory=dict)
    strays: list[tuple[HandoffRow, str, os.stat_result]] = field(default_factory=list)
    stuck: list[tuple[HandoffRow, OSError]] = field(default_factory=list)


def hold(tree: Tree, holding: Tree, rows: Sequence[HandoffRow]) -> Holding:
    """Move delivered originals from a buffer to its holding area, under free names, durably.

    One whose directory is a link is not gone for certain, and is stuck.
    """
    tree.forget()
    holding.forget()
    result = Holding()
    absent: dict[str, list[tuple[HandoffRow, str | NotADirectoryError]]] = {}
    relpaths: set[str] = set()
    for row in rows:
        file = entry_of(tree, row)
        try:
            original = _found_as(file, row)
            if not isinstance(original, HandoffRow):
                absent.setdefault(file.relpath, []).append((row, original))
                continue
            if file.relpath not in relpaths:
                place.make_directories(holding, file.relpath)
            there = entry_of(holding, row)
            there = there.beside(place.place_versioned(file, there))
            again = _found_as(there, original)
            if isinstance(again, OSError):
                raise again
            if isinstance(again, str):
                # A writer was faster than the rename: what was moved is the next version.
                put_back(there, file)
                result.gone[row.id] = "delivered, but replaced by another version"
                continue
            relpaths.add(file.relpath)
            result.held.append((again, there.name))
        except OSError as error:
            result.stuck.append((row, error))
    for relpath, some in absent.items():
        try:
            if _find_moved(holding, relpath, some, result):
                relpaths.add(relpath)
        except OSError as error:
            result.stuck += [(row, error) for row, _ in some]
    for relpath in relpaths:
        try:
            holding.sync([relpath])
        except OSError as error:
            # The next pass looks at them once more.
            here = [row for row, _ in result.held if names.from_text(row.relpath) == relpath]
            result.stuck += [(row, error) for row in here]
            result.held = [(row, name) for row, name in result.held if row not in here]
    return result


def _find_moved(
    holding: Tree,
    relpath: str,
    absent: Sequence[tuple[HandoffRow, str | NotADirectoryError]],
    result: Holding,
) -> bool:
    """Find where a pass that was killed put originals, or others instead; return whether it did.

    The directory is read once, however many files of it are missing. What is not found, and is not
    gone for certain, is stuck.
    """
    inodes = {row.inode for row, _ in absent}
    bases = {base: row for row, _ in absent for base in _bases(names.from_text(row.filename))}
    same: dict[int, list[str]] = {}
    alike: list[tuple[HandoffRow, str]] = []
    for name, inode in _inodes(holding, relpath):
        if inode in inodes:
            same.setdefault(inode, []).append(name)
        if row := bases.get(name) or bases.get(place.without_version(name)):
            alike.append((row, name))
    before = len(result.held)
    lost = {}
    for row, what in absent:
        if name := _name_among(holding, relpath, row, same.get(row.inode, ())):
            result.held.append((row, name))
        elif isinstance(what, OSError):
            result.stuck.append((row, what))
        else:
            lost[row.id] = f"delivered, but {what}"
    for row, name in alike:
        if row.id in lost:
            status = Entry(holding, relpath, name).lstat()
            if stat.S_ISREG(status.st_mode):
                result.strays.append((row, name, status))
    result.gone.update(lost)
    return len(result.held) > before


def find_held(holding: Tree, row: HandoffRow) -> str:
    """Return under which name a holding area has the very version of a row; '' if it has not."""
    relpath = names.from_text(row.relpath)
    same = [name for name, inode in _inodes(holding, relpath) if inode == row.inode]
    return _name_among(holding, relpath, row, same)


def _name_among(holding: Tree, relpath: str, row: HandoffRow, same: Iterable[str]) -> str:
    """Return which of some names, all of the inode of a row, a file of that row has."""
    own = set(_bases(names.from_text(row.filename)))
    for name in same:
        # A file may have several names, of which each has a row and was moved as itself.
        if own.isdisjoint((name, place.without_version(name))):
            continue
        if not why_gone(Entry(holding, relpath, name), row):
            return name
    return ""


def earlier_names(row: HandoffRow, name: str) -> list[str]:
    """Return the names that earlier copies of a held original may have, beside its own.

    There are none unless a version of it was held before, or its name was taken.
    """
    filename = names.from_text(row.filename)
    found = [filename, names.from_text(row.held_as)] if row.held_as else [filename]
    for number in range(1, _MOST_VERSIONS):
        if name == filename or name == (version := place.versioned(filename, number)):
            break
        found.append(version)
    return [each for each in dict.fromkeys(found) if each != name]


def remove_copies(
    stays: Entry,
    row: HandoffRow,
    copies: Sequence[str],
    others: Container[tuple[str | None, int, int]],
) -> str:
    """Remove earlier copies of an original from holding; return its name there afterwards.

    That is its own name, if a copy had it.

    Parameters
    ----------
    stays : `Entry`
        The copy that stays; it is made durable first.
    row : `HandoffRow`
        What it is.
    copies : `~collections.abc.Sequence` [ `str` ]
        Names of which some may have the same content.
    others : `~collections.abc.Container` [ `tuple` [ `str` or `None`, `int`, `int` ] ]
        What other rows have in holding: name as in the table, size and time. Those on their way
        there have no name.

    Raises
    ------
    OSError
        One cannot be read or removed. Those that are not removed stay.
    """
    algorithm, digest = _checksum_of(row)
    filename = names.from_text(row.filename)
    is_free = False
    for each in copies if algorithm else ():
        copy = stays.beside(each)
        try:
            status = copy.lstat()
        except FileNotFoundError:
            continue
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_size != row.size_bytes
            or inode_of(status.st_ino) == row.inode
            or any(
                (owner, *Version.of_file(status)[:2]) in others
                for owner in (names.to_text(each), None)
            )
        ):
            continue
        if checksum.read_file(copy, [algorithm])[1][algorithm] == digest:
            place.sync_file(stays)
            stays.tree.sync([stays.relpath])
            copy.unlink()
            is_free |= each == filename
    if is_free:
        with contextlib.suppress(OSError):
            own = stays.beside(filename)
            stays.move_to(own)
            stays = own
            stays.tree.sync([stays.relpath])
    return stays.name


def put_back(held: Entry, file: Entry) -> None:
    """Move a file that was not delivered from the holding area back to the buffer, durably.

    Raises
    ------
    OSError
        It cannot be moved.
    """
    place.make_directories(file.tree, file.relpath)
    place.place_versioned(held, file)
    for each in (file, held):
        each.tree.sync([each.relpath])


def _inodes(tree: Tree, relpath: str) -> Iterator[tuple[str, int]]:
    """Yield the names and inodes of a directory, which may be missing."""
    try:
        for entry in tree.scan(relpath):
            yield entry.name, inode_of(entry.inode())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if not tree.has_no_files(relpath):
            raise


def _bases(filename: str) -> Iterable[str]:
    """Return what the versions of a name begin with: the name, or what is left of a long one."""
    found = {filename}
    for digits in range(_VERSION_DIGITS):
        suffix = place.versioned("", 10**digits)
        found.add(place.versioned(filename, 10**digits).removesuffix(suffix))
    return found


def _checksum_of(row: HandoffRow) -> tuple[str, str]:
    """Return algorithm and digest of a row; two empty texts if it has none that is known."""
    with contextlib.suppress(ValueError):
        return checksum.parse(row.checksum or "")
    return "", ""
