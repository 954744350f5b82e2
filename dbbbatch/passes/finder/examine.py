"""Looking at the files of a finder's source: each is read once, and its fate decided.

Nothing is moved or recorded here. But permissions and group of a file that is to be stored are set,
and across file systems a hidden copy is made beside its destination.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dbbbatch.areas.storage.store import Arrival, StorageArea
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, identity, place
from dbbbatch.files.parallel import map_in_order
from dbbbatch.passes.finder.decide import Fate, decide


class Examined(NamedTuple):
    """A file and what is to become of it.

    Attributes
    ----------
    reason : `str`
        Why it must not be stored.
    error : `OSError` or `None`
        Why it could not be read, or could not be prepared.
    """

    arrival: Arrival
    verdict: Fate | None
    reason: str = ""
    error: OSError | None = None


class Examiner:
    """Reads files and decides; may be used by several threads at a time.

    Parameters
    ----------
    area : `StorageArea`
        From where to where.
    apart : `bool`
        Source and storage are on different file systems.
    entangled : `~collections.abc.Callable`
        Says of a directory's relative path why nothing there may be moved, or nothing.
    """

    def __init__(self, area: StorageArea, apart: bool, entangled: Callable[[str], str]) -> None:
        self._area = area
        self._apart = apart
        self._entangled = entangled
        #: Directories: the file system there, and whether a file of the source must be copied.
        self._made: dict[str, tuple[int, bool]] = {}

    def examine(self, arrivals: Sequence[Arrival], jobs: int = 1) -> Iterator[Examined]:
        """Yield what is to become of each file, in their order; read by so many threads.

        Raises
        ------
        TryLater
            The disk is away or full.
        """
        yield from map_in_order(self._guarded, arrivals, jobs)

    def _guarded(self, arrival: Arrival) -> Examined:
        try:
            return self._one(arrival)
        except Interrupted:
            return Examined(arrival, None)
        except OSError as error:
            writing = isinstance(error, place.WriteError)
            where = self._area.storage if writing else arrival.source
            faults.raise_if_general(error, where, writing=writing)
            return Examined(arrival, None, error=error)

    def _one(self, arrival: Arrival) -> Examined:
        known = arrival.known
        there = _status_of(arrival.destination)
        if why := self._entangled(arrival.relpath):
            return Examined(arrival, Fate.ITSELF, why)
        if known is None and there is None:
            self._take(arrival)
            return Examined(arrival, Fate.ARRIVES)
        if there is not None and identity.may_be_same_file(arrival.source, arrival.destination):
            arrival.status = there
            return Examined(
                arrival,
                Fate.ITSELF,
                "source and storage lead to this same file, which is left alone; look at links and "
                "mounts",
            )
        algorithms = list(self._area.algorithms)
        wanted = None
        if known is not None:
            algorithm, wanted = checksum.parse(known.checksum)
            algorithms.append(algorithm)
        self._read(arrival, algorithms)
        same = known is not None and wanted == arrival.sums[algorithm]
        if there is not None and not stat.S_ISREG(there.st_mode):
            return Examined(
                arrival,
                Fate.CONFLICT,
                f"storage has {_kind_of_mode(there.st_mode)} under this name",
            )
        verdict, reason = decide(known, same, None if there is None else there.st_size)
        if verdict is Fate.RETURNS:
            self._take(arrival)
        elif verdict is Fate.ORPHAN:
            verdict, reason = self._compare(arrival)
        return Examined(arrival, verdict, reason)

    def _read(self, arrival: Arrival, algorithms: list[str]) -> None:
        descriptor = checksum.open_closed(arrival.source)
        try:
            before = os.fstat(descriptor)
            arrival.sums = checksum.stream(descriptor, dict.fromkeys(algorithms))
            arrival.status = os.fstat(descriptor)
            checksum.same(before, arrival.status, arrival.source)
        finally:
            os.close(descriptor)

    def _take(self, arrival: Arrival) -> None:
        """Read a file that is to be stored, and make it ready to be placed."""
        area = self._area
        if not self._make_directory(arrival):
            descriptor = checksum.open_closed(arrival.source)
            try:
                before = os.fstat(descriptor)
                arrival.sums = checksum.stream(descriptor, area.algorithms)
                arrival.status = after = os.fstat(descriptor)
                checksum.same(before, after, arrival.source)
                if self._set_mode_and_group(descriptor, after):
                    return
            finally:
                os.close(descriptor)
        self._copy(arrival)

    def _set_mode_and_group(self, descriptor: int, status: os.stat_result) -> bool:
        """Set the mode and group of storage; return False where only a copy can get them."""
        area = self._area
        try:
            if area.group is not None and status.st_gid != area.group:
                os.fchown(descriptor, -1, area.group)
            mode = place.masked(status.st_mode) if area.mode is None else area.mode
            if stat.S_IMODE(status.st_mode) != mode or mode & 0o111:
                place.set_mode(descriptor, mode)
        except OSError as error:
            # It is another user's, or its file system has no such thing: no fault of the file.
            if faults.affects_every_file(error):
                raise
            return False
        return True

    def _copy(self, arrival: Arrival) -> None:
        area = self._area
        descriptor = checksum.open_closed(arrival.source)
        try:
            arrival.status = os.fstat(descriptor)
            arrival.sums = place.copy_beside(
                descriptor,
                arrival.destination,
                area.algorithms,
                owner=area.owner,
                mode=area.mode,
                group=area.group,
            )
        finally:
            os.close(descriptor)
        arrival.copied = True

    def _make_directory(self, arrival: Arrival) -> bool:
        """Make a file's directory in storage; tell whether the file must be copied there."""
        relpath = arrival.relpath
        if relpath not in self._made:
            try:
                place.make_directories(
                    self._area.storage,
                    relpath,
                    self._area.dir_mode,
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
                    for path in (arrival.source, arrival.destination)
                )
            except OSError as error:
                # It was there a moment ago: that says nothing of the file's name.
                raise type(error)(error.errno, error.strerror) from None
            self._made[relpath] = there, self._apart or here != there
        arrival.device, apart = self._made[relpath]
        return apart

    def _compare(self, arrival: Arrival) -> tuple[Fate, str]:
        """Compare a file with one that storage has under its name, unknown to the table."""
        directory, filename = os.path.split(arrival.destination)
        # A file system that does not tell cases apart answers to names that it does not have.
        if filename not in os.listdir(directory):
            return Fate.CONFLICT, "storage takes its name for that of another file"
        # One that shows all names alike: whether it is this name's file, its row alone could tell.
        if _folds(self._area.storage, arrival.rel):
            return (
                Fate.CONFLICT,
                "storage has a file of this name, which the table does not know, and does not tell "
                "upper and lower case apart",
            )
        algorithm = self._area.algorithms[0]
        try:
            there = checksum.compute(arrival.destination, [algorithm])
        except OSError as error:
            # Nothing is wrong with the file that came: it is tried again.
            what = f"storage has a file of this name that cannot be read: {error.strerror}"
            raise type(error)(error.errno, what) from None
        if there[algorithm] != arrival.sums[algorithm]:
            return (
                Fate.CONFLICT,
                "storage has a file of this name with other content, which the table does not know",
            )
        return Fate.ORPHAN, ""


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


def _kind_of_mode(mode: int) -> str:
    from dbbbatch.files.scan import kind

    return kind(mode)
