"""Storing a batch of files so that a kill at any moment loses, doubles and forgets nothing.

In this order: hash (across file systems: copy beside the destination while hashing, make durable),
record the intent, place, make durable, record as stored and as due for every target, remove what
was copied. Recovery looks for intents, and finishes or takes back each of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft, Left, Verdict
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.storage import INODE, Arriving, File, FileChecksum, Known, Name, Row
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place


class Area(NamedTuple):
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

    @property
    def owner(self) -> str:
        """Whose temporary files ours are."""
        return f"finder.{self.finder}"


class Arrival:
    """A file on its way to storage.

    Attributes
    ----------
    rel : `str`
        Relative path.
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
    known : `Known` or `None`
        The row that it has already, if it returns.
    copied : `bool`
        Whether a copy waits beside the destination.
    """

    __slots__ = (
        "copied",
        "destination",
        "known",
        "name",
        "number",
        "rel",
        "size_bytes",
        "source",
        "status",
        "sums",
    )

    def __init__(
        self, rel: str, name: Name, source: str, destination: str, size_bytes: int = 0
    ) -> None:
        self.rel = rel
        self.name = name
        self.size_bytes = size_bytes
        self.source = source
        self.destination = destination
        self.status: os.stat_result = None  # type: ignore[assignment]
        self.sums: dict[str, str] = {}
        self.known: Known | None = None
        self.copied = False
        self.number = 0

    def row(self, algorithm: str) -> Row:
        """Return what is recorded about it."""
        return Row(
            *self.name,
            self.status.st_size,
            checksum.format(algorithm, self.sums[algorithm]),
            self.status.st_mtime_ns,
            self.status.st_ino,
        )


class Obstacle(NamedTuple):
    """A file that could not be placed, and why."""

    arrival: Arrival
    error: OSError


class Outcome(NamedTuple):
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


def store(area: Area, arrivals: Sequence[Arrival]) -> Outcome:
    """Store files that were read (and, across file systems, copied beside their destination).

    Raises
    ------
    TryLater
        The disk or the database is away or full. Recovery finishes what was begun.
    """
    if any(arrival.copied for arrival in arrivals):
        _sync(area.storage)
    algorithm = area.algorithms[0]
    arriving = connect.transact(lambda: _intend(area, algorithm, arrivals))
    outcome = Outcome([], [])
    corrected: list[Arrival] = []
    for arrival in arrivals:
        number = arriving.get(arrival.name)
        if number is None:
            # Another finder was faster; the next pass meets its row.
            outcome.obstacles.append(Obstacle(arrival, FileExistsError(errno.EEXIST, "busy")))
            continue
        arrival.number = number
        try:
            _place(area, arrival)
            if not arrival.copied and _read_again_if_other(arrival):
                corrected.append(arrival)
            outcome.stored.append(arrival)
        except OSError as error:
            if faults.is_general(error, writing=True):
                raise TryLater(_fault(error, arrival.destination)) from None
            outcome.obstacles.append(Obstacle(arrival, error))
    for arrival, _ in outcome.obstacles:
        if arrival.copied:
            place.remove_temporary(arrival.destination, area.owner)
    _sync(area.storage)
    copied = [arrival for arrival in outcome.stored if arrival.copied]
    taken_back = [arrival.number for arrival, _ in outcome.obstacles if arrival.number]

    def record() -> None:
        File.corrected([(arrival.number, arrival.row(algorithm)) for arrival in corrected])
        File.withdraw(taken_back)
        _record(
            area,
            [arrival.number for arrival in outcome.stored],
            [_original(each) for each in copied],
        )

    connect.transact(record)
    remove_originals(area, [_original(arrival) for arrival in copied])
    return outcome


def adopt(
    area: Area,
    arrivals: Sequence[Arrival],
    also: Callable[[], None] = lambda: None,
    arrive: Callable[[list[int]], None] | None = None,
) -> int:
    """Record files that storage has already: their status and checksums are those found there.

    Parameters
    ----------
    area : `Area`
        Where.
    arrivals : `~collections.abc.Sequence` [ `Arrival` ]
        The files; those with a row have it brought up to date.
    also : `~collections.abc.Callable`
        Further work in the same transaction.
    arrive : `~collections.abc.Callable`, optional
        Makes files due, given their ids; for every target of the storage by default.

    Returns
    -------
    count : `int`
        Files recorded.
    """
    if arrivals:
        _sync(area.storage)

    def record() -> int:
        ours = []
        if arrivals:
            numbers = _intend(area, area.algorithms[0], arrivals)
            ours = [numbers[each.name] for each in arrivals if each.name in numbers]
            _record(area, ours, [], arrive)
        also()
        return len(ours)

    return connect.transact(record)


def recover(area: Area, most: int) -> int:
    """Finish, or take back, what earlier passes left; return how many files it was about.

    Raises
    ------
    TryLater
        The disk or the database is away or full.
    """
    count = 0
    while rows := connect.look(lambda: File.arriving(area.storage, area.finder, most)):
        there: list[int] = []
        left: list[Left] = []
        back: list[int] = []
        for row in rows:
            try:
                if _was_placed(area, row):
                    there.append(row.id)
                    left += _left_behind(area, row)
                else:
                    back.append(row.id)
            except OSError as error:
                raise TryLater(_fault(error, names.join(row.relpath, row.filename))) from None
        if there:
            _sync(area.storage)

        def record(
            there: list[int] = there, left: list[Left] = left, back: list[int] = back
        ) -> None:
            File.withdraw(back)
            _record(area, there, left)

        connect.transact(record)
        count += len(rows)
    while originals := connect.look(
        lambda: FinderLeft.all_with(area.site, area.finder, Verdict.MOVED, most)
    ):
        if not remove_originals(area, originals):
            break
        count += len(originals)
    return count


def remove_originals(area: Area, originals: Sequence[Left]) -> int:
    """Remove files whose copies are stored; return how many there was an answer for.

    One that is another file by now stays, and is found by the next scan. One that cannot be removed
    is kept in mind.
    """
    done: list[Name] = []
    for original in originals:
        path = os.path.join(area.source, _rel(original))
        try:
            status = os.lstat(path)
            if _version(status) == (original.size_bytes, original.mtime_ns, original.inode):
                os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            continue
        done.append((original.relpath, original.filename))
    if done:
        connect.transact(lambda: FinderLeft.drop(area.site, area.finder, done))
    return len(done)


def _intend(area: Area, algorithm: str, arrivals: Sequence[Arrival]) -> dict[Name, int]:
    """Record the intents; return the ids of those that are ours."""
    new, again = [], []
    for arrival in arrivals:
        row = arrival.row(algorithm)
        if arrival.known is None:
            new.append(row)
        else:
            again.append((arrival.known.id, row))
    File.intend_again(area.finder, again)
    File.intend(area.storage, area.finder, new)
    intents = File.arriving(area.storage, area.finder)
    File.note_copies(intents)
    numbers = {(row.relpath, row.filename): row.id for row in intents}
    if area.algorithms[1:]:
        FileChecksum.keep(
            [
                (numbers[arrival.name], name, digest)
                for arrival in arrivals
                if arrival.name in numbers
                for name, digest in arrival.sums.items()
                if name != algorithm
            ]
        )
    return numbers


def _record(
    area: Area,
    there: list[int],
    originals: list[Left],
    arrive: Callable[[list[int]], None] | None = None,
) -> None:
    """Record files as stored and as due, and which originals are now to be removed."""
    if not there:
        return
    if File.stored(there) != len(there):
        raise TryLater(
            f"[finder.{area.finder}]: another finder of this name changed our rows; run one a site"
        )
    if arrive is None:
        IngestState.arrive(there, area.storage, area.run_id or None)
    else:
        arrive(there)
    FinderLeft.remember(area.site, area.finder, originals)


def _place(area: Area, arrival: Arrival) -> None:
    if arrival.copied:
        place.place(place.temporary_path(arrival.destination, area.owner), arrival.destination)
    else:
        place.place(arrival.source, arrival.destination)


def _read_again_if_other(arrival: Arrival) -> bool:
    """See to it that what was placed is what was read; else read it where it is now."""
    status = os.lstat(arrival.destination)
    if _version(status) == _version(arrival.status):
        return False
    # Written to between its reading and its placing: it is stored as what it is now, or goes back.
    try:
        arrival.sums = checksum.compute(arrival.destination, list(arrival.sums))
    except OSError:
        place.place(arrival.destination, arrival.source)
        raise
    arrival.status = os.lstat(arrival.destination)
    return True


def _was_placed(area: Area, row: Arriving) -> bool:
    """Tell whether an intent was carried out; clear away what it left half-done."""
    destination = os.path.join(area.storage, _rel(row))
    place.remove_temporary(destination, area.owner)
    try:
        status = os.lstat(destination)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if _version(status) == (row.size_bytes, row.mtime_ns, row.inode):
        return True
    if status.st_size != row.size_bytes:
        return False
    algorithm, digest = checksum.parse(row.checksum)
    try:
        return checksum.compute(destination, [algorithm])[algorithm] == digest
    except OSError as error:
        if faults.is_general(error):
            raise
        return False


def _left_behind(area: Area, row: Arriving) -> list[Left]:
    """Return the original of a stored copy, if it is still there; finish a placing by link."""
    source = os.path.join(area.source, _rel(row))
    destination = os.path.join(area.storage, _rel(row))
    try:
        status = os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return []
    if os.path.samestat(status, os.lstat(destination)):
        place.place(source, destination)
        return []
    left = Left(row.relpath, row.filename, row.size_bytes, row.mtime_ns, row.inode, Verdict.MOVED)
    return [left] if _version(status) == (row.size_bytes, row.mtime_ns, row.inode) else []


def _original(arrival: Arrival) -> Left:
    return Left(*arrival.name, *_version(arrival.status), Verdict.MOVED)


def _rel(row: Arriving | Left) -> str:
    return names.join(names.from_text(row.relpath), names.from_text(row.filename))


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino & INODE


def _sync(storage: str) -> None:
    try:
        place.sync_file_system(storage)
    except OSError as error:
        raise TryLater(_fault(error, storage)) from None


def _fault(error: OSError, path: str) -> str:
    return f"{names.printable(path)}: {error.strerror}; nothing is lost"
