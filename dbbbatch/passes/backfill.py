"""Recording files that were in storage before us."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from dbbbatch.config import Finder, Settings
from dbbbatch.database import connect
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.status import Status
from dbbbatch.database.models.storage import File, FileStatus
from dbbbatch.database.models.target import Target
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.scan import Found, detour, scan
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.finder.arrival import Arrival, adopt
from dbbbatch.passes.finder.places import area_of
from dbbbatch.passes.finder.work import name_of
from dbbbatch.passes.spread import spread

_WILD = re.compile(r"[*?\[]")


class BackfillWork(Work):
    """A pass that records what storage holds and the table does not know.

    What is recorded is not read again, so an interrupted pass is carried on by the next.

    Parameters
    ----------
    finder : `dbbbatch.config.Finder`
        Says which storage area, which checksum, and what to leave out.
    globs : `~collections.abc.Sequence` [ `str` ]
        Which relative paths; ``*`` also crosses ``/``.
    targets : `~collections.abc.Sequence` [ `str` ]
        For which targets the files are taken to be ingested; the rest of the
        storage's targets are offered them as new. All of them, if empty.
    becomes : `Status`
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
        becomes: Status = Status.BACKFILL,
        jobs: int = 2,
        recorded_as: str = "backfill",
    ) -> None:
        for glob in globs:
            if glob.startswith("/") or ".." in glob.split("/"):
                raise UsageError(f"{glob}: a glob relative to {finder.storage} is wanted")
        self._finder = finder
        self._globs = globs
        self._targets = targets
        self._becomes = becomes
        self._jobs = jobs
        self._recorded_as = recorded_as
        #: Paths that could not be read or recorded, and why; the first of them.
        self.troubles: list[str] = []
        #: How many files were recorded, known, failed or unreadable.
        self.counts: Counter[str] = Counter()

    def recover(self, p: Pass) -> None:
        """Nothing is left half-done: a batch is one transaction."""
        if why := faults.away(self._finder.storage, self._finder.sentinel):
            raise TryLater(why)

    def work(self, p: Pass) -> None:
        """Record what is not known, in batches."""
        self.counts = p.counts
        targets = _ensure(p, self._finder, self._targets)
        area = area_of(self._finder, p)._replace(finder=self._recorded_as)

        def arrive(ids: list[int]) -> None:
            IngestState.arrive(
                ids,
                area.storage,
                p.run_id,
                Status.UNTRIED if self._becomes is Status.UNTRIED else Status.BACKFILL,
                targets,
            )
            IngestState.arrive(ids, area.storage, p.run_id)
            if self._becomes is Status.RERUN:
                for target in targets:
                    IngestState.rerun(target, ids, [Status.BACKFILL], "dbb backfill --as RERUN")

        done = 0
        for batch in self._batches(p):
            p.must_have_room()
            new = self._unknown(batch)
            p.counts["known"] += len(batch) - len(new)
            new = new[: p.take(len(new))]
            ready = []
            for arrival, error in spread(self._read, new, self._jobs):
                if error is None:
                    ready.append(arrival)
                else:
                    self._note(p, arrival, error)
            p.counts["recorded"] += adopt(area, ready, arrive=arrive)
            done += len(batch)
            p.progress(done, what="files seen")
            if p.stopping:
                break

    def plan(self, p: Pass) -> Iterator[str]:
        """Say what would be recorded."""
        self.recover(p)
        for batch in self._batches(p):
            new = self._unknown(batch)
            for arrival in new[: p.take(len(new))]:
                yield f"would record {names.join(*arrival.name)}, {arrival.size_bytes} bytes"
            if p.stopping:
                break

    def due(self, p: Pass) -> bool:
        """Tell whether storage holds a file that is not known."""
        return any(self._unknown(batch) for batch in self._batches(p))

    def _batches(self, p: Pass) -> Iterator[list[Found]]:
        finder = self._finder
        batch: list[Found] = []
        size = 0

        def odd(rel: str, what: str) -> None:
            p.counts["odd"] += 1
            p.log.info("%s: %s", names.printable(rel), what)

        seen: set[str] = set()
        for start in _starts(self._globs):
            if any(inside(start, other) for other in seen):
                continue
            seen.add(start)
            for found in _scan(finder, start, odd):
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

    def _unknown(self, batch: Sequence[Found]) -> list[Arrival]:
        arrivals = []
        for found in batch:
            path = os.path.join(self._finder.storage, found.rel)
            arrivals.append(Arrival(found.rel, name_of(found.rel), path, path, found.size_bytes))
        known = connect.look(
            lambda: File.known(self._finder.storage, [each.name for each in arrivals])
        )
        new = []
        for arrival in arrivals:
            arrival.known = known.get(arrival.name)
            if arrival.known is None or arrival.known.status == FileStatus.FORGOTTEN:
                new.append(arrival)
        return new

    def _read(self, arrival: Arrival) -> tuple[Arrival, OSError | None]:
        try:
            before = os.lstat(arrival.source)
            algorithms = (self._finder.checksum, *self._finder.checksums)
            arrival.sums = checksum.compute(arrival.source, dict.fromkeys(algorithms))
            arrival.status = os.lstat(arrival.source)
            checksum.same(before, arrival.status, arrival.source)
        except OSError as error:
            if faults.is_general(error):
                raise TryLater(f"{arrival.source}: {error.strerror}; nothing is lost") from None
            return arrival, error
        return arrival, None

    def _note(self, p: Pass, arrival: Arrival, error: OSError) -> None:
        # Gone or being written: it failed for now; else `failed` is what makes the exit code 1.
        passing = isinstance(error, FileNotFoundError | checksum.Changed)
        p.counts["failed"] += 1
        p.counts["unreadable"] += not passing
        message = f"{names.printable(arrival.rel)}: {error.strerror}"
        p.log.warning("%s", message)
        if len(self.troubles) < 20:
            self.troubles.append(message)


def inside(path: str, directory: str) -> bool:
    """Tell whether a relative path is a directory or below it ('' is the top)."""
    return not directory or path == directory or path.startswith(directory + "/")


def _starts(globs: Sequence[str]) -> list[str]:
    """Return the directories in which matches can lie, outer ones first."""
    starts = set()
    for glob in globs:
        parts = glob.split("/")
        literal = []
        for part in parts[:-1]:
            if _WILD.search(part):
                break
            literal.append(part)
        starts.add("/".join(literal))
    return sorted(starts, key=len)


def _scan(finder: Finder, start: str, odd: Callable[[str, str], None]) -> Iterator[Found]:
    """Scan from a directory of storage on, with paths relative to storage."""
    below = start + "/" if start else ""
    root = os.path.join(finder.storage, start) if start else finder.storage
    try:
        if why := detour(finder.storage, start):
            raise UsageError(
                f"{start}: {why}; only what lies in {finder.storage} itself is recorded"
            )
        for found in scan(
            root, (), finder.settle, time.time(), lambda rel, what: odd(below + rel, what)
        ):
            rel = below + found.rel
            if not any(pattern.search(rel) for pattern in finder.exclude):
                yield found._replace(rel=rel)
    except FileNotFoundError:
        return  # nothing can match there
    except OSError as error:
        raise TryLater(f"{root}: {error.strerror}") from None


def _ensure(p: Pass, finder: Finder, wanted: Sequence[str]) -> list[int]:
    """Return the ids of targets of a finder's storage, adding those that never had a pass."""
    known = targets_of(p.settings, finder)
    for name in wanted:
        if name not in known:
            raise UsageError(f"{name}: no target reads {finder.storage}; there are {known}")
    site = p.settings.site.name
    ids = []
    for name in known:
        section = p.settings.target[name]
        target = connect.transact(
            lambda section=section: Target.ensure(
                site, section.name, section.storage, section.plugin, p.run_id
            )
        )
        if not wanted or name in wanted:
            ids.append(target.id)
    return ids


def targets_of(settings: Settings, finder: Finder) -> list[str]:
    """Return the names of the targets that read a finder's storage."""
    return [name for name, each in settings.target.items() if each.storage == finder.storage]
