"""The endpoints to which the files of one buffer go, where there are several.

Each endpoint has passes, rows, batches and waits of its own, and none waits for another. What they
have in common is the original. It is hashed by the first that takes it, and it leaves the buffer
once all required endpoints have it: the pass that finds that moves it, and the rows of the others
follow in the transaction that records it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from dbbbatch.areas import buffer
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile, HandoffRow
from dbbbatch.errors import LockHeld, TryLater
from dbbbatch.files.lock import Lock
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.lease import Leases

#: Seconds for which a pass waits while that of another endpoint hashes files, which may be its own.
_HASHING = 10.0

#: Seconds for which a pass that ends waits while that of another endpoint moves originals.
MOVING = 10.0

#: Originals that are moved to holding in one transaction.
_MOVED_TOGETHER = 2000


class Siblings:
    """What a pass over one of several endpoints has in common with the others."""

    def __init__(self, context: PassContext, section: Handoff) -> None:
        self.context = context
        self._section = section
        self._site = context.settings.site.name
        self._buffer = context.roots.tree(section.buffer)

    @contextlib.contextmanager
    def alone(self, what: str, wait: float = 0) -> Iterator[bool]:
        """Do something while no other endpoint's pass does it; yield whether that is so.

        The kernel's lock ends with the process. One that hangs holds up nobody for longer than a
        wait, so what is done must be right without the lock, too, or be left to a later pass.
        Endpoints may have leases on different hosts; the lock has one of its own.
        """
        settings, name = self.context.settings, self._section.siblings[0].partition(".")[0]
        lock = Lock(Path(settings.site.state) / "locks", f"{what}.handoff.{name}")
        lease = Leases(settings)
        try:
            lock.acquire(wait, lambda: self.context.stopping)
            lease.take(lock, wait)
        except (LockHeld, TryLater):
            lock.release()
            yield False
            return
        try:
            yield True
        finally:
            lease.end()
            lock.release()

    @contextlib.contextmanager
    def sums(self, rows: Sequence[HandoffRow], *, read: bool) -> Iterator[Sequence[HandoffRow]]:
        """Yield rows with the checksums that other endpoints know; those left are hashed within."""
        if not self._section.siblings or all(row.checksum for row in rows):
            yield rows
            return
        with self.alone("hash", _HASHING) if read else contextlib.nullcontext():
            ids = [row.id for row in rows if not row.checksum]
            known = connect.read(HandoffFile.sums_of_siblings, ids, self._section.others)
            yield [row._replace(checksum=known.get(row.id, row.checksum)) for row in rows]

    def show(self) -> None:
        """Let each endpoint know of what others have, also where its own passes did not see it.

        Else a version that was replaced before they did would wait for them for ever.
        """
        siblings = self._section.siblings
        unseen = partial(HandoffFile.unseen, siblings=siblings, limit=_MOVED_TOGETHER)
        for name in siblings:
            for page in connect.pages(partial(unseen, (self._site, name)), FIRST, *ORDER):
                rows = self.context.sound(page, "handoff_file")
                for other in siblings:
                    if other != name:
                        self.record_found(other, rows)

    def record_found(self, name: str, files: Sequence[HandoffRow]) -> None:
        """Record what was seen in the buffer, for an endpoint.

        What the pass of another endpoint has moved since then is not in the buffer again. Its move
        is recorded before this transaction or after it.
        """
        site = self._site

        def write() -> None:
            moved = HandoffFile.not_in_buffer(site, name, files) if self._section.siblings else ()
            gone = set(filter(self._is_gone, moved))
            HandoffFile.found(site, name, [file for file in files if file not in gone])

        connect.write(write)

    def _is_gone(self, file: HandoffRow) -> bool:
        try:
            return bool(buffer.why_gone(buffer.entry_of(self._buffer, file), file))
        except OSError:
            return True  # for now: the next scan sees it

    def complete(self, ids: Collection[int] | None = None) -> Iterator[Sequence[HandoffRow]]:
        """Yield the originals that may leave the buffer, a row of each: all, or among these.

        Those of which a row was recorded are not yielded by another sibling's row.
        """
        section = self._section
        read = partial(
            HandoffFile.complete,
            siblings=(section.siblings, section.required),
            wait=section.longest_wait_for,
            limit=_MOVED_TOGETHER,
            ids=ids,
        )
        for name in section.siblings if ids is None else [section.name]:
            yield from connect.pages(partial(read, (self._site, name)), FIRST, *ORDER)
