"""Releasing a file from quarantine: it goes back to where it came from, for the next pass.

intend   The row gets the path to which the file goes.
act      Move the file there; across file systems copy it, sync, and remove the one in quarantine.
record   That it is back; a handoff sends it as if it were new. Its reason is removed.
recover  Is the file, or a whole copy of it, at that path? Else it waits for the next release.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress

from dbbbatch.areas.reasons import REASON, remove_reason
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater, UsageError, key_of_missing
from dbbbatch.files import checksum, clock, faults, names, place, scan, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.roots import MovedFile, Roots

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
        self._source = source_of(section)
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
        # The first look; what is wrong with it is met below.
        self._roots.why_not(self._source)
        if why := row.path_fault(self._root, self._source):
            raise UsageError(
                f"row {row.id} of quarantine: {why}: refused; find out who writes to the database"
            )
        rel = self._destination(row, new_name)
        path = names.below(self._source, rel)
        shown = names.printable(path)
        try:
            if earlier := self.recover(row):
                if earlier != path:
                    raise UsageError(
                        f"{shown}: an earlier release has put it back as {names.printable(earlier)}"
                    )
                return path
            self.intend(row, rel)
            self.act(row, rel)
        except FileExistsError:
            connect.write(row.releasing, None)
            raise UsageError(f"{shown}: another file has this name; move it away first") from None
        except OSError as error:
            for_a_person = error.errno in faults.NO_PERMISSION | faults.INVALID_NAME
            kind = UsageError if for_a_person else TryLater
            raise kind(f"{shown}: cannot be put back: {error.strerror}") from None
        self.record(row)
        return path

    def intend(self, row: Quarantine, rel: str) -> None:
        """Record where a file goes, if it is in quarantine, or there already."""
        path = names.below(self._source, rel)
        if place.is_there(names.from_text(row.path)):
            if why := scan.detour(self._source, os.path.dirname(rel)):
                raise UsageError(
                    f"{names.printable(path)}: {why}, and no pass would enter it: use --as-new"
                )
        elif not _is_back(path, row):
            raise self._gone(row)
        if row.released_as not in (None, names.to_text(path)):
            place.remove_temporary(names.from_text(row.released_as), _RELEASE)
        connect.write(row.releasing, names.to_text(path))

    def act(self, row: Quarantine, rel: str) -> None:
        """Move a file back, durably."""
        aside, path = names.from_text(row.path), names.below(self._source, rel)
        if not place.is_there(aside):
            return
        place.make_directories(self._source, os.path.dirname(rel))
        try:
            place.place(aside, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            place.copy_into(aside, path, owner=_RELEASE)
            place.sync_directory(os.path.dirname(path))
            self._roots.require(self._source)
            place.remove_if_there(aside)  # a pass may have finished this
        if why := self._roots.why_not(self._source):
            left = self._roots.take_back(self._source, [MovedFile(rel, aside)])
            key = key_of_missing(self._source)
            raise TryLater(f"{why}; {left}" if left else why, key=key)
        place.sync_directory(os.path.dirname(path))

    def record(self, row: Quarantine) -> None:
        """Record that a file is back where its row says that it goes."""
        remove_reason(row, names.from_text(row.path))
        path = names.from_text(row.released_as or "")

        def write() -> None:
            row.released(connect.now())
            if not isinstance(self._section, Handoff):
                return
            if path == names.below(self._source, names.rel_of(row)):
                HandoffFile.released(row)
            else:
                rel = names.to_text(os.path.relpath(path, self._source))
                HandoffFile.left_aside(row, f"released as {rel}")

        connect.write(write)

    def recover(self, row: Quarantine) -> str:
        """Finish a release that was cut off; return where the file is now, '' if it is not back."""
        if row.released_as is None:
            return ""
        aside, path = names.from_text(row.path), names.from_text(row.released_as)
        if place.is_there(aside):
            if not _is_copied(aside, path):
                return ""
            if os.path.samestat(os.lstat(aside), os.lstat(path)):
                place.place(aside, path)  # a second link
            else:
                place.sync_file(path)
                place.sync_directory(os.path.dirname(path))
                place.remove_if_there(aside)
        elif not (_is_back(path, row) or place.is_there(aside + REASON)):
            return ""  # nothing shows that the quarantine is mounted
        self.record(row)
        return path

    def recover_all(self, rows: Iterable[Quarantine]) -> int:
        """Finish releases that were cut off; return how many."""
        count = 0
        for row in rows:
            with suppress(OSError):  # the file waits
                if self.recover(row):
                    count += 1
                else:
                    _remove_abandoned(names.from_text(row.released_as or ""))
        return count

    def _gone(self, row: Quarantine) -> UsageError | TryLater:
        """Return what it means that a file is not in quarantine."""
        closes = f"`dbb ignore {row.label} --status QUARANTINED --match …` closes the matter"
        if not os.path.isdir(self._root):
            return TryLater(f"{self._root}: the quarantine is not there; is it mounted?")
        paths = connect.read(
            lambda: [
                names.readable(other.path)
                for other in Quarantine.waiting(row.site, row.label)
                if other.quarantined_at is not None
            ]
        )
        if not any(place.is_there(path) or place.is_there(path + REASON) for path in paths):
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


def _remove_abandoned(path: str) -> None:
    """Remove the temporary copy that a killed release left of a file."""
    hidden = temporary.temporary_path(path, _RELEASE)
    # A copy has the mtime of its original from early on.
    if not clock.of(os.path.dirname(hidden)).is_new(os.lstat(hidden), _RELEASE_ABANDONED):
        place.remove_if_there(hidden)


def _is_copied(aside: str, path: str) -> bool:
    """Return whether a file in quarantine has a second link, or a whole copy, under a path."""
    try:
        one, other = os.lstat(aside), os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if one.st_size != other.st_size:
        return False
    return os.path.samestat(one, other) or checksum.compute(aside) == checksum.compute(path)


def _is_back(path: str, row: Quarantine) -> bool:
    """Return whether a file is where a release puts it, and no pass has taken it yet."""
    with suppress(OSError):
        return Version.of_file(os.lstat(path)).is_like(Version.of_row(row))
    return False
