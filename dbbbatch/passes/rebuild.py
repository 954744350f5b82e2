"""Restoring rows of a database that was lost, or is last night's, from what is on disk."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dbbbatch.config import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, Seen
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.status import Status
from dbbbatch.database.models.storage import INODE, Name, among_paths
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.finder.work import name_of
from dbbbatch.passes.release import is_reason, reason_beside
from dbbbatch.passes.spread import spread

_VERSION = re.compile(r"\.~\d+~$")
_BATCH = 1000


class StorageRebuild(BackfillWork):
    """A pass that records what storage and the quarantine of a finder hold."""

    kind = "rebuild"

    def __init__(self, finder: Finder, becomes: Status, jobs: int = 2) -> None:
        super().__init__(finder, becomes=becomes, jobs=jobs, recorded_as="rebuild")
        self._section = finder

    def work(self, p: Pass) -> None:
        """Record stored files, and what waits in quarantine."""
        super().work(p)
        if os.path.isdir(self._section.quarantine):
            site, label = p.settings.site.name, self._section.label
            p.counts["quarantined"] += restore_quarantine(site, label, self._section.quarantine)


class HandoffRebuild(Work):
    """A pass that records what the holding area and the quarantine of a handoff hold.

    What is in the buffer needs nothing: the next pass finds it there, and the far end answers that
    it has what was delivered already.
    """

    kind = "rebuild"

    def __init__(self, section: Handoff, jobs: int = 2) -> None:
        self._section = section
        self._jobs = jobs
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []

    def recover(self, p: Pass) -> None:
        """See that the areas are there."""
        for path in (self._section.holding, self._section.quarantine):
            if not os.path.isdir(path):
                raise TryLater(f"{path}: is not there; is it mounted?")

    def work(self, p: Pass) -> None:
        """Record held files as HELD, and what waits in quarantine."""
        self.counts = p.counts
        for batch in self._unknown(p):
            batch = batch[: p.take(len(batch))]
            ready = []
            for held, digest, error in spread(self._read, batch, self._jobs):
                if error is None:
                    ready.append((held, digest))
                else:
                    p.counts["failed"] += 1
                    self.troubles.append(f"{names.printable(held.found.rel)}: {error.strerror}")
            connect.transact(lambda ready=ready: self._record(p.settings.site.name, ready))
            p.counts["recorded"] += len(ready)
            p.progress(p.counts["recorded"], what="files recorded")
            if p.stopping:
                return
        site, label = p.settings.site.name, self._section.label
        p.counts["quarantined"] += restore_quarantine(site, label, self._section.quarantine)

    def plan(self, p: Pass) -> Iterator[str]:
        """Say what would be recorded."""
        for batch in self._unknown(p):
            for held in batch:
                yield f"would record {names.to_text(held.found.rel)} as held"

    def due(self, p: Pass) -> bool:
        """Tell whether a held file is not known."""
        return next(self._unknown(p), None) is not None

    def _unknown(self, p: Pass) -> Iterator[list[_Held]]:
        for batch in _scanned(self._section.holding):
            held = [_Held(found, *_base_name(found.rel)) for found in batch]
            known = connect.look(
                lambda held=held: _known(p.settings.site.name, self._section.name, held)
            )
            # Of versions that the table cannot tell apart one is recorded; the others just stay.
            first = {each.version: each for each in reversed(held)}
            new = [each for version, each in first.items() if version not in known]
            p.counts["known"] += len(held) - len(new)
            if new:
                yield new

    def _read(self, held: _Held) -> tuple[_Held, str, OSError | None]:
        path = os.path.join(self._section.holding, held.found.rel)
        try:
            digest = checksum.compute(path, [self._section.checksum])[self._section.checksum]
        except OSError as error:
            if faults.is_general(error):
                raise TryLater(f"{path}: {error.strerror}; nothing is lost") from None
            return held, "", error
        return held, checksum.format(self._section.checksum, digest), None

    def _record(self, site: str, ready: Sequence[tuple[_Held, str]]) -> None:
        handoff = self._section.name
        HandoffFile.found(site, handoff, [held.seen for held, _ in ready])
        numbers = _known(site, handoff, [held for held, _ in ready])
        mine = [(numbers[held.version], held, digest) for held, digest in ready]
        HandoffFile.hashed([(number, digest) for number, _, digest in mine])
        HandoffFile.delivered([(number, held.seen.inode, digest) for number, held, digest in mine])
        HandoffFile.held([(number, held.held_as) for number, held, _ in mine])


@dataclass(frozen=True)
class _Held:
    """A file in the holding area, and the name that it had in the buffer."""

    found: Found
    name: Name
    held_as: str

    @property
    def size_bytes(self) -> int:
        return self.found.size_bytes

    @property
    def version(self) -> tuple[str, str, int, int]:
        return (*self.name, self.found.size_bytes, self.found.mtime_ns)

    @property
    def seen(self) -> Seen:
        return Seen(*self.version, self.found.inode & INODE, 0, 0)


def restore_quarantine(site: str, label: str, root: str) -> int:
    """Record the files of a quarantine that the table does not know; return how many."""
    count = 0
    for batch in _scanned(root):
        paths = {
            names.to_text(os.path.join(root, found.rel)): found
            for found in batch
            if not is_reason(os.path.join(root, found.rel))
        }
        known = connect.look(
            lambda paths=paths: {
                row.path
                for row in Quarantine.select(Quarantine.path).where(
                    Quarantine.site == site,
                    Quarantine.path.in_(list(paths)),
                    # What was let go from there is not what is there now.
                    Quarantine.released_at.is_null(),
                )
            }
        )
        new = {path: found for path, found in paths.items() if path not in known}
        if new:
            connect.transact(lambda new=new: _restore(site, label, new))
            count += len(new)
    return count


def _restore(site: str, label: str, files: dict[str, Found]) -> None:
    when = connect.now()
    for path, found in files.items():
        (relpath, filename), _ = _base_name(found.rel)
        row = Quarantine.intend(
            site=site,
            label=label,
            relpath=relpath,
            filename=filename,
            path=path,
            size_bytes=found.size_bytes,
            mtime_ns=found.mtime_ns,
            inode=found.inode & INODE,
            checksum=None,
            reason=reason_beside(names.from_text(path)) or "not known: the database was rebuilt",
        )
        row.arrived(when)


def _scanned(root: str) -> Iterator[list[Found]]:
    batch: list[Found] = []
    try:
        for found in scan(root):
            batch.append(found)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except OSError as error:
        raise TryLater(f"{root}: {error.strerror}") from None
    if batch:
        yield batch


def _base_name(rel: str) -> tuple[Name, str]:
    """Return the name that a file had before it became a version, and its name now."""
    relpath, filename = name_of(rel)
    return (relpath, _VERSION.sub("", filename)), filename


def _known(site: str, handoff: str, files: Sequence[_Held]) -> dict[tuple[str, str, int, int], int]:
    """Return the ids of the versions that the table knows, in whatever status."""
    where, values = among_paths({held.name for held in files})
    rows = connect.execute(
        "SELECT relpath, filename, size_bytes, mtime_ns, id FROM handoff_file"
        f" WHERE site = ? AND handoff = ? AND (relpath, filename) {where}",
        (site, handoff, *values),
    ).fetchall()
    return {tuple(row[:4]): row[4] for row in rows}
