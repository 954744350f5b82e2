"""How a pass takes files in hand, so that no other pass takes them, and tells what became of them.

A file in hand is PENDING and names the run that holds it; one `IngestClaim` row a pass says until
when that holds, by the database's clock. A pass that lives renews it; what a dead one held is taken
from it when it is known to be dead, or when its time is up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import peewee

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.due import ClaimedFile, DuePosition, due, with_names
from dbbbatch.database.models.ingest import OTHER_CONTENT, IngestEvent, IngestState
from dbbbatch.database.models.statuses import IngestStatus, must_be_possible

#: Tells whether a process of this machine still lives: its number, the tick at which it began, and
#: when that was (seconds since 1970), as `dbbbatch.files.processes.lives` does.
Alive = Callable[[int, int | None, float], bool]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What becomes of a file in hand; `number` is that of its event.

    Attributes
    ----------
    next_try_at : `datetime.datetime` or `None`
        When to try again.
    parts_done : `frozenset` [`str`]
        All parts done by now.
    start_time, duration
        When the plugin took it in hand (UTC), and for how many seconds; `None` if it never did.
    checksums : mapping
        What the plugin computed, to be kept.
    """

    file_id: int
    number: int
    status: IngestStatus
    attempts: int
    next_try_at: datetime | None
    parts_done: frozenset[str]
    message: str
    version: str
    start_time: datetime
    duration: float | None
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimedFiles:
    """What `IngestClaim.take` took in hand, and what it did not.

    Attributes
    ----------
    ignored : `int`
        Files found that are not wanted; IGNORED now.
    seen : `int`
        Files looked at; none means that nothing is due beyond `place`.
    """

    held: list[ClaimedFile]
    ignored: int
    seen: int
    place: DuePosition


class IngestClaim(Table):
    """One pass that holds files of a target.

    Attributes
    ----------
    machine : `str`
        Which system its process runs on: processes of the same one can be looked up.
    expires_at : `datetime.datetime`
        Until when it holds them, unless it says again that it lives.
    """

    run_id = peewee.BigIntegerField(primary_key=True)
    target_id = peewee.BigIntegerField()
    machine = peewee.TextField()
    expires_at = TimeField()

    @classmethod
    def renew(cls, run_id: int, target_id: int, machine: str, seconds: float) -> None:
        """Say that a pass lives, and holds what it holds for so many seconds more."""
        expires = connect.now() + timedelta(seconds=seconds)
        row = {
            "run_id": run_id,
            "target_id": target_id,
            "machine": machine,
            "expires_at": expires,
        }
        cls.insert(row).on_conflict(
            conflict_target=[cls.run_id], update={cls.expires_at: expires}
        ).execute()

    @classmethod
    def take(
        cls,
        run_id: int,
        target_id: int,
        *,
        new: int,
        again: int,
        until: datetime,
        latest: datetime,
        place: DuePosition,
        number: int,
        chosen: Callable[[str, str], bool],
        wanted: Callable[[str, str], bool],
    ) -> ClaimedFiles:
        """Take due files in hand: new ones in order of arrival, others in order of their time.

        Parameters
        ----------
        new, again : `int`
            How many of each at most.
        until : `datetime.datetime`
            Tries that are due by then.
        latest : `datetime.datetime`
            What is due later than then is due, too, as for `due`.
        place : `DuePosition`
            Where to begin.
        number : `int`
            The first free event number of the pass; ``new + again`` are used at most.
        chosen : callable
            Whether this pass is about a file (relpath, filename); others stay as they are.
        wanted : callable
            Whether the target wants a file; others become IGNORED.
        """
        found, place = due(target_id, new, again, until, latest, place)
        if not found:
            return ClaimedFiles([], 0, 0, place)
        now = connect.now()
        held = [one for one in with_names(found) if chosen(one.relpath, one.filename)]
        becomes = {
            one.file_id: IngestStatus.PENDING
            if wanted(one.relpath, one.filename)
            else IngestStatus.IGNORED
            for one in held
        }
        rows, events = [], []
        for at, one in enumerate(held):
            status = becomes[one.file_id]
            must_be_possible(one.was, status)
            claim = run_id if status is IngestStatus.PENDING else None
            why = "" if claim else "not wanted by include and exclude"
            rows.append((one.file_id, target_id, status, claim, now, why))
            events.append((one.file_id, target_id, status, now, None, "", why, run_id, number + at))
        bulk.for_each(
            "UPDATE ingest_state SET status = new.status, claim = new.claim, next_try_at = NULL,"
            " changed_at = new.at, message = new.message FROM {new}"
            " WHERE ingest_state.file_id = new.file_id AND ingest_state.target_id = new.target_id",
            {
                "file_id": "bigint",
                "target_id": "bigint",
                "status": "text",
                "claim": "bigint",
                "at": "timestamp",
                "message": "text",
            },
            rows,
        )
        IngestEvent.record(events)
        pending = [one for one in held if becomes[one.file_id] is IngestStatus.PENDING]
        return ClaimedFiles(pending, len(held) - len(pending), len(found), place)

    @classmethod
    def held_besides(cls, run_id: int, known: Collection[int]) -> list[ClaimedFile]:
        """Return what a pass holds without knowing: taken by a commit whose answer was lost."""
        rows = connect.execute(
            "SELECT file_id, CASE WHEN attempts = 0 THEN 'UNTRIED' ELSE 'FAILURE' END, attempts,"
            " parts_done FROM ingest_state WHERE claim = ? ORDER BY file_id",
            [run_id],
        ).fetchall()
        return with_names([row for row in rows if row[0] not in known])

    @classmethod
    def tell(cls, run_id: int, target_id: int, judgements: Sequence[StateChange]) -> set[int]:
        """Write what became of files in hand.

        A file whose content changed meanwhile is due again, unless it is anyhow: what became of
        the old content is history.

        Returns
        -------
        lost : `set` [`int`]
            Files that this pass no longer holds, since its claim ran out: nothing was written.
        """
        for judgement in judgements:
            must_be_possible(IngestStatus.PENDING, judgement.status)
        where, values = bulk.among([judgement.file_id for judgement in judgements])
        lock = " FOR UPDATE" if connect.on_postgresql() else ""
        ours = dict(
            connect.execute(
                f"SELECT file_id, message FROM ingest_state WHERE target_id = ? AND file_id {where}"
                f" AND claim = ? ORDER BY file_id{lock}",
                [target_id, values, run_id],
            ).fetchall()
        )
        changed = {file_id for file_id, message in ours.items() if message == OTHER_CONTENT}
        now = connect.now()
        written = [_fit(judgement) for judgement in judgements if judgement.file_id in ours]
        bulk.for_each(
            "UPDATE ingest_state SET status = new.status, attempts = new.attempts,"
            " next_try_at = new.due, claim = NULL, parts_done = new.parts, changed_at = new.at,"
            " message = new.message FROM {new}"
            " WHERE ingest_state.file_id = new.file_id AND ingest_state.target_id = new.target_id",
            {
                "file_id": "bigint",
                "target_id": "bigint",
                "status": "text",
                "attempts": "integer",
                "due": "timestamp",
                "parts": "text",
                "at": "timestamp",
                "message": "text",
            },
            [
                (
                    j.file_id,
                    target_id,
                    j.status,
                    j.attempts,
                    j.next_try_at,
                    json.dumps(sorted(j.parts_done)) if j.parts_done else "",
                    now,
                    j.message,
                )
                for j in written
            ],
        )
        IngestEvent.record(
            [
                (
                    j.file_id,
                    target_id,
                    j.status,
                    j.start_time,
                    j.duration,
                    j.version,
                    j.message,
                    run_id,
                    j.number,
                )
                for j in written
            ]
        )
        bulk.for_each(
            "INSERT INTO file_checksum (file_id, algorithm, value)"
            " SELECT new.file_id, new.algorithm, new.value FROM {new} WHERE true"
            " ON CONFLICT (file_id, algorithm) DO NOTHING",
            {"file_id": "bigint", "algorithm": "text", "value": "text"},
            [
                (j.file_id, name, value)
                for j in written
                if j.file_id not in changed
                for name, value in j.checksums.items()
            ],
        )
        IngestState.offer_anew(target_id, sorted(changed), OTHER_CONTENT)
        return _not_yet_written(run_id, [j for j in judgements if j.file_id not in ours])

    @classmethod
    def take_from_the_dead(
        cls,
        run_id: int,
        target_id: int,
        machine: str,
        alive: Alive,
        number: int,
        longest: float,
    ) -> int:
        """Make due what passes hold that have died: as UNKNOWN, and without charge.

        Parameters
        ----------
        run_id : `int`
            The pass that asks, whose own claims are not meant.
        alive : callable
            Asked of processes of the same machine.
        number : `int`
            Its first free event number; as many are used as are returned.
        longest : `float`
            Seconds for which a claim is renewed. One that is good for longer was renewed while a
            clock was ahead: from now on it is good for as long.

        Returns
        -------
        count : `int`
            Files made due.
        """
        now = connect.now()
        count = 0
        for holder, why in cls.dead(run_id, target_id, machine, alive):
            why = f"{why} with this file in hand"
            count += _return_to_due(holder, target_id, run_id, number + count, why, now)
            cls.delete().where(cls.run_id == holder).execute()
        latest = now + timedelta(seconds=longest)
        ahead = (cls.target_id == target_id) & (cls.expires_at > latest)
        cls.update(expires_at=latest).where(ahead).execute()
        return count

    @classmethod
    def dead(
        cls, run_id: int, target_id: int, machine: str, alive: Alive, *, lock: bool = True
    ) -> list[tuple[int, str]]:
        """Find the passes that have died, and say of each how that is known."""
        locking = " FOR UPDATE OF c SKIP LOCKED" if lock and connect.on_postgresql() else ""
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
            who = f"pass {holder} (process {pid} on {host})"
            if where == machine and pid is not None and not alive(pid, ticks, started):
                found.append((holder, f"{who} ended"))
            elif bulk.read_moment(expires) <= now:
                found.append((holder, f"{who} was not heard of in time"))
        return found

    @classmethod
    def leave(cls, run_id: int) -> None:
        """Forget a pass that holds nothing any more."""
        connect.execute(
            "DELETE FROM ingest_claim WHERE run_id = ?"
            " AND NOT EXISTS (SELECT 1 FROM ingest_state s WHERE s.claim = ?)",
            [run_id, run_id],
        )


def _fit(judgement: StateChange) -> StateChange:
    """Make fit for columns what a plugin has said."""
    message, version = bulk.clean(judgement.message), bulk.clean(judgement.version)
    if message == judgement.message and version == judgement.version:
        return judgement
    return replace(judgement, message=message, version=version)


def _not_yet_written(run_id: int, missing: Sequence[StateChange]) -> set[int]:
    """Leave out those that an earlier try of the same transaction has written after all."""
    if not missing:
        return set()
    where, values = bulk.among([judgement.number for judgement in missing])
    written = {
        row[0]
        for row in connect.execute(
            f"SELECT number FROM ingest_event WHERE run_id = ? AND number {where}",
            [run_id, values],
        ).fetchall()
    }
    return {judgement.file_id for judgement in missing if judgement.number not in written}


def _return_to_due(
    holder: int, target_id: int, run_id: int, number: int, why: str, now: datetime
) -> int:
    must_be_possible(IngestStatus.PENDING, IngestStatus.UNKNOWN)
    lock = " FOR UPDATE" if connect.on_postgresql() else ""
    found = connect.execute(
        f"SELECT file_id FROM ingest_state WHERE claim = ? ORDER BY file_id{lock}", [holder]
    ).fetchall()
    bulk.for_each(
        "UPDATE ingest_state SET status = new.status, next_try_at = new.at, claim = NULL,"
        " changed_at = new.at, message = new.message FROM {new}"
        " WHERE ingest_state.file_id = new.file_id AND ingest_state.target_id = new.target_id",
        {
            "file_id": "bigint",
            "target_id": "bigint",
            "status": "text",
            "at": "timestamp",
            "message": "text",
        },
        [(file_id, target_id, IngestStatus.UNKNOWN, now, why) for (file_id,) in found],
    )
    IngestEvent.record(
        [
            (file_id, target_id, IngestStatus.UNKNOWN, now, None, "", why, run_id, number + at)
            for at, (file_id,) in enumerate(found)
        ]
    )
    return len(found)
