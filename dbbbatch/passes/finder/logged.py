"""Record files that a log says are in storage: read them, and compare them with the table."""

from __future__ import annotations

import errno
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile

from dbbbatch.areas.storage.incoming import Fate, Incoming
from dbbbatch.areas.storage.store import adopt
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File, FileRow, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, names, rsync_log
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import map_in_order
from dbbbatch.files.scan import kind
from dbbbatch.passes.finder.job import FinderJob
from dbbbatch.passes.notices import MOST_NAMED

#: What is remembered, by path.
Memories = Mapping[Name, RememberedFile]


class LoggedFiles:
    """What a pass does with the files that logs name.

    Parameters
    ----------
    job : `FinderJob`
    """

    def __init__(self, job: FinderJob) -> None:
        self._job = job
        self._section = job.section
        self._area = job.area

    def due(self) -> Iterator[RememberedFile]:
        """Yield the files to be looked for again now, as far as --match lets them through.

        Those that are awaited, after growing waits; of those that were given up, a batch: each once
        in the longest wait, and as soon as its row is STORED by another pass.
        """
        section, site, context = self._section, self._job.site, self._job.context
        now = connect.read(connect.now)

        def awaited(after: Name) -> list[RememberedFile]:
            most = section.batch_files
            return Remembered.all_with(site, section.name, WhyRemembered.AWAITED, most, after)

        def given_up(after: Name) -> list[RememberedFile]:
            wait, most = section.retry_wait_max, section.batch_files
            return Remembered.given_up(site, section.name, section.storage, wait, most, after)

        for left in context.sound(list(_remembered(awaited)), "finder_left"):
            wait = retry.backoff(left.tries, section.retry_wait, section.retry_wait_max)
            if retry.is_due(left.seen_at, wait, now) and context.matches(names.rel_of(left)):
                yield left
        # What leads out of storage, as paths of logs themselves do, waits for a person.
        ours = (
            left
            for left in _remembered(given_up)
            if not names.fault(left)
            and context.matches(names.rel_of(left))
            and rsync_log.inside(section.storage, names.rel_of(left))
        )
        yield from islice(ours, section.batch_files)

    def look_again(self) -> None:
        """Look for the files that are awaited, and rarely for those that were given up."""
        context = self._job.context
        for batch in batched(self.due(), self._section.batch_files):
            if context.stopping:
                return
            batch = batch[: context.take(len(batch))]
            memories = {(left.relpath, left.filename): left for left in batch}
            self._record(dict.fromkeys(map(names.rel_of, batch), 0), memories)

    def record(
        self,
        named: Mapping[str, int],
        log: str,
        damage: Sequence[RememberedFile],
        also: Callable[[int], None],
    ) -> bool:
        """Record the files that a log names, and in the same transaction how far it was read.

        Parameters
        ----------
        named : mapping [ `str`, `int` ]
            Relative paths, as far as they lead to storage, and how many lines of the log say that
            the file was updated.
        log : `str`
            The path of the log, as tables have it.
        damage : `~collections.abc.Sequence` [ `RememberedFile` ]
            What is wrong with the log itself.
        also : `~collections.abc.Callable`
            Records how far the log was read. Called with the number of files that are recorded.

        Returns
        -------
        whole : `bool`
            Whether all files are recorded. Where the pass is to end while they are read, only those
            before the first one that was not read are.
        """
        paths = [names.name_of(rel) for rel in named]
        memories = connect.read(Remembered.among, self._job.site, self._section.name, paths)
        return self._record(named, memories, log, damage, also)

    def note_given_up(self) -> None:
        """Warn of files that were given up and wait for a person."""
        for left in connect.read(
            Remembered.all_with,
            self._job.site,
            self._section.name,
            WhyRemembered.GIVEN_UP,
            MOST_NAMED + 1,
        ):
            rel = names.readable(names.join(left.relpath, left.filename))
            self._job.context.warn_of("failed", rel, left.message)

    def _record(
        self,
        named: Mapping[str, int],
        memories: Memories,
        log: str = "",
        damage: Sequence[RememberedFile] = (),
        also: Callable[[int], None] = lambda dealt: None,
    ) -> bool:
        self._area.forget()
        files = self._known_files(named)
        reads = list(
            takewhile(
                lambda read: read.decision.fate is not Fate.NOT_YET,
                map_in_order(self._read, files, self._section.jobs),
            )
        )
        whole = len(reads) == len(files)
        if not whole:
            # The pass is to end: what was read before is recorded, as it is of a scan.
            named = dict(islice(named.items(), list(named).index(files[len(reads)].rel)))
            unread = {each.name for each in files[len(reads) :]}
            memories = {name: left for name, left in memories.items() if name not in unread}
        kept = [*damage]
        for rel in named.keys() - {each.rel for each in files}:
            kept += self._refuse(rel, memories.get(names.name_of(rel)), log, named[rel])
        ready: list[Incoming] = []
        # What is remembered of a file whose row turns out to be another pass's.
        busy: dict[Name, list[RememberedFile]] = {}
        for read in reads:
            memory = memories.get(read.name)
            if read.decision.error is not None:
                kept += self._await(read, read.decision.error, memory, log, named[read.rel])
                continue
            update = self._await_update(read, named[read.rel], memory, log)
            kept += update
            if read.decision.fate is Fate.ORPHAN:
                ready.append(read)
                error = OSError(errno.EBUSY, "another pass changes what the table says of it")
                busy[read.name] = update or self._await(read, error, memory, log)
        counts: Counter[str] = Counter()

        def write(recorded: Sequence[Incoming]) -> None:
            missed = busy.keys() - {each.name for each in recorded}
            left_over = [*kept, *(left for name in missed for left in busy[name])]
            lefts = {(left.relpath, left.filename): left for left in left_over}
            site, finder = self._job.site, self._section.name
            Remembered.drop(site, finder, [each for each in memories if each not in lefts])
            Remembered.remember(site, finder, lefts.values())
            changed = [
                each.known.id
                for each in recorded
                if each.known and _has_other_content(each, each.known)
            ]
            if changed:
                for target in _targets_of(self._section.storage):
                    IngestState.offer_anew(target, changed, "rsync brought other content")
            also(len(named))
            # Counted anew where the transaction is repeated.
            counts["updated"] = len(changed)
            counts["stored"] = len(recorded) - len(changed)
            counts["size"] = sum(each.status.st_size for each in recorded)
            counts["awaited"] = sum(
                left.verdict == WhyRemembered.AWAITED for left in lefts.values()
            )
            counts["failed"] = sum(
                left.verdict == WhyRemembered.GIVEN_UP and left is not memories.get(name)
                for name, left in lefts.items()
            )

        adopt(self._area, ready, write)
        size = counts.pop("size")
        self._job.context.did("stored", counts.pop("stored"), size)
        self._job.context.counts.update(+counts)
        return whole

    def _known_files(self, named: Mapping[str, int]) -> list[Incoming]:
        """Return the files that are inside storage, with their rows."""
        storage = self._section.storage
        files = [self._area.incoming(rel) for rel in named if rsync_log.inside(storage, rel)]
        known = connect.read(File.known, storage, [each.name for each in files])
        return [each._replace(known=known.get(each.name)) for each in files]

    def _refuse(
        self, rel: str, memory: RememberedFile | None, log: str, updates: int
    ) -> list[RememberedFile]:
        """Return what is remembered of a path that leads out of storage.

        A directory of storage may be a link for a moment only, so that the file is awaited.
        """
        why = (
            "it is not inside storage: refused; see who sends it; "
            f"`dbb forget {self._section.label} FILE` ends this message"
        )
        if names.is_astray(rel):
            return [given_up(rel, f"a log names it, but {why}")]
        error = NotADirectoryError(errno.ENOTDIR, f"reached through a link, {why}")
        return self._await(self._area.incoming(rel), error, memory, log, updates)

    def _read(self, file: Incoming) -> Incoming:
        """Read a file unless the table has it as it is now (DUPLICATE); to be recorded: ORPHAN."""
        known = file.known
        try:
            status = file.destination.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, f"it is {kind(status.st_mode)}")
            if known is not None and known.status == FileStatus.ARRIVING:
                raise OSError(errno.EBUSY, f"finder.{known.finder} is storing a file of this name")
            algorithms = dict.fromkeys(self._area.algorithms)
            if known is not None:
                if known.status == FileStatus.STORED and Version.of_row(known) == Version.of_file(
                    status
                ):
                    return file._replace(status=status).decided(Fate.DUPLICATE)
                algorithms[checksum.parse(known.checksum)[0]] = None
            status, sums = checksum.read_file(file.destination, algorithms)
        except Interrupted:
            return file
        except OSError as error:
            faults.raise_if_general(error, file.destination.path)
            return file.failed(error)
        return file._replace(sums=sums, status=status).decided(Fate.ORPHAN)

    def _await(
        self,
        file: Incoming,
        error: OSError,
        memory: RememberedFile | None,
        log: str,
        updates: int = 0,
    ) -> list[RememberedFile]:
        """Return what is remembered of a file that is not there or cannot be read.

        It is awaited, and given up in the end. One that a person forgot is dropped silently.
        """
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        forgotten = file.known is not None and file.known.status == FileStatus.FORGOTTEN
        if memory is not None and memory.verdict == WhyRemembered.GIVEN_UP:
            if not log:
                return [] if gone and forgotten else [memory]
            # Named again, it may be on its way now.
            memory = None
        log = log or (memory.message if memory else "")
        updates += _announced(memory)
        tries = memory.tries + 1 if memory else 1
        if tries < self._section.max_attempts:
            return [RememberedFile(*file.name, 0, updates, 0, WhyRemembered.AWAITED, tries, log)]
        if gone and forgotten:
            return []
        why = "it is not there" if isinstance(error, FileNotFoundError) else error.strerror
        times = names.counted(tries, "try", "tries")
        return [given_up(file.rel, f"named by {log}; given up after {times}: {why}", tries)]

    def _await_update(
        self, file: Incoming, updates: int, memory: RememberedFile | None, log: str
    ) -> list[RememberedFile]:
        """Return what is remembered of a file that was updated, if it may still be the old one.

        rsync may log a file before it puts it into its place (--delay-updates, and what it prints
        for --itemize-changes). The version that is there is remembered; an update that does not
        show in the end had come before the log was read.
        """
        there, awaited = Version.of_file(file.status), updates
        before: FileRow | RememberedFile | None = file.known
        if memory is not None and memory.inode:
            before, awaited = memory, updates + 1
        else:
            awaited += _announced(memory)
        if before is not None and before.inode is not None and Version.of_row(before) != there:
            awaited -= 1
        tries = memory.tries + 1 if memory is not None and not updates else 1
        if awaited <= 0 or tries >= self._section.max_attempts:
            return []
        log = log or (memory.message if memory is not None else "")
        return [RememberedFile(*file.name, *there, WhyRemembered.AWAITED, tries, log)]


def _announced(memory: RememberedFile | None) -> int:
    """Return how many updates of a file logs told of while it could not be looked at.

    Until it is, what is remembered of it has this number where its time will be.
    """
    if memory is None or memory.inode or memory.verdict != WhyRemembered.AWAITED:
        return 0
    return memory.mtime_ns or 0


def _remembered(rows_after: Callable[[Name], list[RememberedFile]]) -> Iterator[RememberedFile]:
    return chain.from_iterable(connect.pages(rows_after, ("", ""), "relpath", "filename"))


def _has_other_content(file: Incoming, known: FileRow) -> bool:
    algorithm, digest = checksum.parse(known.checksum)
    return file.sums[algorithm] != digest


def _targets_of(storage: str) -> list[int]:
    rows = connect.execute(
        "SELECT id FROM target WHERE storage = ? AND retired_at IS NULL", [storage]
    )
    return [row[0] for row in rows.fetchall()]


def given_up(path: str, message: str, tries: int = 1) -> RememberedFile:
    """Return what is remembered of a file, or a log, that a person must look at."""
    return RememberedFile(*names.name_of(path), 0, 0, 0, WhyRemembered.GIVEN_UP, tries, message)
