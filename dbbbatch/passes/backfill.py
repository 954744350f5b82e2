"""Recording files that were in storage before us."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.areas.storage.store import adopt
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus, IngestStatus
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, Interrupted, UsageError
from dbbbatch.files import checksum, clock, names
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import Found, detour
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.recording import Recording

_WILD = re.compile(r"[*?\[]")


class BackfillWork(Recording):
    """A pass that records what storage holds and the table does not know.

    What is recorded is not read again, so an interrupted pass is carried on by the next.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        Says which storage area, which checksum, and what to leave out.
    globs : `~collections.abc.Sequence` [ `str` ]
        Which relative paths; ``*`` also crosses ``/``.
    targets : `~collections.abc.Sequence` [ `str` ]
        For which targets the files are taken to be ingested; the rest of the
        storage's targets are offered them as new. All of them, if empty.
    becomes : `IngestStatus`
        BACKFILL; or RERUN, to have those targets offered the files too; or UNTRIED.
    jobs : `int`
        Files read at a time.
    recorded_as : `str`
        What the rows have as their finder.
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
                    f"{glob!r}: a glob relative to {finder.storage} is wanted, as in 2026-11-24/*: "
                    "without a slash at either end, and with no empty, . or .. part"
                )
        self._finder = finder
        self._globs = globs
        self._targets = targets
        self._becomes = becomes
        self._jobs = jobs
        self._recorded_as = recorded_as

    def recover(self, p: PassContext) -> None:
        """Nothing is left half-done: a batch is one transaction."""
        self.counts = p.counts
        p.roots.require(self._finder.storage, self._finder.sentinel)

    def work(self, p: PassContext) -> None:
        """Record what is not known, in batches."""
        targets = _ensure(p, self._finder, self._targets)
        area = StorageArea(self._finder, p.settings.site.name, p.run_id, p.roots, self._recorded_as)

        def arrive(ids: list[int]) -> None:
            IngestState.arrive(
                ids,
                area.storage,
                p.run_id,
                IngestStatus.UNTRIED
                if self._becomes is IngestStatus.UNTRIED
                else IngestStatus.BACKFILL,
                targets,
            )
            IngestState.arrive(ids, area.storage, p.run_id)
            if self._becomes is IngestStatus.RERUN:
                for target in targets:
                    IngestState.rerun(
                        target, ids, [IngestStatus.BACKFILL], "dbb backfill --as RERUN"
                    )

        done = 0
        for batch in self._batches(p):
            p.must_have_room()
            new = self._unknown(p, batch)
            new = new[: p.take(len(new))]
            ready = []
            for file, error in map_in_order(self._read, new, self._jobs):
                if error is None:
                    ready.append(file)
                else:
                    self.note(p, file.destination, error)
            p.counts["recorded"] += adopt(area, ready, arrive=arrive)
            done += len(batch)
            p.progress(done, what="files seen")
            if p.stopping:
                break

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what would be recorded."""
        self.recover(p)
        for batch in self._batches(p):
            new = self._unknown(p, batch)
            for file in new[: p.take(len(new))]:
                yield f"would record {names.join(*file.name)}, {file.size_bytes} bytes"
            if p.stopping:
                break

    def due(self, p: PassContext) -> bool:
        """Return whether storage holds a file that is not known."""
        return any(self._unknown(p, batch) for batch in self._batches(p))

    def _batches(self, p: PassContext) -> Iterator[list[Found]]:
        finder = self._finder
        starts = _starts(self._globs)
        for start in starts:
            with suppress(OSError):  # the scan meets it too
                if why := detour(finder.storage, start):
                    raise UsageError(
                        f"{start}: {why}; only what lies in {finder.storage} itself is recorded"
                    )
        batch: list[Found] = []
        size = 0
        # From the top, so that `exclude` means the same as for a finder.
        for found in self.files(p, finder.storage, (*finder.exclude, _outside_others(starts))):
            if found.rel == finder.sentinel or not self._is_asked_for(found.rel):
                continue
            batch.append(found)
            size += found.size_bytes
            if len(batch) >= finder.batch_files or size >= finder.batch_bytes:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _is_asked_for(self, rel: str) -> bool:
        return any(fnmatch.fnmatchcase(rel, glob) for glob in self._globs)

    def _unknown(self, p: PassContext, batch: Sequence[Found]) -> list[Incoming]:
        paths = [names.name_of(found.rel) for found in batch]
        known = connect.read(File.known, self._finder.storage, paths)
        new = []
        for found, name in zip(batch, paths, strict=True):
            before = known.get(name)
            if before is not None and before.status != FileStatus.FORGOTTEN:
                p.counts["known"] += 1
                continue
            path = os.path.join(self._finder.storage, found.rel)
            if self._is_settling(path, found):
                p.counts["not settled"] += 1
                continue
            new.append(Incoming(found.rel, name, path, path, found.size_bytes, known=before))
        return new

    def _is_settling(self, path: str, found: Found) -> bool:
        """Return whether a file changed so recently that it may still do so."""
        by = clock.of(self._finder.storage)
        if found.mtime_ns <= by.now_ns() - self._finder.settle * 1e9:
            return False
        try:
            return by.is_young(os.lstat(path), self._finder.settle)
        except OSError:
            return False  # it is said when it is read

    def _read(self, file: Incoming) -> tuple[Incoming, OSError | Interrupted | None]:
        try:
            algorithms = dict.fromkeys((self._finder.checksum, *self._finder.checksums))
            status, sums = checksum.read_file(file.destination, algorithms)
        except (OSError, Interrupted) as error:
            return file, error
        return file._replace(status=status, sums=sums), None


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


def _ensure(p: PassContext, finder: Finder, wanted: Sequence[str]) -> list[int]:
    """Return the ids of targets of a finder's storage, adding those that never had a pass."""
    problems = [
        problem
        for label, found in p.settings.wrong.items()
        if label.startswith("target.")
        for problem in found
    ]
    if problems:
        # A target that is left out would be offered what is recorded here as new.
        raise ConfigError(*problems)
    known = targets_of(p.settings, finder)
    for name in wanted:
        if name not in known:
            raise UsageError(f"{name}: no target reads {finder.storage}; there are {known}")
    site = p.settings.site.name
    ids = []
    for name in known:
        section = p.settings.target[name]
        target = connect.write(
            TargetRow.ensure, site, section.name, section.storage, section.plugin, p.run_id
        )
        if not wanted or name in wanted:
            ids.append(target.id)
    return ids


def targets_of(settings: Settings, finder: Finder) -> list[str]:
    """Return the names of the targets that read a finder's storage."""
    return [name for name, each in settings.target.items() if each.storage == finder.storage]
