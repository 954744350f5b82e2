"""What a person sees of a quarantine: the reason beside a file, and the way back."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress

from dbbbatch.areas.quarantine import QuarantineArea, path_fault
from dbbbatch.config.sections import Section
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import checksum, clock, faults, names, place, scan, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.roots import MovedFile, Roots

#: Added to the name of a quarantined file: the text file that says why it is there.
REASON = ".reason"

#: Whose unfinished copies a release's are.
_OWNER = "release"

#: Seconds for which nothing was written to a copy, so that no release is at work on it any more.
_RELEASE_ABANDONED = 3600.0

#: How names end that were taken: `dbbbatch.files.place.versioned` gives them.
VERSION = re.compile(r"\.~\d+~$")

#: The line below a reason that tells a file's own name, where the name in quarantine does not.
_NAMED = re.compile(r'^Its name was (".*")\n\Z', re.MULTILINE)
_LONGEST_REASON = 4096


class Explained(QuarantineArea):
    """A quarantine in which the reason stands beside each file.

    No file is given a name that a reason might have, nor one beside which something else stands.
    """

    def recover(self, refuse: Callable[[str, int | None, str], None]) -> int:
        """Finish also the releases that were cut off when their files were back."""
        count = 0
        back = connect.read(Quarantine.on_the_way_back, self._site, self._label)
        for row in self._followed(back, refuse):
            with suppress(OSError):  # it waits on
                if _finish(row, self._source):
                    count += 1
                else:
                    _remove_abandoned(names.from_text(row.released_as or ""))
        return count + super().recover(refuse)

    def _is_free(self, path: str, reason: str) -> bool:
        beside = path + REASON
        return (
            super()._is_free(path, reason)
            and not path.endswith(REASON)
            and (not place.is_there(beside) or _is_reason_of(beside, reason))
        )

    def _record(self, done: list[Quarantine], stayed: list[Quarantine]) -> None:
        for row in done:
            # Not worth a failure: the table has the reason too, and some names are too long.
            with suppress(OSError):
                place.write_new(_reason_text(row), _as_text(row.reason) + _own_name_line(row))
        super()._record(done, stayed)


def is_reason(path: str) -> bool:
    """Return whether a file of a quarantine is the reason of another one."""
    return path.endswith(REASON) and place.is_there(path.removesuffix(REASON))


def told_beside(path: str) -> tuple[str, str]:
    """Return the reason of a file of a quarantine, and its own name, as the tables have it.

    The reason is '' if nothing beside the file tells it. A name that nothing tells is taken to be
    that of the file whose version this looks like, if that is there.
    """
    filename = names.to_text(os.path.basename(path))
    base = VERSION.sub("", filename)
    text = ""
    with suppress(OSError), open(path + REASON, encoding="utf-8", errors="replace") as file:
        text = file.read(1 << 16)
    if match := _NAMED.search(text):
        text = text[: match.start()]
        with suppress(ValueError):
            told = json.loads(match[1])
            names.from_text(told)
            # A person may have written here.
            if "/" not in told and told.startswith(base):
                return text.strip(), told
    if base.endswith(REASON) or place.is_there(VERSION.sub("", path)):
        filename = base
    return text.strip(), filename


def source_of(section: Section) -> str:
    """Return the directory that the files of a quarantine came from.

    Raises
    ------
    UsageError
        The section has no quarantine.
    """
    source = getattr(section, "buffer", None) or getattr(section, "source", None)
    if source is None:
        raise UsageError(f"{section.label} moves no files aside")
    return str(source)


def release_file(section: Section, row: Quarantine, roots: Roots, new_name: str = "") -> str:
    """Move a file back to where it came from, so that the next pass takes it again.

    Parameters
    ----------
    section : `Section`
        Whose file it is.
    row : `Quarantine`
        Which file.
    roots : `dbbbatch.files.roots.Roots`
        What other releases of this command looked at, too.
    new_name : `str`
        The name under which it is accepted as a new file: in the same
        directory, or a relative path. Its own by default.

    Returns
    -------
    path : `str`
        Where it is now.

    Raises
    ------
    UsageError
        Its place is taken, no pass would find it there, or it is no longer in quarantine.
    TryLater
        The quarantine looks unmounted, or the directory that it came from is another one by now.
    """
    source = source_of(section)
    # The first look; what it finds wrong is met below.
    roots.why_not(source)
    root = str(getattr(section, "quarantine", ""))
    if why := path_fault(row, root, source):
        raise UsageError(
            f"row {row.id} of quarantine: {why}: refused; find out who writes to the database"
        )
    rel = _destination(section, row, new_name)
    aside = names.from_text(row.path)
    path = names.below(source, rel)
    shown = names.printable(path)
    try:
        if earlier := _finish(row, source):
            if earlier != path:
                raise UsageError(
                    f"{shown}: an earlier release had put it back as {names.printable(earlier)}"
                )
            return path
        if place.is_there(aside):
            if why := scan.detour(source, os.path.dirname(rel)):
                raise UsageError(f"{shown}: {why}, and no pass would enter it: use --as-new")
        elif not _is_back(path, row):
            raise _gone(section, row)
        if row.released_as not in (None, names.to_text(path)):
            place.remove_temporary(names.from_text(row.released_as), _OWNER)
        connect.write(lambda: row.releasing(names.to_text(path)))
        if place.is_there(aside):
            place.make_directories(source, os.path.dirname(rel))
            _move_back(aside, path, lambda: roots.require(source))
            if why := roots.why_not(source):
                told = roots.take_back(source, [MovedFile(rel, aside)])
                raise TryLater(f"{why}; {told}" if told else why)
            place.sync_directory(os.path.dirname(path))
    except FileExistsError:
        connect.write(row.releasing, None)
        raise UsageError(f"{shown}: another file has this name; move it away first") from None
    except OSError as error:
        for_a_person = error.errno in faults.NO_PERMISSION | faults.INVALID_NAME
        kind = UsageError if for_a_person else TryLater
        raise kind(f"{shown}: cannot be put back: {error.strerror}") from None
    _record_released(row, source)
    return path


def _finish(row: Quarantine, source: str) -> str:
    """Finish a release that was cut off; return where it put the file, '' if it did not."""
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
    elif not (_is_back(path, row) or place.is_there(_reason_text(row))):
        return ""  # nothing shows that the quarantine is mounted
    _record_released(row, source)
    return path


def _record_released(row: Quarantine, source: str) -> None:
    """Record that a file is back where its row says that it goes."""
    if _is_reason_of(_reason_text(row), row.reason):
        with suppress(OSError):
            os.unlink(_reason_text(row))
    own = names.rel_of(row)
    path = names.from_text(row.released_as or "")

    def write() -> None:
        row.released(connect.now())
        if row.label.startswith("handoff."):
            if path == os.path.join(source, own):
                HandoffFile.released(row)
            else:
                rel = names.to_text(os.path.relpath(path, source))
                HandoffFile.left_aside(row, f"released as {rel}")

    connect.write(write)


def _gone(section: Section, row: Quarantine) -> UsageError | TryLater:
    """Return what it means that a file is not in quarantine."""
    closes = f"`dbb ignore {row.label} --status QUARANTINED --match …` closes the matter"
    root = str(getattr(section, "quarantine", ""))
    if not os.path.isdir(root):
        return TryLater(f"{root}: the quarantine is not there; is it mounted?")
    paths = connect.read(
        lambda: [
            names.readable(other.path)
            for other in Quarantine.waiting(row.site, row.label)
            if other.quarantined_at is not None
        ]
    )
    if not any(place.is_there(path) or place.is_there(path + REASON) for path in paths):
        return TryLater(
            f"{root}: none of the files that wait there is there; is it mounted? If they were "
            f"taken away, {closes}"
        )
    return UsageError(f"{names.printable(names.from_text(row.path))}: is no longer there; {closes}")


def _destination(section: Section, row: Quarantine, new_name: str) -> str:
    relpath = names.from_text(row.relpath)
    if not new_name:
        return names.join(relpath, names.from_text(row.filename))
    parts = new_name.split("/")
    if {"", ".", ".."} & set(parts):
        raise UsageError(f"{new_name}: a name, or a relative path, is wanted")
    if any(part.startswith(temporary.TEMPORARY_PREFIX) for part in parts):
        raise UsageError(f"{new_name}: the names of unfinished copies begin so")
    rel = new_name if "/" in new_name else names.join(relpath, new_name)
    if rel == getattr(section, "sentinel", None):
        raise UsageError(f"{rel}: storage is known by this name ([{section.label}] sentinel)")
    directories = [rel[: at + 1] for at, letter in enumerate(rel) if letter == "/"]
    for pattern in getattr(section, "exclude", ()):
        if any(map(pattern.search, [rel, *directories])):
            raise UsageError(
                f"{rel}: no pass would take it: [{section.label}] exclude has {pattern.pattern!r}"
            )
    return rel


def _move_back(aside: str, path: str, require: Callable[[], None]) -> None:
    try:
        place.place(aside, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        place.copy_into(aside, path, owner=_OWNER)
        place.sync_directory(os.path.dirname(path))
        require()
        place.remove_if_there(aside)  # a pass may have finished this


def _remove_abandoned(path: str) -> None:
    """Remove what a release that was killed has copied of a file."""
    hidden = temporary.temporary_path(path, _OWNER)
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


def _reason_text(row: Quarantine) -> str:
    return names.from_text(row.path) + REASON


def _as_text(reason: str) -> str:
    return f"{names.harmless(reason)}\n"


def _own_name_line(row: Quarantine) -> str:
    """Return the line that tells a file's own name, where it has a version's, or looks as if."""
    if not VERSION.search(row.path):
        return ""
    return f"Its name was {json.dumps(row.filename)}\n"


def _is_reason_of(path: str, reason: str) -> bool:
    """Return whether a file is what we wrote, and no quarantined file that has this name."""
    written = _as_text(reason).encode("utf-8", "surrogateescape")
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > len(written) + _LONGEST_REASON:
            return False
        with open(path, "rb") as file:
            found = file.read(len(written) + _LONGEST_REASON)
    except OSError:
        return False
    below = found.removeprefix(written).decode(errors="replace")
    if not found.startswith(written) or (below and not _NAMED.fullmatch(below)):
        return False
    return not connect.read(lambda: Quarantine.is_at(names.to_text(path)))
