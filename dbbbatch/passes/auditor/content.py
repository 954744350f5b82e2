"""Compare the content of stored files with their checksums."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import chain

from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.checksum import Reading
from dbbbatch.files.identity import Version
from dbbbatch.passes.auditor.rows import Contradicted, RowComparison
from dbbbatch.passes.context import PassContext

#: Rows read at a time, and files verified between two looks at whether to stop.
_UNVERIFIED_PAGE = 5000
_VERIFIED_TOGETHER = 100

#: How many times the share is tried at most, so that files which cannot be read do not use it up.
_MOST_TRIED = 10

#: Digits of a checksum that are shown.
_SHOWN_DIGITS = 16


class Verification:
    """Reads files of a storage area, and records which have the content that was stored."""

    def __init__(self, context: PassContext, finder: Finder) -> None:
        self._context = context
        self._finder = finder
        self._storage = context.roots.tree(finder.storage)
        #: Files of the share that were read to an answer.
        self._answered = 0

    def verify_share(self, most: int) -> None:
        """Verify that many files: of those that --match lets through, the longest unverified."""
        begun = connect.read(connect.now)
        if most > 0:
            connect.write(File.verified_by_now, self._finder.storage, begun)
        for some in self._share(most, begun):
            self.verify(some)

    def look(self, rows: RowComparison, most: int) -> Iterator[str]:
        """Read files as a pass would, and yield what it would record; nothing is changed.

        Parameters
        ----------
        rows : `RowComparison`
            What was found without reading.
        most : `int`
            How many of the longest unverified files to read.
        """
        begun, read, size = time.monotonic(), 0, 0
        marked = {row.id for row, _, _ in rows.wrong}
        pages = chain([rows.back], self._share(most, connect.read(connect.now), marked))
        for row in chain.from_iterable(pages):
            if self._context.stopping or not self._context.take(1):
                break
            found = self._read(row)
            answered = isinstance(found, Version | Contradicted)
            self._answered += answered
            read += answered and row.status == FileStatus.STORED
            size += row.size_bytes
            self._keep_pace(begun, size)
            name = names.join(row.relpath, row.filename)
            if isinstance(found, OSError):
                yield f"{name}: cannot be read: {found.strerror}"
            elif isinstance(found, Contradicted):
                yield f"would mark {name} {found.becomes}: {found.why}"
            elif found and row.status != FileStatus.STORED:
                yield f"would mark {name} {FileStatus.STORED}: it is there again, with its content"
        rest = ": --share 1 reads all" if most < rows.stored else ""
        if rows.stored:
            yield f"{read:,} of {names.counted(rows.stored, 'stored file')} read{rest}"

    def _share(
        self, most: int, begun: datetime, marked: Collection[int] = ()
    ) -> Iterator[list[FileRow]]:
        """Yield files, those first that were not verified for longest, until so many were read.

        One that cannot be read stays at the head of that order: it does not count, and the next
        follows, up to a multiple of the share. Without those that are marked, or would be: a pass
        has done so by then.
        """
        context, after, rows = self._context, None, list[FileRow]()
        self._answered, tries = 0, _MOST_TRIED * most
        while (count := min(most - self._answered, tries)) > 0 and not context.stopping:
            if not rows:
                size = _UNVERIFIED_PAGE if context.options.match else min(count, _UNVERIFIED_PAGE)
                page, after = connect.read(
                    File.longest_unverified, self._finder.storage, begun, after, size
                )
                if not page:
                    break
                sound = [row for row in context.sound(page, "file") if row.id not in marked]
                rows = [row for row in sound if context.matches(names.rel_of(row))]
            some, rows = rows[:count], rows[count:]
            yield some
            tries -= len(some)

    def verify(self, rows: Sequence[FileRow]) -> None:
        """Read files, no faster than `audit_rate`, and mark those with another content."""
        context = self._context
        context.bar.step("verifying files", len(rows), sum(row.size_bytes for row in rows))
        begun, read = time.monotonic(), 0
        ahead = self._read_ahead(rows[: context.remaining])
        for start in range(0, len(rows), _VERIFIED_TOGETHER):
            if context.stopping:
                break
            some = rows[start : start + _VERIFIED_TOGETHER]
            some = some[: context.take(len(some))]
            self._storage.forget()
            right: list[tuple[FileRow, Version]] = []
            wrong: list[Contradicted] = []
            for row in some:
                found = self._read(row, next(ahead, None))
                if isinstance(found, Version):
                    right.append((row, found))
                elif isinstance(found, Contradicted):
                    wrong.append(found)
                elif found:
                    self._context.counts["failed"] += 1
                    why = f"cannot be read: {found.strerror}"
                    self._context.warn_of("failed", names.rel_of(row), why)
                read += row.size_bytes
                self._keep_pace(begun, read)
            context.roots.require(self._finder.storage, self._finder.sentinel)
            verified, corrupt = connect.write(self._record, right, wrong)
            for row, _, why in wrong:
                if row.id in corrupt:
                    context.warn_of(
                        "failed", names.rel_of(row), f"its content is not what was stored: {why}"
                    )
            self._answered += len(right) + len(wrong)
            size = sum(row.size_bytes for row, _ in right if row.id in verified)
            context.did("verified", len(verified), size)
            context.counts["corrupt"] += len(corrupt)
            context.counts["failed"] += len(corrupt)

    def _read_ahead(self, rows: Sequence[FileRow]) -> Iterator[Reading | None]:
        """Yield what workers read of the files, as `PassContext.read_ahead`."""
        files = [
            (
                self._storage.entry(names.rel_of(row)),
                row.size_bytes,
                [checksum.parse(row.checksum)[0]],
            )
            for row in rows
        ]
        return self._context.read_ahead(self._storage, self._finder.sentinel, files)

    def _read(
        self, row: FileRow, ahead: Reading | None = None
    ) -> Version | Contradicted | OSError | None:
        """Return which version a file is, if its content is right, or why it cannot be read.

        `None` if it is not there now, or not whole. Of a worker only that it is right is believed.
        """
        file = self._storage.entry(names.rel_of(row))
        algorithm, digest = checksum.parse(row.checksum)
        if ahead is not None and ahead[1].get(algorithm) == digest:
            return Version.of_file(ahead[0])
        try:
            status, sums = checksum.read_file(file, [algorithm])
        except (Interrupted, FileNotFoundError, NotADirectoryError, checksum.Changed):
            return None  # it was there a moment ago, or is being replaced: the next pass reads it
        except OSError as error:
            faults.raise_if_general(error, file.path)
            return error
        found = sums[algorithm]
        if found == digest:
            return Version.of_file(status)
        why = f"has {algorithm} {found[:_SHOWN_DIGITS]}… instead of {digest[:_SHOWN_DIGITS]}…"
        return Contradicted(row, FileStatus.CORRUPT, why)

    def _record(
        self, right: Sequence[tuple[FileRow, Version]], wrong: Sequence[Contradicted]
    ) -> tuple[set[int], set[int]]:
        """Record what was found; return the ids of rows that nobody else changed meanwhile."""
        verified = File.verified([row for row, _ in right])
        File.own_entries(
            [
                (row.id, version.mtime_ns, version.inode)
                for row, version in right
                if row.id in verified
            ]
        )
        # What targets gave up because it was not there is due again.
        again = {row.id for row, _ in right if row.status != FileStatus.STORED} & verified
        IngestState.arrive(sorted(again), self._finder.storage, self._context.run_id)
        return verified, File.wrong(wrong)

    def _keep_pace(self, begun: float, read: int) -> None:
        """Wait until it is time for so many bytes."""
        if not self._finder.audit_rate:
            return
        end = begun + read / self._finder.audit_rate
        while (left := end - time.monotonic()) > 0 and not self._context.stopping:
            time.sleep(min(left, 0.5))
