"""Record that a storage area has moved: nothing is offered to its targets again.

Written first: nothing. Done: the sentinel and every file are looked for under the new path.
Recorded: the new path of all rows, in one transaction. So there is nothing to recover.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder, Target
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import faults, mounts, names
from dbbbatch.files.identity import inode_of
from dbbbatch.files.lock import Lock

#: Rows read at a time.
_STORED_PAGE = 5000

#: Files that are named when they are not under the new path.
_MOST_MISSING_NAMED = 5


def without_section(settings: Settings) -> list[str]:
    """Return the storage areas of the table that no section has; another file may have them.

    None, if a section is wrong: it may have any of them.
    """
    if _problems(settings):
        return []
    configured = {section.storage for section in _sections(settings)}
    return sorted(set(connect.read(File.storages)) - configured)


def candidates(settings: Settings) -> list[tuple[str, str]]:
    """Return old and new path of the storage areas of which it is certain where they are now."""
    found = []
    here = {finder.storage for finder in settings.finder.values()}
    for old in without_section(settings):
        stored_by = connect.read(File.finders, old)
        read_by = connect.read(TargetRow.reading, settings.site.name, old)
        new = {settings.finder[name].storage for name in stored_by if name in settings.finder}
        new |= {settings.target[name].storage for name in read_by if name in settings.target}
        if len(new) == 1 and new <= here:
            found.append((old, new.pop()))
    return found


def compare(settings: Settings, old: str, new: str) -> tuple[int, bool]:
    """Look for all stored files of one storage area in another one.

    Returns
    -------
    files : `int`
        How many there are.
    same_inodes : `bool`
        Whether they have kept their inodes.

    Raises
    ------
    ConfigError
        A section is wrong, which may have either.
    UsageError
        These are not the paths of a storage area that moved.
    TryLater
        The new one is not mounted, or does not have all files.
    """
    _require_moved(settings, old, new)
    sentinel = next(each.sentinel for each in _sections(settings) if each.storage == new)
    if away := mounts.why_unmounted(new, sentinel):
        raise TryLater(away)
    files, same_inodes = 0, True
    lacking: list[str] = []
    for row in _stored(old):
        files += 1
        rel = names.rel_of(row)
        shown = names.printable(rel)
        try:
            status = os.lstat(names.below(new, rel))
        except FileNotFoundError:
            lacking.append(f"{shown}: is not in {new}")
            continue
        except OSError as error:
            faults.raise_if_general(error, new)
            lacking.append(f"{shown}: {error.strerror}")
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_size != row.size_bytes:
            lacking.append(f"{shown}: is another file in {new}")
        same_inodes = same_inodes and row.inode in (None, inode_of(status.st_ino))
    if lacking:
        raise TryLater(
            *lacking[:_MOST_MISSING_NAMED],
            f"{len(lacking)} of {names.counted(files, 'file')} of {old} not in {new}, and "
            "nothing was changed: "
            "copy them and try again; to give up what is lost, put the old path back, and let "
            "dbb-auditor mark it",
        )
    return files, same_inodes


def relocate(settings: Settings, old: str, new: str) -> int:
    """Record that a storage area is under another path now; return how many files it has.

    Raises
    ------
    ConfigError, UsageError, TryLater
        As `compare`, or a pass of the old path is at work; nothing was changed.
    """
    with _without_passes(settings, old):
        files, same_inodes = compare(settings, old, new)

        def record() -> None:
            TargetRow.exclude_arrivals()
            if both := File.in_both(old, new):
                raise UsageError(
                    f"{names.printable(names.readable(both))}: the table knows it in both {old} "
                    f"and {new}; `dbb forget` it in one of them first"
                )
            File.moved(old, new, keep_inodes=same_inodes)
            TargetRow.moved(old, new)

        connect.write(record)
    return files


@contextmanager
def _without_passes(settings: Settings, storage: str) -> Iterator[None]:
    """Exclude passes of the old path: a file that one of them stores there is not in the new."""
    locks = Path(settings.site.state) / "locks"
    with ExitStack() as held:
        for name in connect.read(File.finders, storage):
            for script in ("finder", "auditor"):
                held.enter_context(Lock(locks, f"{script}.{name}"))
        yield


def _stored(storage: str) -> Iterator[File]:
    for page in connect.pages(
        lambda after: File.stored_page(storage, after, _STORED_PAGE), 0, "id"
    ):
        yield from (row for row in page if not names.fault(row))


def _require_moved(settings: Settings, old: str, new: str) -> None:
    if problems := _problems(settings):
        raise ConfigError(*problems)
    configured = {section.storage for section in _sections(settings)}
    if old in configured:
        raise UsageError(f"{old}: a section still has this storage; change `storage` there first")
    if new not in configured:
        raise UsageError(f"{new}: no section has this storage; change `storage` there first")
    if old not in connect.read(File.storages) and not connect.read(TargetRow.any_reads, old):
        known = ", ".join(without_section(settings)) or "none"
        raise UsageError(
            f"{old}: the table knows no such storage; those without a section: {known}"
        )


def _sections(settings: Settings) -> list[Finder | Target]:
    return [*settings.finder.values(), *settings.target.values()]


def _problems(settings: Settings) -> list[str]:
    """Return what is wrong with sections that may have a storage area."""
    return [
        problem
        for label, problems in settings.wrong.items()
        if label.startswith(("finder.", "target."))
        for problem in problems
    ]
