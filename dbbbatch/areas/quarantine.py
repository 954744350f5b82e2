"""Moving files aside that a person must look at: the intent first, then the file, then the record.

The intent names the place where the file will be, so a kill between any two steps leaves either
the file where it was, or a file whose row says what it is and why it is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dbbbatch.database import connect
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.roots import MovedFile, Roots


@dataclass(frozen=True)
class Rejected:
    """A file to be moved aside.

    Attributes
    ----------
    source : `str`
        Where it is.
    rel : `str`
        Its path relative to the buffer or source.
    status : `os.stat_result`
        As it was when the decision was made.
    checksum : `str` or `None`
        ``algorithm:hex``, if it could be read.
    reason : `str`
        For an operator.
    """

    source: str
    rel: str
    status: os.stat_result
    checksum: str | None
    reason: str


def path_fault(row: Quarantine, root: str, source: str) -> str:
    """Return what is wrong with the paths of a row of a quarantine, or nothing."""
    if why := names.fault(row):
        return why
    for text, top in ((row.path, root), (row.released_as, source)):
        if text is not None and not names.stays_inside(names.readable(text), top):
            return (
                f"{names.printable(text)!r} is not below {top} (if the configuration had another "
                "path when the row was written, put that back)"
            )
    return ""


class QuarantineArea:
    """The quarantine of one section.

    Parameters
    ----------
    site, label : `str`
        Whose files, such as "finder.latiss".
    root : `str`
        The quarantine's directory.
    source : `str`
        The directory that files come from.
    roots : `dbbbatch.files.roots.Roots`
        Tells whether the quarantine is still the one of the pass's first look.
    """

    def __init__(self, site: str, label: str, root: str, source: str, roots: Roots) -> None:
        self._site = site
        self._label = label
        self._root = root
        self._source = source
        self._roots = roots
        # The first look; what it finds wrong is met again by whatever is done there.
        roots.why_not(root)

    def move(self, files: Sequence[Rejected]) -> list[tuple[Rejected, OSError]]:
        """Move files aside, durably.

        Returns
        -------
        failed : `list` [ `tuple` [ `Rejected`, `OSError` ] ]
            Those that stayed, and why.
        """
        failed: list[tuple[Rejected, OSError]] = []
        planned: list[tuple[Rejected, str]] = []
        taken: set[str] = set()
        for file in files:
            try:
                planned.append((file, self._plan(file, taken)))
            except OSError as error:
                failed.append((file, error))
        if not planned:
            return failed
        rows = connect.write(lambda: [self._intend(file, path) for file, path in planned])
        moved, stayed = [], []
        for (file, path), row in zip(planned, rows, strict=True):
            try:
                self._carry(file, path)
                moved.append((file, path, row))
            except OSError as error:
                stayed.append(row)
                failed.append((file, error))
        if moved:
            self._sync()
            if why := self._roots.why_not(self._root):
                # Their rows stay intents: once the quarantine is back, they are withdrawn.
                return failed + self._take_back([(file, path) for file, path, _ in moved], why)
        done = []
        for file, path, row in moved:
            try:
                if error := _remove_original(file.source, path, row):
                    stayed.append(row)
                    failed.append((file, error))
                else:
                    done.append(row)
            except OSError as error:
                failed.append((file, error))  # the next pass finishes it
        self._record(done, stayed)
        return failed

    def recover(self, refuse: Callable[[str, int | None, str], None]) -> int:
        """Finish what an earlier pass left; return how many files that concludes.

        What cannot be looked at now is waited for: no other file has to. `refuse` is told of rows
        that must not be followed: table, id, and why.

        Raises
        ------
        TryLater
            The disk is away or full.
        """
        rows = self._followed(connect.read(Quarantine.moving, self._site, self._label), refuse)
        there, done, stayed = [], [], []
        for row in rows:
            path, source = self._ends(row)
            with self._one_file(path):
                place.remove_temporary(path, self._owner)
                if _is_quarantined_file(path, row):
                    there.append(row)
                elif place.is_there(source):
                    stayed.append(row)
                # Else it may be in a quarantine that is not mounted now: its row waits for it.
        if there:
            self._sync()
            self._roots.require(self._root)
        for row in there:
            path, source = self._ends(row)
            with self._one_file(source):
                (stayed if _remove_original(source, path, row) else done).append(row)
        if rows:
            self._record(done, stayed)
        return len(done) + len(stayed)

    def _ends(self, row: Quarantine) -> tuple[str, str]:
        """Return where a file is to be, and where it came from."""
        return names.from_text(row.path), names.below(self._source, names.rel_of(row))

    def _take_back(
        self, moved: Sequence[tuple[Rejected, str]], why: str
    ) -> list[tuple[Rejected, OSError]]:
        """Take files back that came to a directory which is not the quarantine; all failed."""
        back = [
            MovedFile(os.path.relpath(path, self._root), file.source, place.is_there(file.source))
            for file, path in moved
        ]
        told = self._roots.take_back(self._root, back)
        why = why.removeprefix(f"{self._root}: ")  # which the error of the pass begins with
        error = OSError(errno.ESTALE, f"{why}; {told}" if told else why)
        return [(file, error) for file, _ in moved]

    def _followed(
        self, rows: Sequence[Quarantine], refuse: Callable[[str, int | None, str], None]
    ) -> list[Quarantine]:
        """Return the rows that may be followed, and tell of the others."""
        found = []
        for row in rows:
            if why := path_fault(row, self._root, self._source):
                refuse("quarantine", row.id, why)
            else:
                found.append(row)
        return found

    def _sync(self) -> None:
        """Make what came here durable."""
        with faults.as_try_later(self._root):
            place.sync_file_system(self._root)

    @contextlib.contextmanager
    def _one_file(self, path: str) -> Iterator[None]:
        """Leave what cannot be done for one file as it is."""
        try:
            yield
        except OSError as error:
            faults.raise_if_general(error, path)

    @property
    def _owner(self) -> str:
        return f"{self._label} quarantine"

    def _plan(self, file: Rejected, taken: set[str]) -> str:
        """Choose a free name, and make its directory."""
        relpath, filename = names.split(file.rel)
        place.make_directories(self._root, relpath)
        directory = os.path.join(self._root, relpath) if relpath else self._root
        name, number = filename, 0
        while (path := os.path.join(directory, name)) in taken or not self._is_free(
            path, file.reason
        ):
            number += 1
            name = place.versioned(filename, number)
        taken.add(path)
        return path

    def _is_free(self, path: str, reason: str) -> bool:
        """Return whether a file that goes aside for a reason may have a path."""
        return not place.is_there(path)

    def _intend(self, file: Rejected, path: str) -> Quarantine:
        relpath, filename = names.split(file.rel)
        return Quarantine.intend(
            site=self._site,
            label=self._label,
            relpath=names.to_text(relpath),
            filename=names.to_text(filename),
            path=names.to_text(path),
            **Version.of_file(file.status)._asdict(),
            checksum=file.checksum,
            reason=file.reason,
        )

    def _carry(self, file: Rejected, path: str) -> None:
        """Move the file, or leave a durable copy of it there."""
        checksum.same(file.status, os.lstat(file.source), file.source)
        try:
            place.place(file.source, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if place.free_bytes(self._root) - file.status.st_size < place.RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from None
            place.copy_into(file.source, path, owner=self._owner)

    def _record(self, done: list[Quarantine], stayed: list[Quarantine]) -> None:
        def write() -> None:
            when = connect.now()
            for row in done:
                row.arrived(when)
            for row in stayed:
                row.withdraw()
            kind, _, name = self._label.partition(".")
            if kind == "finder" and done:
                from dbbbatch.database.models.finder import Remembered
                from dbbbatch.database.models.statuses import WhyRemembered

                # It waits for a person now, and no longer fails.
                paths = [(row.relpath, row.filename) for row in done]
                Remembered.drop_those(self._site, name, WhyRemembered.FAILED, paths)

        connect.write(write)


def _is_quarantined_file(path: str, row: Quarantine) -> bool:
    """Return whether the file at a quarantine's path is the one that a row tells of."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    there, recorded = Version.of_file(status), Version.of_row(row)
    if there.size_bytes != recorded.size_bytes:
        return False
    if there == recorded:
        return True
    if row.checksum is None:
        return there.is_like(recorded)
    return checksum.matches(path, row.checksum)


def _is_row_version(path: str, row: Quarantine) -> bool:
    """Return whether a file is still the version that a row tells of."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return Version.of_file(status) == Version.of_row(row)


def _remove_original(source: str, path: str, row: Quarantine) -> OSError | None:
    """Take away an original that is durable in quarantine, if it still stands under its name.

    Where it cannot be, its copy goes instead, and the error is returned: the original would come
    back as one more version in each pass.

    Raises
    ------
    OSError
        Both are as they were.
    """
    if not _is_row_version(source, row):
        return None
    if os.path.samestat(os.lstat(source), os.lstat(path)):
        place.place(source, path)  # a second name of one file
        return None
    try:
        os.unlink(source)
    except OSError as error:
        # A server may have removed it, and only its answer was lost.
        if _is_row_version(source, row):
            os.unlink(path)
            return error
    return None
