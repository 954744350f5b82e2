"""Record that a storage area has moved: nothing is offered to its targets again.

Written first: nothing. Done: the sentinel and every file are looked for under the new path.
Recorded: the new path of all rows, in one transaction. So there is nothing to recover.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder, Target
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.run import Run
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import faults, mounts, names
from dbbbatch.files.identity import inode_of
from dbbbatch.files.tree import Tree
from dbbbatch.passes.lease import without_others

#: Rows read at a time.
_STORED_PAGE = 5000

#: How recent a pass is of a section that another configuration file has.
_IN_USE = timedelta(days=1)

#: Files that are named when they are not under the new path.
_MOST_MISSING_NAMED = 5


Looked = Callable[[int], None]


class Abandoned(NamedTuple):
    """A storage area of the table that no section has.

    Attributes
    ----------
    storage : `str`
    finder : `str`
        The name of a finder that stored files there.
    new : `str`
        The storage area that this finder has now; '' if it has no section, or a wrong one.
    """

    storage: str
    finder: str
    new: str

    @property
    def move(self) -> str:
        """The command that records where its files are, if they have moved."""
        new = names.quoted(self.new) if self.new else "NEW"
        return f"dbb storage move {names.quoted(self.storage)} {new}"


def without_section(settings: Settings) -> list[str]:
    """Return the storage areas of the table that no section has; another file may have them.

    None, if a section is wrong: it may have any of them.
    """
    if _problems(settings):
        return []
    configured = {section.storage for section in _sections(settings)}
    return sorted(set(connect.read(File.storages)) - configured)


def abandoned(settings: Settings) -> list[Abandoned]:
    """Return the storage areas of the table that no section has, as far as is known.

    One whose finder or target has a section elsewhere, and has made a pass within a day, is in use
    by another configuration file.
    """
    found = []
    for storage in without_section(settings):
        finder = connect.read(File.some_finder, storage)
        here = finder in settings.names("finder")
        if not here and connect.read(_used_elsewhere, settings, storage, finder):
            continue
        new = settings.finder[finder].storage if finder in settings.finder else ""
        found.append(Abandoned(storage, finder, new))
    return found


def _used_elsewhere(settings: Settings, storage: str, finder: str) -> bool:
    """Return whether a pass without a section here has used a storage area within a day."""
    mine = {(settings.site.name, name) for name in settings.names("target")}
    users = [(site, "finder", finder) for site in Run.sites()]
    users += [
        (site, "target", name)
        for site, name in TargetRow.readers(storage)
        if (site, name) not in mine
    ]
    now = connect.now()
    lasts = (Run.last(*user) for user in users)
    return any(last and now - last.started < _IN_USE for last in lasts)


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


def compare(
    settings: Settings, old: str, new: str, looked: Looked | None = None
) -> tuple[int, bool]:
    """Look for all stored files of one storage area in another one.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
    old, new : `str`
        Their paths.
    looked : `~collections.abc.Callable`, optional
        Is told of so many files more that were looked for.

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
    files, missing, same_inodes = 0, 0, True
    lacking: list[str] = []
    with Tree(new) as storage:
        for row in _stored(old):
            files += 1
            if looked and files % _STORED_PAGE == 0:
                looked(_STORED_PAGE)
            inode, why = _look_for(row, storage)
            if why:
                missing += 1
                lacking += [why] if len(lacking) < _MOST_MISSING_NAMED else []
            same_inodes = same_inodes and row.inode in (None, inode)
    if missing:
        raise TryLater(
            *lacking,
            f"{old}: {missing:,} of {names.counted(files, 'file')} not in {new}, and nothing was "
            "changed: copy them and try again; to give up what is lost, put the old path back, and "
            "let dbb-auditor mark it",
        )
    return files, same_inodes


def _look_for(row: File, new: Tree) -> tuple[int | None, str]:
    """Return the inode of a stored file in another storage area, and why it is not the same."""
    rel = names.rel_of(row)
    shown = names.printable(rel)
    try:
        status = new.entry(rel).lstat()
    except FileNotFoundError:
        return row.inode, f"{shown}: is not in {new}"
    except NotADirectoryError:
        return row.inode, f"{shown}: a directory on its way in {new} is a link, or no directory"
    except OSError as error:
        faults.raise_if_general(error, new.path)
        return row.inode, f"{shown}: {error.strerror}"
    if not stat.S_ISREG(status.st_mode) or status.st_size != row.size_bytes:
        return row.inode, f"{shown}: is another file in {new}"
    return inode_of(status.st_ino), ""


def relocate(settings: Settings, old: str, new: str, looked: Looked | None = None) -> int:
    """Record that a storage area is under another path now; return how many files it has.

    Raises
    ------
    ConfigError, UsageError, TryLater
        As `compare`, or a pass of the old path is at work; nothing was changed.
    """
    with _without_passes(settings, old):
        files, same_inodes = compare(settings, old, new, looked)

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
    finders = connect.read(File.finders, storage)
    labels = [f"{kind}.{name}" for name in finders for kind in ("finder", "auditor")]
    with without_others(settings, labels):
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
