"""Files in storage that the table does not know: reported, or adopted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.areas.storage.store import adopt
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, clock, faults, names
from dbbbatch.files.batches import batched
from dbbbatch.files.scan import Found, scan
from dbbbatch.files.tree import Entry
from dbbbatch.passes.context import PassContext

#: Seconds without a change after which no script can still be writing a temporary copy.
_COPY_ABANDONED = 7 * 86400.0

#: What rsync has not finished: its temporary files, and where it keeps parts and delayed updates.
_UNFINISHED = re.compile(r"(^|/)(\.~tmp~/|\.rsync-[^/]*/|\.[^/]+\.[A-Za-z0-9]{6}$)")

#: Seconds for which a file that rsync brought must not have changed: a log may still name it.
_RSYNC_SETTLE = 3600.0


class OrphanSearch:
    """The files of a finder's storage area that the table does not know."""

    def __init__(self, context: PassContext, finder: Finder) -> None:
        self._context = context
        self._finder = finder
        self._storage = context.roots.tree(finder.storage)
        sections = (finder, *context.settings.finder.values())
        self._by_rsync = any(
            section.storage == finder.storage and section.search == "rsync-logs"
            for section in sections
        )
        # A section that is wrong may be about this storage area, too.
        self._by_rsync |= any(label.startswith("finder.") for label in context.settings.wrong)

    def report(self) -> None:
        """Report orphans."""
        for orphans in self.find():
            self._require_storage()
            self._context.counts["orphans"] += len(orphans)
            self._context.counts["failed"] += len(orphans)
            for orphan in orphans:
                self._context.warn_of(
                    "orphan",
                    orphan.rel,
                    "is in storage, but the table does not know it; dbb-auditor --adopt records it",
                )
            if self._context.stopping:
                break

    def adopt(self) -> None:
        """Record orphans as stored, and offer them to targets."""
        context = self._context
        site = context.settings.site.name
        area = StorageArea(self._finder, site, context.run_id, context.roots, "auditor")
        for orphans in self.find():
            context.counts["orphans"] += len(orphans)
            ready = self._read(orphans[: context.take(len(orphans))], area.algorithms)
            self._require_storage()
            context.counts["adopted"] += adopt(area, ready)
            if context.stopping:
                break

    def find(self, *, dry_run: bool = False) -> Iterator[list[Incoming]]:
        """Yield orphans in batches; remove temporary copies that are abandoned on the way."""
        finder = self._finder
        found = scan(
            self._storage,
            finder.exclude,
            finder.settle,
            odd=self._note_odd,
            unfinished=(lambda rel: None) if dry_run else self._remove_abandoned,
        )
        matching = (
            each
            for each in found
            if each.rel != finder.sentinel and self._context.matches(each.rel)
        )
        with faults.as_try_later(finder.storage):
            for batch in batched(matching, finder.batch_files):
                yield self._unknown(batch)

    def _require_storage(self) -> None:
        # What is in an empty mount point is no file of storage.
        self._context.roots.require(self._finder.storage, self._finder.sentinel)

    def _unknown(self, batch: Sequence[Found]) -> list[Incoming]:
        self._storage.forget()
        paths = [names.name_of(found.rel) for found in batch]
        known = connect.read(File.known, self._finder.storage, paths)
        orphans = []
        for found, name in zip(batch, paths, strict=True):
            before = known.get(name)
            if before is None or before.status == FileStatus.FORGOTTEN:
                file = self._storage.entry(found.rel)
                if self._by_rsync and self._may_be_unfinished(file):
                    continue
                orphans.append(
                    Incoming(found.rel, name, file, file, found.size_bytes, known=before)
                )
        return orphans

    def _read(self, orphans: Sequence[Incoming], algorithms: Sequence[str]) -> list[Incoming]:
        """Read files that are to be adopted; return those that did not change meanwhile."""
        ready = []
        files = [(each.destination, each.size_bytes, algorithms) for each in orphans]
        ahead = self._context.read_ahead(self._storage, self._finder.sentinel, files)
        for orphan, found in zip(orphans, ahead, strict=True):
            try:
                status, sums = found or checksum.read_file(orphan.destination, algorithms)
                ready.append(orphan._replace(status=status, sums=sums))
            except Interrupted:
                break
            except (FileNotFoundError, checksum.Changed):
                continue  # it is gone, or being replaced
            except OSError as error:
                faults.raise_if_general(error, orphan.destination.path)
                self._context.warn_of("failed", orphan.rel, f"cannot be adopted: {error.strerror}")
                self._context.counts["failed"] += 1
        return ready

    def _may_be_unfinished(self, file: Entry) -> bool:
        """Return whether rsync may be about to finish a file, or a finder to find it in a log."""
        if _UNFINISHED.search(file.rel):
            return True
        try:
            # Its mtime is that of the original once it is whole.
            status = file.lstat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        settle = max(self._finder.settle, _RSYNC_SETTLE)
        return clock.of(self._finder.storage).is_new(status, settle)

    def _remove_abandoned(self, rel: str) -> None:
        """Remove a temporary copy that nobody finishes, because its original is gone."""
        file = self._storage.entry(rel)
        try:
            # A copy has the mtime of its original from early on.
            if not clock.of(self._finder.storage).is_new(file.lstat(), _COPY_ABANDONED):
                file.remove()
        except OSError as error:
            self._note_odd(rel, f"an unfinished copy, not to be removed: {error.strerror}")

    def _note_odd(self, rel: str, what: str) -> None:
        self._context.warn_of("odd", rel, f"{what}; it is left where it is")
