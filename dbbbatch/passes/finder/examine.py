"""Read the files of a finder's source, each once, and decide what becomes of them.

Nothing is moved or recorded here. But a file that is to be stored gets its permissions and group,
or, across file systems, a hidden copy beside its destination.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dbbbatch.areas.storage.incoming import Decision, Fate, Incoming, decide
from dbbbatch.areas.storage.mounted import StorageArea, needs_copy
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, identity, place
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import kind
from dbbbatch.files.tree import Entry, Naming

if TYPE_CHECKING:
    from dbbbatch.passes.finder.ahead import CopiesAhead

_ARRIVES = Decision(Fate.ARRIVES)

#: The bits of a mode by which others than its owner may write to a file.
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Examiner:
    """Reads files and decides; several threads may use one.

    Parameters
    ----------
    area : `StorageArea`
    overlap : `~collections.abc.Callable`
        Returns why nothing may be moved from a directory, given its relative path, or ''.
    ahead : `CopiesAhead`, optional
        Workers that copy files across file systems.
    """

    def __init__(
        self, area: StorageArea, overlap: Callable[[str], str], ahead: CopiesAhead | None = None
    ) -> None:
        self._area = area
        self._ahead = ahead
        self._overlap = overlap
        self._needs_copy = needs_copy(area.section)
        #: By directory: the file system in storage, and whether files must be copied there.
        self._made: dict[str, tuple[int, bool]] = {}

    def examine(self, files: Sequence[Incoming], jobs: int = 1) -> Iterator[Incoming]:
        """Yield each file with its decision, in their order; `jobs` threads read them.

        Raises
        ------
        TryLater
            The disk is away or full.
        """
        if self._ahead is not None and self._needs_copy:
            wanted = [file for file in files if self._is_only_copied(file)]
            ready = {file.name: file for file in self._ahead.copied(wanted)}
            files = [ready.get(file.name, file) for file in files]
        yield from map_in_order(self._examine_safely, files, jobs)

    def _is_only_copied(self, file: Incoming) -> bool:
        """Return whether a file that nobody knows is to be copied to a free name."""
        try:
            return (
                file.known is None
                and not self._overlap(file.source.relpath)
                and _status_of(file.destination) is None
                and self._make_directory(file)[1]
            )
        except OSError:
            return False  # `_examine_one` meets it too

    def _examine_safely(self, file: Incoming) -> Incoming:
        if file.copied:
            return file._replace(device=self._make_directory(file)[0])
        try:
            return self._examine_one(file)
        except Interrupted:
            return file
        except OSError as error:
            writing = isinstance(error, place.WriteError)
            where = self._area.section.storage if writing else file.source.path
            faults.raise_if_general(error, where, writing=writing)
            return file.failed(error)

    def _examine_one(self, file: Incoming) -> Incoming:
        if why := self._overlap(file.source.relpath):
            return file.decided(Fate.SAME_FILE, why)
        there = _status_of(file.destination)
        if file.known is None and there is None:
            return self._prepare(file, _ARRIVES)
        if there is not None and identity.may_be_same_file(file.source, file.destination):
            return file._replace(status=there).decided(
                Fate.SAME_FILE,
                "source and storage lead to this same file, which is left alone; look at links and "
                "mounts",
            )
        file, same = self._compare_with_row(file)
        if there is not None and not stat.S_ISREG(there.st_mode):
            return file.decided(Fate.CONFLICT, f"storage has {kind(there.st_mode)} under this name")
        decision = decide(file.known, same, None if there is None else there.st_size)
        if decision.fate is Fate.RETURNS:
            return self._prepare(file, decision)
        if decision.fate is Fate.ORPHAN:
            decision = self._compare_with_storage(file)
        return file._replace(decision=decision)

    def _compare_with_row(self, file: Incoming) -> tuple[Incoming, bool]:
        """Read a file; return also whether it has the checksum of its row."""
        algorithms, algorithm, digest = self._area.algorithms, "", ""
        if file.known is not None:
            algorithm, digest = checksum.parse(file.known.checksum)
            algorithms = tuple(dict.fromkeys((*algorithms, algorithm)))
        descriptor = checksum.open_closed(file.source)
        try:
            before = os.fstat(descriptor)
            sums = checksum.stream(descriptor, algorithms)
            status = os.fstat(descriptor)
            checksum.same(before, status, file.source)
        finally:
            os.close(descriptor)
        return file._replace(sums=sums, status=status), bool(digest) and sums[algorithm] == digest

    def _prepare(self, file: Incoming, decision: Decision) -> Incoming:
        """Read a file that is to be stored, and make it ready to be placed."""
        area = self._area
        device, must_be_copied = self._make_directory(file)
        prepared = partial(file._replace, device=device, decision=decision)
        descriptor = checksum.open_closed(file.source)
        try:
            status = os.fstat(descriptor)
            if not must_be_copied and area.is_ours_alone(status):
                sums = checksum.stream(descriptor, area.algorithms)
                before, status = status, os.fstat(descriptor)
                checksum.same(before, status, file.source)
                if self._set_mode_and_group(descriptor, status):
                    if status.st_mode & _BY_OTHERS:
                        # Only from now on nobody else can open it for writing.
                        checksum.require_closed(descriptor, file.source)
                    return prepared(sums=sums, status=status)
            if not self._needs_copy:
                # The batch as a whole was expected to be renamed.
                area.require_space(status.st_size)
            sums = area.copy_beside(descriptor, file.destination)
            return prepared(sums=sums, status=status, copied=True)
        finally:
            os.close(descriptor)

    def _set_mode_and_group(self, descriptor: int, status: os.stat_result) -> bool:
        """Set the mode and group of storage; return False where only a copy can get them."""
        group, mode = self._area.group, self._area.section.file_mode
        try:
            if group is not None and status.st_gid != group:
                os.fchown(descriptor, -1, group)
            if mode is None:
                mode = place.masked(status.st_mode)
            if stat.S_IMODE(status.st_mode) != mode or mode & 0o111:
                place.set_mode(descriptor, mode)
        except OSError as error:
            # It is another user's, or its file system has no such thing: no fault of the file.
            if faults.affects_every_file(error):
                raise
            return False
        return True

    def _make_directory(self, file: Incoming) -> tuple[int, bool]:
        """Make a file's directory in storage; return its device, and whether files are copied."""
        relpath = file.destination.relpath
        if relpath not in self._made:
            try:
                place.make_directories(
                    self._area.storage,
                    relpath,
                    self._area.section.dir_mode,
                    self._area.group,
                    durable=False,  # the batch is made durable as a whole
                )
            except OSError as error:
                if error.errno in faults.INVALID_NAME or isinstance(error, place.WriteError):
                    raise
                raise place.WriteError(error.errno, error.strerror, error.filename) from None
            try:
                here, there = map(_device_of, (file.source, file.destination))
            except OSError as error:
                # It was there a moment ago: that says nothing of the file's name.
                raise type(error)(error.errno, error.strerror) from None
            self._made[relpath] = there, self._needs_copy or here != there
        return self._made[relpath]

    def _compare_with_storage(self, file: Incoming) -> Decision:
        """Compare a file with one that storage has under its name, unknown to the table."""
        storage = file.destination.tree
        # A file system that ignores the case of letters answers to names that it does not have.
        if file.destination.name not in storage.names(file.destination.relpath):
            return Decision(Fate.CONFLICT, "storage takes its name for that of another file")
        # Another one shows names in one case: only the row could tell whose file it is.
        if _folds(file.destination):
            return Decision(
                Fate.CONFLICT,
                "storage has a file of this name, which the table does not know, and does not tell "
                "upper and lower case apart",
            )
        algorithm = self._area.algorithms[0]
        try:
            there = checksum.compute(file.destination, [algorithm])
        except OSError as error:
            # Nothing is wrong with the file that came: it is tried again.
            what = f"storage has a file of this name that cannot be read: {error.strerror}"
            raise type(error)(error.errno, what) from None
        if there[algorithm] != file.sums[algorithm]:
            return Decision(
                Fate.CONFLICT,
                "storage has a file of this name with other content, which the table does not know",
            )
        return Decision(Fate.ORPHAN)


def _status_of(file: Entry) -> os.stat_result | None:
    try:
        return file.lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise NotADirectoryError(
            errno.ENOTDIR, "storage has a file where this one needs a directory", file.path
        ) from None


def _device_of(file: Entry) -> int:
    """Return the file system of the directory of a file."""
    directory = file.where()
    with Naming(file):
        return os.fstat(directory.fd).st_dev


def _folds(file: Entry) -> bool:
    """Return whether a path leads to the same file when upper and lower case are exchanged."""
    other = file.tree.entry(file.rel.swapcase())
    try:
        return other != file and os.path.samestat(file.lstat(), other.lstat())
    except OSError:
        return False
