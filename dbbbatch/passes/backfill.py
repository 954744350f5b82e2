"""Record files that were in storage before dbbbatch."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.areas.storage.store import adopt
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder, Target
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus, IngestStatus
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, Interrupted, UsageError
from dbbbatch.files import checksum, clock, names
from dbbbatch.files.batches import batched_by_size
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import Found, detour, scan
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.recording import Recording, RecordingJob

_WILD = re.compile(r"[*?\[]")


class BackfillWork(Recording):
    """Passes that record what storage holds and the table does not know.

    What is recorded is not read again, so the next pass carries on an interrupted one.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        The finder of the storage area.
    globs : `~collections.abc.Sequence` [ `str` ]
        Which relative paths; ``*`` also crosses ``/``.
    targets : `~collections.abc.Sequence` [ `str` ]
        The targets that have ingested the files already; the other targets of the storage area are
        offered them as new. All targets, if empty.
    becomes : `IngestStatus`
        BACKFILL; or RERUN, to have those targets offered the files too; or UNTRIED.
    jobs : `int`
        Files read at a time.
    recorded_as : `str`
        The finder that the rows get.
    """

    kind = "backfill"

    def __init__(
        self,
        finder: Finder,
        globs: Sequence[str] = ("*",),
        targets: Sequence[str] = (),
        becomes: IngestStatus = IngestStatus.BACKFILL,
        jobs: int = 2,
        recorded_as: str = "backfill",
    ) -> None:
        super().__init__()
        for glob in globs:
            if {"", ".", ".."} & set(glob.split("/")):
                raise UsageError(
                    f"{glob!r}: a glob relative to {finder.storage} is expected, as in "
                    "2026-11-24/*: without a slash at either end, and with no empty, . or .. part"
                )
        self.finder = finder
        self.globs = globs
        self.targets = targets
        self.becomes = becomes
        self.jobs = jobs
        self.recorded_as = recorded_as

    def job(self, context: PassContext) -> RecordingJob:
        """Return a new pass."""
        return BackfillJob(self, context)


class BackfillJob(RecordingJob):
    """One pass of `BackfillWork`."""

    def __init__(self, asked: BackfillWork, context: PassContext) -> None:
        super().__init__(context)
        self.asked = asked
        self.finder = asked.finder
        self.site: str = context.settings.site.name

    @property
    def storage(self) -> Tree:
        """The storage area, as the pass found it first."""
        return self.context.roots.tree(self.finder.storage)

    def recover(self) -> None:
        """Nothing is left half-done: a batch is one transaction."""
        self.context.roots.require(self.finder.storage, self.finder.sentinel)

    def work(self) -> None:
        """Record what is not known, in batches."""
        targets = self._ensure_targets()
        area = StorageArea(
            self.finder, self.site, self.context.run_id, self.context.roots, self.asked.recorded_as
        )

        becomes, run_id = self.asked.becomes, self.context.run_id
        first = becomes if becomes is IngestStatus.UNTRIED else IngestStatus.BACKFILL

        def arrive(ids: list[int]) -> None:
            IngestState.arrive(ids, area.section.storage, run_id, first, targets)
            IngestState.arrive(ids, area.section.storage, run_id)
            if becomes is IngestStatus.RERUN:
                for target in targets:
                    IngestState.rerun(
                        target, ids, [IngestStatus.BACKFILL], "dbb backfill --as RERUN"
                    )

        storage = self.storage
        self.context.bar.step("recording files")
        self.context.bar.count_ahead(
            lambda: filter(self._is_asked_for, scan(storage, self._left_out()))
        )
        for batch in self._batches():
            self.context.must_have_room()
            new = self._unknown(batch)
            new = new[: self.context.take(len(new))]
            ready = []
            for file, error in map_in_order(self._read, self._read_ahead(new), self.asked.jobs):
                if error is None:
                    ready.append(file)
                else:
                    self.note(file.destination.path, error)
            self.context.counts["recorded"] += adopt(area, ready, arrive=arrive)
            self.context.bar.advance(len(batch), sum(each.size_bytes for each in batch))
            if self.context.stopping:
                break

    def plan(self) -> Iterator[str]:
        """Yield what would be recorded."""
        self.recover()
        for batch in self._batches():
            new = self._unknown(batch)
            for file in new[: self.context.take(len(new))]:
                yield (
                    f"would record {names.join(*file.name)}, "
                    f"{names.counted(file.size_bytes, 'byte')}"
                )
            if self.context.stopping:
                break

    def due(self) -> bool:
        """Return whether storage holds a file that is not known."""
        return any(self._unknown(batch) for batch in self._batches())

    def _batches(self) -> Iterator[list[Found]]:
        """Yield the files that the globs match."""
        finder = self.finder
        for start in _starts(self.asked.globs):
            with suppress(OSError):  # the scan meets it too
                if why := detour(self.storage, start):
                    raise UsageError(
                        f"{start}: {why}; only what lies in {finder.storage} itself is recorded"
                    )
        files = filter(self._is_asked_for, self.files(finder.storage, self._left_out()))
        return batched_by_size(files, finder.batch_files, finder.batch_bytes)

    def _left_out(self) -> Sequence[re.Pattern[str]]:
        # From the top, so that `exclude` means the same as for a finder.
        return *self.finder.exclude, _outside_others(_starts(self.asked.globs))

    def _is_asked_for(self, found: Found) -> bool:
        return found.rel != self.finder.sentinel and any(
            fnmatch.fnmatchcase(found.rel, glob) for glob in self.asked.globs
        )

    def _unknown(self, batch: Sequence[Found]) -> list[Incoming]:
        self.storage.forget()
        paths = [names.name_of(found.rel) for found in batch]
        known = connect.read(File.known, self.finder.storage, paths)
        new = []
        for found, name in zip(batch, paths, strict=True):
            before = known.get(name)
            if before is not None and before.status != FileStatus.FORGOTTEN:
                self.context.counts["known"] += 1
                continue
            file = self.storage.entry(found.rel)
            if self._is_settling(file, found):
                self.context.counts["not settled"] += 1
                continue
            new.append(Incoming(found.rel, name, file, file, found.size_bytes, known=before))
        return new

    def _is_settling(self, file: Entry, found: Found) -> bool:
        """Return whether a file changed so recently that it may still do so."""
        by = clock.of(self.finder.storage)
        if found.mtime_ns <= by.now_ns() - self.finder.settle * 1e9:
            return False
        try:
            return by.is_young(file.lstat(), self.finder.settle)
        except OSError:
            return False  # reading it gives the same error, which is warned of then

    @property
    def _algorithms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.finder.checksum, *self.finder.checksums)))

    def _read_ahead(self, new: Sequence[Incoming]) -> list[Incoming]:
        """Return files, with what workers read of them."""
        files = [(each.destination, each.size_bytes, self._algorithms) for each in new]
        ahead = self.context.read_ahead(self.storage, self.finder.sentinel, files)
        return [
            each._replace(status=found[0], sums=found[1]) if found else each
            for each, found in zip(new, ahead, strict=True)
        ]

    def _read(self, file: Incoming) -> tuple[Incoming, OSError | Interrupted | None]:
        if file.sums:
            return file, None
        try:
            status, sums = checksum.read_file(file.destination, self._algorithms)
        except (OSError, Interrupted) as error:
            return file, error
        return file._replace(status=status, sums=sums), None

    def _ensure_targets(self) -> list[int]:
        """Return the ids of the targets that were asked for, adding rows that they do not have."""
        settings, asked = self.context.settings, self.asked.targets
        problems = [
            problem
            for label, found in settings.wrong.items()
            if label.startswith("target.")
            for problem in found
        ]
        if problems:
            # A target that is left out would be offered what is recorded here as new.
            raise ConfigError(*problems)
        known = targets_of(settings, self.finder)
        for name in asked:
            if name not in known:
                raise UsageError(
                    f"{name}: no target reads {self.finder.storage}; there are {known}"
                )
        rows = {name: self._ensure_target(settings.target[name]) for name in known}
        return [row.id for name, row in rows.items() if not asked or name in asked]

    def _ensure_target(self, section: Target) -> TargetRow:
        return connect.write(
            TargetRow.ensure,
            self.site,
            section.name,
            section.storage,
            section.plugin,
            self.context.run_id,
        )


def _starts(globs: Sequence[str]) -> list[str]:
    """Return the directories in which matches can lie ('' is the top)."""
    starts = set()
    for glob in globs:
        parts = glob.split("/")
        literal = []
        for part in parts[:-1]:
            if _WILD.search(part):
                break
            literal.append(part)
        starts.add("/".join(literal))
    return sorted(starts)


def _outside_others(starts: Sequence[str]) -> re.Pattern[str]:
    """Match directories, a slash at their end, that lead to none of some others nor lie in one."""
    within = [re.escape(f"{start}/" if start else "") for start in starts]
    above = [
        re.escape(start[: slash.end()]) + r"\Z"
        for start in starts
        for slash in re.finditer("/", start)
    ]
    return re.compile(rf"\A(?=.*/\Z)(?!{'|'.join([*within, *above])})", re.DOTALL)


def targets_of(settings: Settings, finder: Finder) -> list[str]:
    """Return the names of the targets that read a finder's storage."""
    return [name for name, each in settings.target.items() if each.storage == finder.storage]
