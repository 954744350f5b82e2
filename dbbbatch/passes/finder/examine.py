"""Read the files of a finder's source, each once, and decide what becomes of them.

Nothing is moved or recorded here. But a file that is to be stored gets its permissions and group,
or, across file systems, a hidden copy beside its destination.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from dbbbatch.areas.storage.incoming import Decision, Fate, Incoming, decide
from dbbbatch.areas.storage.mounted import StorageArea, needs_copy
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, identity, names, place
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import kind

#: The bits of a mode by which others than its owner may write to a file.
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Examiner:
    """Reads files and decides; several threads may use one.

    Parameters
    ----------
    area : `StorageArea`
    overlap : `~collections.abc.Callable`
        Returns why nothing may be moved from a directory, given its relative path, or ''.
    """

    def __init__(self, area: StorageArea, overlap: Callable[[str], str]) -> None:
        self._area = area
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
        yield from map_in_order(self._examine_safely, files, jobs)

    def _examine_safely(self, file: Incoming) -> Incoming:
        try:
            return self._examine_one(file)
        except Interrupted:
            return file
        except OSError as error:
            writing = isinstance(error, place.WriteError)
            where = self._area.storage if writing else file.source
            faults.raise_if_general(error, where, writing=writing)
            return file.failed(error)

    def _examine_one(self, file: Incoming) -> Incoming:
        there = _status_of(file.destination)
        if why := self._overlap(names.split(file.rel)[0]):
            return file.decided(Fate.SAME_FILE, why)
        if file.known is None and there is None:
            return self._prepare(file).decided(Fate.ARRIVES)
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
            file = self._prepare(file)
        elif decision.fate is Fate.ORPHAN:
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

    def _prepare(self, file: Incoming) -> Incoming:
        """Read a file that is to be stored, and make it ready to be placed."""
        area = self._area
        device, must_be_copied = self._make_directory(file)
        file = file._replace(device=device)
        descriptor = checksum.open_closed(file.source)
        try:
            status = os.fstat(descriptor)
            if not must_be_copied and self._is_ours_alone(status):
                sums = checksum.stream(descriptor, area.algorithms)
                before, status = status, os.fstat(descriptor)
                checksum.same(before, status, file.source)
                if self._set_mode_and_group(descriptor, status):
                    if status.st_mode & _BY_OTHERS:
                        # Only from now on nobody else can open it for writing.
                        checksum.require_closed(descriptor, file.source)
                    return file._replace(sums=sums, status=status)
            if not self._needs_copy:
                # The batch as a whole was expected to be renamed.
                area.require_space(status.st_size)
            sums = area.copy_beside(descriptor, file.destination)
            return file._replace(sums=sums, status=status, copied=True)
        finally:
            os.close(descriptor)

    def _is_ours_alone(self, status: os.stat_result) -> bool:
        """Return whether nobody else can change a file of the source after it was renamed.

        Its owner could set its permissions, and write to it, in storage, too. A further link of a
        file that is ours opens it to nobody, and may be the receipt of an attempt in staging, which
        counts the links.
        """
        return self._area.section.trust_writers or status.st_uid == os.geteuid()

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
        relpath = names.split(file.rel)[0]
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
                here, there = (
                    os.stat(os.path.dirname(path)).st_dev
                    for path in (file.source, file.destination)
                )
            except OSError as error:
                # It was there a moment ago: that says nothing of the file's name.
                raise type(error)(error.errno, error.strerror) from None
            self._made[relpath] = there, self._needs_copy or here != there
        return self._made[relpath]

    def _compare_with_storage(self, file: Incoming) -> Decision:
        """Compare a file with one that storage has under its name, unknown to the table."""
        directory, filename = os.path.split(file.destination)
        # A file system that ignores the case of letters answers to names that it does not have.
        if filename not in os.listdir(directory):
            return Decision(Fate.CONFLICT, "storage takes its name for that of another file")
        # Another one shows names in one case: only the row could tell whose file it is.
        if _folds(self._area.storage, file.rel):
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


def _status_of(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise NotADirectoryError(
            errno.ENOTDIR, "storage has a file where this one needs a directory", path
        ) from None


def _folds(root: str, rel: str) -> bool:
    """Return whether a path leads to the same file when upper and lower case are exchanged."""
    other = rel.swapcase()
    try:
        return other != rel and os.path.samestat(
            os.lstat(os.path.join(root, rel)), os.lstat(os.path.join(root, other))
        )
    except OSError:
        return False
