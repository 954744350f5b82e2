"""Store files so that a kill at any moment loses, doubles and forgets nothing.

intend: each file has a row ARRIVING with its checksum; copies wait beside their destination.
act: place the files and make them durable, in a storage area that is still the same one.
record: the rows are STORED and due for every target, and the originals of copies to be removed.
recover: is the file of an ARRIVING row in storage? If so, record it; if not, take its row back.
         What a rename brought instead of it is judged as in act. What may have come otherwise is
         not touched, and its row waits.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dbbbatch.areas.storage.duplicates import remove_original
from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.areas.storage.mounted import StorageArea, needs_copy
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileChecksum, FileRow, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import IngestStatus, WhyRemembered
from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import map_in_order, useful_threads


class NotBack(OSError):
    """What a rename brought to storage may not stay there, and cannot be moved back now."""


def store(area: StorageArea, files: Sequence[Incoming]) -> tuple[list[Incoming], list[Incoming]]:
    """Store files that were read (and, across file systems, copied beside their destination).

    Returns
    -------
    stored : `list` [ `Incoming` ]
        In storage, durable and recorded.
    failed : `list` [ `Incoming` ]
        The others, each with its error; their intents are taken back, but for those of files that
        are in storage and can neither be recorded nor moved back now: `recover` looks at these.

    Raises
    ------
    TryLater
        The disk or the database is away or full. Recovery finishes what was begun.
    """
    stored, failed = act(area, intend(area, files))
    originals = [
        to_be_removed(each, each.row(area.algorithms[0]).checksum) for each in stored if each.copied
    ]
    record(area, stored, [each.number for each in failed if each.number], originals)
    _remove_originals(area, originals)
    return stored, failed


def intend(area: StorageArea, files: Sequence[Incoming]) -> list[Incoming]:
    """Record that files arrive; return them with the ids of their rows."""
    _sync_stored(each for each in files if each.copied)
    return connect.write(_record_intents, area, files)


def act(area: StorageArea, files: Sequence[Incoming]) -> tuple[list[Incoming], list[Incoming]]:
    """Place files and make them durable; return those in storage, and those that failed."""
    stored: list[Incoming] = []
    failed: list[Incoming] = []
    for each in files:
        if not each.number:
            # Another finder was faster; the next pass meets its row.
            failed.append(each.failed(FileExistsError(errno.EEXIST, "busy")))
            continue
        try:
            if not each.copied and not _renamed(each):
                each = each._replace(copied=True)
                _copy(area, each)
            if each.copied:
                place.place_copy(each.destination, area.owner)
            stored.append(_as_placed(area, each))
        except NotBack as error:
            failed.append(each.failed(error)._replace(number=0))
        except OSError as error:
            faults.raise_if_general(error, each.destination.path, writing=True)
            failed.append(each.failed(error))
    for each in failed:
        if each.copied:
            place.remove_temporary(each.destination, area.owner)
    _sync_stored(stored)
    _require_same_disks(area, stored)
    return stored, failed


def record(
    area: StorageArea,
    stored: Sequence[Incoming],
    withdrawn: Sequence[int],
    originals: Sequence[RememberedFile],
) -> None:
    """Record files as stored and due, take other intents back, remember what is to be removed."""

    def write() -> None:
        File.withdraw(withdrawn)
        _record_stored(area, stored)
        Remembered.remember(area.site, area.finder, originals)

    connect.write(write)


def recover(
    area: StorageArea,
    most: int,
    fail: Callable[[str, str], None],
    vanish: Callable[[str], None],
    refuse: Callable[[str, int | None, str], None],
) -> int:
    """Finish, or take back, what earlier passes left; return how many files that concludes.

    Parameters
    ----------
    area : `StorageArea`
    most : `int`
        Files in one transaction.
    fail : `~collections.abc.Callable`
        Called with the relative path of each file that cannot be looked at now, and why.
    vanish : `~collections.abc.Callable`
        Called with the relative path of each file that is neither in storage nor in the source.
    refuse : `~collections.abc.Callable`
        Called with table, id and reason for each row that must not be followed.

    Raises
    ------
    TryLater
        The disk or the database is away or full.
    Interrupted
        The pass is to end; what was finished before is recorded.
    """
    count = 0
    end: Interrupted | None = None
    arriving = partial(File.arriving, area.section.storage, area.finder, most)
    for rows in connect.pages(arriving, 0, "id"):
        area.forget()
        stored: list[Incoming] = []
        originals: list[RememberedFile] = []
        withdrawn: list[int] = []
        vanished: list[str] = []
        for row in rows:
            if why := names.fault(row):
                refuse("file", row.id, why)
                continue
            rel = names.rel_of(row)
            try:
                if found := _found(area, row):
                    originals += _original_of(found, row)
                    stored.append(found)
                else:
                    if area.source.entry(rel).certain_status() is None:
                        vanished.append(rel)
                    withdrawn.append(row.id)
            except Interrupted as error:
                end = error
                break
            except OSError as error:
                faults.raise_if_general(error, str(error.filename or area.source.entry(rel)))
                fail(rel, f"was on its way to storage, and waits on: {error.strerror}")
        _sync_stored(stored)
        _require_same(area, stored)
        record(area, stored, withdrawn, originals)
        for rel in vanished:
            # It was taken from the source, or storage was another directory when it came.
            vanish(rel)
        count += len(stored) + len(withdrawn)
        if end is not None:
            raise end
    return count


def adopt(
    area: StorageArea,
    files: Sequence[Incoming],
    also: Callable[[Sequence[Incoming]], None] = lambda recorded: None,
    arrive: Callable[[list[int]], None] | None = None,
) -> int:
    """Record files that storage has already; return how many were recorded.

    Parameters
    ----------
    area : `StorageArea`
    files : `~collections.abc.Sequence` [ `Incoming` ]
        With status and checksums of what is in storage; where `known`, the row is updated.
    also : `~collections.abc.Callable`
        Does further work in the same transaction. Called with the files that were recorded: not
        those that another pass has claimed, or has changed since their rows were read.
    arrive : `~collections.abc.Callable`, optional
        Makes files due, given their ids; for every target of the storage area by default.
    """
    for each in files:
        try:
            place.mask(each.destination, each.status)
        except OSError as error:
            faults.raise_if_general(error, each.destination.path)
    files = [each._replace(device=each.status.st_dev) for each in files]
    _sync_stored(files)
    _require_same(area, files)

    def write() -> int:
        recorded = []
        if files:
            recorded = [each for each in _record_intents(area, files) if each.number]
            _record_stored(area, recorded, arrive)
        also(recorded)
        return len(recorded)

    return connect.write(write)


def to_be_removed(file: Incoming, digest: str) -> RememberedFile:
    """Return what is remembered of a file of the source that storage has, until it is removed."""
    version = Version.of_file(file.status)
    return RememberedFile(*file.name, *version, WhyRemembered.MOVED, checksum=digest)


def _record_intents(area: StorageArea, files: Sequence[Incoming]) -> list[Incoming]:
    """Record the intents; return the files with the ids of their rows, 0 if one is another's."""
    algorithm = area.algorithms[0]
    again = [(each.known, each.row(algorithm)) for each in files if each.known is not None]
    File.intend_again(area.finder, again)
    new = [each.row(algorithm) for each in files if each.known is None]
    File.intend(area.section.storage, area.finder, new)
    intents = File.arriving(area.section.storage, area.finder)
    File.note_copies(intents)
    numbers = {(row.relpath, row.filename): row.id for row in intents}
    files = [each._replace(number=numbers.get(each.name, 0)) for each in files]
    _record_checksums(area, [each for each in files if each.number])
    return files


def _record_checksums(area: StorageArea, files: Sequence[Incoming]) -> None:
    """Record the further checksums of files."""
    if area.algorithms[1:]:
        FileChecksum.keep(
            [
                (each.number, algorithm, digest)
                for each in files
                for algorithm, digest in each.sums.items()
                if algorithm != area.algorithms[0]
            ]
        )


def _record_stored(
    area: StorageArea,
    files: Sequence[Incoming],
    arrive: Callable[[list[int]], None] | None = None,
) -> None:
    """Record files as stored, as what they are in storage, and as due."""
    if not files:
        return
    changed = [each for each in files if each.placed and not each.copied]
    File.corrected([(each.number, each.row(area.algorithms[0])) for each in changed])
    _record_checksums(area, changed)
    File.own_entries(
        [(each.number, *each.placed[1:]) for each in files if each.placed and each.copied]
    )
    numbers = [each.number for each in files]
    forgotten = File.returned(numbers)
    if File.stored(numbers) != len(numbers):
        raise TryLater(
            f"[finder.{area.finder}]: another finder of this name changed our rows; run one a site"
        )
    if arrive is None:
        IngestState.arrive(numbers, area.section.storage, area.run_id or None)
    else:
        arrive(numbers)
    for target, (others, put_off) in forgotten.items():
        IngestState.offer_anew(target, others, "other content came after it was forgotten")
        IngestState.rerun(
            target, put_off, [IngestStatus.IGNORED], "came back after it was forgotten"
        )


def _renamed(file: Incoming) -> bool:
    """Rename a file to its place; return False if it must be copied."""
    try:
        place.place(file.source, file.destination)
    except FileNotFoundError:
        # Another host was ordered to do this, and it was done after that host had lost its lease.
        if file.destination.status() is None:
            raise
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy(area: StorageArea, file: Incoming) -> None:
    """Copy a file that cannot be renamed, though it is on the file system of its destination.

    So it is between two mounts of one file system, and where each directory has a quota of its own.
    """
    with checksum.opened(file.source) as descriptor:
        checksum.same(file.status, os.fstat(descriptor), file.source.path)
        sums = area.copy_beside(descriptor, file.destination)
    if any(file.sums[name] != digest for name, digest in sums.items()):
        raise checksum.Changed(errno.EAGAIN, "the file changed after it was read", file.source.path)
    place.sync_file(place.temporary_of(file.destination, area.owner))


def _as_placed(area: StorageArea, file: Incoming) -> Incoming:
    """Return a file as it is in storage, as `_judged` if it was renamed."""
    # It is there, or was a moment ago: its intent stays, and recovery looks for it.
    with faults.as_try_later(file.destination):
        status = file.destination.lstat()
    if file.copied:
        return file._replace(placed=Version.of_file(status))
    return _judged(area, file, status, Version.of_file(file.status))


def _judged(area: StorageArea, file: Incoming, status: os.stat_result, read: Version) -> Incoming:
    """Return a file that a rename brought to storage, to be recorded as what it is there.

    If it was written to since it was read, or its writer replaced it, it is read again. Somebody
    else's file that had its name when it was renamed, or a link, goes back to the source: its owner
    could change it in storage. So does what cannot be read. The next scan finds it.
    """
    try:
        if not (stat.S_ISREG(status.st_mode) and area.is_ours_alone(status)):
            why = "another file got its name after it was read"
            raise checksum.Changed(errno.EAGAIN, why, file.source.path)
        if Version.of_file(status) == read:
            return file
        # Its writer may have replaced it by a file with other permissions.
        place.mask(file.destination, status)
        status, sums = checksum.read_file(file.destination, area.algorithms)
    except OSError:
        _move_back(file)
        raise
    return file._replace(sums=sums, status=status, placed=Version.of_file(status))


def _move_back(file: Incoming) -> None:
    """Move what a rename brought to storage back, durably: its intent may then be taken back."""
    try:
        # Its writer may have made the next version by now.
        place.place_versioned(file.destination, file.source)
        file.destination.tree.sync_file_system(file.destination.relpath)
    except OSError as error:
        why = f"what got its name cannot be moved back to the source: {error.strerror}"
        raise NotBack(error.errno, why, error.filename) from error


def _require_same(area: StorageArea, files: Sequence[Incoming]) -> None:
    """Raise `TryLater` if storage, or a directory in it, is another one by now.

    What was placed meanwhile is where its path does not lead: recovery looks for it there again.
    """
    area.require()
    with faults.as_try_later():
        area.storage.require_same({each.destination.relpath for each in files})


def _require_same_disks(area: StorageArea, files: Sequence[Incoming]) -> None:
    """Raise `TryLater` if storage, or a directory or a disk in it, is another one by now.

    As `_require_same`, from when the files were examined.
    """
    _require_same(area, files)
    devices = {each.destination.relpath: each.device for each in files}
    for relpath, device in devices.items():
        directory = area.storage.directory(relpath)
        if os.fstat(directory.fd).st_dev != device:
            shown = names.printable(os.path.join(area.storage.path, relpath))
            raise TryLater(
                f"{shown}: was unmounted or mounted while files were put there; they are not "
                "recorded; look below the mount point"
            )


def _remove_originals(area: StorageArea, originals: Sequence[RememberedFile]) -> None:
    """Remove files whose copies were just stored.

    One that is another file by now stays: the next scan finds it. One that cannot be removed stays
    remembered.
    """
    if not originals:
        return

    def remove(original: RememberedFile) -> bool:
        try:
            remove_original(area, original)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    removed = map_in_order(remove, originals, useful_threads(originals, area.section.jobs))
    done: list[Name] = [
        (original.relpath, original.filename)
        for original, gone in zip(originals, removed, strict=True)
        if gone
    ]
    if done:
        connect.write(Remembered.drop, area.site, area.finder, done)


def _found(area: StorageArea, row: FileRow) -> Incoming | None:
    """Return the file that an intent brought to storage, if it did; remove an unfinished copy.

    What else a rename brought goes back to the source.

    Raises
    ------
    FileExistsError
        Nothing shows whether what is in storage was brought there by the intent.
    """
    file = area.incoming(names.rel_of(row))._replace(number=row.id)
    place.remove_temporary(file.destination, area.owner)
    if (status := file.destination.certain_status()) is None:
        return None
    file = file._replace(status=status, device=status.st_dev)
    original = file.source.certain_status()
    if renamed := _was_renamed(area, file, row, original):
        try:
            return _judged(area, file, status, Version.of_row(row))
        except OSError as error:
            if isinstance(error, NotBack) or faults.affects_every_file(error):
                raise
        return None
    if (renamed is False or area.is_ours_alone(status)) and _has_content(file, row):
        return file._replace(copied=True, placed=Version.of_file(status))
    if renamed is False and original is not None:
        return None
    raise FileExistsError(
        errno.EEXIST,
        "storage has something of this name, and nothing shows how it came there; move it away, to "
        "the source if it is to be stored",
        file.destination.path,
    )


def _was_renamed(
    area: StorageArea, file: Incoming, row: FileRow, original: os.stat_result | None
) -> bool | None:
    """Return whether a rename brought what is in storage under the name of an intent.

    The name was free when the intent was made. An inode alone shows nothing: a file system gives a
    new file that of one that is gone.

    Returns
    -------
    renamed : `bool` or `None`
        `None` if nothing shows it: the source has yet another file.
    """
    if original is not None and os.path.samestat(original, file.status):
        # It was linked; or source and storage lead to the same file.
        return None if file.source.is_same_entry(file.destination) else True
    if _is_copied(area, file):
        return False
    if stat.S_ISDIR(file.status.st_mode) and _holds_files(area, file):
        return False
    if original is None:
        return True
    if Version.of_file(original) == Version.of_row(row):
        return False
    return True if Version.of_file(file.status) == Version.of_row(row) else None


def _is_copied(area: StorageArea, file: Incoming) -> bool:
    """Return whether no rename leads from the source to where a file is in storage."""
    source, directory = area.source.directory(), file.destination.where()
    devices = (os.fstat(source.fd).st_dev, os.fstat(directory.fd).st_dev)
    return needs_copy(area.section) or devices[0] != devices[1]


def _holds_files(area: StorageArea, file: Incoming) -> bool:
    """Return whether the table has files below a directory of storage."""
    below = names.to_text(file.rel)
    return connect.read(File.below, area.section.storage, below, 1) > 0


def _has_content(file: Incoming, row: FileRow) -> bool:
    """Return whether what is in storage has the content of an intent: as its copy has."""
    if not stat.S_ISREG(file.status.st_mode) or file.status.st_size != row.size_bytes:
        return False
    return checksum.matches(file.destination, row.checksum)


def _original_of(file: Incoming, row: FileRow) -> list[RememberedFile]:
    """Return the original of a stored copy, if it is still there; finish a placing by link."""
    if (status := file.source.certain_status()) is None:
        return []
    if os.path.samestat(status, file.destination.lstat()):
        place.place(file.source, file.destination)
        return []
    if Version.of_file(status) != Version.of_row(row):
        return []
    return [to_be_removed(file._replace(status=status), row.checksum)]


def _sync_stored(files: Iterable[Incoming]) -> None:
    """Make files in storage durable, and their names: storage may be several file systems."""
    for one in {each.device: each.destination for each in files}.values():
        with faults.as_try_later(one):
            one.tree.sync_file_system(one.relpath)
