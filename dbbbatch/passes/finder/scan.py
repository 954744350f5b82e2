"""The finder: discover new files at one location, move them to storage, record each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.areas.storage.mounted import needs_copy, overlap_of
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.batches import batched_by_size
from dbbbatch.files.identity import Version
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.finder.batch import FinderBatch
from dbbbatch.passes.finder.job import FinderJob
from dbbbatch.passes.job import JobWork

#: Called with a relative path and what is wrong with it.
Note = Callable[[str, str], None]


class FinderWork(JobWork):
    """Passes of a finder that scans its source and moves what it finds to storage.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
    """

    kind = "finder"
    did = "stored"

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def job(self, context: PassContext) -> FinderJob:
        """Return a new pass."""
        return _ScanJob(self._finder, context)

    def watched(self) -> list[str]:
        """Return the source: what appears there may be a file."""
        return [self._finder.source]


def _note_nothing(rel: str, what: str) -> None:
    pass


class _ScanJob(FinderJob):
    """One pass that scans the source."""

    def work(self) -> None:
        trouble: TryLater | None = None
        self.context.bar.step("storing files")
        self.context.bar.count_ahead(self._found)
        for batch in self._read_ahead():
            try:
                self.area.require_mounted()
                batch.store()
            except TryLater:
                batch.discard()
                raise
            trouble = trouble or batch.trouble
        if self.ahead is not None:
            self.ahead.sweep()
        place.remove_empty_directories(
            self.area.source, self.section.expiration, may_go=self._may_go
        )
        self.note_waiting()
        if trouble:
            raise trouble

    def plan(self) -> Iterator[str]:
        self.area.require_mounted()
        yield from self.unfinished()
        for found in self._batches(self.note_odd):
            files, remembered = self._due_of(found, self._note_held_back)
            for each in files[: self.context.take(len(files))]:
                before = remembered.get(each.name)
                again = f" (again: {before.message})" if before and before.message else ""
                yield (
                    f"would store {names.to_text(each.rel)}, "
                    f"{names.counted(each.size_bytes, 'byte')}{again}"
                )
            if self.context.stopping:
                break

    def due(self) -> bool:
        self.area.forget()
        return any(
            not checksum.is_being_written(each.source)
            for found in self._batches()
            for each in self._due_of(found)[0]
        )

    def _may_go(self, rel: str) -> bool:
        """Return whether an empty directory of the source may go: files of it were stored."""
        if any(pattern.search(rel) for pattern in self.section.keep_directories):
            return False
        return connect.read(File.was_in, self.section.storage, names.to_text(rel))

    def _read_ahead(self) -> Iterator[FinderBatch]:
        """Yield batches one after the other; while one is stored, the next one is read."""
        from concurrent.futures import ThreadPoolExecutor

        overlap = cache(partial(overlap_of, self.section))
        waiting: list[FinderBatch] = []
        size_before = 0
        trouble: TryLater | None = None
        try:
            with ThreadPoolExecutor(1) as reader:
                try:
                    for found in self._batches(self.note_odd):
                        files, remembered = self._due_of(found, self._note_held_back)
                        files = files[: self.context.take(len(files))]
                        if files:
                            size = sum(each.size_bytes for each in files)
                            self.area.require_mounted()
                            self.context.must_have_room()
                            if needs_copy(self.section):
                                # What is being read still needs its room.
                                self.area.require_space(size_before + size)
                            batch = FinderBatch(self, files, remembered)
                            batch.read(reader, overlap)
                            waiting.append(batch)
                            if len(waiting) > 1:
                                yield waiting.pop(0)
                            size_before = size
                        if self.context.stopping:
                            break
                except TryLater as error:
                    # What was read already, and copied, is stored first: else no pass would get on.
                    trouble = error
                while waiting:
                    yield waiting.pop(0)
        finally:
            for batch in waiting:
                batch.discard()
        if trouble:
            raise trouble

    def _batches(self, odd: Note = _note_nothing) -> Iterator[list[Found]]:
        """Yield the files of the source, as far as --match lets them through, in batches."""
        section = self.section
        with faults.as_try_later(section.source):
            yield from batched_by_size(self._found(odd), section.batch_files, section.batch_bytes)

    def _found(self, odd: Note = _note_nothing) -> Iterator[Found]:
        section = self.section

        def is_to_be_stored(found: Found) -> bool:
            if found.rel == section.sentinel and self.context.matches(found.rel):
                odd(found.rel, "has the name by which storage is known (`sentinel`)")
            return found.rel != section.sentinel and self.context.matches(found.rel)

        found = scan(self.area.source, section.exclude, section.settle, odd=odd)
        return filter(is_to_be_stored, found)

    def _due_of(
        self, batch: list[Found], held_back: Note = _note_nothing
    ) -> tuple[list[Incoming], dict[Name, RememberedFile]]:
        """Return the files that are to be stored now, and what is remembered about their paths.

        The others are known to stay where they are, or are tried later; `held_back` is called with
        those that failed. Of another version only the path is remembered: no tries, no message.
        """
        files = [self.area.incoming(found.rel, found.size_bytes) for found in batch]
        paths = [each.name for each in files]
        remembered = connect.read(Remembered.among, self.site, self.section.name, paths)
        if not remembered:
            return files, {}
        now = connect.read(connect.now)
        stay = self._duplicates_that_stay(remembered)
        due = []
        for found, file in zip(batch, files, strict=True):
            left = remembered.get(file.name)
            if left is None:
                due.append(file)
            elif Version.of_row(left) != Version.of_row(found):
                remembered[file.name] = left._replace(tries=0, message="")
                due.append(file)
            elif left.verdict == WhyRemembered.FAILED:
                wait = retry.backoff(
                    left.tries, self.section.retry_wait, self.section.retry_wait_max
                )
                if retry.is_due(left.seen_at, wait, now):
                    due.append(file)
                else:
                    held_back(file.rel, left.message)
            elif left.verdict == WhyRemembered.MOVED:
                held_back(file.rel, "its copy is stored, but it cannot be removed")
            elif file.name not in stay:
                remembered[file.name] = left._replace(tries=0, message="")
                due.append(file)
        return due, remembered

    def _duplicates_that_stay(self, remembered: dict[Name, RememberedFile]) -> set[Name]:
        """Return which of the files that were found to be duplicates still are, and stay."""
        paths = [
            name for name, left in remembered.items() if left.verdict == WhyRemembered.DUPLICATE
        ]
        if not paths or self.section.alternative != "none":
            return set()
        known = connect.read(File.known, self.section.storage, paths)
        return {name for name, row in known.items() if row.status == FileStatus.STORED}

    def _note_held_back(self, rel: str, why: str) -> None:
        self.context.warn_of("failed", rel, why)
