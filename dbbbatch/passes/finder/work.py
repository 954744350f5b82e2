"""The finder: discover new files at one location, move them to storage, record each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache, partial

from dbbbatch.areas.quarantine import QuarantineArea
from dbbbatch.areas.storage import duplicates, mounted
from dbbbatch.areas.storage.mounted import require_mounted, require_space, storage_area
from dbbbatch.areas.storage.store import recover_arrivals
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.database.models.statuses import WhyRemembered as Memory
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.finder.batch import FinderBatch, Fresh
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.runner import PassContext, Work


class FinderWork(Work):
    """A pass of a finder that scans its source and moves what it finds to storage.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        The section.
    """

    kind = "finder"

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._complaints = Complaints()

    def recover(self, p: PassContext) -> None:
        """Finish or take back what an earlier pass had begun to store or to move aside."""
        self._complaints = Complaints()
        require_mounted(self._finder, p.roots)
        finish(p, self._finder, self._complaints)

    def work(self, p: PassContext) -> None:
        """Store what the source holds, in batches."""
        trouble: TryLater | None = None
        try:
            for batch in self._read(p):
                try:
                    require_mounted(self._finder, p.roots)
                    batch.store()
                except TryLater:
                    batch.discard()
                    raise
                trouble = trouble or batch.trouble
                p.progress(p.counts["stored"])
            finder = self._finder
            place.remove_empty_directories(finder.source, finder.expiration, may_go=self._may_go)
            self._complaints.about_others(p, self._finder.storage)
            self._complaints.about_quarantine(p.settings.site.name, self._finder.label)
        finally:
            self._complaints.say(p)
        if trouble:
            raise trouble

    def _may_go(self, rel: str) -> bool:
        """Return whether an empty directory of the source may go: files of it were stored."""
        if any(pattern.search(rel) for pattern in self._finder.keep_directories):
            return False
        return connect.read(lambda: File.was_in(self._finder.storage, names.to_text(rel)))

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what would be finished, then what would be looked at."""
        require_mounted(self._finder, p.roots)
        for row in connect.read(File.arriving, self._finder.storage, self._finder.name):
            yield f"would finish {names.join(row.relpath, row.filename)}"
        unsaid = Complaints()
        for batch in self._batches(p, unsaid):
            fresh = self._fresh(p, batch, unsaid)
            for found, _, before, _ in fresh[: p.take(len(fresh))]:
                again = f" (again: {before.message})" if before else ""
                yield f"would store {names.to_text(found.rel)}, {found.size_bytes} bytes{again}"
            if p.stopping:
                break
        unsaid.say(p)

    def due(self, p: PassContext) -> bool:
        """Return whether the source holds a file that is ready and not known to be left there."""
        unsaid, source = Complaints(), self._finder.source
        return any(
            not checksum.is_being_written(f"{source}/{fresh.found.rel}")
            for batch in self._batches(p, unsaid)
            for fresh in self._fresh(p, batch, unsaid)
        )

    def watched(self) -> list[str]:
        """Return the source: what appears there may be a file."""
        return [self._finder.source]

    def _read(self, p: PassContext) -> Iterator[FinderBatch]:
        """Give batches one after the other; while one is stored, the next one is read."""
        from concurrent.futures import ThreadPoolExecutor

        entangled = cache(partial(mounted.overlap_of, self._finder))
        waiting: list[FinderBatch] = []
        size_before = 0
        trouble: TryLater | None = None
        try:
            with ThreadPoolExecutor(1) as reader:
                try:
                    for files in self._batches(p, self._complaints):
                        fresh = self._fresh(p, files, self._complaints)
                        fresh = fresh[: p.take(len(fresh))]
                        if fresh:
                            size = sum(each.found.size_bytes for each in fresh)
                            require_mounted(self._finder, p.roots)
                            p.must_have_room()
                            # What is being read still needs its room.
                            require_space(self._finder, size_before + size)
                            batch = FinderBatch(p, self._finder, self._complaints, fresh, entangled)
                            batch.read(reader)
                            waiting.append(batch)
                            if len(waiting) > 1:
                                yield waiting.pop(0)
                            size_before = size
                        if p.stopping:
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

    def _batches(self, p: PassContext, complaints: Complaints) -> Iterator[list[Found]]:
        finder = self._finder
        files: list[Found] = []
        size = 0

        found_ones = scan(finder.source, finder.exclude, finder.settle, odd=complaints.odd)
        with faults.as_try_later(finder.source):
            for found in found_ones:
                if not p.matches(found.rel):
                    continue
                if found.rel == finder.sentinel:
                    complaints.odd(found.rel, "has the name by which storage is known (`sentinel`)")
                    continue
                files.append(found)
                size += found.size_bytes
                if len(files) >= finder.batch_files or size >= finder.batch_bytes:
                    yield files
                    files, size = [], 0
        if files:
            yield files

    def _fresh(self, p: PassContext, batch: Sequence[Found], complaints: Complaints) -> list[Fresh]:
        """Leave out what is known to stay where it is, or to be tried later."""
        site = p.settings.site.name
        keys = [names.name_of(found.rel) for found in batch]
        left = connect.read(Remembered.among, site, self._finder.name, keys)
        if not left:
            return [Fresh(found, key) for found, key in zip(batch, keys, strict=True)]
        now = connect.read(connect.now)
        stored = self._stored(left)
        fresh = []
        for found, key in zip(batch, keys, strict=True):
            memory = left.get(key)
            if memory is None:
                fresh.append(Fresh(found, key))
            elif not _is_remembered_version(memory, found):
                fresh.append(Fresh(found, key, stale=True))
            elif memory.verdict == Memory.FAILED:
                wait = retry.backoff(
                    memory.tries, self._finder.retry_wait, self._finder.retry_wait_max
                )
                if retry.is_due(memory.seen_at, wait, now):
                    fresh.append(Fresh(found, key, memory))
                else:
                    complaints.failed(found.rel, memory.message)
            elif memory.verdict == Memory.MOVED:
                complaints.failed(found.rel, "its copy is stored, but it cannot be removed")
            elif key not in stored:
                fresh.append(Fresh(found, key, stale=True))
        return fresh

    def _stored(self, left: dict[Name, RememberedFile]) -> set[Name]:
        """Return which of the duplicates that are known to be left are still to be left."""
        keys = [key for key, memory in left.items() if memory.verdict == Memory.DUPLICATE]
        if not keys or self._finder.alternative != "none":
            return set()
        known = connect.read(File.known, self._finder.storage, keys)
        return {key for key, row in known.items() if row.status == FileStatus.STORED}


def finish(p: PassContext, finder: Finder, complaints: Complaints) -> None:
    """Finish or take back what earlier passes had begun to store, to remove or to move aside."""

    def stuck(rel: str, why: str) -> None:
        p.counts["failed"] += 1
        complaints.failed(rel, why)

    def nowhere(rel: str) -> None:
        p.warn(
            f"{names.printable(os.path.join(finder.storage, rel))}: was on its way there, and is "
            "neither there nor in the source any more; if storage was unmounted or replaced "
            "meanwhile, look below its mount point",
            key="nowhere",
        )

    area = storage_area(finder, p.settings.site.name, p.run_id, p.roots)
    count = recover_arrivals(area, finder.batch_files, stuck, nowhere, p.refuse)
    count += duplicates.recover_duplicates(area, finder.batch_files, p.sound)
    count += QuarantineArea(p.settings.site.name, finder, p.roots).recover(p.refuse)
    if count:
        p.counts["recovered"] += count


def _is_remembered_version(memory: RememberedFile, found: Found) -> bool:
    return Version.of_row(memory) == Version.of_row(found)
