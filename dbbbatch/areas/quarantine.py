"""The quarantine of a section: files are set aside there, with their reasons, for a person.

intend   Insert a row for each file, with the path that it is going to have.
act      Move or copy the files there, sync, and remove the originals of copies.
record   That they are there; the rows of files that stayed are deleted. Write their reasons.
recover  Is the file at its path? Or still in the source? In neither, its row waits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dbbbatch.areas.reasons import REASON, is_reason_of, write_reason
from dbbbatch.areas.release import Releases, source_of
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version, status_of
from dbbbatch.files.roots import MovedFile, Roots


@dataclass(frozen=True)
class Rejected:
    """A file that is to be quarantined.

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


class QuarantineArea:
    """The quarantine of one section.

    Parameters
    ----------
    site : `str`
    section : `Finder` or `Handoff`
    roots : `dbbbatch.files.roots.Roots`
        Knows whether a directory is still the one of the first look.
    """

    def __init__(self, site: str, section: Finder | Handoff, roots: Roots) -> None:
        self._site = site
        self._section = section
        self._root = section.quarantine
        self._source = source_of(section)
        self._roots = roots
        # The first look; whatever is done in the quarantine meets what is wrong with it.
        roots.why_not(self._root)

    def quarantine(self, files: Sequence[Rejected]) -> list[tuple[Rejected, OSError]]:
        """Move files to quarantine, durably, and write their reasons beside them.

        Returns
        -------
        failed : `list` [ `tuple` [ `Rejected`, `OSError` ] ]
            The files that stayed, and why.

        Raises
        ------
        TryLater
            The disk or the database is away or full. `recover` finishes what was begun.
        """
        failed: list[tuple[Rejected, OSError]] = []
        arrived, stayed = self.act(self.intend(files, failed), failed)
        self.record(arrived, stayed)
        return failed

    def intend(
        self, files: Sequence[Rejected], failed: list[tuple[Rejected, OSError]]
    ) -> list[tuple[Rejected, Quarantine]]:
        """Record where each file is going to be; add those for which this fails to `failed`."""
        planned: dict[str, Rejected] = {}
        for file in files:
            try:
                planned[self._free_path(file, planned)] = file
            except OSError as error:
                failed.append((file, error))
        if not planned:
            return []
        return connect.write(
            lambda: [(file, self._intent(file, path)) for path, file in planned.items()]
        )

    def act(
        self,
        intended: Sequence[tuple[Rejected, Quarantine]],
        failed: list[tuple[Rejected, OSError]],
    ) -> tuple[list[Quarantine], list[Quarantine]]:
        """Move files, durably; return the rows of those that arrived, and of those that stayed."""
        moved: list[tuple[Rejected, Quarantine]] = []
        arrived: list[Quarantine] = []
        stayed: list[Quarantine] = []
        for file, row in intended:
            try:
                self._move_or_copy(file, names.from_text(row.path))
                moved.append((file, row))
            except OSError as error:
                stayed.append(row)
                failed.append((file, error))
        if moved:
            self._sync()
            if why := self._roots.why_not(self._root):
                # Their rows stay intents: once the quarantine is back, they are withdrawn.
                failed += self._take_back(moved, why)
                return [], []
        for file, row in moved:
            try:
                if refusal := _remove_original(file.source, row):
                    stayed.append(row)
                    failed.append((file, refusal))
                else:
                    arrived.append(row)
            except OSError as error:
                failed.append((file, error))  # the next pass finishes it
        return arrived, stayed

    def record(self, arrived: Sequence[Quarantine], stayed: Sequence[Quarantine]) -> None:
        """Record which files are in quarantine now, and take the other intents back."""
        if not (arrived or stayed):
            return
        for row in arrived:
            write_reason(row, names.from_text(row.path))

        def write() -> None:
            when = connect.now()
            for row in arrived:
                row.arrived(when)
            for row in stayed:
                row.withdraw()
            if isinstance(self._section, Finder) and arrived:
                # It waits for a person now, and no longer fails.
                paths = [(row.relpath, row.filename) for row in arrived]
                Remembered.drop_those(self._site, self._section.name, WhyRemembered.FAILED, paths)

        connect.write(write)

    def recover(self, refuse: Callable[[str, int | None, str], None]) -> int:
        """Finish the moves and releases that were cut off; return how many.

        A file that cannot be looked at now waits; the others do not wait for it.

        Parameters
        ----------
        refuse : callable
            Is called with table, id and reason for a row that must not be followed.

        Raises
        ------
        TryLater
            The disk is away or full.
        """
        back = connect.read(Quarantine.on_the_way_back, self._site, self._section.label)
        count = Releases(self._section, self._roots).recover_all(self._followed(back, refuse))
        moving = connect.read(Quarantine.moving, self._site, self._section.label)
        there, arrived, stayed = [], list[Quarantine](), list[Quarantine]()
        for row in self._followed(moving, refuse):
            path = names.from_text(row.path)
            with _one_file(path):
                place.remove_temporary(path, self._owner)
                if _is_quarantined_file(row):
                    there.append(row)
                elif place.is_there(self._source_of(row)):
                    stayed.append(row)
                # Else it may be in a quarantine that is not mounted now: its row waits for it.
        if there:
            self._sync()
            self._roots.require(self._root)
        for row in there:
            source = self._source_of(row)
            with _one_file(source):
                (stayed if _remove_original(source, row) else arrived).append(row)
        self.record(arrived, stayed)
        return count + len(arrived) + len(stayed)

    @property
    def _owner(self) -> str:
        """Owner of the temporary copies in quarantine."""
        return f"{self._section.label} quarantine"

    def _source_of(self, row: Quarantine) -> str:
        return names.below(self._source, names.rel_of(row))

    def _followed(
        self, rows: Sequence[Quarantine], refuse: Callable[[str, int | None, str], None]
    ) -> Iterator[Quarantine]:
        """Yield the rows that may be followed, and refuse the others."""
        for row in rows:
            if why := row.path_fault(self._root, self._source):
                refuse("quarantine", row.id, why)
            else:
                yield row

    def _free_path(self, file: Rejected, planned: dict[str, Rejected]) -> str:
        """Return a free path in quarantine, and make its directory.

        No file gets a name that a reason might have, nor one beside which something else is.
        """
        relpath, filename = names.split(file.rel)
        place.make_directories(self._root, relpath)
        directory = os.path.join(self._root, relpath) if relpath else self._root
        path, number = os.path.join(directory, filename), 0
        while (
            path in planned
            or place.is_there(path)
            or path.endswith(REASON)
            or (place.is_there(path + REASON) and not is_reason_of(path + REASON, file.reason))
        ):
            number += 1
            path = os.path.join(directory, place.versioned(filename, number))
        return path

    def _intent(self, file: Rejected, path: str) -> Quarantine:
        relpath, filename = names.name_of(file.rel)
        return Quarantine.intend(
            site=self._site,
            label=self._section.label,
            relpath=relpath,
            filename=filename,
            path=names.to_text(path),
            **Version.of_file(file.status)._asdict(),
            checksum=file.checksum,
            reason=file.reason,
        )

    def _move_or_copy(self, file: Rejected, path: str) -> None:
        checksum.same(file.status, os.lstat(file.source), file.source)
        try:
            place.place(file.source, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if place.free_bytes(self._root) - file.status.st_size < place.RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from None
            place.copy_into(file.source, path, owner=self._owner)

    def _sync(self) -> None:
        with faults.as_try_later(self._root):
            place.sync_file_system(self._root)

    def _take_back(
        self, moved: Sequence[tuple[Rejected, Quarantine]], why: str
    ) -> list[tuple[Rejected, OSError]]:
        """Take back files that came to a directory which is not the quarantine; all failed."""
        back = [
            MovedFile(
                os.path.relpath(names.from_text(row.path), self._root),
                file.source,
                place.is_there(file.source),
            )
            for file, row in moved
        ]
        left = self._roots.take_back(self._root, back)
        why = why.removeprefix(f"{self._root}: ")  # which the error of the pass begins with
        error = OSError(errno.ESTALE, f"{why}; {left}" if left else why)
        return [(file, error) for file, _ in moved]


@contextmanager
def _one_file(path: str) -> Iterator[None]:
    """Leave a file as it is if an error is its own; raise `TryLater` if it affects every file."""
    try:
        yield
    except OSError as error:
        faults.raise_if_general(error, path)


def _is_quarantined_file(row: Quarantine) -> bool:
    """Return whether the file of a row is at its path in quarantine."""
    path = names.from_text(row.path)
    if (status := status_of(path)) is None:
        return False
    found, recorded = Version.of_file(status), Version.of_row(row)
    if found == recorded:
        return True
    if found.size_bytes != recorded.size_bytes:
        return False
    if row.checksum is None:
        return found.is_like(recorded)
    return checksum.matches(path, row.checksum)


def _is_row_version(path: str, row: Quarantine) -> bool:
    """Return whether a file is still the version of a row."""
    status = status_of(path)
    return status is not None and Version.of_file(status) == Version.of_row(row)


def _remove_original(source: str, row: Quarantine) -> OSError | None:
    """Remove an original that is durable in quarantine, if it is still there under its name.

    Where it cannot be removed, its copy is, and the error is returned: the original would come
    back as one more version in each pass.

    Raises
    ------
    OSError
        Both are as they were.
    """
    path = names.from_text(row.path)
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
