"""Claims: how a pass reserves files that no other pass may take, and records the results.

A claimed file is PENDING and names the run that holds the claim; one row of `IngestClaim` for each
pass has the time until which its claims are valid, by the database's clock. A pass that lives
renews it; the files of a dead one are taken over when it is known to be dead, or the time is over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import peewee

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.due import ClaimedFile, DueQueue, with_names
from dbbbatch.database.models.file import FileChecksum
from dbbbatch.database.models.ingest import KEY, OTHER_CONTENT, IngestEvent, IngestState
from dbbbatch.database.models.statuses import IngestStatus

#: Returns whether a process of this machine still lives: its number, the tick at which it began,
#: and when that was (seconds since 1970), as `dbbbatch.files.processes.lives` does.
Alive = Callable[[int, int | None, float], bool]

#: Files of dead passes that one transaction makes due: it has to end within `patience`.
TAKEN_OVER_TOGETHER = 1000

_PLUGIN_SUM = re.compile(r"[a-z0-9_-]{1,32}:[0-9A-Fa-f]{1,512}")


@dataclass(frozen=True, slots=True)
class StateChange:
    """What becomes of a claimed file.

    Attributes
    ----------
    number : `int`
        Of the event, within the pass.
    next_try_at : `datetime.datetime` or `None`
        When to try again.
    parts_done : `frozenset` [`str`]
        All parts done by now.
    start_time, duration
        When the plugin began with it (UTC), and its seconds; `None` if it never began.
    checksums : mapping
        Further checksums that the plugin computed.
    """

    file_id: int
    status: IngestStatus
    attempts: int
    next_try_at: datetime | None
    parts_done: frozenset[str]
    message: str
    version: str
    start_time: datetime
    duration: float | None
    checksums: Mapping[str, str] = field(default_factory=dict)
    number: int = 0


class IngestClaim(Table):
    """A pass that has claimed files of a target.

    Attributes
    ----------
    machine : `str`
        The system on which its process runs: only there the process can be looked up.
    expires_at : `datetime.datetime`
        The end of its claims, unless it renews them.
    """

    run_id = peewee.BigIntegerField(primary_key=True)
    target_id = peewee.BigIntegerField()
    machine = peewee.TextField()
    expires_at = TimeField()

    @classmethod
    def renew(cls, run_id: int, target_id: int, machine: str, seconds: float) -> None:
        """Extend the claims of a pass to so many seconds from now."""
        expires = connect.now() + timedelta(seconds=seconds)
        row = {"run_id": run_id, "target_id": target_id, "machine": machine, "expires_at": expires}
        cls.insert(row).on_conflict(
            conflict_target=[cls.run_id], update={cls.expires_at: expires}
        ).execute()

    @classmethod
    def take(
        cls,
        run_id: int,
        queue: DueQueue,
        new: int,
        again: int,
        number: int,
        status_of: Callable[[ClaimedFile], IngestStatus | None],
    ) -> tuple[list[ClaimedFile], int, DueQueue]:
        """Claim due files: new ones in order of arrival, others in order of their time.

        Parameters
        ----------
        queue : `DueQueue`
            Where to begin.
        new, again : `int`
            How many of each at most.
        number : `int`
            The first free event number of the pass; ``new + again`` are used at most.
        status_of : callable
            What becomes of a due file: PENDING, IGNORED if the target does not want it, or `None`
            if this pass leaves it as it is.

        Returns
        -------
        files : `list` [ `ClaimedFile` ]
            What the pass has claimed.
        ignored : `int`
            How many files became IGNORED.
        queue : `DueQueue`
            Where to go on; unchanged if nothing is due.
        """
        found, after = queue.next(new, again)
        if not found:
            return [], 0, queue
        now = connect.now()
        claimed, rows = [], []
        events: list[tuple[object, ...]] = []
        for file in found:
            if (status := status_of(file)) is None:
                continue
            claim = run_id if status is IngestStatus.PENDING else None
            why = "" if claim else "not wanted by include and exclude"
            key = (file.file_id, queue.target_id)
            rows.append((*key, status, claim, why))
            events.append((*key, status, now, None, "", why, run_id, number + len(events)))
            if claim:
                claimed.append(file)
        change(
            IngestState,
            rows,
            KEY,
            ("status", "claim", "message"),
            before={file.was for file in found},
            next_try_at=None,
            changed_at=now,
        )
        IngestEvent.record(events)
        return claimed, len(rows) - len(claimed), after

    @classmethod
    def held_besides(cls, run_id: int, known: Collection[int]) -> list[ClaimedFile]:
        """Return claimed files that the pass does not know: the answer to a commit was lost."""
        rows = connect.execute(
            "SELECT file_id, CASE WHEN attempts = 0 THEN 'UNTRIED' ELSE 'FAILURE' END, attempts,"
            " parts_done FROM ingest_state WHERE claim = ? ORDER BY file_id",
            [run_id],
        ).fetchall()
        return with_names([row for row in rows if row[0] not in known])

    @classmethod
    def record(cls, run_id: int, target_id: int, changes: Sequence[StateChange]) -> set[int]:
        """Record what became of claimed files, and release them.

        A file whose content changed meanwhile becomes due again: the result is that of the old
        content.

        Returns
        -------
        lost : `set` [`int`]
            Files that this pass no longer holds, since its claim expired: nothing was written.
        """
        where, values = bulk.among([each.file_id for each in changes])
        ours = dict(
            connect.execute(
                f"SELECT file_id, message FROM ingest_state WHERE target_id = ? AND file_id {where}"
                f" AND claim = ? ORDER BY file_id{connect.for_update()}",
                [target_id, values, run_id],
            ).fetchall()
        )
        changed = {file_id for file_id, message in ours.items() if message == OTHER_CONTENT}
        now = connect.now()
        written = [_fit(each) for each in changes if each.file_id in ours]
        change(
            IngestState,
            [
                (
                    *(each.file_id, target_id, each.status, each.attempts, each.next_try_at),
                    json.dumps(sorted(each.parts_done)) if each.parts_done else "",
                    each.message,
                )
                for each in written
            ],
            KEY,
            ("status", "attempts", "next_try_at", "parts_done", "message"),
            before=[IngestStatus.PENDING],
            claim=None,
            changed_at=now,
        )
        IngestEvent.record(
            [
                (
                    *(each.file_id, target_id, each.status, each.start_time, each.duration),
                    *(each.version, each.message, run_id, each.number),
                )
                for each in written
            ]
        )
        bulk.insert(
            FileChecksum,
            ("file_id", "algorithm", "value"),
            [
                (each.file_id, name, value)
                for each in written
                if each.file_id not in changed
                for name, value in each.checksums.items()
            ],
            "ON CONFLICT (file_id, algorithm) DO NOTHING",
        )
        IngestState.offer_anew(target_id, sorted(changed), OTHER_CONTENT)
        return _not_yet_written(run_id, [each for each in changes if each.file_id not in ours])

    @classmethod
    def take_over(
        cls, run_id: int, target_id: int, machine: str, alive: Alive, number: int, longest: float
    ) -> int:
        """Make due what dead passes have claimed: as UNKNOWN, and not counted as an attempt.

        At most `TAKEN_OVER_TOGETHER` files in one transaction. The row of a dead pass stays until
        it has no more, so whoever comes next goes on, also after a kill.

        Parameters
        ----------
        run_id : `int`
            The pass that takes the files over; its own claims stay.
        alive : callable
            Called for processes of the same machine.
        number : `int`
            The first free event number of that pass; as many are used as are returned.
        longest : `float`
            Seconds for which a claim is renewed. One that is valid for longer was renewed while a
            clock was ahead, and is shortened to that.

        Returns
        -------
        count : `int`
            Number of files made due; if it is `TAKEN_OVER_TOGETHER`, there may be more.
        """
        now = connect.now()
        count = 0
        for holder, why in cls.dead(run_id, target_id, machine, alive):
            files = connect.execute(
                "SELECT file_id FROM ingest_state WHERE claim = ?"
                f" ORDER BY file_id LIMIT ?{connect.for_update()}",
                [holder, TAKEN_OVER_TOGETHER - count],
            ).fetchall()
            IngestState.become(
                IngestStatus.UNKNOWN,
                [(file_id, target_id) for (file_id,) in files],
                [IngestStatus.PENDING],
                now,
                f"{why} while it held this file",
                events_of=(run_id, number + count),
                next_try_at=now,
                claim=None,
            )
            count += len(files)
            if count == TAKEN_OVER_TOGETHER:
                break
            cls.delete().where(cls.run_id == holder).execute()
        latest = now + timedelta(seconds=longest)
        ahead = (cls.target_id == target_id) & (cls.expires_at > latest)
        cls.update(expires_at=latest).where(ahead).execute()
        return count

    @classmethod
    def dead(
        cls, run_id: int, target_id: int, machine: str, alive: Alive, *, lock: bool = True
    ) -> list[tuple[int, str]]:
        """Return the passes that have died, and for each how that is known."""
        locking = connect.for_update(" OF c SKIP LOCKED") if lock else ""
        claims = connect.execute(
            "SELECT c.run_id, c.machine, c.expires_at, r.pid, r.start_ticks, r.process_started,"
            " r.host"
            " FROM ingest_claim c LEFT JOIN run r ON r.id = c.run_id"
            f" WHERE c.target_id = ? AND c.run_id <> ? ORDER BY c.run_id{locking}",
            [target_id, run_id],
        ).fetchall()
        now = connect.now()
        found = []
        for holder, where, expires, pid, ticks, started, host in claims:
            who = f"pass {holder}" + (f" (process {pid} on {host})" if pid is not None else "")
            if where == machine and pid is not None and not alive(pid, ticks, started):
                found.append((holder, f"{who} ended"))
            elif bulk.read_moment(expires) <= now:
                found.append((holder, f"{who} did not renew its claim in time"))
        return found

    @classmethod
    def end(cls, run_id: int) -> None:
        """Remove the row of a pass that no longer holds any file."""
        connect.execute(
            "DELETE FROM ingest_claim WHERE run_id = ?"
            " AND NOT EXISTS (SELECT 1 FROM ingest_state s WHERE s.claim = ?)",
            [run_id, run_id],
        )


def _fit(each: StateChange) -> StateChange:
    """Return a change with texts of a plugin that fit the columns, and what are checksums."""
    message, version = bulk.clean(each.message), bulk.clean(each.version)
    sums = {
        name: value
        for name, value in each.checksums.items()
        if _PLUGIN_SUM.fullmatch(f"{name}:{value}")
    }
    if message == each.message and version == each.version and len(sums) == len(each.checksums):
        return each
    return replace(each, message=message, version=version, checksums=sums)


def _not_yet_written(run_id: int, missing: Sequence[StateChange]) -> set[int]:
    """Return the files without those that an earlier try of the same transaction has written."""
    if not missing:
        return set()
    where, values = bulk.among([each.number for each in missing])
    written = {
        row[0]
        for row in connect.execute(
            f"SELECT number FROM ingest_event WHERE run_id = ? AND number {where}", [run_id, values]
        ).fetchall()
    }
    return {each.file_id for each in missing if each.number not in written}
