"""The near end of a handoff: the files of its buffer, and the originals in its holding area.

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
from dbbbatch.files import checksum, faults, mounts, names, place, scan
from dbbbatch.files.identity import Version, inode_of, status_of
from dbbbatch.files.parallel import map_in_order, useful_threads
from dbbbatch.files.roots import Roots

#: Why a version is no longer there whose file was written to, or replaced: a later one is there.
REPLACED = "replaced in the buffer by another version"

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
        if not os.path.isdir(path):
            raise TryLater(f"{path} ({key}) is not there; is it mounted?", key=key_of_missing(path))
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


def path_of(section: Handoff, row: HandoffRow) -> tuple[str, str]:
    """Return the relative and the absolute path of a file of the buffer."""
    rel = names.rel_of(row)
    return rel, names.below(section.buffer, rel)


def why_gone(root: str, row: HandoffRow, rel: str) -> str:
    """Return why a path is no longer the version that a row records, or nothing if it is."""
    if (status := status_of(os.path.join(root, rel))) is None:
        return "no longer in the buffer"
    if Version.of_file(status) != Version.of_row(row):
        return REPLACED
    return ""


def with_new_inode(root: str, row: HandoffRow, rel: str) -> HandoffRow | None:
    """Return a row with the inode that its file has now, or nothing if more of it has changed.

    Some file systems (FUSE, FAT, CIFS) number files anew after a remount.
    """
    path, stored = os.path.join(root, rel), row.checksum or ""
    try:
        found = Version.of_file(os.lstat(path))
        if not found.is_like(Version.of_row(row)) or not checksum.matches(path, stored):
            return None
    except (
        ValueError,
        FileNotFoundError,
        NotADirectoryError,
        checksum.Changed,
        checksum.NotRegular,
    ):
        return None
    return row._replace(inode=found.inode)


class Buffer:
    """One look at files of a buffer, and at each of their directories only once."""

    def __init__(self, section: Handoff) -> None:
        self._root = section.buffer
        self._detours: dict[str, str] = {}

    def why_gone(self, row: HandoffRow, rel: str) -> str:
        """Return why a file is no longer in the buffer as this version, or nothing if it is.

        What lies behind a link belongs to another tree, as it does for the scan.

        Raises
        ------
        OSError
            It cannot be looked at.
        """
        relpath = os.path.dirname(rel)
        if relpath not in self._detours:
            self._detours[relpath] = scan.detour(self._root, relpath)
        if what := self._detours[relpath]:
            return f"no longer in the buffer: {what}"
        return why_gone(self._root, row, rel)

    def open(self, row: HandoffRow, rel: str) -> int:
        """Return a descriptor of a file that its writer has closed.

        Raises
        ------
        dbbbatch.files.checksum.Changed
            It is no longer this version, or somebody has it open for writing.
        OSError
            It cannot be opened.
        """
        path = os.path.join(self._root, rel)
        what = self.why_gone(row, rel)
        descriptor = -1 if what else checksum.open_closed(path)
        if not what and Version.of_file(os.fstat(descriptor)) != Version.of_row(row):
            os.close(descriptor)
            what = REPLACED
        if what:
            raise checksum.Changed(errno.EAGAIN, what, path)
        return descriptor

    def with_new_inode(self, row: HandoffRow, rel: str) -> HandoffRow | None:
        """Return a row as `with_new_inode` does; nothing for a file behind a link."""
        if self._detours.get(os.path.dirname(rel)):
            return None
        return with_new_inode(self._root, row, rel)


def prepare_files(
    section: Handoff, rows: Sequence[HandoffRow], *, read: bool
) -> Iterator[Prepared | FileFate | None]:
    """Yield what can be said of files before they are sent, in their order.

    If `read`, each file is hashed unless that was done for this very version.

    Yields
    ------
    found : `Prepared`, `FileFate` or `None`
        Ready to be sent; or VANISHED or FAILED; or not ready now, which the next scan finds again.

    Raises
    ------
    TryLater
        The disk, not these files, is at fault.
    """
    look = partial(_prepare, section, Buffer(section), read)
    yield from map_in_order(look, rows, useful_threads(rows, _JOBS) if read else 1)


def _prepare(
    section: Handoff, buffer: Buffer, read: bool, row: HandoffRow
) -> Prepared | FileFate | None:
    rel, path = path_of(section, row)
    try:
        if what := buffer.why_gone(row, rel):
            again = buffer.with_new_inode(row, rel)
            if again is None:
                return FileFate(SendStatus.VANISHED, what)
            row = again
        algorithm, digest = _checksum_of(row)
        if algorithm == section.checksum:
            return Prepared(row, rel, digest)
        item = Prepared(row, rel, "")
        if read:
            digest = checksum.compute(path, [section.checksum], written=False)[section.checksum]
            if why_gone(section.buffer, row, rel):
                return None  # the next scan sees the new version
            item.learn(section.checksum, digest)
        return item
    except Interrupted:
        return None
    except OSError as error:
        return fate_of_unreadable(section, row, error)


def fate_of_unreadable(section: Handoff, row: HandoffRow, error: OSError) -> FileFate | None:
    """Return what an error makes of a file that was read; nothing if the next scan finds it again.

    Raises
    ------
    TryLater
        The disk, not this file, is at fault.
    """
    _, path = path_of(section, row)
    if isinstance(error, checksum.Changed):
        return None
    if isinstance(error, FileNotFoundError):
        return FileFate(SendStatus.VANISHED, "no longer in the buffer")
    faults.raise_if_general(error, path)
    try:
        os.lstat(path)
    except OSError:
        return None  # the fault of its directory, which the scan reports
    return FileFate(SendStatus.UNREADABLE, f"cannot be read: {error.strerror}")


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


def hold(section: Handoff, rows: Sequence[HandoffRow]) -> Holding:
    """Move delivered originals to the holding area, under names that are free, durably."""
    result = Holding()
    buffer = Buffer(section)
    absent: dict[str, list[tuple[HandoffRow, str]]] = {}
    directories: set[str] = set()
    for row in rows:
        rel, path = path_of(section, row)
        relpath, filename = names.split(rel)
        directory = _below(section.holding, relpath)
        try:
            what = buffer.why_gone(row, rel)
            again = buffer.with_new_inode(row, rel) if what else row
            if again is None:
                absent.setdefault(relpath, []).append((row, what))
                continue
            if directory not in directories:
                place.make_directories(section.holding, relpath)
            name = place.place_versioned(path, os.path.join(directory, filename))
            there = names.join(relpath, name)
            if why_gone(section.holding, again, there) and not (
                again := with_new_inode(section.holding, again, there)
            ):
                # A writer was faster than the rename: what was moved is the next version.
                put_back(section, row, name)
                result.gone[row.id] = "delivered, but replaced by another version"
                continue
            directories.add(directory)
            result.held.append((again, name))
        except OSError as error:
            result.stuck.append((row, error))
    for relpath, some in absent.items():
        try:
            if _find_moved(section, relpath, some, result):
                directories.add(_below(section.holding, relpath))
        except OSError as error:
            result.stuck += [(row, error) for row, _ in some]
    for directory in directories:
        try:
            place.sync_directory(directory)
        except OSError as error:
            # The next pass looks at them once more.
            here = [row for row, _ in result.held if _holding_of(section, row) == directory]
            result.stuck += [(row, error) for row in here]
            result.held = [(row, name) for row, name in result.held if row not in here]
    return result


def _find_moved(
    section: Handoff, relpath: str, absent: Sequence[tuple[HandoffRow, str]], result: Holding
) -> bool:
    """Find where a pass that was killed put originals, or others instead; return whether it did.

    The directory is read once, however many files of it are missing.
    """
    directory = _below(section.holding, relpath)
    inodes = {row.inode for row, _ in absent}
    bases = {base: row for row, _ in absent for base in _bases(names.from_text(row.filename))}
    same: dict[int, list[str]] = {}
    alike: list[tuple[HandoffRow, str]] = []
    for name, inode in _entries(directory):
        if inode in inodes:
            same.setdefault(inode, []).append(name)
        if row := bases.get(name) or bases.get(place.without_version(name)):
            alike.append((row, name))
    before = len(result.held)
    lost = {}
    for row, what in absent:
        for name in same.get(row.inode, ()):
            if not why_gone(section.holding, row, names.join(relpath, name)):
                result.held.append((row, name))
                break
        else:
            lost[row.id] = f"delivered, but {what}"
    for row, name in alike:
        if row.id in lost:
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(status.st_mode):
                result.strays.append((row, name, status))
    result.gone.update(lost)
    return len(result.held) > before


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
    section: Handoff,
    row: HandoffRow,
    name: str,
    copies: Sequence[str],
    others: Container[tuple[str | None, int, int]],
) -> str:
    """Remove earlier copies of an original from holding; return its name there afterwards.

    That is its own name, if a copy had it.

    Parameters
    ----------
    name : `str`
        The name of the copy that stays; it is made durable first.
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
    directory = _holding_of(section, row)
    algorithm, digest = _checksum_of(row)
    filename = names.from_text(row.filename)
    is_free = False
    for each in copies if algorithm else ():
        path = os.path.join(directory, each)
        try:
            status = os.lstat(path)
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
        if checksum.compute(path, [algorithm])[algorithm] == digest:
            place.sync_file(os.path.join(directory, name))
            place.sync_directory(directory)
            os.unlink(path)
            is_free |= each == filename
    if is_free:
        with contextlib.suppress(OSError):
            place.place(os.path.join(directory, name), os.path.join(directory, filename))
            name = filename
            place.sync_directory(directory)
    return name


def put_back(section: Handoff, row: HandoffRow, name: str) -> None:
    """Move a file that was not delivered from the holding area back to the buffer, durably.

    Raises
    ------
    OSError
        It cannot be moved.
    """
    rel, path = path_of(section, row)
    relpath = names.split(rel)[0]
    if what := scan.detour(section.buffer, relpath):
        raise OSError(errno.ENOTDIR, f"{os.strerror(errno.ENOTDIR)}: {what}", path)
    place.make_directories(section.buffer, relpath)
    directory = _below(section.holding, relpath)
    place.place_versioned(os.path.join(directory, name), path)
    for each in (os.path.dirname(path), directory):
        place.sync_directory(each)


def _entries(directory: str) -> Iterator[tuple[str, int]]:
    """Yield the names and inodes of a directory, which may be missing."""
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            yield entry.name, inode_of(entry.inode())


def _bases(filename: str) -> Iterable[str]:
    """Return what the versions of a name begin with: the name, or what is left of a long one."""
    found = {filename}
    for digits in range(_VERSION_DIGITS):
        suffix = place.versioned("", 10**digits)
        found.add(place.versioned(filename, 10**digits).removesuffix(suffix))
    return found


def _below(root: str, relpath: str) -> str:
    return os.path.join(root, relpath) if relpath else root


def _holding_of(section: Handoff, row: HandoffRow) -> str:
    """Return the directory of the holding area that a file belongs to."""
    return _below(section.holding, names.from_text(row.relpath))


def _checksum_of(row: HandoffRow) -> tuple[str, str]:
    """Return algorithm and digest of a row; two empty texts if it has none that is known."""
    with contextlib.suppress(ValueError):
        return checksum.parse(row.checksum or "")
    return "", ""
