"""Restoring rows of a database that was lost, or is last night's, from what is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dbbbatch.areas.reasons import VERSION, is_reason, reason_and_name
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow, Name, among_paths
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import FileStatus, HandoffStatus, IngestStatus
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import Found
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.recording import Recording

_BATCH = 1000

#: What a row may still say of a file that has been moved aside since.
_BEFORE_ASIDE = ("FOUND", "DELIVERED", "VANISHED", "PURGED")


class StorageRebuild(BackfillWork):
    """A pass that records what storage and the quarantine of a finder hold.

    It also counts the rows ``in doubt``, which storage does not bear out; an auditor judges them.
    """

    kind = "rebuild"

    def __init__(self, finder: Finder, becomes: IngestStatus, jobs: int = 2) -> None:
        super().__init__(finder, becomes=becomes, jobs=jobs, recorded_as="rebuild")
        self._section = finder

    def recover(self, p: PassContext) -> None:
        """See that the areas are there."""
        super().recover(p)
        p.roots.require(self._section.quarantine)

    def work(self, p: PassContext) -> None:
        """Record stored files, and what waits in quarantine."""
        self._count_doubts(p)
        super().work(p)
        for some in _aside(self, p, self._section):
            p.roots.require(self._section.quarantine)
            connect.write(lambda some=some: _record_aside(p, self._section, some))
            p.counts["quarantined"] += len(some)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what would be recorded."""
        yield from super().plan(p)
        self._count_doubts(p)
        yield from _plan_aside(self, p, self._section)

    def _count_doubts(self, p: PassContext) -> None:
        """Count the rows whose file is gone, or not the one that was recorded, as far as it shows.

        Nothing is marked: only who reads files, and knows an unmounted disk, can tell.
        """
        storage = self._section.storage
        for page in connect.pages(lambda after: File.page(storage, after, _BATCH), 0, "id"):
            if p.stopping:
                return
            p.counts["in doubt"] += sum(map(self._is_in_doubt, p.sound(page, "file")))

    def _is_in_doubt(self, row: FileRow) -> bool:
        try:
            there = Version.of_file(os.lstat(names.below(self._section.storage, names.rel_of(row))))
        except (FileNotFoundError, NotADirectoryError):
            return row.status == FileStatus.STORED
        except OSError as error:
            faults.raise_if_general(error, self._section.storage)
            return True
        return row.status == FileStatus.MISSING or (
            row.status == FileStatus.STORED
            and (
                there.size_bytes != row.size_bytes
                or row.mtime_ns not in (None, there.mtime_ns)
                or row.inode not in (None, there.inode)
            )
        )


class HandoffRebuild(Recording):
    """A pass that records what the holding area and the quarantine of a handoff hold.

    What is in the buffer needs nothing: the next pass finds it there, and the far end answers that
    it has what was delivered already. So a version that is in the buffer is left to that pass. A
    row that says that one is still to be sent, or is gone, is brought up to date where holding or
    quarantine has it; what a person decided to leave alone stays so.
    """

    kind = "rebuild"

    def __init__(self, section: Handoff, jobs: int = 2) -> None:
        super().__init__()
        self._section = section
        self._jobs = jobs
        #: Ids and inodes of held files that are others than the rows say, as on a restored disk.
        self._moved: list[tuple[int, int]] = []

    def recover(self, p: PassContext) -> None:
        """See that the areas are there."""
        self.counts = p.counts
        self._moved = []
        for path in (self._section.buffer, self._section.holding, self._section.quarantine):
            p.roots.require(path)

    def work(self, p: PassContext) -> None:
        """Record held files as HELD, and what waits in quarantine."""
        for batch in self._unknown(p):
            batch = batch[: p.take(len(batch))]
            ready = []
            for held, digest, error in map_in_order(self._read, batch, self._jobs):
                if error is None:
                    ready.append((held, digest))
                else:
                    self.note(p, os.path.join(self._section.holding, held.found.rel), error)
            p.roots.require(self._section.holding)
            moved, self._moved = self._moved, []

            def write(
                ready: list[tuple[_Held, str]] = ready, moved: list[tuple[int, int]] = moved
            ) -> None:
                HandoffFile.own_inodes(moved)
                self._record(p.settings.site.name, ready)

            connect.write(write)
            p.counts["recorded"] += len(ready)
            p.progress(p.counts["recorded"], what="files recorded")
            if p.stopping:
                return
        for some in _aside(self, p, self._section):
            p.roots.require(self._section.quarantine)
            connect.write(lambda some=some: self._record_aside(p, some))
            p.counts["quarantined"] += len(some)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what would be recorded."""
        self.recover(p)
        for batch in self._unknown(p):
            for held in batch:
                yield f"would record {names.to_text(held.found.rel)} as held"
        yield from _plan_aside(self, p, self._section)

    def due(self, p: PassContext) -> bool:
        """Return whether a held file is not known."""
        return any(self._unknown(p))

    def _unknown(self, p: PassContext) -> Iterator[list[_Held]]:
        for batch in batched(self.files(p, self._section.holding), _BATCH):
            held = [_Held(found, *_without_version(found.rel)) for found in batch]
            rows = connect.read(
                lambda held=held: self._rows(
                    p.settings.site.name, [name for each in held for name in each.names]
                )
            )
            # A file may have been named like a version in the buffer already.
            held = [each.itself if each.itself.version in rows else each for each in held]
            # Of versions that the table cannot tell apart one is recorded; the others just stay.
            first = {each.version: each for each in reversed(held)}
            new = [
                each
                for each in first.values()
                if not self._is_known(p, each, rows.get(each.version))
                and not self._is_in_buffer(each)
            ]
            p.counts["known"] += len(held) - len(new)
            self._moved += [
                (row.id, each.seen.inode)
                for each in first.values()
                if (row := rows.get(each.version)) and row.is_moved(each)
            ]
            if new or self._moved:
                yield new

    def _is_known(self, p: PassContext, held: _Held, row: _Row | None) -> bool:
        """Return whether a row says what is so, as far as the holding area tells."""
        if row is None:
            return False
        if row.status == HandoffStatus.HELD:
            return row.held_as == held.held_as or self._is_at(
                self._section.holding, held, row.held_as or ""
            )
        if row.status == HandoffStatus.QUARANTINED:
            return self._is_aside(p, held)
        return row.status == HandoffStatus.IGNORED

    def _is_aside(self, p: PassContext, held: _Held) -> bool:
        rows = connect.read(
            lambda: list(
                Quarantine.select(Quarantine.path).where(
                    Quarantine.site == p.settings.site.name,
                    Quarantine.label == self._section.label,
                    Quarantine.relpath == held.name[0],
                    Quarantine.filename == held.name[1],
                    Quarantine.size_bytes == held.version[2],
                    Quarantine.mtime_ns == held.version[3],
                    Quarantine.released_at.is_null(),
                )
            )
        )
        return any(place.is_there(names.readable(row.path)) for row in rows)

    def _is_in_buffer(self, held: _Held) -> bool:
        return self._is_at(self._section.buffer, held, held.name[1])

    def _is_at(self, root: str, held: _Held, filename: str) -> bool:
        """Return whether a version is below a root, in its directory, under some name."""
        try:
            rel = names.join(names.from_text(held.name[0]), names.from_text(filename))
            status = os.lstat(names.below(root, rel))
        except (OSError, ValueError):
            return False
        return Version.of_file(status).is_like(Version.of_row(held.found))

    def _read(self, held: _Held) -> tuple[_Held, str, OSError | Interrupted | None]:
        path = os.path.join(self._section.holding, held.found.rel)
        try:
            digest = checksum.compute(path, [self._section.checksum])[self._section.checksum]
        except (OSError, Interrupted) as error:
            return held, "", error
        return held, checksum.format(self._section.checksum, digest), None

    def _record(self, site: str, ready: Sequence[tuple[_Held, str]]) -> None:
        """Take files through the statuses that they had on their way to the holding area."""
        handoff = self._section.name
        paths = [held.name for held, _ in ready]
        before = self._rows(site, paths)
        again = [before[held.version].id for held, _ in ready if held.version in before]
        HandoffFile.again(again, ["QUARANTINED"])
        HandoffFile.found(site, handoff, [held.seen for held, _ in ready])
        rows = self._rows(site, paths)
        mine = [(rows[held.version].id, held, digest) for held, digest in ready]
        HandoffFile.hashed([(number, digest, held.seen.inode) for number, held, digest in mine])
        HandoffFile.delivered([(number, held.seen.inode, digest) for number, held, digest in mine])
        HandoffFile.held([(number, held.held_as, held.seen.inode) for number, held, _ in mine])

    def _record_aside(self, p: PassContext, files: Sequence[_Aside]) -> None:
        """Record what waits in quarantine, also in the rows that call it something else."""
        _record_aside(p, self._section, files)
        rows = self._rows(p.settings.site.name, [file.name for file in files])
        late = [
            (row.id, file.reason)
            for file in files
            if (row := rows.get(file.version)) and row.status in _BEFORE_ASIDE
            if not self._is_in_buffer(_Held(file.found, file.name, ""))
        ]
        HandoffFile.again([number for number, _ in late], _BEFORE_ASIDE)
        HandoffFile.quarantined(late)

    def _rows(self, site: str, paths: Sequence[Name]) -> dict[FoundVersion, _Row]:
        """Return what the table says of the versions of files."""
        where, values = among_paths(set(paths))
        rows = connect.execute(
            "SELECT relpath, filename, size_bytes, mtime_ns, id, status, held_as, inode"
            " FROM handoff_file"
            f" WHERE site = ? AND handoff = ? AND (relpath, filename) {where}",
            (site, self._section.name, *values),
        ).fetchall()
        return {tuple(row[:4]): _Row(*row[4:]) for row in rows}


#: relpath, filename, size_bytes and mtime_ns: what makes a version of a file of a buffer.
FoundVersion = tuple[str, str, int, int]


class _Row(NamedTuple):
    """What the table says of a version."""

    id: int
    status: str
    held_as: str | None
    inode: int

    def is_moved(self, held: _Held) -> bool:
        """Return whether it has another inode than the held file that it is about."""
        return (
            self.status == HandoffStatus.HELD
            and self.held_as == held.held_as
            and self.inode != held.seen.inode
        )


@dataclass(frozen=True)
class _Held:
    """A file in the holding area, and the name that it had in the buffer."""

    found: Found
    name: Name
    held_as: str

    @property
    def size_bytes(self) -> int:
        return self.found.size_bytes

    @property
    def version(self) -> FoundVersion:
        return (*self.name, self.found.size_bytes, self.found.mtime_ns)

    @property
    def itself(self) -> _Held:
        """The same, if it had the name in the buffer that it has now."""
        return replace(self, name=(self.name[0], self.held_as))

    @property
    def names(self) -> tuple[Name, Name]:
        return self.name, self.itself.name

    @property
    def seen(self) -> HandoffRow:
        return HandoffRow(*self.version, self.found.inode, 0, 0)


class _Aside(NamedTuple):
    """A file in quarantine, and what the reason beside it tells."""

    found: Found
    name: Name
    path: str
    reason: str

    @property
    def version(self) -> FoundVersion:
        return (*self.name, self.found.size_bytes, self.found.mtime_ns)


def _aside(work: Recording, p: PassContext, section: Finder | Handoff) -> Iterator[list[_Aside]]:
    """Yield the files of a quarantine that the table does not know."""
    if p.stopping:
        return
    for batch in batched(work.files(p, section.quarantine), _BATCH):
        found = {
            names.to_text(os.path.join(section.quarantine, each.rel)): each
            for each in batch
            if not is_reason(os.path.join(section.quarantine, each.rel))
        }
        known = connect.read(
            lambda found=found: {
                row.path
                for row in Quarantine.select(Quarantine.path).where(
                    Quarantine.site == p.settings.site.name,
                    Quarantine.path.in_(list(found)),
                    # What was let go from there is not what is there now.
                    Quarantine.released_at.is_null(),
                )
            }
        )
        if new := [_told(path, each) for path, each in found.items() if path not in known]:
            yield new


def _told(path: str, found: Found) -> _Aside:
    reason, filename = reason_and_name(names.from_text(path))
    name = (names.name_of(found.rel)[0], filename)
    return _Aside(found, name, path, reason or "not known: the database was rebuilt")


def _record_aside(p: PassContext, section: Finder | Handoff, files: Sequence[_Aside]) -> None:
    when = connect.now()
    for file in files:
        row = Quarantine.intend(
            site=p.settings.site.name,
            label=section.label,
            relpath=file.name[0],
            filename=file.name[1],
            path=file.path,
            size_bytes=file.found.size_bytes,
            mtime_ns=file.found.mtime_ns,
            inode=file.found.inode,
            checksum=None,
            reason=file.reason,
        )
        row.arrived(when)


def _plan_aside(work: Recording, p: PassContext, section: Finder | Handoff) -> Iterator[str]:
    for some in _aside(work, p, section):
        for file in some:
            yield f"would record {file.path}, in quarantine: {file.reason}"


def _without_version(rel: str) -> tuple[Name, str]:
    """Return the name that a file had before it became a version, and its name now."""
    relpath, filename = names.name_of(rel)
    return (relpath, VERSION.sub("", filename)), filename
