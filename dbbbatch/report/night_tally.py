"""Sums over the files of a night, one file after the other.

Of each file that has made a step only the seconds that it took are kept (4 bytes), so that
percentiles are exact; and of exposures a number for each, since their files come in any order.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from dbbbatch.errors import without_numbers
from dbbbatch.report.nights import BIN, LATENCY_BOUNDS, Latency, Night, Reason, Slow, Step

#: How many of the slowest files of a step are named, and how many reasons of a night.
_WORST_NAMED = 10
_REASONS = 20

#: Different reasons of a night that are told apart; further ones are counted together.
_MOST_REASONS = 1000

_NIGHT_LONG = 86400

#: Where the time that a step took begins.
FOUND, STORED = "found", "stored"

_SENT = {"DELIVERED", "HELD", "PURGED"}
_NOT_SENT = {"IGNORED", "VANISHED"}
_NOT_TO_BE_STORED = {"QUARANTINED", "FORGOTTEN"}


class FileOfNight(NamedTuple):
    """What tables know of a file; times are seconds since its night began.

    Attributes
    ----------
    path : `str`
    size_bytes : `int`
    exposure : `int`
        A number that only files of the same exposure have; any where files are counted.
    seen : `float`
        When it was first seen.
    handoff : `str`
        Its status in `handoff_file`; '' if no handoff knows it.
    delivered : `float` or `None`
    storage : `str`
        Its status in `file`; '' if it has no row there.
    stored : `float` or `None`
    is_known : `bool`
        Whether it would have a row there if it were stored: this database is that of its storage.
    ingests : sequence of `tuple`
        For each target that the file is for, or was: its id, and the status.
    ingested : sequence of `float`
        Since when each of them has that status.
    """

    path: str
    size_bytes: int
    exposure: int
    seen: float
    handoff: str
    delivered: float | None
    storage: str
    stored: float | None
    is_known: bool
    ingests: Sequence[tuple[str, str]] = ()
    ingested: Sequence[float] = ()

    @property
    def was_sent(self) -> bool:
        """Return whether it was delivered; afterwards it may be ignored, or vanish."""
        return self.handoff in _SENT or (self.handoff in _NOT_SENT and self.delivered is not None)

    @property
    def is_withdrawn(self) -> bool:
        """Return whether it need not be stored, as far as it is not."""
        if self.storage in _NOT_TO_BE_STORED:
            return True
        return self.handoff in _NOT_SENT and self.delivered is None


class StepTally:
    """What became of the files of a night in one step.

    Parameters
    ----------
    by_exposure : `bool`
        Count exposures, too.
    """

    __slots__ = (
        "bins",
        "by_exposure",
        "earlier",
        "files",
        "later",
        "lost",
        "missing_files",
        "seen",
        "size_bytes",
        "unknown",
        "unknown_files",
        "waits",
        "worst",
    )

    def __init__(self, by_exposure: bool) -> None:
        self.by_exposure = by_exposure
        self.files = self.missing_files = self.unknown_files = 0
        self.size_bytes = self.earlier = self.later = 0
        self.bins = [0] * (_NIGHT_LONG // BIN)
        self.waits = {FOUND: array("f"), STORED: array("f")}
        #: A heap of the longest waits, with their files.
        self.worst: dict[str, list[tuple[float, str]]] = {FOUND: [], STORED: []}
        self.seen: set[int] = set()
        self.lost: set[int] = set()
        self.unknown: set[int] = set()

    def add_done(self, file: FileOfNight, at: float | None, since: str) -> None:
        """Count a file that has made the step, so many seconds after its night began.

        How long it took is known where both times are; a clock that was set back says nothing.
        """
        size = file.size_bytes
        self.files += 1
        self.size_bytes += size
        if self.by_exposure:
            self.seen.add(file.exposure)
        if at is None:
            return
        if 0 <= at < _NIGHT_LONG:
            self.bins[int(at) // BIN] += size
        elif at < 0:
            self.earlier += size
        else:
            self.later += size
        if since and (seconds := at - file.seen) >= 0:
            self.waits[since].append(seconds)
            worst = self.worst[since]
            if len(worst) < _WORST_NAMED:
                heapq.heappush(worst, (seconds, file.path))
            elif seconds > worst[0][0]:
                heapq.heapreplace(worst, (seconds, file.path))

    def add_missing(self, file: FileOfNight) -> None:
        """Count a file that has not made the step, though it ought to."""
        self.missing_files += 1
        if self.by_exposure:
            self.lost.add(file.exposure)

    def add_unknown(self, file: FileOfNight) -> None:
        """Count a file of which it is not known here."""
        self.unknown_files += 1
        if self.by_exposure:
            self.unknown.add(file.exposure)

    def step(self, name: str, site: str = "") -> Step:
        """Return the sums."""
        counts = self.files, self.missing_files, self.unknown_files
        if self.by_exposure:
            unknown = self.unknown - self.lost
            done = self.seen - self.lost - unknown
            units = len(done), len(self.lost), len(unknown)
        else:
            units = counts
        return Step(
            name=name,
            site=site,
            done=units[0],
            missing=units[1],
            unknown=units[2],
            files=counts[0],
            missing_files=counts[1],
            unknown_files=counts[2],
            size_bytes=self.size_bytes,
            latency=self._latency(),
            bytes_by_time=tuple(self.bins),
            bytes_earlier=self.earlier,
            bytes_later=self.later,
        )

    def _latency(self) -> Latency | None:
        since = max(FOUND, STORED, key=lambda one: len(self.waits[one]))
        waits = sorted(self.waits[since])
        if not waits:
            return None
        return Latency(
            since=since,
            files=len(waits),
            median=_percentile(waits, 0.5),
            p95=_percentile(waits, 0.95),
            p99=_percentile(waits, 0.99),
            total=math.fsum(waits),
            within=tuple(bisect_right(waits, bound) for bound in LATENCY_BOUNDS),
            worst=tuple(
                Slow(path, seconds) for seconds, path in sorted(self.worst[since], reverse=True)
            ),
        )


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of sorted values does not exceed."""
    return values[math.ceil(share * len(values)) - 1]


class NightTally:
    """What became of the files of one night.

    Parameters
    ----------
    day : `datetime.date`
    begins : `datetime.datetime`
        UTC.
    targets : sequence of `str`
        Their ids.
    by_exposure : `bool`
        Count exposures, not files.
    """

    def __init__(
        self, day: date, begins: datetime, targets: Sequence[str], by_exposure: bool
    ) -> None:
        self.day = day
        self.begins = begins
        self.by_exposure = by_exposure
        self.found = StepTally(by_exposure)
        self.delivered = StepTally(by_exposure)
        self.stored = StepTally(by_exposure)
        self.targets = {target: StepTally(by_exposure) for target in targets}
        self.files = self.size_bytes = self.withdrawn = 0
        self.exposures: set[int] = set()
        self._reasons: dict[tuple[str, str], list[int]] = {}
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, file: FileOfNight) -> None:
        """Count a file of the night."""
        self.files += 1
        self.size_bytes += file.size_bytes
        if self.by_exposure:
            self.exposures.add(file.exposure)
        since = FOUND
        if file.handoff:
            self.found.add_done(file, file.seen, "")
            self._add_delivery(file)
        else:
            since = STORED
            self.found.add_unknown(file)
            self.delivered.add_unknown(file)
        self._add_storage(file, since)
        for (target, status), at in zip(file.ingests, file.ingested, strict=True):
            if (tally := self.targets.get(target)) is None:
                continue  # retired
            if status == "SUCCESS":
                tally.add_done(file, at, since)
            elif status == "BACKFILL":
                tally.add_done(file, None, since)
            elif status != "IGNORED" and file.storage == "STORED":
                tally.add_missing(file)

    def _add_delivery(self, file: FileOfNight) -> None:
        if file.was_sent:
            self.delivered.add_done(file, file.delivered, FOUND)
        elif file.handoff not in _NOT_SENT:
            self.delivered.add_missing(file)

    def _add_storage(self, file: FileOfNight, since: str) -> None:
        if file.storage == "STORED":
            self.stored.add_done(file, file.stored, FOUND if since == FOUND else "")
        elif file.is_withdrawn:
            self.withdrawn += 1
        elif file.is_known:
            self.stored.add_missing(file)
        else:
            self.stored.add_unknown(file)

    def add_reason(self, step: str, message: str, path: str) -> None:
        """Count why a file does not make a step."""
        key = step, reason_of(message, path)
        if key not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            key = step, "other reasons"
        self._reasons.setdefault(key, [0])[0] += 1
        self._examples.setdefault(key, path)

    def night(self, expected: int | None, targets: Sequence[tuple[str, str, str]]) -> Night:
        """Return the sums; targets are given by id, site and name, in their order."""
        return Night(
            day=self.day,
            begins=self.begins,
            ends=self.begins + timedelta(seconds=_NIGHT_LONG),
            unit="exposure" if self.by_exposure else "file",
            expected=expected,
            found=len(self.exposures) if self.by_exposure else self.files,
            files=self.files,
            size_bytes=self.size_bytes,
            withdrawn=self.withdrawn,
            steps=(
                self.found.step("found"),
                self.delivered.step("delivered"),
                self.stored.step("stored"),
                *(self.targets[key].step(f"target.{name}", site) for key, site, name in targets),
            ),
            reasons=tuple(
                Reason(step, text, files[0], self._examples[step, text])
                for (step, text), files in sorted(
                    self._reasons.items(), key=lambda one: (-one[1][0], one[0])
                )[:_REASONS]
            ),
        )


def reason_of(message: str, path: str) -> str:
    """Return what a message has in common with those of other files: one line, without numbers."""
    for name in (path, path.rpartition("/")[2]):
        if len(name) > 5:  # a shorter one may be part of any word
            message = message.replace(name, "…")
    return without_numbers(re.sub(r"\s+", " ", message).strip())
