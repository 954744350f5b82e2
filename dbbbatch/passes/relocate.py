"""A storage area that has moved: the table and its targets follow, and nothing is offered again.

Written first: nothing. Done: a look at the sentinel and at every file under the new path. Recorded:
the new path of all rows, in one transaction. So there is nothing to recover.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.database.models.file import INODE, File
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import faults, names
from dbbbatch.files.lock import Lock

#: Rows looked at together.
_COMPARED_PAGE = 5000

#: Files that are named when they are not under the new path.
_MOST_MISSING_NAMED = 5


class RelocatedStorage(NamedTuple):
    """A storage area that the table knows under another path than the configuration."""

    old: str
    new: str


class Comparison(NamedTuple):
    """What was found under the new path: files, and whether they have kept their inodes."""

    files: int
    same_inodes: bool


def homeless(settings: Settings) -> list[str]:
    """Return the storage areas of the table that no section has; another file may have them.

    None, where a section is wrong: it may have any of them.
    """
    if _unread_sections(settings):
        return []
    return sorted(set(connect.read(File.storages)) - _configured_storages(settings))


def candidates(settings: Settings) -> list[RelocatedStorage]:
    """Return the storage areas that moved, as far as it is certain where each of them is now."""
    found: list[RelocatedStorage] = []
    here = {finder.storage for finder in settings.finder.values()}
    for old in homeless(settings):
        stored_by = connect.read(File.finders, old)
        read_by = connect.read(TargetRow.reading, settings.site.name, old)
        new = {settings.finder[name].storage for name in stored_by if name in settings.finder}
        new |= {settings.target[name].storage for name in read_by if name in settings.target}
        if len(new) == 1 and new <= here:
            found.append(RelocatedStorage(old, new.pop()))
    return found


def compare(settings: Settings, old: str, new: str) -> Comparison:
    """Look whether all that the table calls stored in one storage area is in another.

    Raises
    ------
    ConfigError
        A section is wrong, which may have either.
    UsageError
        These are not the paths of a storage area that moved.
    TryLater
        The new one is not mounted, or does not have all files.
    """
    _must_have_moved(settings, old, new)
    if away := faults.why_unmounted(new, _sentinel_of(settings, new)):
        raise TryLater(away)
    files, same_inodes = 0, True
    lacking: list[str] = []
    for row in _stored(old):
        files += 1
        rel = names.rel_of(row)
        try:
            status = os.lstat(names.below(new, rel))
        except FileNotFoundError:
            lacking.append(f"{names.printable(rel)}: is not in {new}")
            continue
        except OSError as error:
            if faults.affects_every_file(error):
                raise TryLater(f"{new}: {error.strerror}") from None
            lacking.append(f"{names.printable(rel)}: {error.strerror}")
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_size != row.size_bytes:
            lacking.append(f"{names.printable(rel)}: is another file in {new}")
        same_inodes = same_inodes and row.inode in (None, status.st_ino & INODE)
    if lacking:
        raise TryLater(
            *lacking[:_MOST_MISSING_NAMED],
            f"{len(lacking)} of {files} files of {old} are not in {new}, and nothing was changed: "
            "copy them and try again; to give up what is lost, put the old path back, and let "
            "dbb-auditor mark it",
        )
    return Comparison(files, same_inodes)


def relocate(settings: Settings, old: str, new: str) -> int:
    """Record that a storage area is under another path now; return its files.

    Raises
    ------
    ConfigError, UsageError, TryLater
        As `compare`, or a pass of the old path is at work; nothing was changed.
    """
    with _without_passes(settings, old):
        return _record_relocation(settings, old, new)


def _record_relocation(settings: Settings, old: str, new: str) -> int:
    looked = compare(settings, old, new)

    def record() -> None:
        TargetRow.exclude_arrivals()
        if both := File.in_both(old, new):
            raise UsageError(
                f"{names.printable(names.readable(both))}: the table knows it in both {old} and "
                f"{new}; `dbb forget` it in one of them first"
            )
        File.moved(old, new, keep_inodes=looked.same_inodes)
        TargetRow.moved(old, new)

    connect.write(record)
    return looked.files


@contextmanager
def _without_passes(settings: Settings, storage: str) -> Iterator[None]:
    """Keep passes off that read the old path: what one of them puts there is not in the new one."""
    with ExitStack() as held:
        for name in connect.read(File.finders, storage):
            for script in ("finder", "auditor"):
                lock = Lock(Path(settings.site.state) / "locks", f"{script}.{name}")
                lock.acquire()
                held.callback(lock.release)
        yield


def _stored(storage: str) -> Iterator[File]:
    after = 0
    while page := connect.read(File.stored_page, storage, after, _COMPARED_PAGE):
        after = page[-1].id
        yield from (row for row in page if not names.fault(row))


def _must_have_moved(settings: Settings, old: str, new: str) -> None:
    if problems := _unread_sections(settings):
        raise ConfigError(*problems)
    configured = _configured_storages(settings)
    if old in configured:
        raise UsageError(f"{old}: a section still has this storage; change `storage` there first")
    if new not in configured:
        raise UsageError(f"{new}: no section has this storage; change `storage` there first")
    if old not in connect.read(File.storages) and not connect.read(TargetRow.any_reads, old):
        known = ", ".join(homeless(settings)) or "none"
        raise UsageError(
            f"{old}: the table knows no such storage; those without a section: {known}"
        )


def _configured_storages(settings: Settings) -> set[str]:
    sections = [*settings.finder.values(), *settings.target.values()]
    return {section.storage for section in sections}


def _unread_sections(settings: Settings) -> list[str]:
    """Return what is wrong with sections that may have a storage area."""
    wrong = settings.wrong.items()
    return [
        each for label, problems in wrong if not label.startswith("handoff.") for each in problems
    ]


def _sentinel_of(settings: Settings, storage: str) -> str:
    sections = [*settings.finder.values(), *settings.target.values()]
    return next((one.sentinel for one in sections if one.storage == storage), "")
