"""The near end of a handoff: taking files of the buffer, and what becomes of the originals."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from dbbbatch.areas.endpoint.batch import Item, changed
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, faults, mounts, names, place, scan
from dbbbatch.files.identity import Version, inode_of
from dbbbatch.files.parallel import map_in_order, useful_threads
from dbbbatch.files.roots import Roots

#: Files hashed at a time: until the first batch is hashed there is nothing else to do.
_JOBS = 2

#: What makes NAME.~N~ of a name; and most digits of N.
_VERSION = re.compile(r"\.~\d+~$")
_VERSION_DIGITS = 7

#: Names of earlier copies that are looked for, at most.
_MOST_VERSIONS = 1000


def require_areas(section: Handoff, roots: Roots) -> None:
    """See that the buffer and the areas beside it are there.

    How full they are is not asked: moving files on one file system needs no room, and is what
    makes room on a full one.

    Raises
    ------
    TryLater
        One is missing, or on another file system than the others: not mounted.
    """
    for key in ("buffer", "holding", "quarantine"):
        path = getattr(section, key)
        if not os.path.isdir(path):
            raise TryLater(f"{path} ({key}) is not there; is it mounted?")
        if not mounts.same_file_system(section.buffer, path):
            raise TryLater(
                f"{section.buffer} (buffer) and {path} ({key}) are on different file systems; is "
                "one of them not mounted?"
            )
        roots.require(path)


def remove_sent_directories(site: str, section: Handoff) -> int:
    """Remove old empty directories of the buffer from which files were sent; return how many.

    One that never held a file may be a writer's, made for what is still to come.
    """

    def may_go(rel: str) -> bool:
        if any(pattern.search(rel) for pattern in section.keep_directories):
            return False
        relpath = names.to_text(rel)
        return connect.read(HandoffFile.was_in, site, section.name, relpath)

    return place.remove_empty_directories(section.buffer, section.expiration, may_go=may_go)


def has_name(path: str) -> bool:
    """Return whether anything has this name."""
    return os.path.lexists(path)


def path_of(section: Handoff, row: HandoffRow) -> tuple[str, str]:
    """Return the relative and the absolute path of a file of the buffer."""
    rel = names.rel_of(row)
    return rel, names.below(section.buffer, rel)


class Buffer:
    """One look at files of a buffer, and at each of their directories only once."""

    def __init__(self, section: Handoff) -> None:
        self._root = section.buffer
        self._detours: dict[str, str] = {}

    def renumbered(self, row: HandoffRow, rel: str) -> HandoffRow | None:
        """Return a row with its file's new inode, if that is all that has changed of it.

        Some file systems (FUSE, FAT, CIFS) number files anew after a remount.
        """
        if self._detours.get(os.path.dirname(rel)):
            return None
        return renumbered(self._root, row, rel)

    def gone(self, row: HandoffRow, rel: str) -> str:
        """Return why a file is no longer in the buffer as this version, or nothing if it is.

        What is behind a link is another tree's, as it is for the scan.

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
        return changed(self._root, row, rel)


def renumbered(root: str, row: HandoffRow, rel: str) -> HandoffRow | None:
    """Return a row with the inode that its file has now, if the content is the recorded one."""
    path = os.path.join(root, rel)
    try:
        status = os.lstat(path)
        algorithm, digest = _known(row)
        there = Version.of_file(status)
        if not algorithm or not there.is_like(Version.of_row(row)):
            return None
        if checksum.compute(path, [algorithm])[algorithm] != digest:
            return None
    except (FileNotFoundError, NotADirectoryError, checksum.Changed, checksum.NotRegular):
        return None
    return row._replace(inode=there.inode)


@dataclass
class PreparedFiles:
    """Files that were looked at before they are sent.

    Attributes
    ----------
    items : `list` [ `Item` ]
        Ready to go.
    hashed : `list` [ `tuple` [ `int`, `str`, `int` ] ]
        Checksums that were computed, and the inodes of what was read.
    gone, failed : `list` [ `tuple` [ `int`, `str` ] ]
        With the reason.
    """

    items: list[Item] = field(default_factory=list)
    hashed: list[tuple[int, str, int]] = field(default_factory=list)
    gone: list[tuple[int, str]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)


def take(section: Handoff, rows: Sequence[HandoffRow]) -> PreparedFiles:
    """Look at files, and hash each of them unless that was done for this very version.

    Raises
    ------
    TryLater
        The disk, not these files, is at fault.
    """
    taken = PreparedFiles()
    look = partial(_examine, section, Buffer(section))
    looked = map_in_order(look, rows, useful_threads(rows, _JOBS))
    for row, (item, hashed, gone, failed) in zip(rows, looked, strict=True):
        if item:
            taken.items.append(item)
        if hashed and item:
            taken.hashed.append((row.id, hashed, item.row.inode))
        elif gone:
            taken.gone.append((row.id, gone))
        elif failed:
            taken.failed.append((row.id, failed))
    return taken


class _Looked(NamedTuple):
    item: Item | None = None
    hashed: str = ""
    gone: str = ""
    failed: str = ""


def _examine(section: Handoff, buffer: Buffer, row: HandoffRow) -> _Looked:
    rel, path = path_of(section, row)
    try:
        if what := buffer.gone(row, rel):
            again = buffer.renumbered(row, rel)
            if again is None:
                return _Looked(gone=what)
            # Its checksum stays; the table gets its inode.
            return _Looked(Item(again, rel, _known(again)[1]), hashed=again.checksum or "")
        algorithm, digest = _known(row)
        if algorithm == section.checksum:
            return _Looked(Item(row, rel, digest))
        digest = checksum.compute(path, [section.checksum], written=False)[section.checksum]
        if changed(section.buffer, row, rel):
            return _Looked()  # the next scan sees the new version
        stored = checksum.format(section.checksum, digest)
        return _Looked(Item(row._replace(checksum=stored), rel, digest), hashed=stored)
    except (checksum.Changed, Interrupted):
        return _Looked()
    except FileNotFoundError:
        return _Looked(gone="no longer in the buffer")
    except OSError as error:
        faults.raise_if_general(error, path)
        if not _can_be_seen(path):
            return _Looked()  # its directory's fault, which the scan tells
        return _Looked(failed=f"cannot be read: {error.strerror}")


def _can_be_seen(path: str) -> bool:
    """Return whether a file's directory lets this user come to it."""
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


class Stray(NamedTuple):
    """A file of the holding area that may have been moved there instead of an original.

    Attributes
    ----------
    row : `HandoffRow`
        The original, whose name it has, or a version of it.
    name : `str`
        Of the file.
    version : `tuple` [ `int`, `int`, `int` ]
        Its size, time and inode, as the table keeps them.
    since : `float`
        Since when it has the name, or longer; seconds since 1970.
    """

    row: HandoffRow
    name: str
    version: tuple[int, int, int]
    since: float


@dataclass
class Holding:
    """What became of originals.

    Attributes
    ----------
    held : `list` [ `tuple` [ `int`, `str`, `int` ] ]
        With the name in the holding area, as the table keeps it, and the inode.
    again : `list` [ `tuple` [ `HandoffRow`, `str` ] ]
        Those of which holding may have had an earlier copy, with their name there.
    gone : `list` [ `tuple` [ `int`, `str` ] ]
        Neither in the buffer nor in the holding area, with the reason.
    strays : `list` [ `Stray` ]
        What has the names of those that are gone.
    stuck : `list` [ `tuple` [ `HandoffRow`, `OSError` ] ]
        Those that could not be moved.
    """

    held: list[tuple[int, str, int]] = field(default_factory=list)
    again: list[tuple[HandoffRow, str]] = field(default_factory=list)
    gone: list[tuple[int, str]] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
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
            what = buffer.gone(row, rel)
            again = buffer.renumbered(row, rel) if what else row
            if again is None:
                absent.setdefault(relpath, []).append((row, what))
                continue
            if directory not in directories:
                place.make_directories(section.holding, relpath)
            name = place.place_versioned(path, directory, filename)
            there = names.join(relpath, name)
            if changed(section.holding, again, there) and not (
                again := renumbered(section.holding, again, there)
            ):
                # A writer was faster than the rename: what was moved is the next version.
                put_back(section, row, name)
                result.gone.append((row.id, "delivered, but replaced by another version"))
                continue
            directories.add(directory)
            _note_held(again, name, result)
        except OSError as error:
            result.stuck.append((row, error))
    for relpath, some in absent.items():
        try:
            if _find(section, relpath, some, result):
                directories.add(_below(section.holding, relpath))
        except OSError as error:
            result.stuck += [(row, error) for row, _ in some]
    _make_durable(section, directories, rows, result)
    return result


def _make_durable(
    section: Handoff, directories: Iterable[str], rows: Sequence[HandoffRow], result: Holding
) -> None:
    """Make names in the holding area durable; those that cannot be are looked at once more."""
    for directory in directories:
        try:
            place.sync_directory(directory)
        except OSError as error:
            here = {
                row.id: row
                for row in rows
                if _below(section.holding, names.from_text(row.relpath)) == directory
            }
            undone = [here[number] for number, *_ in result.held if number in here]
            result.held = [each for each in result.held if each[0] not in here]
            result.again = [each for each in result.again if each[0].id not in here]
            result.stuck += [(row, error) for row in undone]


def _find(
    section: Handoff, relpath: str, absent: Sequence[tuple[HandoffRow, str]], result: Holding
) -> bool:
    """Find where a pass that was killed put originals, or others instead; True if it did.

    One look through the directory, whatever is missing of it.
    """
    directory = _below(section.holding, relpath)
    inodes = {row.inode for row, _ in absent}
    bases = {base: row for row, _ in absent for base in _bases(names.from_text(row.filename))}
    same: dict[int, list[str]] = {}
    alike: list[tuple[str, HandoffRow]] = []
    for name, inode in _entries(directory):
        if inode in inodes:
            same.setdefault(inode, []).append(name)
        if row := bases.get(name) or bases.get(_VERSION.sub("", name)):
            alike.append((name, row))
    found, gone = False, []
    for row, what in absent:
        for name in same.get(row.inode, ()):
            if not changed(section.holding, row, names.join(relpath, name)):
                _note_held(row, name, result)
                found = True
                break
        else:
            gone.append((row.id, f"delivered, but {what}"))
    lost = {number for number, _ in gone}
    for name, row in alike:
        if row.id in lost:
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(status.st_mode):
                result.strays.append(Stray(row, name, Version.of_file(status), status.st_ctime))
    result.gone += gone
    return found


def _note_held(row: HandoffRow, name: str, result: Holding) -> None:
    result.held.append((row.id, names.to_text(name), row.inode))
    if row.held_as or name != names.from_text(row.filename):
        result.again.append((row, name))


def earlier_names(row: HandoffRow, name: str) -> list[str]:
    """Return the names that an earlier copy of an original may have in holding, beside its own."""
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
    """Remove earlier copies of an original from holding; return its name there by then.

    That is its own name, if a copy had it.

    Parameters
    ----------
    name : `str`
        Of the one that stays; it is made durable first.
    copies : `~collections.abc.Sequence` [ `str` ]
        Names of which some may have the same content.
    others : `~collections.abc.Container` [ `tuple` [ `str` or `None`, `int`, `int` ] ]
        Name as in the table, size and time of what is in holding for other rows; of those on their
        way there no name.

    Raises
    ------
    OSError
        One cannot be read or removed; all that are not removed stay.
    """
    directory = _below(section.holding, names.split(path_of(section, row)[0])[0])
    algorithm, digest = _known(row)
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
                (whose, *Version.of_file(status)[:2]) in others
                for whose in (names.to_text(each), None)
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
        It cannot be.
    """
    rel, path = path_of(section, row)
    relpath, filename = names.split(rel)
    if what := scan.detour(section.buffer, relpath):
        raise OSError(errno.ENOTDIR, f"{os.strerror(errno.ENOTDIR)}: {what}", path)
    place.make_directories(section.buffer, relpath)
    directory = _below(section.holding, relpath)
    place.place_versioned(os.path.join(directory, name), os.path.dirname(path), filename)
    for each in (os.path.dirname(path), directory):
        place.sync_directory(each)


def _entries(directory: str) -> Iterator[tuple[str, int]]:
    """Yield the names and inodes of a directory, which need not be there."""
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            yield entry.name, inode_of(entry.inode())


def _bases(filename: str) -> set[str]:
    """Return what the versions of a name begin with: the name, or what is left of a long one."""
    found = {filename}
    for digits in range(_VERSION_DIGITS):
        suffix = place.versioned("", 10**digits)
        found.add(place.versioned(filename, 10**digits).removesuffix(suffix))
    return found


def _below(root: str, relpath: str) -> str:
    return os.path.join(root, relpath) if relpath else root


def _known(row: HandoffRow) -> tuple[str, str]:
    with contextlib.suppress(ValueError):
        return checksum.parse(row.checksum or "")
    return "", ""
