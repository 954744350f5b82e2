"""The files of handoffs: every version that was seen in a buffer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import peewee
from peewee import SQL

from dbbbatch.database import bulk, retry
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.connect import execute, for_update, now
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.event import append_events
from dbbbatch.database.models.file import Name, among_paths
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.statuses import HandoffStatus, require_possible
from dbbbatch.files import names

FOUND, DELIVERED, HELD, PURGED, QUARANTINED, IGNORED, VANISHED = HandoffStatus


class HandoffRow(NamedTuple):
    """A version of a file, as a scan sees it or as the table has it.

    Names are as `dbbbatch.files.names.to_text` writes them. Of a file that was only scanned, the
    fields after `rank` have their defaults.
    """

    relpath: str
    filename: str
    size_bytes: int
    mtime_ns: int
    inode: int
    priority: int = 0
    rank: int = 0
    id: int = 0
    checksum: str | None = None
    attempts: int = 0
    conflict_since: datetime | None = None
    held_as: str | None = None
    confirmed_at: datetime | None = None
    held_at: datetime = datetime.min
    status: str = ""

    @property
    def rel(self) -> str:
        """Its path relative to the buffer."""
        return names.rel_of(self)

    @property
    def held_rel(self) -> str:
        """Its path relative to the holding area."""
        return names.join(names.from_text(self.relpath), names.from_text(self.held_as or ""))


#: Begin of the error of files that failed together and were not yet tried alone.
SUSPECTED = "failed together with others; the culprit is still to be found"

#: Begin of the error of files that failed without a fault of their own: no attempt.
POSTPONED = "not charged to it"

#: In the buffer, as far as is known.
_IN_BUFFER = (FOUND, DELIVERED, QUARANTINED)

#: No longer in the buffer; one that is seen there again starts again.
_NOT_IN_BUFFER = (HELD, PURGED, VANISHED)

#: Why a file is FOUND once more.
_SEEN_AGAIN = "it is in the buffer again"

#: SQLite uses a partial index only where its condition stands in the query word for word.
_UNFINISHED_SQL = "status = '{status}' AND status IN ('FOUND', 'DELIVERED', 'QUARANTINED')"

#: What makes a version of a file of a buffer.
_VERSION_COLUMNS = ("site", "handoff", "relpath", "filename", "size_bytes", "mtime_ns")

#: That a row `o` is of the same version, in a handoff that is still to be said.
_SAME_VERSION = " AND ".join(
    f"o.{column} = handoff_file.{column}" for column in _VERSION_COLUMNS if column != "handoff"
)

_ROW_COLUMNS = ", ".join(HandoffRow._fields)

#: Before the first file in the order of sending: priority, rank, id.
FIRST = (-1, -(1 << 63), -1)
ORDER = ("priority", "rank", "id")


class HandoffFile(Table):
    """A version of a file seen in a buffer.

    Attributes
    ----------
    site, handoff : `str`
        Of the buffer.
    relpath, filename : `str`
        As `dbbbatch.files.names.to_text` writes them.
    size_bytes, mtime_ns, inode : `int`
        The version; a checksum is valid as long as they are the same.
    checksum : `str` or `None`
        ``algorithm:hex``.
    status : `str`
        One of `HandoffStatus`.
    priority, rank : `int`
        The order of sending, smaller ones first.
    attempts : `int`
        Number of failures that are, or may be, the file's own fault.
    next_try_at : `datetime.datetime` or `None`
        Not before then.
    conflict_since : `datetime.datetime` or `None`
        Since when the endpoint's buffer has other content under the name.
    held_as : `str` or `None`
        Its name in the holding area, in the directory relpath; if it is not there, `None` or the
        name that it had there.
    error : `str` or `None`
        For an operator: why it does not proceed.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    handoff = peewee.TextField()
    relpath = peewee.TextField()
    filename = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    mtime_ns = peewee.BigIntegerField()
    inode = peewee.BigIntegerField()
    checksum = peewee.TextField(null=True)
    status = peewee.TextField()
    priority = peewee.IntegerField(default=0)
    rank = peewee.BigIntegerField(default=0)
    attempts = peewee.IntegerField(default=0)
    next_try_at = TimeField(null=True)
    conflict_since = TimeField(null=True)
    discovered_at = TimeField()
    delivered_at = TimeField(null=True)
    confirmed_at = TimeField(null=True)
    held_at = TimeField(null=True)
    purged_at = TimeField(null=True)
    held_as = peewee.TextField(null=True)
    error = peewee.TextField(null=True)

    @classmethod
    def found(
        cls, site: str, handoff: str, files: Sequence[HandoffRow], why: str = _SEEN_AGAIN
    ) -> None:
        """Record what a scan saw: new versions, and known ones that are in the buffer again.

        Nothing is written for files that are known. The history of the others gets the reason.
        """
        for was in (None, *_NOT_IN_BUFFER, *_IN_BUFFER):
            require_possible("handoff_file", was, FOUND)
        known = cls._versions(site, handoff, files)
        # Most of what later scans see.
        files = [file for file in files if known.get(file[:4]) != ("FOUND", *file[4:7])]
        columns = (*_VERSION_COLUMNS, "inode", "priority", "rank", "discovered_at")
        when = now()
        same = " AND ".join(f"handoff_file.{column} = new.{column}" for column in _VERSION_COLUMNS)
        bulk.for_each(
            f"{append_events('handoff_file', repr('FOUND'), 'CAST(? AS TEXT)')}, {{new}}"
            f" WHERE {same} AND (handoff_file.status IN ({_listed(_NOT_IN_BUFFER)})"
            " OR handoff_file.status IN ('DELIVERED', 'QUARANTINED')"
            " AND handoff_file.inode <> new.inode)",
            bulk.fields_of(cls, columns[:7]),
            [(site, handoff, *file[:5]) for file in files if file[:4] in known],
            [bulk.time_value(when), why],
        )
        bulk.for_each(
            f"INSERT INTO handoff_file AS old ({', '.join(columns)}, status)"
            f" SELECT {', '.join(f'new.{column}' for column in columns)}, 'FOUND'"
            " FROM {new} WHERE true"
            f" ON CONFLICT ({', '.join(_VERSION_COLUMNS)}) DO UPDATE SET"
            " priority = excluded.priority, rank = excluded.rank, inode = excluded.inode,"
            " checksum = CASE WHEN old.inode = excluded.inode THEN old.checksum END,"
            " attempts = CASE WHEN old.status = 'FOUND' THEN old.attempts ELSE 0 END,"
            " next_try_at = CASE WHEN old.status = 'FOUND' THEN old.next_try_at END,"
            " error = CASE WHEN old.status = 'FOUND' THEN old.error END,"
            " status = 'FOUND'"
            f" WHERE old.status IN ({_listed(_NOT_IN_BUFFER)})"
            f" OR old.status IN ({_listed(_IN_BUFFER)})"
            " AND old.inode <> excluded.inode"
            " OR old.status = 'FOUND'"
            " AND (old.priority <> excluded.priority OR old.rank <> excluded.rank)",
            bulk.fields_of(cls, columns),
            [(site, handoff, *file[:7], when) for file in files],
        )

    @classmethod
    def not_in_buffer(
        cls, site: str, handoff: str, files: Sequence[HandoffRow]
    ) -> list[HandoffRow]:
        """Return those of some files that `found` would record as seen again.

        Until the transaction ends no other one changes what is recorded of any of them.
        """
        known = cls._versions(site, handoff, files, for_update())
        return [file for file in files if known.get(file[:4], ("",))[0] in _NOT_IN_BUFFER]

    @classmethod
    def due(
        cls,
        site: str,
        handoff: str,
        after: tuple[int, int, int],
        limit: int,
        tried: bool | None = None,
        *,
        longest: float,
    ) -> list[HandoffRow]:
        """Return the next files that are due to be sent, in order, after a (priority, rank, id).

        Parameters
        ----------
        tried : `bool`, optional
            Only files that failed before, alone or together with others; or only files that did
            not.
        longest : `float`
            The longest wait that is configured (seconds). A file that would wait for longer was
            put off while a clock was ahead, and is due.
        """
        condition, values = (
            _UNFINISHED_SQL.format(status="FOUND"),
            [*map(bulk.time_value, retry.due_range(longest, now())), *after],
        )
        condition += f" AND (next_try_at IS NULL OR {retry.due_sql('next_try_at')})"
        condition += " AND (priority, rank, id) > (?, ?, ?)"
        if tried is not None:
            condition += (
                f" AND {'' if tried else 'NOT '}(attempts > 0"
                " OR COALESCE(error, '') LIKE ? OR COALESCE(error, '') LIKE ?)"
            )
            values += [f"{SUSPECTED}%", f"{POSTPONED}%"]
        return cls._waiting(condition, (site, handoff, *values), limit)

    @classmethod
    def was_in(cls, site: str, handoff: str, relpath: str) -> bool:
        """Return whether any file was ever seen in a directory of a buffer."""
        return (
            execute(
                "SELECT 1 FROM handoff_file WHERE site = ? AND handoff = ? AND relpath = ? LIMIT 1",
                (site, handoff, relpath),
            ).fetchone()
            is not None
        )

    @classmethod
    def newest(cls) -> int:
        """Return the highest id of the table, of any handoff; 0 if it is empty."""
        (number,) = execute("SELECT MAX(id) FROM handoff_file").fetchone()
        return int(number or 0)

    @classmethod
    def in_buffer(
        cls,
        site: str,
        handoff: str,
        status: str,
        after: tuple[int, int, int] = FIRST,
        limit: int = 100_000,
    ) -> list[HandoffRow]:
        """Return the next FOUND, DELIVERED or QUARANTINED files, in the order of sending."""
        condition = _UNFINISHED_SQL.format(status=HandoffStatus(status))
        return cls._waiting(
            f"{condition} AND (priority, rank, id) > (?, ?, ?)", (site, handoff, *after), limit
        )

    @classmethod
    def complete(
        cls,
        of: tuple[str, str],
        after: tuple[int, int, int] = FIRST,
        *,
        siblings: tuple[Sequence[str], Sequence[str]],
        wait: float,
        limit: int,
        ids: Collection[int] | None = None,
    ) -> list[HandoffRow]:
        """Return the next DELIVERED files of a buffer with several endpoints that may leave it.

        All others have, or had, the same version, or a person or the disk says that they never
        will; or all that are required, and the wait for the rest is over.

        Parameters
        ----------
        of : `tuple` [ `str`, `str` ]
            Site and handoff.
        after, limit
            As for `in_buffer`.
        siblings : `tuple`
            The handoffs of all endpoints, and those of the required ones.
        wait : `float`
            Seconds, from the delivery, until only required ones count.
        ids : collection of `int`, optional
            Only these.
        """
        condition = _UNFINISHED_SQL.format(status="DELIVERED")
        condition += " AND (priority, rank, id) > (?, ?, ?) AND ("
        found: list[Any] = [*of, *after]
        for number, names_of in enumerate(siblings if siblings[0] != siblings[1] else siblings[:1]):
            if number:
                # What is later than that was delivered while a clock was ahead.
                condition += " OR (delivered_at <= ? OR delivered_at > ?) AND "
                when, waited = now(), timedelta(seconds=wait)
                found += map(bulk.time_value, (when - waited, when + waited))
            count, value = _number_of_siblings(names_of, (HELD, PURGED, IGNORED, VANISHED))
            condition += f"{count} = ?"
            found += [value, len(names_of)]
        condition += ")"
        if ids is not None:
            where, value = bulk.among([*ids])
            condition += f" AND id {where}"
            found.append(value)
        return cls._waiting(condition, tuple(found), limit)

    @classmethod
    def unseen(
        cls,
        of: tuple[str, str],
        after: tuple[int, int, int] = FIRST,
        *,
        siblings: Sequence[str],
        limit: int,
    ) -> list[HandoffRow]:
        """Return the next DELIVERED files that another endpoint of the buffer has not seen.

        The parameters are as for `complete`.
        """
        others = [status for status in HandoffStatus if status != DELIVERED]
        count, value = _number_of_siblings(siblings, others)
        condition = _UNFINISHED_SQL.format(status="DELIVERED")
        condition += f" AND (priority, rank, id) > (?, ?, ?) AND {count} < ?"
        return cls._waiting(condition, (*of, *after, value, len(siblings)), limit)

    @classmethod
    def siblings(
        cls, ids: Sequence[int], handoffs: Sequence[str]
    ) -> dict[int, list[tuple[int, str, str, str]]]:
        """Return what other handoffs have of the same versions: id, handoff, status and error.

        Parameters
        ----------
        ids : sequence of `int`
            The files, by which they are returned.
        handoffs : sequence of `str`
            The other handoffs of the same buffer.
        """
        which, numbers = bulk.among(ids)
        where, value = bulk.among(handoffs)
        rows = execute(
            "SELECT handoff_file.id, o.id, o.handoff, o.status, o.error FROM handoff_file"
            f" JOIN handoff_file AS o ON {_SAME_VERSION} AND o.handoff {where}"
            f" WHERE handoff_file.id {which}",
            (value, numbers),
        )
        found: dict[int, list[tuple[int, str, str, str]]] = {number: [] for number in ids}
        for number, sibling, handoff, status, error in rows.fetchall():
            found[number].append((sibling, handoff, status, error or ""))
        return found

    @classmethod
    def sums_of_siblings(cls, ids: Sequence[int], handoffs: Sequence[str]) -> dict[int, str]:
        """Return the checksums that other handoffs have of the same files, as `siblings`."""
        which, numbers = bulk.among(ids)
        where, value = bulk.among(handoffs)
        rows = execute(
            "SELECT handoff_file.id, o.checksum FROM handoff_file JOIN handoff_file AS o ON"
            f" {_SAME_VERSION} AND o.inode = handoff_file.inode AND o.handoff {where}"
            f" WHERE handoff_file.id {which} AND o.checksum IS NOT NULL",
            (value, numbers),
        )
        return dict(rows.fetchall())

    @classmethod
    def held_files(
        cls, site: str, handoff: str, after: tuple[datetime, int] | None, limit: int
    ) -> list[HandoffRow]:
        """Return the next files of the holding area, those first that were held first."""
        held_at, number = after or (datetime.min, -1)
        rows = execute(
            f"SELECT {_ROW_COLUMNS} FROM handoff_file WHERE site = ? AND handoff = ?"
            " AND status = 'HELD' AND (held_at, id) > (?, ?)"
            f" ORDER BY held_at, id LIMIT {limit:d}",
            (site, handoff, bulk.time_value(held_at), number),
        ).fetchall()
        return [_read_row(row) for row in rows]

    @classmethod
    def held_from_now(cls, site: str, handoff: str) -> None:
        """Replace times since when files are held that are in the future, from a clock ahead."""
        when = bulk.time_value(now())
        execute(
            "UPDATE handoff_file SET held_at = ? WHERE site = ? AND handoff = ?"
            " AND status = 'HELD' AND held_at > ?",
            (when, site, handoff, when),
        )

    @classmethod
    def reasons(cls, ids: Sequence[int]) -> dict[int, str]:
        """Return the errors of files."""
        where, value = bulk.among(ids)
        rows = execute(f"SELECT id, error FROM handoff_file WHERE id {where}", (value,))
        return {number: error or "" for number, error in rows.fetchall()}

    @classmethod
    def unknown(cls, site: str, handoff: str, files: Sequence[HandoffRow]) -> list[HandoffRow]:
        """Return the scanned files that `found` would record as new or as back again."""
        known = cls._versions(site, handoff, files)

        def is_known(file: HandoffRow) -> bool:
            status, inode, *_ = known.get(file[:4], ("", 0))
            return status == IGNORED or (status in _IN_BUFFER and inode == file.inode)

        return [file for file in files if not is_known(file)]

    @classmethod
    def known(cls, site: str, handoff: str, paths: Collection[Name]) -> list[HandoffRow]:
        """Return all versions that have one of some names."""
        where, values = among_paths(paths)
        rows = execute(
            f"SELECT {_ROW_COLUMNS} FROM handoff_file"
            f" WHERE site = ? AND handoff = ? AND (relpath, filename) {where}",
            (site, handoff, *values),
        )
        return [_read_row(row) for row in rows.fetchall()]

    @classmethod
    def of_batch(cls, batch: int) -> list[HandoffRow]:
        """Return the FOUND files of a batch that still have the content that it sent."""
        columns = ", ".join(f"f.{name}" for name in HandoffRow._fields)
        rows = execute(
            f"SELECT {columns} FROM transfer_attempt AS a JOIN handoff_file AS f"
            " ON f.id = a.handoff_file_id WHERE a.batch_id = ? AND f.status = 'FOUND'"
            " AND f.checksum = a.checksum ORDER BY f.id",
            (batch,),
        ).fetchall()
        return [_read_row(row) for row in rows]

    @classmethod
    def hashed(cls, sums: Sequence[tuple[int, str, int]]) -> None:
        """Record checksums: id, ``algorithm:hex``, and the inode of the file that was read."""
        change(cls, sums, sets=("checksum", "inode"))

    @classmethod
    def read(cls, sums: Sequence[tuple[int, int, str | None]]) -> None:
        """Record checksums of files that are still FOUND and this version: id, inode, checksum."""
        change(cls, sums, ("id", "inode"), ("checksum",), before=[FOUND])

    @classmethod
    def delivered(cls, files: Sequence[tuple[int, int, str | None]]) -> set[int]:
        """Record that files are verified in the endpoint's buffer: id, inode and checksum as sent.

        Returns
        -------
        ids : `set` [ `int` ]
            Of the files that are DELIVERED now. A file that is another version by now, or about
            which a person has decided, stays as it is.
        """
        where, value = bulk.among([number for number, _, _ in files])
        rows = execute(
            "SELECT id, inode, checksum FROM handoff_file"
            f" WHERE id {where} AND status IN ('FOUND', 'DELIVERED'){for_update()}",
            (value,),
        )
        sent = set(files)
        same = [row[0] for row in rows.fetchall() if tuple(row) in sent]
        change(
            cls,
            same,
            before=[FOUND],
            becomes=DELIVERED,
            delivered_at=now(),
            next_try_at=None,
            conflict_since=None,
            error=None,
        )
        return set(same)

    @classmethod
    def delivered_times(cls, ids: Sequence[int]) -> dict[int, datetime]:
        """Return when files were delivered."""
        where, value = bulk.among(ids)
        rows = execute(
            f"SELECT id, delivered_at FROM handoff_file WHERE id {where}"
            " AND delivered_at IS NOT NULL",
            (value,),
        )
        return {number: bulk.read_moment(when) for number, when in rows.fetchall()}

    @classmethod
    def delivered_versions(
        cls,
        site: str,
        handoffs: Sequence[str],
        relpath: str,
        statuses: Sequence[str] = (DELIVERED, HELD),
    ) -> set[tuple[int, int, int]]:
        """Return size, time and inode of files of a directory that are DELIVERED or HELD.

        Parameters
        ----------
        site : `str`
        handoffs : `~collections.abc.Sequence` [ `str` ]
            Handoffs that may share a holding area.
        relpath : `str`
        statuses : `~collections.abc.Sequence` [ `str` ]
        """
        where, value = bulk.among(handoffs)
        rows = execute(
            "SELECT size_bytes, mtime_ns, inode FROM handoff_file WHERE site = ?"
            f" AND handoff {where} AND relpath = ? AND status IN ({_listed(statuses)})",
            (site, value, relpath),
        )
        return {(row[0], row[1], row[2]) for row in rows.fetchall()}

    @classmethod
    def others_like(
        cls, number: int, relpath: str, filenames: Sequence[str], size_bytes: int
    ) -> set[tuple[str | None, int, int]]:
        """Return name in holding, size and time of versions of a size of files of these names.

        Of all handoffs, which may share the holding area, without the row `number`. The name is
        `None` for versions that are not in the holding area yet.
        """
        where, value = bulk.among(filenames)
        rows = execute(
            "SELECT CASE WHEN status <> 'DELIVERED' THEN held_as END, size_bytes, mtime_ns"
            f" FROM handoff_file WHERE id <> ? AND relpath = ? AND filename {where}"
            " AND size_bytes = ? AND status IN ('DELIVERED', 'HELD', 'IGNORED')",
            (number, relpath, value, size_bytes),
        )
        return {(row[0], row[1], row[2]) for row in rows.fetchall()}

    @classmethod
    def held(cls, files: Sequence[tuple[int, str, int]]) -> None:
        """Record that originals are in the holding area: id, name and inode there."""
        change(
            cls,
            files,
            sets=("held_as", "inode"),
            before=[DELIVERED],
            becomes=HELD,
            held_at=now(),
            confirmed_at=None,
            error=None,
        )

    @classmethod
    def own_inodes(cls, rows: Sequence[tuple[int, int]]) -> None:
        """Record new inodes of held files, as on a restored disk: id and inode."""
        change(cls, rows, sets=["inode"], before=[HELD])

    @classmethod
    def renamed(cls, ids: Sequence[int], held_as: str) -> None:
        """Record the name that a held file has got in the holding area."""
        change(cls, ids, before=[HELD], held_as=held_as)

    @classmethod
    def vanished(cls, files: Sequence[tuple[int, str]]) -> None:
        """Record that versions are no longer in the buffer: id and reason."""
        change(
            cls,
            _cleaned(files),
            sets=["error"],
            before=(FOUND, DELIVERED),
            becomes=VANISHED,
            next_try_at=None,
        )

    @classmethod
    def failed(cls, files: Sequence[tuple[int, str, float, int]]) -> None:
        """Record failures that count: id, reason, seconds until the next attempt, attempts."""
        when = now()
        change(
            cls,
            [
                (number, bulk.clean(error), when + timedelta(seconds=wait), attempts)
                for number, error, wait, attempts in files
            ],
            sets=("error", "next_try_at", "attempts"),
            before=[FOUND],
        )

    @classmethod
    def suspected(cls, ids: Sequence[int], why: str) -> None:
        """Record that one of these files, unknown which, made all fail; no attempt is counted."""
        change(
            cls,
            ids,
            ("id", SQL("attempts = 0")),
            before=[FOUND],
            error=bulk.clean(f"{SUSPECTED}: {why}" if why else SUSPECTED),
        )

    @classmethod
    def postponed(cls, files: Sequence[tuple[int, str, float]]) -> None:
        """Record that files failed without a fault of their own: id, reason, seconds to wait."""
        when = now()
        change(
            cls,
            [
                (number, bulk.clean(f"{POSTPONED}: {error}"), when + timedelta(seconds=wait))
                for number, error, wait in files
            ],
            sets=("error", "next_try_at"),
            before=[FOUND],
        )

    @classmethod
    def stuck(cls, files: Sequence[tuple[int, str]]) -> None:
        """Record why delivered originals cannot be moved to the holding area: id and reason."""
        change(cls, _cleaned(files), sets=["error"], before=[DELIVERED])

    @classmethod
    def conflicting(cls, files: Sequence[tuple[int, str, float]]) -> None:
        """Record that the endpoint's buffer has other content under the name, for now.

        Of each file id, reason, and seconds until the next look.
        """
        when = now()
        change(
            cls,
            [
                (number, bulk.clean(error), when + timedelta(seconds=wait))
                for number, error, wait in files
            ],
            sets=("error", "next_try_at"),
            before=[FOUND],
            # One that began in the future was recorded while a clock was ahead.
            conflict_since=SQL(
                "CASE WHEN conflict_since <= ? THEN conflict_since ELSE ? END", (when, when)
            ),
        )

    @classmethod
    def quarantined(cls, files: Sequence[tuple[int, str]]) -> None:
        """Record that files are about to be moved to quarantine: id and reason."""
        change(
            cls,
            _cleaned(files),
            sets=["error"],
            before=[FOUND],
            becomes=QUARANTINED,
            next_try_at=None,
        )

    @classmethod
    def page(
        cls,
        site: str,
        handoff: str,
        statuses: Sequence[str],
        after: int,
        limit: int,
        tried: bool = False,
    ) -> list[tuple[int, str, str, str]]:
        """Return id, relpath, filename and error of files by status, in order of their ids.

        With `tried`, without FOUND files that have neither attempts nor an error.
        """
        known = " AND (status <> 'FOUND' OR attempts > 0 OR error IS NOT NULL)" if tried else ""
        marks = ", ".join("?" for _ in statuses)
        rows = execute(
            "SELECT id, relpath, filename, error FROM handoff_file WHERE site = ? AND handoff = ?"
            f" AND status IN ({marks}){known} AND id > ? ORDER BY id LIMIT ?",
            (site, handoff, *statuses, after, limit),
        ).fetchall()
        return [(row[0], row[1], row[2], row[3] or "") for row in rows]

    @classmethod
    def released(cls, quarantine: Quarantine) -> None:
        """Record that a version was put back from quarantine, to be sent as if it were new."""
        change(
            cls,
            [_quarantined_version(quarantine)],
            _VERSION_COLUMNS,
            before=[QUARANTINED],
            becomes=FOUND,
            **_AS_NEW,
        )

    @classmethod
    def asked_for(cls, ids: Sequence[int], why: str) -> None:
        """Write to the history that a person wants held files to be sent again."""
        change(cls, ids, before=[HELD], becomes=HELD, why=bulk.clean(why))

    @classmethod
    def back_again(cls, files: Sequence[tuple[int, datetime]]) -> None:
        """Record that held files are in the buffer again: id, and since when each was held.

        One that a pass has sent and held again since then stays as it is.
        """
        change(cls, files, ("id", "held_at"), before=[HELD], becomes=FOUND, **_AS_NEW)

    @classmethod
    def left_aside(cls, quarantine: Quarantine, reason: str) -> None:
        """Record that a person leaves a version in quarantine."""
        change(
            cls,
            [_quarantined_version(quarantine)],
            _VERSION_COLUMNS,
            before=[QUARANTINED],
            becomes=IGNORED,
            held_as=None,
            error=bulk.clean(reason),
        )

    @classmethod
    def again(cls, ids: Sequence[int], statuses: Sequence[str], why: str) -> int:
        """Record that files of the statuses are to be sent as if they were new; return how many.

        A file that was ignored in the holding area is HELD again.
        """
        before = {HandoffStatus(status) for status in statuses}
        is_held = "(status = 'IGNORED' AND held_as IS NOT NULL)"
        sent_again = change(
            *(cls, ids, ("id", SQL(f"NOT {is_held}"))),
            before=before,
            becomes=FOUND,
            why=why,
            **_AS_NEW,
        )
        if IGNORED not in before:
            return sent_again
        return sent_again + change(
            *(cls, ids, ("id", SQL(is_held))), before=[IGNORED], becomes=HELD, why=why, **_AS_NEW
        )

    @classmethod
    def ignored(cls, ids: Sequence[int], statuses: Sequence[str], reason: str) -> int:
        """Record that a person leaves files of the statuses alone; return how many."""
        return change(
            cls,
            ids,
            before={HandoffStatus(status) for status in statuses},
            becomes=IGNORED,
            held_as=SQL("CASE WHEN status = 'HELD' THEN held_as END"),
            next_try_at=None,
            error=bulk.clean(reason),
        )

    @classmethod
    def confirmed(cls, ids: Sequence[int]) -> None:
        """Record, before originals are removed, that the endpoint has confirmed these files."""
        change(cls, ids, before=[HELD], confirmed_at=now(), error=None)

    @classmethod
    def unconfirmed(cls, files: Sequence[tuple[int, str]]) -> None:
        """Record why held files that are old enough are not purged: id and reason."""
        changed = SQL("COALESCE(handoff_file.error, '') <> new.error")
        change(cls, _cleaned(files), ("id", changed), ["error"], before=[HELD])

    @classmethod
    def kept(cls, ids: Sequence[int]) -> None:
        """Record that originals are still in the holding area, although they were confirmed."""
        change(cls, ids, before=[HELD], confirmed_at=None)

    @classmethod
    def purged(cls, ids: Sequence[int]) -> None:
        """Record that originals were removed from the holding area."""
        change(cls, ids, before=[HELD], becomes=PURGED, purged_at=now())

    @classmethod
    def _versions(
        cls, site: str, handoff: str, files: Sequence[HandoffRow], how: str = ""
    ) -> dict[tuple[Any, ...], tuple[str, int, int, int]]:
        """Return status, inode, priority and rank of versions that have the names of files.

        By relpath, filename, size and time, as the fields of a row begin.
        """
        where, values = among_paths([(file.relpath, file.filename) for file in files])
        rows = execute(
            "SELECT relpath, filename, size_bytes, mtime_ns, status, inode, priority, rank"
            f" FROM handoff_file WHERE site = ? AND handoff = ? AND (relpath, filename) {where}"
            f"{how}",
            (site, handoff, *values),
        )
        return {tuple(row[:4]): tuple(row[4:]) for row in rows.fetchall()}

    @classmethod
    def _waiting(cls, condition: str, values: tuple[Any, ...], limit: int) -> list[HandoffRow]:
        rows = execute(
            f"SELECT {_ROW_COLUMNS} FROM handoff_file"
            f" WHERE site = ? AND handoff = ? AND {condition}"
            f" ORDER BY priority, rank, id LIMIT {limit:d}",
            values,
        ).fetchall()
        return [_read_row(row) for row in rows]


#: What is reset for a version that is sent as if it were new.
_AS_NEW: dict[str, Any] = {
    "attempts": 0,
    "next_try_at": None,
    "conflict_since": None,
    "error": None,
}


def _quarantined_version(quarantine: Quarantine) -> tuple[Any, ...]:
    handoff = quarantine.label.partition(".")[2]
    return (
        *(quarantine.site, handoff, quarantine.relpath, quarantine.filename),
        *(quarantine.size_bytes, quarantine.mtime_ns),
    )


def _cleaned(files: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(number, bulk.clean(error)) for number, error in files]


def _number_of_siblings(handoffs: Sequence[str], statuses: Sequence[str]) -> tuple[str, Any]:
    """Return SQL, and its value: of how many handoffs a version is DELIVERED, or in a status."""
    where, value = bulk.among(handoffs)
    return (
        f"(SELECT count(*) FROM handoff_file AS o WHERE {_SAME_VERSION} AND o.handoff {where}"
        f" AND (o.status IN ({_listed(statuses)})"
        " OR o.status = 'DELIVERED' AND o.inode = handoff_file.inode))"
    ), value


def _listed(statuses: Sequence[str]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


def _read_row(row: Sequence[Any]) -> HandoffRow:
    *before, conflict_since, held_as, confirmed_at, held_at, status = row
    if held_as is None and status == HELD:
        held_as = ""  # no name that a file can have, so that the row is refused
    return HandoffRow._make(
        (
            *before,
            bulk.read_moment(conflict_since),
            held_as,
            bulk.read_moment(confirmed_at),
            bulk.read_moment(held_at) or datetime.min,
            status,
        )
    )
