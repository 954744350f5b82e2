"""The ingester's decisions: which status a file gets, when it is tried again, how large a batch is.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dbbbatch.config.sections import Target
from dbbbatch.database import retry
from dbbbatch.database.models.claim import StateChange
from dbbbatch.database.models.due import ClaimedFile
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.targets.plugin import Outcome, Result

#: Files of the first batch of a pass, and of the smallest one.
SMALLEST = 10

#: Seconds that a batch should take.
BATCH_SECONDS = 2.0

#: If so many files of a batch, and at least half of it, are missing, the storage area is in
#: trouble, not the files.
MANY_MISSING = 10

#: The status that a result leads to, if the file is not tried again later without charge.
_STATUSES = {
    Result.DONE: IngestStatus.SUCCESS,
    Result.ALREADY: IngestStatus.SUCCESS,
    Result.NEVER: IngestStatus.INVALID,
    Result.EMPTY: IngestStatus.INVALID,
    Result.FAILED: IngestStatus.FAILURE,
    Result.PARTLY: IngestStatus.FAILURE,
    Result.ALTERED: IngestStatus.FAILURE,
    Result.MISSING: IngestStatus.FAILURE,
    Result.UNKNOWN: IngestStatus.UNKNOWN,
}


def is_wanted(section: Target, rel: str) -> bool:
    """Return whether ``include`` and ``exclude`` let a relative path through."""
    included = not section.include or any(found.search(rel) for found in section.include)
    return included and not any(found.search(rel) for found in section.exclude)


def longest_wait(section: Target) -> float:
    """Return the longest that `waiting_time` returns (seconds)."""
    return section.longest_wait * 1.25


def waiting_time(section: Target, attempts: int, chance: float) -> float:
    """Return the seconds to wait after so many attempts.

    The wait doubles each time, up to the longest. It varies by a quarter with ``chance`` (from 0
    to 1), so that files that failed together are not tried again together.
    """
    wait = retry.backoff(attempts, section.retry_wait, section.retry_wait_max)
    return wait * (0.75 + 0.5 * chance)


def next_state(
    outcome: Outcome,
    file: ClaimedFile,
    section: Target,
    *,
    started: datetime,
    now: datetime,
    chance: float,
) -> StateChange:
    """Return what becomes of a file.

    Parameters
    ----------
    outcome : `dbbbatch.targets.plugin.Outcome`
    file : `dbbbatch.database.models.due.ClaimedFile`
        The file as it was claimed.
    section : `dbbbatch.config.sections.Target`
        How often to try.
    started, now : `datetime.datetime`
        When the plugin began with it, and the present, both by the database's clock (UTC).
    chance : `float`
        From 0 to 1, for the wait.
    """
    status = _STATUSES.get(outcome.result, file.was)
    attempts, message = file.attempts, outcome.message
    wait: float | None = None
    if outcome.result is Result.LATER:
        wait = waiting_time(section, 1, chance)
    elif outcome.result is Result.ALREADY:
        message = message or "was there already"
    elif status in (IngestStatus.FAILURE, IngestStatus.UNKNOWN):
        attempts += 1
        if attempts < section.max_attempts:
            wait = waiting_time(section, attempts, chance)
        else:
            # A file that was missed so often, while the storage area was mounted, is gone.
            gone = outcome.result is Result.MISSING
            status = IngestStatus.INVALID if gone else IngestStatus.FAILURE
    return StateChange(
        file_id=file.file_id,
        status=status,
        attempts=attempts,
        next_try_at=None if wait is None else now + timedelta(seconds=wait),
        parts_done=file.parts_done | outcome.parts_done,
        message=message,
        version=outcome.version,
        start_time=started,
        duration=outcome.seconds,
        checksums=outcome.checksums,
    )


def released(file: ClaimedFile, status: IngestStatus, why: str, now: datetime) -> StateChange:
    """Return that a claimed file is due again at once, without charge."""
    return StateChange(
        file_id=file.file_id,
        status=status,
        attempts=file.attempts,
        next_try_at=None if status is IngestStatus.UNTRIED else now,
        parts_done=file.parts_done,
        message=why,
        version="",
        start_time=now,
        duration=None,
    )


def missing(outcomes: Iterable[Outcome]) -> list[int]:
    """Return the numbers of files that are missing."""
    return [outcome.number for outcome in outcomes if outcome.result is Result.MISSING]


def try_missing_later(outcomes: Iterable[Outcome], numbers: Collection[int]) -> list[Outcome]:
    """Return outcomes in which these files, if missing, are to be tried later without charge."""
    return [
        replace(outcome, result=Result.LATER)
        if outcome.result is Result.MISSING and outcome.number in numbers
        else outcome
        for outcome in outcomes
    ]


def is_charged(outcome: Outcome) -> bool:
    """Return whether an outcome is held against its file."""
    return _STATUSES.get(outcome.result, IngestStatus.SUCCESS) is not IngestStatus.SUCCESS


def try_charged_later(outcomes: Iterable[Outcome], why: str) -> list[Outcome]:
    """Return outcomes of which none is held against its file, since something else is to blame."""
    return [
        replace(outcome, result=Result.LATER, message=f"{why}: {outcome.message}")
        if is_charged(outcome)
        else outcome
        for outcome in outcomes
    ]


def storage_is_in_trouble(outcomes: Sequence[Outcome]) -> bool:
    """Return whether so many files are missing that they cannot have been lost one by one."""
    count = len(missing(outcomes))
    return count >= MANY_MISSING and 2 * count >= len(outcomes)


def must_go_alone(file: ClaimedFile) -> bool:
    """Return whether a file must be offered alone, because a plugin died while it had the file."""
    return file.was is IngestStatus.UNKNOWN and file.attempts > 0


def share_of_batch(count: int, turn: int) -> tuple[int, int]:
    """Divide a batch between new files and further tries, so that neither starves the other.

    Parameters
    ----------
    count : `int`
        Files in the batch, at least 1.
    turn : `int`
        Counts the batches of a pass, for batches too small to be divided.

    Returns
    -------
    new, again : `int`
        At least three quarters and at most one quarter. What one queue cannot fill, the other may.
    """
    if count < 4:
        return (0, count) if turn % 4 == 3 else (count, 0)
    return count - count // 4, count // 4


def next_count(count: int, rate: float, most: int) -> int:
    """Return how many files to offer next, so that a batch takes a few seconds.

    A small batch does not hold the files of a slow target for long; a large one saves a fast target
    transactions.

    Parameters
    ----------
    count : `int`
        Files of the last batch.
    rate : `float`
        Files a second that a worker has managed since.
    most : `int`
        Most files of a batch.
    """
    return int(max(min(SMALLEST, most), min(most, rate * BATCH_SECONDS, 4 * count)))
