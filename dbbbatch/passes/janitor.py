"""The janitor of a handoff: purges what is stored at the endpoint, and sweeps up what is old.

Nothing leaves the holding area unless the endpoint says, in this very pass, that it has stored the
file with the same size and checksum. No answer, no purge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from dbbbatch.config import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, Held, TransferBatch
from dbbbatch.database.models.run import Run
from dbbbatch.errors import TryLater
from dbbbatch.files import names, place
from dbbbatch.passes import confirm
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.handoff import sources
from dbbbatch.passes.handoff.outcomes import attempt_prefix
from dbbbatch.passes.handoff.transfer import far_end
from dbbbatch.remote.receive import Session

#: Where the documented rsync command leaves what it has of a file when it is cut off.
PARTIAL = "dbb-partial"

#: Files that the endpoint is asked about in one connection.
_TOGETHER = 5000


class JanitorWork(Work):
    """What `dbb-janitor` does for one handoff."""

    kind = "janitor"

    def __init__(self, section: Handoff) -> None:
        self._section = section

    def recover(self, p: Pass) -> None:
        """Have nothing to finish: a file that is gone from holding is found again by `work`."""
        sources.check(self._section)

    def work(self, p: Pass) -> None:
        """Purge the holding area, then sweep up."""
        troubles = []
        for duty in (self._purge, self._sweep_staging, self._sweep_here):
            try:
                duty(p)
            except TryLater as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def plan(self, p: Pass) -> Iterator[str]:
        """Say which files the endpoint would be asked about."""
        if not self._section.endpoint.confirm:
            yield "nothing is purged: the endpoint has no `confirm`"
            return
        for file in self._candidates(p):
            yield f"purge, if the endpoint confirms it: {file.path}"

    def due(self, p: Pass) -> bool:
        """Tell whether a held file is old enough."""
        return next(self._candidates(p), None) is not None

    def _purge(self, p: Pass) -> None:
        if not self._section.endpoint.confirm:
            return
        page: list[Held] = []
        for file in self._candidates(p):
            page.append(file)
            if len(page) >= _TOGETHER:
                self._purge_page(p, page)
                page = []
            if p.stopping:
                break
        if page:
            self._purge_page(p, page)
        if self._needed():
            p.trouble(
                f"{self._section.holding}: less than holding_free is free, and the endpoint "
                "confirms no more files",
                key="holding is full",
            )

    def _needed(self) -> int:
        """Return how much space is lacking."""
        if not self._section.holding_free:
            return 0
        return max(0, self._section.holding_free - place.free_bytes(self._section.holding))

    def _candidates(self, p: Pass) -> Iterator[Held]:
        """Yield held files, oldest first: those of age, and while space is lacking others too."""
        old = connect.look(connect.now) - timedelta(seconds=self._section.purge_after)
        needed = self._needed()
        after = None
        while True:
            page = connect.look(
                partial(
                    HandoffFile.held_files,
                    p.settings.site.name,
                    self._section.name,
                    after,
                    _TOGETHER,
                )
            )
            for file in page:
                if file.held_at > old and needed <= 0:
                    return
                needed -= file.size_bytes
                if p.matches(file.rel):
                    yield file
            if not page:
                return
            after = (page[-1].held_at, page[-1].id)

    def _purge_page(self, p: Pass, files: Sequence[Held]) -> None:
        files = files[: p.take(len(files))]
        if not files:
            return
        words = confirm.ask(
            self._section,
            [
                confirm.Question(f.relpath, f.filename, f.size_bytes, f.checksum or "")
                for f in files
            ],
        )
        stored = [file for file, word in zip(files, words, strict=True) if word == confirm.STORED]
        p.counts["not confirmed"] += len(files) - len(stored)
        connect.transact(lambda: HandoffFile.confirmed([file.id for file in stored]))
        purged = [file.id for file in stored if self._remove(p, file)]
        connect.transact(lambda: HandoffFile.purged(purged))
        p.counts["purged"] += len(purged)

    def _remove(self, p: Pass, file: Held) -> bool:
        """Remove a held file if it is the one that the table tells of; True if it is gone."""
        path = os.path.join(self._section.holding, file.path)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            p.trouble(f"{names.printable(path)}: {error.strerror}", key=f"purge {file.id}")
            return False
        if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
            p.trouble(
                f"{names.printable(path)}: is not the file that was delivered; it stays",
                key=f"purge {file.id}",
            )
            return False
        try:
            os.unlink(path)
        except OSError as error:
            p.trouble(
                f"{names.printable(path)}: cannot be purged: {error.strerror}",
                key=f"purge {file.id}",
            )
            return False
        return True

    def _sweep_staging(self, p: Pass) -> None:
        """Remove what passes left in staging that the database no longer tells of."""
        site, section = p.settings.site.name, self._section
        with Session(far_end(section)) as session:
            found = session.attempts(attempt_prefix(site, section.name))
            in_use = {
                batch.attempt
                for batch in connect.look(lambda: TransferBatch.unfinished(site, section.name))
            }
            for name, age in found.items():
                attempt = name.partition(".")[0]
                if age >= section.stale_after and attempt not in in_use:
                    session.clean(attempt, section.timeout)
                    p.counts["staging removed"] += 1
            for name, age in session.attempts(PARTIAL).items():
                if age >= section.stale_after:
                    session.clean(name, section.timeout)

    def _sweep_here(self, p: Pass) -> None:
        """Remove old empty directories, and old rows of passes."""
        for root in (self._section.buffer, self._section.holding):
            p.counts["directories removed"] += place.remove_empty_directories(
                root, self._section.expiration
            )
        keep = timedelta(seconds=p.settings.site.keep_runs)
        old = connect.look(connect.now) - keep
        p.counts["runs removed"] += connect.transact(lambda: Run.forget(p.settings.site.name, old))
