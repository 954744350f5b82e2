"""Recording files that a log says are in storage: read, and compared with the table."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile
from typing import NamedTuple

from dbbbatch.areas.storage.mounted import storage_area
from dbbbatch.areas.storage.store import Arrival, adopt
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File, FileRow, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.database.models.statuses import WhyRemembered as Memory
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, names, rsync_log
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import kind
from dbbbatch.passes.finder.complaints import MOST_SAID, Complaints
from dbbbatch.passes.runner import PassContext

#: What storage has no file for.
_GONE = (FileNotFoundError, NotADirectoryError)


class Logged:
    """What a pass does with the files that logs name.

    Parameters
    ----------
    p : `PassContext`
        Whose counts tell of them.
    finder : `dbbbatch.config.sections.Finder`
        The section.
    complaints : `Complaints`
        Is told of what is given up.
    """

    def __init__(self, p: PassContext, finder: Finder, complaints: Complaints) -> None:
        self._p = p
        self._finder = finder
        self._complaints = complaints
        self._area = storage_area(finder, p.settings.site.name, p.run_id, p.roots)

    def look_again(self) -> None:
        """Look for the files that are awaited, and rarely for those that were given up."""
        for batch in batched(tries_due(self._p, self._finder), self._finder.batch_files):
            if self._p.stopping:
                return
            batch = batch[: self._p.take(len(batch))]
            memories = {(left.relpath, left.filename): left for left in batch}
            self._record(
                dict.fromkeys(map(names.rel_of, batch), 0), memories, "", [], lambda _: None
            )

    def record(
        self,
        named: Mapping[str, int],
        log: str,
        damage: Sequence[RememberedFile],
        also: Callable[[int], None],
    ) -> bool:
        """Record the files that a log names, and in the same transaction how far it was read.

        Return whether that is all of them: where the pass is to end while they are read, it is
        those before the first one that was not read.

        Parameters
        ----------
        named : mapping [ `str`, `int` ]
            Paths relative to storage, as far as they lead there, and how many lines say of each
            that it was updated.
        log : `str`
            The log, as the tables have it.
        damage : `~collections.abc.Sequence` [ `RememberedFile` ]
            What is to be told of the log itself.
        also : `~collections.abc.Callable`
            Records how far it was read, given how many of the files are dealt with.
        """
        keys = [names.name_of(rel) for rel in named]
        site, finder = self._area.site, self._area.finder
        memories = connect.read(Remembered.among, site, finder, keys)
        return self._record(named, memories, log, damage, also)

    def complain(self) -> None:
        """Return of what was given up and still waits for a person."""
        site, finder = self._area.site, self._area.finder
        for left in connect.read(Remembered.all_with, site, finder, Memory.GIVEN_UP, MOST_SAID + 1):
            rel = names.readable(names.join(left.relpath, left.filename))
            self._complaints.failed(rel, left.message)

    def _record(
        self,
        named: Mapping[str, int],
        memories: dict[Name, RememberedFile],
        log: str,
        damage: Sequence[RememberedFile],
        also: Callable[[int], None],
    ) -> bool:
        inside = [rel for rel in named if rsync_log.inside(self._area.storage, rel)]
        arrivals = [self._arrival(rel) for rel in inside]
        known = connect.read(
            lambda: File.known(self._area.storage, [each.name for each in arrivals])
        )
        for arrival in arrivals:
            arrival.known = known.get(arrival.name)
        reads = list(
            takewhile(
                lambda read: read.whole, map_in_order(self._read, arrivals, self._finder.jobs)
            )
        )
        dealt = len(named)
        if len(reads) < len(arrivals):
            # The pass is to end: what was read before it is recorded, as it is of a scan.
            dealt = list(named).index(inside[len(reads)])
            named = dict(islice(named.items(), dealt))
            inside = inside[: len(reads)]
            kept_out = {arrival.name for arrival in arrivals[len(reads) :]}
            memories = {name: left for name, left in memories.items() if name not in kept_out}
        ready: list[Arrival] = []
        kept = list(damage)
        refusal = (
            "a log names it, but it is not inside storage: refused; see who sends it; "
            f"`dbb forget {self._finder.label} FILE` ends this message"
        )
        for rel in set(named) - set(inside):
            kept.append(given_up(rel, refusal))
        # What is kept in mind of a file whose row turns out to be another pass's.
        busy: dict[Name, list[RememberedFile]] = {}
        for read in reads:
            name = read.arrival.name
            memory = memories.get(name)
            if read.error is not None:
                kept += self._keep(read, memory, log)
                continue
            update = self._await_update(read.arrival, named[read.arrival.rel], memory, log)
            kept += update
            if read.news:
                ready.append(read.arrival)
                error = OSError(errno.EBUSY, "another pass changes what the table says of it")
                busy[name] = update or self._keep(_Read(read.arrival, error=error), memory, log)
        counts: Counter[str] = Counter()

        def write(recorded: Sequence[Arrival]) -> None:
            missed = busy.keys() - {each.name for each in recorded}
            left_over = [*kept, *(left for name in missed for left in busy[name])]
            lefts = {(left.relpath, left.filename): left for left in left_over}
            Remembered.drop(
                self._area.site, self._area.finder, [each for each in memories if each not in lefts]
            )
            Remembered.remember(self._area.site, self._area.finder, lefts.values())
            changed = [
                each.known.id
                for each in recorded
                if each.known is not None and _has_other_content(each, each.known)
            ]
            if changed:
                for target in _targets_of(self._area.storage):
                    IngestState.offer_anew(target, changed, "rsync brought other content")
            also(dealt)
            # Counted anew where the transaction is repeated.
            counts["updated"] = len(changed)
            counts["stored"] = len(recorded) - len(changed)
            counts["awaited"] = sum(left.verdict == Memory.AWAITED for left in lefts.values())
            counts["failed"] = sum(
                left.verdict == Memory.GIVEN_UP and left is not memories.get(name)
                for name, left in lefts.items()
            )

        adopt(self._area, ready, write)
        self._p.counts.update(+counts)
        return len(reads) == len(arrivals)

    def _arrival(self, rel: str) -> Arrival:
        path = os.path.join(self._area.storage, rel)
        return Arrival(rel, names.name_of(rel), path, path)

    def _read(self, arrival: Arrival) -> _Read:
        """Read a file where the table does not have it as it is now."""
        try:
            status = os.lstat(arrival.destination)
            if not stat.S_ISREG(status.st_mode):
                return _Read(arrival, error=OSError(0, f"it is {kind(status.st_mode)}"))
            if arrival.known is not None and arrival.known.status == FileStatus.ARRIVING:
                why = f"finder.{arrival.known.finder} is storing a file of this name"
                return _Read(arrival, error=OSError(errno.EBUSY, why))
            arrival.status = status
            if arrival.known is not None and _is_recorded(arrival.known, status):
                return _Read(arrival)
            algorithms = list(self._area.algorithms)
            if arrival.known is not None:
                algorithms.append(checksum.parse(arrival.known.checksum)[0])
            arrival.status, arrival.sums = checksum.read(
                arrival.destination, dict.fromkeys(algorithms)
            )
        except Interrupted:
            return _Read(arrival, whole=False)
        except OSError as error:
            faults.raise_if_general(error, arrival.destination)
            return _Read(arrival, error=error)
        return _Read(arrival, news=True)

    def _keep(self, read: _Read, memory: RememberedFile | None, log: str) -> list[RememberedFile]:
        """Keep a file in mind that is not there, or cannot be read; in the end, give it up.

        One that a person took out of the truth is let go without a word.
        """
        arrival = read.arrival
        gone = isinstance(read.error, _GONE)
        forgotten = arrival.known is not None and arrival.known.status == FileStatus.FORGOTTEN
        if memory is not None and memory.verdict == Memory.GIVEN_UP:
            if not log:
                return [] if gone and forgotten else [memory]
            # Named again, it may be on its way now.
            memory = None
        log = log or (memory.message if memory else "")
        tries = memory.tries + 1 if memory else 1
        if tries < self._finder.max_attempts:
            return [RememberedFile(*arrival.name, 0, 0, 0, Memory.AWAITED, tries, log)]
        if gone and forgotten:
            return []
        why = "it is not there"
        if not isinstance(read.error, FileNotFoundError):
            why = str(read.error.strerror) if read.error else why
        return [
            given_up(arrival.rel, f"named by {log}; given up after {tries} tries: {why}", tries)
        ]

    def _await_update(
        self, arrival: Arrival, updates: int, memory: RememberedFile | None, log: str
    ) -> list[RememberedFile]:
        """Keep a file in mind that a log says was updated, if it may still be what it was before.

        rsync may log a file before it puts it into its place (--delay-updates, and what it prints
        for --itemize-changes). The version that is there is kept in mind; an update that
        does not show in the end had come before the log was read.
        """
        there, awaited = Version.of_file(arrival.status), updates
        before: FileRow | RememberedFile | None = arrival.known
        if memory is not None and memory.inode:
            before, awaited = memory, updates + 1
        if before is not None and before.inode is not None and Version.of_row(before) != there:
            awaited -= 1
        tries = memory.tries + 1 if memory is not None and not updates else 1
        if awaited <= 0 or tries >= self._finder.max_attempts:
            return []
        log = log or (memory.message if memory is not None else "")
        return [RememberedFile(*arrival.name, *there, Memory.AWAITED, tries, log)]


class _Read(NamedTuple):
    """How the reading of a file went, and whether there is anything new to be recorded."""

    arrival: Arrival
    news: bool = False
    error: OSError | None = None
    #: The pass need not end before the file was read.
    whole: bool = True


def tries_due(p: PassContext, finder: Finder) -> Iterator[RememberedFile]:
    """Yield the files to be looked for again now, of those that --match lets through.

    What is awaited, after growing waits; of what was given up, a batch: each once in the longest
    wait, and as soon as its row is STORED by somebody else.
    """
    site = p.settings.site.name
    now = connect.read(connect.now)

    def awaited(after: Name) -> list[RememberedFile]:
        return Remembered.all_with(site, finder.name, Memory.AWAITED, finder.batch_files, after)

    def given_up(after: Name) -> list[RememberedFile]:
        wait, most = finder.retry_wait_max, finder.batch_files
        return Remembered.given_up(site, finder.name, finder.storage, wait, most, after)

    for left in p.sound(list(_remembered(awaited)), "finder_left"):
        wait = retry.backoff(left.tries, finder.retry_wait, finder.retry_wait_max)
        if retry.is_due(left.seen_at, wait, now) and p.matches(names.rel_of(left)):
            yield left
    # What leads out of storage, as logs themselves do, waits for a person.
    ours = (
        left
        for left in _remembered(given_up)
        if not names.fault(left)
        and p.matches(names.rel_of(left))
        and rsync_log.inside(finder.storage, names.rel_of(left))
    )
    yield from islice(ours, finder.batch_files)


def _remembered(rows_after: Callable[[Name], list[RememberedFile]]) -> Iterator[RememberedFile]:
    return chain.from_iterable(connect.pages(rows_after, ("", ""), "relpath", "filename"))


def _is_recorded(known: FileRow, status: os.stat_result) -> bool:
    return known.status == FileStatus.STORED and Version.of_row(known) == Version.of_file(status)


def _has_other_content(arrival: Arrival, known: FileRow) -> bool:
    algorithm, digest = checksum.parse(known.checksum)
    return arrival.sums[algorithm] != digest


def _targets_of(storage: str) -> list[int]:
    rows = connect.execute(
        "SELECT id FROM target WHERE storage = ? AND retired_at IS NULL", [storage]
    )
    return [row[0] for row in rows.fetchall()]


def given_up(rel: str, message: str, tries: int = 1) -> RememberedFile:
    """Return what a finder has in mind of what a person must look at."""
    return RememberedFile(*names.name_of(rel), 0, 0, 0, Memory.GIVEN_UP, tries, message)
