"""Releasing a file from quarantine: it goes back to where it came from, for the next pass.

intend   The row gets the path to which the file goes.
act      Move the file there. Across file systems copy it, give the one in quarantine a hidden name,
         and place the copy if that is what was copied; sync, and remove the hidden one. Where a
         pass recovers the row meanwhile, the rest is left to a pass.
record   That it is back; a handoff sends it as if it were new. Its reason is removed.
recover  Is the file, or a whole copy of it, at that path? Else it waits for the next release.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress

from dbbbatch.areas.reasons import reason_beside, remove_reason
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import checksum, clock, faults, mounts, names, place, scan, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree, why_refused

#: Owner of the temporary copies of a release.
_RELEASE = "release"

#: Seconds without a change after which no release can still be writing a temporary copy.
_RELEASE_ABANDONED = 3600.0


class Releases:
    """The way back for the files in the quarantine of a section.

    Parameters
    ----------
    section : `Finder` or `Handoff`
    roots : `dbbbatch.files.roots.Roots`
        Knows whether the source is still the directory of the first look.
    """

    def __init__(self, section: Finder | Handoff, roots: Roots) -> None:
        self._section = section
        self._root = section.quarantine
        self._roots = roots

    def release(self, row: Quarantine, new_name: str = "") -> str:
        """Move a file back to where it came from, so that the next pass takes it again.

        Parameters
        ----------
        row : `Quarantine`
            Which file.
        new_name : `str`
            The name under which the file is accepted as a new one: in the same directory, or a
            relative path. Its own by default.

        Returns
        -------
        path : `str`
            Where it is now.

        Raises
        ------
        UsageError
            Its place is taken, no pass would find it there, or it is no longer in quarantine.
        TryLater
            The quarantine looks unmounted, or the source is another directory by now.
        """
        if why := row.path_fault(self._root, source_of(self._section)):
            raise UsageError(
                f"row {row.id} of quarantine: {why}: refused; find out who writes to the database"
            )
        file = self._source.entry(self._destination(row, new_name))
        shown = names.printable(file.path)
        self._source.forget()
        self._quarantine.forget()
        try:
            if earlier := self.recover(row):
                if earlier != file.path:
                    raise UsageError(
                        f"{shown}: an earlier release has put it back as {names.printable(earlier)}"
                    )
                return file.path
            self.intend(row, file)
            try:
                self.act(row, file)
            except FileExistsError:
                # Perhaps by an earlier release, which could not look into the directory again.
                if self.recover(row):
                    return file.path
                raise
        except FileExistsError:
            connect.write(row.releasing, None)
            raise UsageError(f"{shown}: another file has this name; move it away first") from None
        except OSError as error:
            for_a_person = error.errno in faults.NO_PERMISSION | faults.INVALID_NAME
            kind = UsageError if for_a_person else TryLater
            why = why_refused(error, file, self._aside(row))
            raise kind(f"{shown}: cannot be put back: {why}") from None
        self.record(row)
        return file.path

    def intend(self, row: Quarantine, file: Entry) -> None:
        """Record where a file goes, if it is in quarantine, or there already."""
        if place.is_there(self._aside(row)):
            if why := scan.detour(file.tree, file.relpath):
                raise UsageError(
                    f"{names.printable(file.path)}: {why}, and no pass would enter it: use --as-new"
                )
        elif not _is_back(file, row):
            raise self._gone(row)
        if row.released_as not in (None, names.to_text(file.path)):
            place.remove_temporary(self._released(row), _RELEASE)
        connect.write(row.releasing, names.to_text(file.path))

    def act(self, row: Quarantine, file: Entry) -> None:
        """Move a file back, durably."""
        aside = self._aside(row)
        if not place.is_there(aside):
            return
        place.make_directories(file.tree, file.relpath)
        try:
            aside.move_to(file)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(aside, file)
        # Where it is not, the file is where recovery finds it, as soon as that is back.
        self._roots.require(file.tree.path)
        file.tree.sync([file.relpath])

    def _copy(self, aside: Entry, file: Entry) -> None:
        with checksum.opened(aside) as descriptor:
            copied = os.fstat(descriptor)
            place.copy_beside(descriptor, file, owner=_RELEASE)
        copy = place.temporary_of(file, _RELEASE)
        try:
            place.sync_file(copy)
            hidden = place.take(aside, _RELEASE)
            checksum.same(copied, hidden.lstat(), aside.path)
            copy.move_to(file)
            file.tree.sync([file.relpath])
            self._roots.require(file.tree.path)
            try:
                hidden.unlink()
            except FileNotFoundError:
                # A pass has finished this; or it gave the file its name back, and may hide it anew.
                if any(map(place.is_there, (hidden, aside, hidden))):
                    why = "a pass looks after it at the same time; the next one finishes this"
                    raise OSError(errno.EAGAIN, why, aside.path) from None
        except BaseException:
            copy.remove()
            place.give_back(aside, _RELEASE)
            raise

    def record(self, row: Quarantine) -> None:
        """Record that a file is back where its row says that it goes."""
        remove_reason(row, self._aside(row))
        rel = self._released(row).rel

        def write() -> None:
            row.released(connect.now())
            if not isinstance(self._section, Handoff):
                return
            if rel == names.rel_of(row):
                HandoffFile.released(row)
            else:
                HandoffFile.left_aside(row, f"released as {names.to_text(rel)}")

        connect.write(write)

    def recover(self, row: Quarantine) -> str:
        """Finish a release that was cut off; return where the file is now, '' if it is not back."""
        if row.released_as is None:
            return ""
        aside, file = self._aside(row), self._released(row)
        place.give_back(aside, _RELEASE)
        if place.is_there(aside):
            if (found := _status_if_copied(aside, file)) is None:
                return ""
            place.sync_file(file)
            file.tree.sync([file.relpath])
            place.remove_same(aside, found, place.taken(aside, _RELEASE))
        elif not (_is_back(file, row) or place.is_there(reason_beside(aside))):
            return ""  # nothing shows that the quarantine is mounted
        self.record(row)
        return file.path

    def recover_all(self, rows: Iterable[Quarantine]) -> int:
        """Finish releases that were cut off; return how many."""
        count = 0
        for row in rows:
            with suppress(OSError):  # the file waits
                if self.recover(row):
                    count += 1
                else:
                    _remove_abandoned(self._released(row))
        return count

    @property
    def _source(self) -> Tree:
        """Where files go back to; raise `TryLater` if it is not there."""
        return self._roots.tree(source_of(self._section))

    @property
    def _quarantine(self) -> Tree:
        """The quarantine; raise `TryLater` if it is not there."""
        if why := mounts.why_absent(self._root, f"{self._root}: the quarantine is not there"):
            raise TryLater(why)
        return self._roots.tree(self._root)

    def _aside(self, row: Quarantine) -> Entry:
        """Return where a file is in quarantine."""
        return self._quarantine.at(names.from_text(row.path))

    def _released(self, row: Quarantine) -> Entry:
        """Return where a file is released to."""
        return self._source.at(names.from_text(row.released_as or ""))

    def _gone(self, row: Quarantine) -> UsageError | TryLater:
        """Return what it means that a file is not in quarantine."""
        closes = f"`dbb ignore {row.label} --status QUARANTINED --match …` closes the matter"
        paths = connect.read(
            lambda: [
                names.readable(other.path)
                for other in Quarantine.waiting(row.site, row.label)
                if other.quarantined_at is not None
            ]
        )
        # Those of an earlier configuration may lie elsewhere.
        inside = [
            self._quarantine.at(each) for each in paths if names.stays_inside(each, self._root)
        ]
        if not any(place.is_there(each) or place.is_there(reason_beside(each)) for each in inside):
            return TryLater(
                f"{self._root}: none of the files that wait there is there; is it mounted? If they "
                f"were taken away, {closes}"
            )
        return UsageError(
            f"{names.printable(names.from_text(row.path))}: is no longer there; {closes}"
        )

    def _destination(self, row: Quarantine, new_name: str) -> str:
        """Return the relative path to which a file is released."""
        relpath = names.from_text(row.relpath)
        if not new_name:
            return names.join(relpath, names.from_text(row.filename))
        parts = new_name.split("/")
        if {"", ".", ".."} & set(parts):
            raise UsageError(f"{new_name}: must be a name or a relative path")
        if any(part.startswith(temporary.TEMPORARY_PREFIX) for part in parts):
            raise UsageError(f"{new_name}: the names of unfinished copies begin like this")
        rel = new_name if "/" in new_name else names.join(relpath, new_name)
        if isinstance(self._section, Finder) and rel == self._section.sentinel:
            raise UsageError(
                f"{rel}: storage is known by this name ([{self._section.label}] sentinel)"
            )
        if pattern := excluded_by(self._section, rel):
            raise UsageError(f"{rel}: no pass would take it: {pattern}")
        return rel


def excluded_by(section: Finder | Handoff, rel: str) -> str:
    """Return section, key and pattern by which passes leave a path alone; '' if there is none."""
    directories = [rel[: at + 1] for at, letter in enumerate(rel) if letter == "/"]
    for pattern in section.exclude:
        if any(map(pattern.search, [rel, *directories])):
            return f"[{section.label}] exclude has {pattern.pattern!r}"
    return ""


def source_of(section: Finder | Handoff) -> str:
    """Return the directory from which the files in quarantine came."""
    return section.buffer if isinstance(section, Handoff) else section.source


def _remove_abandoned(file: Entry) -> None:
    """Remove the temporary copy that a killed release left of a file."""
    hidden = place.temporary_of(file, _RELEASE)
    # A copy has the mtime of its original from early on.
    if not clock.of(file.tree.path).is_new(hidden.lstat(), _RELEASE_ABANDONED):
        hidden.remove()


def _status_if_copied(aside: Entry, file: Entry) -> os.stat_result | None:
    """Return what is in quarantine, if it has a second link, or a whole copy, under a name."""
    one, other = aside.certain_status(), file.certain_status()
    if one is None or other is None or one.st_size != other.st_size:
        return None
    if os.path.samestat(one, other):
        return one
    one, sums = checksum.read_file(aside, [checksum.DEFAULT])
    return one if sums == checksum.compute(file) else None


def _is_back(file: Entry, row: Quarantine) -> bool:
    """Return whether a file is where a release puts it, and no pass has taken it yet."""
    with suppress(OSError):
        return Version.of_file(file.lstat()).is_like(Version.of_row(row))
    return False
