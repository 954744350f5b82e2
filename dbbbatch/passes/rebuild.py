"""Restore rows of a database that was lost, or restored from a backup, from what is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbbbatch.areas.reasons import VERSION, is_reason, reason_and_name
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import FileStatus, HandoffStatus, IngestStatus
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import Found
from dbbbatch.files.tree import Entry, Tree, outside
from dbbbatch.passes.backfill import BackfillJob, BackfillWork
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.recording import Recording, RecordingJob

_BATCH = 1000

#: What a row may still say of a file that has been quarantined since.
_BEFORE_QUARANTINE = ("FOUND", "DELIVERED", "VANISHED", "PURGED")

#: Why files go through earlier statuses, for the history.
_HELD = "`dbb rebuild` found it in the holding area"
_IN_QUARANTINE = "`dbb rebuild` found it in quarantine"

#: relpath, filename, size_bytes and mtime_ns: what makes a version of a file of a buffer.
VersionKey = tuple[str, str, int, int]


class StorageRebuild(BackfillWork):
    """Passes that record what storage and the quarantine of a finder hold.

    It also counts the rows ``in doubt``, which storage contradicts; an auditor looks at their
    files.
    """

    kind = "rebuild"

    def __init__(self, finder: Finder, becomes: IngestStatus, jobs: int = 2) -> None:
        super().__init__(finder, becomes=becomes, jobs=jobs, recorded_as="rebuild")

    def job(self, context: PassContext) -> RecordingJob:
        """Return a new pass."""
        return _StorageRebuildJob(self, context)


class _StorageRebuildJob(BackfillJob):
    """One pass of `StorageRebuild`."""

    def recover(self) -> None:
        """Raise `TryLater` unless storage and quarantine are mounted."""
        super().recover()
        self.context.roots.require(self.finder.quarantine)

    def work(self) -> None:
        """Record stored files, and those in quarantine."""
        self._count_doubts()
        super().work()
        for rows in _unrecorded(self, self.finder):
            self.context.roots.require(self.finder.quarantine)
            connect.write(_record_quarantined, rows)
            self.context.counts["quarantined"] += len(rows)

    def plan(self) -> Iterator[str]:
        """Yield what would be recorded."""
        yield from super().plan()
        self._count_doubts()
        yield from _plan_quarantined(self, self.finder)

    def _count_doubts(self) -> None:
        """Count the rows whose file is gone, or not the one that was recorded, as far as it shows.

        Nothing is marked: that takes a pass that reads files and recognizes an unmounted disk.
        """
        storage = self.finder.storage
        for page in connect.pages(lambda after: File.page(storage, after, _BATCH), 0, "id"):
            if self.context.stopping:
                break
            self.storage.forget()
            self.context.counts["in doubt"] += sum(
                map(self._is_in_doubt, self.context.sound(page, "file"))
            )

    def _is_in_doubt(self, row: FileRow) -> bool:
        file = self.storage.entry(names.rel_of(row))
        try:
            found = Version.of_file(file.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return row.status == FileStatus.STORED
        except OSError as error:
            faults.raise_if_general(error, file.path)
            return True
        if row.status != FileStatus.STORED:
            return row.status == FileStatus.MISSING
        return (
            found.size_bytes != row.size_bytes
            or row.mtime_ns not in (None, found.mtime_ns)
            or row.inode not in (None, found.inode)
        )


class HandoffRebuild(Recording):
    """Passes that record what the holding area and the quarantine of a handoff hold.

    The buffer needs nothing: the next pass finds its files, and the far end answers that it has
    what was delivered already. So a version that is in the buffer is left to that pass. A row
    according to which a file is still to be sent, or is gone, is updated where holding or
    quarantine has it; what a person decided to ignore stays ignored.
    """

    kind = "rebuild"

    def __init__(self, section: Handoff, jobs: int = 2) -> None:
        super().__init__()
        self._section = section
        self._jobs = jobs

    def job(self, context: PassContext) -> RecordingJob:
        """Return a new pass."""
        return _HandoffRebuildJob(context, self._section, self._jobs)


class _HandoffRebuildJob(RecordingJob):
    """One pass of `HandoffRebuild`."""

    def __init__(self, context: PassContext, section: Handoff, jobs: int) -> None:
        super().__init__(context)
        self._section = section
        self._jobs = jobs

    def recover(self) -> None:
        """Raise `TryLater` unless buffer, holding area and quarantine are mounted."""
        for path in (self._section.buffer, self._section.holding, self._section.quarantine):
            self.context.roots.require(path)

    def work(self) -> None:
        """Record held files as HELD, and those in quarantine."""
        site, counts = self.context.settings.site.name, self.context.counts
        holding = self._tree(self._section.holding)
        for held, moved in self._unknown():
            held = held[: self.context.take(len(held))]
            ready = []
            for row, error in map_in_order(self._read, self._read_ahead(held), self._jobs):
                if error is None:
                    ready.append(row)
                else:
                    self.note(holding.entry(row.held_rel).path, error)
            self.context.roots.require(self._section.holding)
            holding.require_same({names.split(row.held_rel)[0] for row in ready})
            connect.write(self._record, site, ready, moved)
            self.context.did("recorded", len(ready), sum(row.size_bytes for row in ready))
            if self.context.stopping:
                return
        for rows in _unrecorded(self, self._section):
            self.context.roots.require(self._section.quarantine)
            connect.write(self._record_quarantined, site, rows)
            counts["quarantined"] += len(rows)

    def plan(self) -> Iterator[str]:
        """Yield what would be recorded."""
        self.recover()
        for held, _ in self._unknown():
            for row in held:
                yield f"would record {names.to_text(row.held_rel)} as held"
        yield from _plan_quarantined(self, self._section)

    def due(self) -> bool:
        """Return whether a held file is not known."""
        return any(held for held, _ in self._unknown())

    def _tree(self, root: str) -> Tree:
        return self.context.roots.tree(root)

    def _unknown(self) -> Iterator[tuple[list[HandoffRow], list[tuple[int, int]]]]:
        """Yield held files that are not known.

        Yields
        ------
        held : `list` [ `HandoffRow` ]
            Without an id; ``filename`` is the name in the buffer, ``held_as`` the present one.
        moved : `list` [ `tuple` [ `int`, `int` ] ]
            Ids and inodes of held files that are others than rows record, as on a restored disk.
        """
        site = self.context.settings.site.name
        for batch in batched(self.files(self._section.holding), _BATCH):
            for each in (self._section.holding, self._section.buffer, self._section.quarantine):
                self._tree(each).forget()
            held = [_held_row(found) for found in batch]
            # A file may have been named like a version in the buffer already.
            own = [row._replace(filename=row.held_as or "") for row in held]
            known = connect.read(self._known, site, held + own)
            held = [
                itself if _key(itself) in known else row
                for row, itself in zip(held, own, strict=True)
            ]
            # Of versions that the table cannot tell apart one is recorded; the others just stay.
            first = {_key(row): row for row in reversed(held)}
            new, moved = [], []
            for key, row in first.items():
                before = known.get(key)
                if not self._is_known(site, row, before) and not self._is_in_buffer(row):
                    new.append(row)
                if (
                    before
                    and (before.status, before.held_as) == (HandoffStatus.HELD, row.held_as)
                    and before.inode != row.inode
                ):
                    moved.append((before.id, row.inode))
            self.context.counts["known"] += len(held) - len(new)
            if new or moved:
                yield new, moved

    def _is_known(self, site: str, row: HandoffRow, known: HandoffRow | None) -> bool:
        """Return whether the table is right about a held file, as far as the disk shows."""
        if known is None:
            return False
        if known.status == HandoffStatus.HELD:
            return known.held_as == row.held_as or self._is_there(
                self._section.holding, row, known.held_as or ""
            )
        if known.status == HandoffStatus.QUARANTINED:
            name, version = (row.relpath, row.filename), (row.size_bytes, row.mtime_ns)
            paths = connect.read(Quarantine.paths_of, site, self._section.label, name, *version)
            quarantine = self._tree(self._section.quarantine)
            return any(_is_aside(quarantine, names.readable(path)) for path in paths)
        return known.status == HandoffStatus.IGNORED

    def _is_in_buffer(self, row: HandoffRow) -> bool:
        return self._is_there(self._section.buffer, row, row.filename)

    def _is_there(self, root: str, row: HandoffRow, filename: str) -> bool:
        """Return whether a version is below a root, in its directory, under some name."""
        try:
            rel = names.join(names.from_text(row.relpath), names.from_text(filename))
            status = self._tree(root).entry(rel).lstat()
        except (OSError, ValueError):
            return False
        return Version.of_file(status).is_like(Version.of_row(row))

    def _read_ahead(self, held: Sequence[HandoffRow]) -> list[HandoffRow]:
        """Return rows, with the checksums of files that workers read."""
        holding, algorithm = self._tree(self._section.holding), self._section.checksum
        files = [(holding.entry(row.held_rel), row.size_bytes, (algorithm,)) for row in held]
        return [
            row._replace(checksum=checksum.format(algorithm, found[1][algorithm])) if found else row
            for row, found in zip(held, self.context.read_ahead(holding, "", files), strict=True)
        ]

    def _read(self, row: HandoffRow) -> tuple[HandoffRow, OSError | Interrupted | None]:
        if row.checksum:
            return row, None
        algorithm = self._section.checksum
        try:
            held = self._tree(self._section.holding).entry(row.held_rel)
            digest = checksum.compute(held, [algorithm])[algorithm]
        except (OSError, Interrupted) as error:
            return row, error
        return row._replace(checksum=checksum.format(algorithm, digest)), None

    def _record(
        self, site: str, held: Sequence[HandoffRow], moved: Sequence[tuple[int, int]]
    ) -> None:
        """Take files through the statuses that they had on their way to the holding area."""
        HandoffFile.own_inodes(moved)
        before = self._known(site, held)
        again = [before[_key(row)].id for row in held if _key(row) in before]
        HandoffFile.again(again, [HandoffStatus.QUARANTINED], _HELD)
        HandoffFile.found(site, self._section.name, held, _HELD)
        ids = {key: row.id for key, row in self._known(site, held).items()}
        rows = [row._replace(id=ids[_key(row)]) for row in held]
        HandoffFile.hashed([(row.id, row.checksum or "", row.inode) for row in rows])
        HandoffFile.delivered([(row.id, row.inode, row.checksum) for row in rows])
        HandoffFile.held([(row.id, row.held_as or "", row.inode) for row in rows])

    def _record_quarantined(self, site: str, rows: Sequence[Quarantine]) -> None:
        """Record what waits in quarantine, also in the rows that call it something else."""
        _record_quarantined(rows)
        known = self._known(site, rows)
        late = []
        for row in rows:
            before = known.get(_key(row))
            if before and before.status in _BEFORE_QUARANTINE and not self._is_in_buffer(before):
                late.append((before.id, row.reason))
        HandoffFile.again([number for number, _ in late], _BEFORE_QUARANTINE, _IN_QUARANTINE)
        HandoffFile.quarantined(late)

    def _known(
        self, site: str, rows: Sequence[HandoffRow | Quarantine]
    ) -> dict[VersionKey, HandoffRow]:
        """Return what the table has of all versions under the names of some files."""
        paths = {(row.relpath, row.filename) for row in rows}
        return {_key(row): row for row in HandoffFile.known(site, self._section.name, paths)}


def _key(row: HandoffRow | Quarantine) -> VersionKey:
    return row.relpath, row.filename, row.size_bytes, row.mtime_ns


def _held_row(found: Found) -> HandoffRow:
    """Return the row of a held file that had its name in the buffer before it became a version."""
    relpath, held_as = names.name_of(found.rel)
    version = (found.size_bytes, found.mtime_ns, found.inode)
    return HandoffRow(relpath, VERSION.sub("", held_as), *version, held_as=held_as)


def _unrecorded(job: RecordingJob, section: Finder | Handoff) -> Iterator[list[Quarantine]]:
    """Yield rows for the files in a quarantine that the table does not know."""
    if job.context.stopping:
        return
    site, root = job.context.settings.site.name, job.context.roots.tree(section.quarantine)
    for batch in batched(job.files(root.path), _BATCH):
        root.forget()
        found = [(root.entry(each.rel), each) for each in batch]
        paths = [names.to_text(file.path) for file, _ in found]
        known = connect.read(Quarantine.paths_among, site, paths)
        rows = [
            _quarantined_row(site, section.label, file, each)
            for (file, each), path in zip(found, paths, strict=True)
            if path not in known and not is_reason(file)
        ]
        if rows:
            yield rows


def _is_aside(quarantine: Tree, path: str) -> bool:
    """Return whether a file may have a path of the table, in a quarantine or in one before it."""
    within = names.stays_inside(path, quarantine.path)
    return not place.is_gone(quarantine.at(path) if within else outside(path))


def _quarantined_row(site: str, label: str, file: Entry, found: Found) -> Quarantine:
    reason, filename = reason_and_name(file)
    return Quarantine(
        site=site,
        label=label,
        relpath=names.name_of(found.rel)[0],
        filename=filename,
        path=names.to_text(file.path),
        size_bytes=found.size_bytes,
        mtime_ns=found.mtime_ns,
        inode=found.inode,
        reason=reason or "not known: the database was rebuilt",
    )


def _record_quarantined(rows: Sequence[Quarantine]) -> None:
    when = connect.now()
    for row in rows:
        Quarantine.intend(**row.__data__).arrived(when)


def _plan_quarantined(job: RecordingJob, section: Finder | Handoff) -> Iterator[str]:
    for rows in _unrecorded(job, section):
        for row in rows:
            yield f"would record {row.path}, in quarantine: {row.reason}"
