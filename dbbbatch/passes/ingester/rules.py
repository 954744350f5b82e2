"""What a outcome makes of a file: which status, at which cost, and when to try again. All pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbbbatch.config.sections import Target
from dbbbatch.database import retry
from dbbbatch.database.models.claim import StateChange
from dbbbatch.database.models.due import ClaimedFile
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.targets.plugin import MISSING, Outcome, Result

#: Files of the first batch of a pass, and of the smallest one.
SMALLEST = 10

#: Seconds that a batch should take.
BATCH_SECONDS = 2.0

#: So many files of a batch, and at least half of it, must be missing before it is taken for trouble
#: of the storage area and not of the files.
MANY_MISSING = 10

_SUCCESSES = {Result.DONE: "", Result.ALREADY: "was there already"}
_COSTLY = {Result.FAILED, Result.PARTLY, Result.ALTERED, Result.MISSING, Result.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a file is tried, and how far apart (seconds)."""

    max_attempts: int
    first_wait: float
    longest_wait: float

    @property
    def longest(self) -> float:
        """The longest that `waiting_time` returns."""
        return max(waiting_time(self, 1, 1.0), self.longest_wait * 1.25)


def policy_of(section: Target) -> Policy:
    """Return what a target's section says."""
    return Policy(section.max_attempts, section.retry_wait, section.retry_wait_max)


def waiting_time(policy: Policy, attempts: int, chance: float) -> float:
    """Return the seconds to wait after so many attempts.

    Twice as long each time, up to the longest; a quarter more or less by ``chance`` (from 0 to 1),
    so that what failed together is not tried again together.
    """
    wait = retry.backoff(attempts, policy.first_wait, policy.longest_wait)
    return wait * (0.75 + 0.5 * chance)


def next_state(
    outcome: Outcome,
    held: ClaimedFile,
    policy: Policy,
    *,
    number: int,
    start_time: datetime,
    now: datetime,
    chance: float,
    missed_before: bool = False,
) -> StateChange:
    """Decide what becomes of a file.

    Parameters
    ----------
    outcome : `dbbbatch.targets.plugin.Outcome`
        What the plugin made of it.
    held : `dbbbatch.database.models.claim.Held`
        What it was.
    policy : `Policy`
        How often to try.
    number : `int`
        Of the event.
    start_time, now : `datetime.datetime`
        When the plugin took it in hand, and the present, both by the database's clock.
    chance : `float`
        From 0 to 1, for the wait.
    missed_before : `bool`
        It was not in storage when it was looked for the last time either. At first sight that
        costs nothing: another host may have just moved it there, and caches lag behind.
    """
    status, attempts, message, due = held.was, held.attempts, outcome.message, None
    if outcome.result is Result.MISSING and not message.startswith(MISSING):
        message = f"{MISSING}: {message}" if message else MISSING
    if outcome.result in _SUCCESSES:
        status, message = IngestStatus.SUCCESS, message or _SUCCESSES[outcome.result]
    elif outcome.result in (Result.NEVER, Result.EMPTY):
        status = IngestStatus.INVALID
    elif outcome.result in _COSTLY and (missed_before or outcome.result is not Result.MISSING):
        attempts += 1
        status = IngestStatus.UNKNOWN if outcome.result is Result.UNKNOWN else IngestStatus.FAILURE
        if attempts < policy.max_attempts:
            due = now + timedelta(seconds=waiting_time(policy, attempts, chance))
        else:
            # Looked for so often, with the storage area in place, it is gone.
            status = (
                IngestStatus.INVALID if outcome.result is Result.MISSING else IngestStatus.FAILURE
            )
    else:
        due = now + timedelta(seconds=waiting_time(policy, 1, chance))
    return StateChange(
        file_id=held.file_id,
        number=number,
        status=status,
        attempts=attempts,
        next_try_at=due,
        parts_done=held.parts_done | outcome.parts_done,
        message=message,
        version=outcome.version,
        start_time=start_time,
        duration=outcome.seconds,
        checksums=outcome.checksums,
    )


def give_back(held: ClaimedFile, why: str, *, number: int, now: datetime) -> StateChange:
    """Decide that a file is as if it had never been taken: due at once, without charge."""
    return StateChange(
        file_id=held.file_id,
        number=number,
        status=held.was,
        attempts=held.attempts,
        next_try_at=None if held.was is IngestStatus.UNTRIED else now,
        parts_done=held.parts_done,
        message=why,
        version="",
        start_time=now,
        duration=None,
    )


def let_go(held: ClaimedFile, why: str, *, number: int, now: datetime) -> StateChange:
    """Decide that nobody knows what became of a file: due at once, without charge."""
    return StateChange(
        file_id=held.file_id,
        number=number,
        status=IngestStatus.UNKNOWN,
        attempts=held.attempts,
        next_try_at=now,
        parts_done=held.parts_done,
        message=why,
        version="",
        start_time=now,
        duration=None,
    )


def storage_is_in_trouble(outcomes: Sequence[Outcome]) -> bool:
    """Return whether so many files are missing that they cannot have been lost one by one."""
    missing = sum(outcome.result is Result.MISSING for outcome in outcomes)
    return missing >= MANY_MISSING and 2 * missing >= len(outcomes)


def must_go_alone(held: ClaimedFile) -> bool:
    """Return whether a file is to be offered alone, since it was in hand when a plugin died."""
    return held.was is IngestStatus.UNKNOWN and held.attempts > 0


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
    """Give how many files to offer next, so that a batch takes a few seconds.

    Small batches keep a slow target's files from being held long; large ones spare a fast target's
    transactions.

    Parameters
    ----------
    count : `int`
        How many it were last.
    rate : `float`
        Files a second that a worker has managed of late.
    most : `int`
        Not more than that.
    """
    return int(max(min(SMALLEST, most), min(most, rate * BATCH_SECONDS, 4 * count)))
