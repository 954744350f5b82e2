"""The near end of a handoff: taking files of the buffer, and what becomes of the originals."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from dbbbatch.config import Handoff
from dbbbatch.database.models.handoff import Waiting
from dbbbatch.database.models.storage import INODE
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.passes.handoff.batch import Item, changed
from dbbbatch.passes.spread import spread, worthwhile

#: Files hashed at a time: until the first batch is hashed there is nothing else to do.
_JOBS = 2


def check(section: Handoff) -> None:
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
        if not place.same_file_system(section.buffer, path):
            raise TryLater(
                f"{section.buffer} (buffer) and {path} ({key}) are on different file systems; is "
                "one of them not mounted?"
            )


def is_there(path: str) -> bool:
    """Tell whether anything has this name."""
    return os.path.lexists(path)


def path_of(section: Handoff, row: Waiting) -> tuple[str, str]:
    """Give the relative and the absolute path of a file of the buffer."""
    rel = names.join(names.from_text(row.relpath), names.from_text(row.filename))
    return rel, os.path.join(section.buffer, rel)


@dataclass
class Taken:
    """Files that were looked at before they are sent.

    Attributes
    ----------
    items : `list` [ `Item` ]
        Ready to go.
    hashed : `list` [ `tuple` [ `int`, `str` ] ]
        Checksums that were computed.
    gone, failed : `list` [ `tuple` [ `int`, `str` ] ]
        With the reason.
    """

    items: list[Item] = field(default_factory=list)
    hashed: list[tuple[int, str]] = field(default_factory=list)
    gone: list[tuple[int, str]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)


def take(section: Handoff, rows: Sequence[Waiting]) -> Taken:
    """Look at files, and hash each of them unless that was done for this very version.

    Raises
    ------
    TryLater
        The disk, not these files, is at fault.
    """
    taken = Taken()
    looked = spread(partial(_look, section), rows, worthwhile(rows, _JOBS))
    for row, (item, hashed, gone, failed) in zip(rows, looked, strict=True):
        if item:
            taken.items.append(item)
        if hashed:
            taken.hashed.append((row.id, hashed))
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


def _look(section: Handoff, row: Waiting) -> _Looked:
    rel, path = path_of(section, row)
    try:
        if what := changed(section.buffer, row, rel):
            return _Looked(gone=what)
        algorithm, digest = _known(row)
        if algorithm == section.checksum:
            return _Looked(Item(row, rel, digest))
        digest = checksum.compute(path, [section.checksum])[section.checksum]
        if changed(section.buffer, row, rel):
            return _Looked()  # the next scan sees the new version
        stored = checksum.format(section.checksum, digest)
        return _Looked(Item(row._replace(checksum=stored), rel, digest), hashed=stored)
    except checksum.Changed:
        return _Looked()
    except FileNotFoundError:
        return _Looked(gone="no longer in the buffer")
    except OSError as error:
        if faults.is_general(error):
            raise TryLater(f"{names.printable(path)}: {error.strerror}") from None
        return _Looked(failed=f"cannot be read: {error.strerror}")


@dataclass
class Holding:
    """What became of originals.

    Attributes
    ----------
    held : `list` [ `tuple` [ `int`, `str` ] ]
        With the name in the holding area, as the table keeps it.
    gone : `list` [ `tuple` [ `int`, `str` ] ]
        With the reason.
    stuck : `list` [ `tuple` [ `str`, `OSError` ] ]
        Those that could not be moved.
    """

    held: list[tuple[int, str]] = field(default_factory=list)
    gone: list[tuple[int, str]] = field(default_factory=list)
    stuck: list[tuple[str, OSError]] = field(default_factory=list)


def hold(section: Handoff, rows: Sequence[Waiting]) -> Holding:
    """Move delivered originals to the holding area, under names that are free, durably."""
    result = Holding()
    directories: dict[str, str] = {}
    for row in rows:
        rel, path = path_of(section, row)
        relpath, filename = names.split(rel)
        directory = os.path.join(section.holding, relpath) if relpath else section.holding
        try:
            if what := changed(section.buffer, row, rel):
                name = _held_already(directory, filename, row)
                if name is None:
                    result.gone.append((row.id, f"delivered, but {what}"))
                    continue
            else:
                if relpath not in directories:
                    place.make_directories(section.holding, relpath)
                name = place.place_versioned(path, directory, filename)
                if changed(section.holding, row, names.join(relpath, name)):
                    # A writer was faster than the rename: what was moved is the next version.
                    place.place_versioned(os.path.join(directory, name), *os.path.split(path))
                    result.gone.append((row.id, "delivered, but replaced by another version"))
                    continue
            directories[relpath] = directory
            result.held.append((row.id, names.to_text(name)))
        except OSError as error:
            result.stuck.append((rel, error))
    for directory in directories.values():
        place.sync_directory(directory)
    return result


def _held_already(directory: str, filename: str, row: Waiting) -> str | None:
    """Find the original where a pass that was killed put it: the name and its versions in turn."""
    number = 0
    name = filename
    while True:
        try:
            status = os.lstat(os.path.join(directory, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if (status.st_size, status.st_mtime_ns, status.st_ino & INODE) == (
            row.size_bytes,
            row.mtime_ns,
            row.inode,
        ):
            return name
        number += 1
        name = place.versioned(filename, number)


def _known(row: Waiting) -> tuple[str, str]:
    with contextlib.suppress(ValueError):
        return checksum.parse(row.checksum or "")
    return "", ""
