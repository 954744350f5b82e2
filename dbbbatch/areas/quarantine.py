"""The quarantine of a section: files are set aside there, with their reasons, for a person.

intend   Insert a row for each file, with the path that it is going to have.
act      Move or copy the files there, sync, and remove the originals of copies. What was moved
         instead of one, because somebody exchanged names, goes back to the directory it came from.
record   That they are there; the rows of files that stayed are deleted. Write their reasons.
recover  Is the file at its path? Or another one, which goes back? Or is it still in the source? In
         neither, its row waits.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dbbbatch.areas.reasons import REASON, is_reason_of, reason_beside, write_reason
from dbbbatch.areas.release import Releases, source_of
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree, why_refused


@dataclass(frozen=True)
class Rejected:
    """A file that is to be quarantined.

    Attributes
    ----------
    source : `Entry`
        Where it is, in the buffer or source.
    status : `os.stat_result`
        As it was when the decision was made.
    checksum : `str` or `None`
        ``algorithm:hex``, if it could be read.
    reason : `str`
        For an operator.
    """

    source: Entry
    status: os.stat_result
    checksum: str | None
    reason: str

    @property
    def rel(self) -> str:
        """Its path relative to the buffer or source."""
        return self.source.rel


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

    def why_stays(self, file: Entry, error: OSError) -> str:
        """Return why a file cannot be moved to quarantine, and which directory refuses that."""
        return why_refused(error, file, self._tree.entry(file.rel))

    def intend(
        self, files: Sequence[Rejected], failed: list[tuple[Rejected, OSError]]
    ) -> list[tuple[Rejected, Quarantine]]:
        """Record where each file is going to be; add those for which this fails to `failed`."""
        if why := self._roots.why_not(self._root):
            failed += self._all_failed(files, why)
            return []
        self._tree.forget()
        planned: dict[Entry, Rejected] = {}
        for file in files:
            try:
                planned[self._free_name(file, planned)] = file
            except OSError as error:
                failed.append((file, error))
        if not planned:
            return []
        return connect.write(
            lambda: [(file, self._intent(file, aside)) for aside, file in planned.items()]
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
                self._move_or_copy(file, row)
                moved.append((file, row))
            except OSError as error:
                stayed.append(row)
                failed.append((file, error))
        if moved:
            self._sync([row for _, row in moved])
            if why := self._roots.why_not(self._root):
                # Their rows stay intents, and recovery finds them once the quarantine is back.
                failed += self._all_failed([file for file, _ in moved], why)
                return [], []
        for file, row in moved:
            try:
                if refusal := self._remove_original(file.source, row):
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
            write_reason(row, self._aside(row))

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
        if self._roots.why_not(self._root):
            return 0  # the rows wait for it
        self._tree.forget()
        back = connect.read(Quarantine.on_the_way_back, self._site, self._section.label)
        count = Releases(self._section, self._roots).recover_all(self._followed(back, refuse))
        moving = connect.read(Quarantine.moving, self._site, self._section.label)
        there, arrived, stayed = [], list[Quarantine](), list[Quarantine]()
        for row in self._followed(moving, refuse):
            aside, source = self._aside(row), self._source_of(row)
            with _one_file(aside.path):
                place.remove_temporary(aside, self._owner)
                if _is_quarantined_file(aside, row):
                    there.append(row)
                    continue
                place.give_back(source, self._owner)
                if _is_put_back(aside, source) or place.is_there(source):
                    stayed.append(row)
                # Else it may be in a quarantine that is not mounted now: its row waits for it.
        if there:
            self._sync(there)
            self._roots.require(self._root)
        for row in there:
            source = self._source_of(row)
            with _one_file(source.path):
                (stayed if self._remove_original(source, row) else arrived).append(row)
        self.record(arrived, stayed)
        return count + len(arrived) + len(stayed)

    @property
    def _owner(self) -> str:
        """Owner of the temporary copies in quarantine."""
        return f"{self._section.label} quarantine"

    @property
    def _tree(self) -> Tree:
        """The quarantine; raise `TryLater` if it is not there."""
        return self._roots.tree(self._root)

    def _aside(self, row: Quarantine) -> Entry:
        """Return where a file is, or goes, in quarantine."""
        return self._tree.at(names.from_text(row.path))

    def _source_of(self, row: Quarantine) -> Entry:
        return self._roots.tree(self._source).entry(names.rel_of(row))

    def _followed(
        self, rows: Sequence[Quarantine], refuse: Callable[[str, int | None, str], None]
    ) -> Iterator[Quarantine]:
        """Yield the rows that may be followed, and refuse the others."""
        for row in rows:
            if why := row.path_fault(self._root, self._source):
                refuse("quarantine", row.id, why)
            else:
                yield row

    def _free_name(self, file: Rejected, planned: dict[Entry, Rejected]) -> Entry:
        """Return a free name in quarantine, and make its directory.

        No file gets a name that a reason might have, nor one beside which something else is.
        """
        aside, number = self._tree.entry(file.rel), 0
        place.make_directories(self._tree, aside.relpath)
        while (
            aside in planned
            or place.is_there(aside)
            or aside.name.endswith(REASON)
            or (
                place.is_there(reason_beside(aside))
                and not is_reason_of(reason_beside(aside), file.reason)
            )
        ):
            number += 1
            aside = aside.beside(place.versioned(file.source.name, number))
        return aside

    def _intent(self, file: Rejected, aside: Entry) -> Quarantine:
        relpath, filename = names.name_of(file.rel)
        return Quarantine.intend(
            site=self._site,
            label=self._section.label,
            relpath=relpath,
            filename=filename,
            path=names.to_text(aside.path),
            **Version.of_file(file.status)._asdict(),
            checksum=file.checksum,
            reason=file.reason,
        )

    def _move_or_copy(self, file: Rejected, row: Quarantine) -> None:
        source, aside = file.source, self._aside(row)
        checksum.same(file.status, source.lstat(), source.path)
        try:
            source.move_to(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(file, aside)
            return
        with faults.as_try_later(source.path):  # it is moved: its row stays, and recovery looks
            if _is_quarantined_file(aside, row):
                return
            place.place_versioned(aside, source)
        raise checksum.Changed(errno.EAGAIN, "another file has its name by now", source.path)

    def _copy(self, file: Rejected, aside: Entry) -> None:
        if place.free_bytes(self._root) - file.status.st_size < place.RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), aside.path)
        with checksum.opened(file.source) as descriptor:
            checksum.same(file.status, os.fstat(descriptor), file.source.path)
            place.copy_into(descriptor, aside, owner=self._owner)

    def _sync(self, rows: Iterable[Quarantine]) -> None:
        with faults.as_try_later(self._root):
            self._tree.sync_file_system()
            self._tree.require_same({self._aside(row).relpath for row in rows})

    def _all_failed(self, files: Iterable[Rejected], why: str) -> list[tuple[Rejected, OSError]]:
        why = why.removeprefix(f"{self._root}: ")  # which the error of the pass begins with
        return [(file, OSError(errno.ESTALE, why)) for file in files]

    def _remove_original(self, source: Entry, row: Quarantine) -> OSError | None:
        """Remove an original that is durable in quarantine, if it is still there under its name.

        Where it cannot be removed, its copy is, and the error is returned: the original would come
        back as one more version in each pass.

        Raises
        ------
        OSError
            Both are as they were.
        """
        aside, hidden = self._aside(row), place.taken(source, self._owner)
        # A killed pass may have taken it, and by now another file may have its name.
        if _is_row_version(hidden, row):
            hidden.unlink()
        else:
            place.give_back(source, self._owner)
        status = source.certain_status()
        if status is None or Version.of_file(status) != Version.of_row(row):
            return None
        if os.path.samestat(status, aside.lstat()):
            source.move_to(aside)  # a second name of one file
            return None
        try:
            place.remove_same(source, status, hidden)
        except (FileNotFoundError, checksum.Changed):
            return None
        except OSError as error:
            # A server may have removed it, and only its answer was lost.
            if _is_row_version(source, row):
                aside.unlink()
                return error
        return None


@contextmanager
def _one_file(path: str) -> Iterator[None]:
    """Leave a file as it is if an error is its own; raise `TryLater` if it affects every file."""
    try:
        yield
    except OSError as error:
        faults.raise_if_general(error, path)


def _is_quarantined_file(aside: Entry, row: Quarantine) -> bool:
    """Return whether what is in quarantine is the file of a row."""
    status = aside.certain_status()
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    found, recorded = Version.of_file(status), Version.of_row(row)
    if found == recorded:
        return True
    if found.size_bytes != recorded.size_bytes:
        return False
    if row.checksum is None:
        return found.is_like(recorded)
    return checksum.matches(aside, row.checksum)


def _is_put_back(aside: Entry, source: Entry) -> bool:
    """Move what a killed pass moved instead of a file back to where that was, if there is any.

    Another file never gets the same place: what is intended for it takes the place of the intent.
    """
    try:
        place.place_versioned(aside, source)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False  # it was copied
    return True


def _is_row_version(file: Entry, row: Quarantine) -> bool:
    """Return whether a file is still the version of a row."""
    status = file.status()
    return status is not None and Version.of_file(status) == Version.of_row(row)
