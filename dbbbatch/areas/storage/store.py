"""Storing a batch of files so that a kill at any moment loses, doubles and forgets nothing.

In this order: hash (across file systems: copy beside the destination while hashing, make durable),
record the intent, place, make durable, record as stored and as due for every target, remove what
was copied. Recovery looks for intents, and finishes or takes back each of them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileChecksum, FileRow, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import IngestStatus, WhyRemembered
from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, faults, names, place, temporary
from dbbbatch.files.identity import Version, inode_of
from dbbbatch.files.parallel import map_in_order, useful_threads
from dbbbatch.files.roots import MovedFile, Roots


class StorageArea(NamedTuple):
    """What storing files needs to know.

    Attributes
    ----------
    site, finder : `str`
        Whose files.
    source, storage : `str`
        Directories: from where to where.
    algorithms : `tuple` [ `str` ]
        Of the checksums to be recorded; the first one in the `file` table.
    mode, dir_mode, group : `int` or `None`
        Of what is stored.
    run_id : `int`
        The pass.
    jobs : `int`
        Threads that read, and remove, large files.
    sentinel : `str`
        The name by which storage is known.
    roots : `dbbbatch.files.roots.Roots`
        Tells whether storage is still the one in which the pass began to work.
    """

    site: str
    finder: str
    source: str
    storage: str
    algorithms: tuple[str, ...]
    mode: int | None
    dir_mode: int | None
    group: int | None
    run_id: int
    jobs: int
    sentinel: str
    roots: Roots

    @property
    def owner(self) -> str:
        """Whose temporary files ours are."""
        return f"finder.{self.finder}"

    def require(self) -> None:
        """Raise `TryLater` unless storage is still the one in which the pass began to work."""
        self.roots.require(self.storage, self.sentinel)


class Arrival:
    """A file on its way to storage.

    Attributes
    ----------
    rel, relpath : `str`
        Relative path, and that of its directory.
    name : `Name`
        The same as the tables have it.
    source, destination : `str`
        Where it is and where it will be.
    size_bytes : `int`
        What the scan saw.
    status : `os.stat_result`
        What it was when it was read.
    sums : `dict` [ `str`, `str` ]
        Its checksums.
    known : `FileRow` or `None`
        The row that it has already, if it returns.
    copied : `bool`
        Whether a copy waits beside the destination.
    device : `int`
        The file system of its destination.
    """

    __slots__ = (
        "copied",
        "destination",
        "device",
        "known",
        "name",
        "number",
        "rel",
        "relpath",
        "size_bytes",
        "source",
        "status",
        "sums",
    )

    def __init__(
        self, rel: str, name: Name, source: str, destination: str, size_bytes: int = 0
    ) -> None:
        self.rel = rel
        self.relpath = names.split(rel)[0]
        self.name = name
        self.size_bytes = size_bytes
        self.source = source
        self.destination = destination
        self.status: os.stat_result = None  # type: ignore[assignment]
        self.sums: dict[str, str] = {}
        self.known: FileRow | None = None
        self.copied = False
        self.device = 0
        self.number = 0

    def row(self, algorithm: str) -> FileRow:
        """Return what is recorded about it."""
        return FileRow(
            *self.name,
            self.status.st_size,
            checksum.format(algorithm, self.sums[algorithm]),
            *Version.of_file(self.status)[1:],
        )


class Obstacle(NamedTuple):
    """A file that could not be placed, and why."""

    arrival: Arrival
    error: OSError


class StoreResult(NamedTuple):
    """What became of a batch.

    Attributes
    ----------
    stored : `list` [ `Arrival` ]
        In storage, durable and recorded.
    obstacles : `list` [ `Obstacle` ]
        Not stored; the intent was taken back.
    """

    stored: list[Arrival]
    obstacles: list[Obstacle]


def store(area: StorageArea, arrivals: Sequence[Arrival]) -> StoreResult:
    """Store files that were read (and, across file systems, copied beside their destination).

    Raises
    ------
    TryLater
        The disk or the database is away or full. Recovery finishes what was begun.
    """
    _sync_stored(arrival for arrival in arrivals if arrival.copied)
    algorithm = area.algorithms[0]
    arriving = connect.write(_intend, area, algorithm, arrivals)
    outcome = StoreResult([], [])
    corrected: list[Arrival] = []
    copies: list[tuple[int, int, int]] = []
    placed: list[Arrival] = []
    try:
        for arrival in arrivals:
            number = arriving.get(arrival.name)
            if number is None:
                # Another finder was faster; the next pass meets its row.
                outcome.obstacles.append(Obstacle(arrival, FileExistsError(errno.EEXIST, "busy")))
                continue
            arrival.number = number
            try:
                _place(area, arrival)
                placed.append(arrival)
                if arrival.copied:
                    copies.append(_own_entry(number, _as_placed(arrival)))
                elif _read_again_if_other(arrival):
                    corrected.append(arrival)
                outcome.stored.append(arrival)
            except OSError as error:
                faults.raise_if_general(error, arrival.destination, writing=True)
                outcome.obstacles.append(Obstacle(arrival, error))
        for arrival, _ in outcome.obstacles:
            if arrival.copied:
                place.remove_temporary(arrival.destination, area.owner)
        _sync_stored(outcome.stored)
        _must_be_the_same(area, outcome.stored)
    except (TryLater, OSError) as error:
        back = (MovedFile(each.rel, each.source, each.copied) for each in placed)
        if told := area.roots.take_back(area.storage, back):
            raise TryLater(f"{error}; {told}") from None
        raise
    originals = [_original(arrival, algorithm) for arrival in outcome.stored if arrival.copied]
    taken_back = [arrival.number for arrival, _ in outcome.obstacles if arrival.number]

    def record() -> None:
        _correct(area, corrected)
        File.own_entries(copies)
        File.withdraw(taken_back)
        _record_stored(area, [arrival.number for arrival in outcome.stored], originals)

    connect.write(record)
    _remove_originals(area, originals)
    return outcome


def adopt(
    area: StorageArea,
    arrivals: Sequence[Arrival],
    also: Callable[[Sequence[Arrival]], None] = lambda recorded: None,
    arrive: Callable[[list[int]], None] | None = None,
) -> int:
    """Record files that storage has already: their status and checksums are those found there.

    Parameters
    ----------
    area : `StorageArea`
        Where.
    arrivals : `~collections.abc.Sequence` [ `Arrival` ]
        The files; those with a row have it brought up to date.
    also : `~collections.abc.Callable`
        Further work in the same transaction, given what was recorded: not what another pass has
        in hand, or has changed since its row was read.
    arrive : `~collections.abc.Callable`, optional
        Makes files due, given their ids; for every target of the storage by default.

    Returns
    -------
    count : `int`
        Files recorded.
    """
    for arrival in arrivals:
        arrival.device = arrival.status.st_dev
        try:
            place.mask(arrival.destination, arrival.status)
        except OSError as error:
            faults.raise_if_general(error, arrival.destination)
    _sync_stored(arrivals)
    area.require()

    def record() -> int:
        recorded = []
        if arrivals:
            numbers = _intend(area, area.algorithms[0], arrivals)
            recorded = [each for each in arrivals if each.name in numbers]
            _record_stored(area, [numbers[each.name] for each in recorded], [], arrive)
        also(recorded)
        return len(recorded)

    return connect.write(record)


def recover_arrivals(
    area: StorageArea,
    most: int,
    stuck: Callable[[str, str], None],
    nowhere: Callable[[str], None],
    refuse: Callable[[str, int | None, str], None],
) -> int:
    """Finish, or take back, what earlier passes left; return how many files that concludes.

    Parameters
    ----------
    area : `StorageArea`
        Where.
    most : `int`
        Files in one transaction.
    stuck : `~collections.abc.Callable`
        Is told of each file that cannot be looked at now, and so waits on: its path, and why.
    nowhere : `~collections.abc.Callable`
        Is told the path of each file that is neither in storage nor in the source any more.
    refuse : `~collections.abc.Callable`
        Is told of each row that must not be followed: its table, its id, and why.

    Raises
    ------
    TryLater
        The disk or the database is away or full.
    Interrupted
        The pass is to end; what was finished before is recorded.
    """
    count = after = 0
    end: Interrupted | None = None
    while end is None and (
        rows := connect.read(File.arriving, area.storage, area.finder, most, after)
    ):
        after = rows[-1].id
        there: list[Arrival] = []
        copies: list[tuple[int, int, int]] = []
        left: list[RememberedFile] = []
        back: list[int] = []
        missing: list[str] = []
        for row in rows:
            if why := names.fault(row):
                refuse("file", row.id, why)
                continue
            try:
                if arrival := _placed(area, row):
                    there.append(arrival)
                    if Version.of_file(arrival.status) != Version.of_row(row):
                        copies.append(_own_entry(row.id, arrival.status))
                    left += _left_behind(area, row)
                else:
                    if not place.is_there(os.path.join(area.source, names.rel_of(row))):
                        missing.append(names.rel_of(row))
                    back.append(row.id)
            except Interrupted as error:
                end = error
                break
            except OSError as error:
                rel = names.rel_of(row)
                faults.raise_if_general(error, rel)
                stuck(rel, f"was on its way to storage, and waits on: {error.strerror}")
        _sync_stored(there)
        area.require()

        def record(
            there: list[Arrival] = there,
            copies: list[tuple[int, int, int]] = copies,
            left: list[RememberedFile] = left,
            back: list[int] = back,
        ) -> None:
            _correct(area, [arrival for arrival in there if arrival.sums])
            File.own_entries(copies)
            File.withdraw(back)
            _record_stored(area, [arrival.number for arrival in there], left)

        connect.write(record)
        for rel in missing:
            # Somebody took it from the source, or storage was another directory when it came.
            nowhere(rel)
        count += len(there) + len(back)
    if end is not None:
        raise end
    return count


def _must_be_the_same(area: StorageArea, arrivals: Sequence[Arrival]) -> None:
    """Raise `TryLater` if storage, or a disk that is a part of it, is another one by now.

    What came there since is not in storage, although it stands under its name.
    """
    area.require()
    devices = {os.path.dirname(each.destination): each.device for each in arrivals}
    for directory, device in devices.items():
        with faults.as_try_later(directory):
            same = os.stat(directory).st_dev == device
        if not same:
            raise TryLater(
                f"{names.printable(directory)}: was unmounted or mounted while files were put "
                "there; they are not recorded; look below the mount point"
            )


def _remove_originals(area: StorageArea, originals: Sequence[RememberedFile]) -> None:
    """Remove files whose copies were just stored.

    One that is another file by now stays, and is found by the next scan. One that cannot be removed
    is kept in mind.
    """
    if not originals:
        return

    def remove(original: RememberedFile) -> bool:
        path = names.below(area.source, names.rel_of(original))
        try:
            if Version.of_file(os.lstat(path)) == Version.of_row(original):
                os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return False
        return True

    removed = map_in_order(remove, originals, useful_threads(originals, area.jobs))
    done: list[Name] = [
        (original.relpath, original.filename)
        for original, gone in zip(originals, removed, strict=True)
        if gone
    ]
    if done:
        connect.write(Remembered.drop, area.site, area.finder, done)


def _intend(area: StorageArea, algorithm: str, arrivals: Sequence[Arrival]) -> dict[Name, int]:
    """Record the intents; return the ids of those that are ours."""
    new, again = [], []
    for arrival in arrivals:
        row = arrival.row(algorithm)
        if arrival.known is None:
            new.append(row)
        else:
            again.append((arrival.known, row))
    File.intend_again(area.finder, again)
    File.intend(area.storage, area.finder, new)
    intents = File.arriving(area.storage, area.finder)
    File.note_copies(intents)
    numbers = {(row.relpath, row.filename): row.id for row in intents}
    _keep_checksums(area, arrivals, numbers)
    return numbers


def _keep_checksums(
    area: StorageArea, arrivals: Sequence[Arrival], numbers: Mapping[Name, int]
) -> None:
    """Record the further checksums of those that are ours."""
    if area.algorithms[1:]:
        FileChecksum.keep(
            [
                (numbers[arrival.name], name, digest)
                for arrival in arrivals
                if arrival.name in numbers
                for name, digest in arrival.sums.items()
                if name != area.algorithms[0]
            ]
        )


def _correct(area: StorageArea, arrivals: Sequence[Arrival]) -> None:
    """Record what files turned out to be after their intent was recorded."""
    algorithm = area.algorithms[0]
    File.corrected([(arrival.number, arrival.row(algorithm)) for arrival in arrivals])
    _keep_checksums(area, arrivals, {arrival.name: arrival.number for arrival in arrivals})


def _record_stored(
    area: StorageArea,
    there: list[int],
    originals: list[RememberedFile],
    arrive: Callable[[list[int]], None] | None = None,
) -> None:
    """Record files as stored and as due, and which originals are now to be removed."""
    if not there:
        return
    forgotten = File.returned(there)
    if File.stored(there) != len(there):
        raise TryLater(
            f"[finder.{area.finder}]: another finder of this name changed our rows; run one a site"
        )
    if arrive is None:
        IngestState.arrive(there, area.storage, area.run_id or None)
    else:
        arrive(there)
    for target, (changed, put_off) in forgotten.items():
        IngestState.offer_anew(target, changed, "other content came after it was forgotten")
        IngestState.rerun(
            target, put_off, [IngestStatus.IGNORED], "came back after it was forgotten"
        )
    Remembered.remember(area.site, area.finder, originals)


def _place(area: StorageArea, arrival: Arrival) -> None:
    if not arrival.copied:
        try:
            place.place(arrival.source, arrival.destination)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        _copy(area, arrival)
    place.place(temporary.temporary_path(arrival.destination, area.owner), arrival.destination)


def _copy(area: StorageArea, arrival: Arrival) -> None:
    """Copy a file that cannot be renamed, though it is on the file system of its destination.

    So it is between two mounts of one file system, and where quotas are those of a directory.
    """
    with checksum.opened(arrival.source) as descriptor:
        checksum.same(arrival.status, os.fstat(descriptor), arrival.source)
        sums = place.copy_beside(
            descriptor,
            arrival.destination,
            area.algorithms,
            owner=area.owner,
            mode=area.mode,
            group=area.group,
        )
    arrival.copied = True
    if any(arrival.sums[name] != digest for name, digest in sums.items()):
        raise checksum.Changed(errno.EAGAIN, "the file changed after it was read", arrival.source)
    place.sync_file(temporary.temporary_path(arrival.destination, area.owner))


def _as_placed(arrival: Arrival) -> os.stat_result:
    """Return what a file is that was just placed."""
    # It is there, or was a moment ago: its intent stays, and recovery looks for it.
    with faults.as_try_later(arrival.destination):
        return os.lstat(arrival.destination)


def _read_again_if_other(arrival: Arrival) -> bool:
    """See to it that what was placed is what was read; else read it where it is now."""
    if Version.of_file(_as_placed(arrival)) == Version.of_file(arrival.status):
        return False
    # Written to between its reading and its placing.
    _read_again(arrival, list(arrival.sums))
    return True


def _read_again(arrival: Arrival, algorithms: Sequence[str]) -> None:
    """Read a file in storage, to be recorded as what it is now; else it goes back."""
    try:
        arrival.sums = checksum.compute(arrival.destination, algorithms)
    except OSError:
        # Its writer may have made the next version by now.
        place.place_versioned(arrival.destination, *os.path.split(arrival.source))
        raise
    arrival.status = os.lstat(arrival.destination)


def _placed(area: StorageArea, row: FileRow) -> Arrival | None:
    """Return the file that an intent brought to storage, if it did; clear away what is half-done.

    It has checksums if they are not those of the intent.
    """
    rel = names.rel_of(row)
    arrival = Arrival(rel, (row.relpath, row.filename), *_paths(area, rel))
    arrival.number = row.id
    place.remove_temporary(arrival.destination, area.owner)
    try:
        arrival.status = os.lstat(arrival.destination)
    except (FileNotFoundError, NotADirectoryError):
        return None
    arrival.device = arrival.status.st_dev
    if Version.of_file(arrival.status) == Version.of_row(row):
        return arrival
    try:
        same_size = arrival.status.st_size == row.size_bytes
        if same_size and checksum.matches(arrival.destination, row.checksum):
            return arrival
        if not _was_renamed(arrival, row):
            return None
        _read_again(arrival, list(dict.fromkeys(area.algorithms)))
        return arrival
    except OSError as error:
        if faults.affects_every_file(error):
            raise
    return None


def _was_renamed(arrival: Arrival, row: FileRow) -> bool:
    """Return whether a file in storage is that of an intent, with content that it got since.

    Numbers are of one file system: where the source still has its file, that one has the number.
    """
    if not stat.S_ISREG(arrival.status.st_mode) or inode_of(arrival.status.st_ino) != row.inode:
        return False
    try:
        original = os.lstat(arrival.source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return inode_of(original.st_ino) != row.inode or os.path.samestat(original, arrival.status)


def _left_behind(area: StorageArea, row: FileRow) -> list[RememberedFile]:
    """Return the original of a stored copy, if it is still there; finish a placing by link."""
    source, destination = _paths(area, names.rel_of(row))
    try:
        status = os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if os.path.samestat(status, os.lstat(destination)):
        place.place(source, destination)
        return []
    if Version.of_file(status) != Version.of_row(row):
        return []
    return [to_be_removed((row.relpath, row.filename), status, row.checksum)]


def _original(arrival: Arrival, algorithm: str) -> RememberedFile:
    digest = checksum.format(algorithm, arrival.sums[algorithm])
    return to_be_removed(arrival.name, arrival.status, digest)


def to_be_removed(name: Name, status: os.stat_result, digest: str) -> RememberedFile:
    """Return what is to be kept in mind of a file of the source that storage has."""
    return RememberedFile(*name, *Version.of_file(status), WhyRemembered.MOVED, checksum=digest)


def _paths(area: StorageArea, rel: str) -> tuple[str, str]:
    return names.below(area.source, rel), names.below(area.storage, rel)


def _own_entry(number: int, status: os.stat_result) -> tuple[int, int, int]:
    """Return id, time and inode of a file of storage, which a copy does not have of its source."""
    return (number, *Version.of_file(status)[1:])


def _sync_stored(arrivals: Iterable[Arrival]) -> None:
    """Make files in storage durable, and their names: storage may be several file systems."""
    for path in {arrival.device: arrival.destination for arrival in arrivals}.values():
        directory = os.path.dirname(path)
        with faults.as_try_later(directory):
            place.sync_file_system(directory)
