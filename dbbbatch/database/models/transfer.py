"""The batches that handoffs transfer, and the part of each file in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peewee
from peewee import SQL

from dbbbatch.database import bulk
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.connect import execute, now
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.statuses import BatchStatus


class TransferBatch(Table):
    """Files sent together: one directory in staging, one or more transfer commands.

    Attributes
    ----------
    attempt : `str`
        Name of its directory in the endpoint's staging area; no other batch has it.
    status : `str`
        One of `BatchStatus`.
    started, transfer_started, place_started : `datetime.datetime`
        When preparing, transferring and placing began.
    prepare_duration, transfer_duration, place_duration : `float` or `None`
        Seconds.
    rate : `float` or `None`
        Bytes a second while transferring.
    exit_status : `int` or `None`
        Of the transfer command; negative if a signal ended it.
    """

    id = peewee.BigAutoField()
    run_id = peewee.BigIntegerField()
    site = peewee.TextField()
    handoff = peewee.TextField()
    attempt = peewee.TextField()
    status = peewee.TextField()
    files = peewee.IntegerField()
    size_bytes = peewee.BigIntegerField()
    started = TimeField()
    prepare_duration = peewee.DoubleField(null=True)
    transfer_started = TimeField(null=True)
    transfer_duration = peewee.DoubleField(null=True)
    place_started = TimeField(null=True)
    place_duration = peewee.DoubleField(null=True)
    rate = peewee.DoubleField(null=True)
    exit_status = peewee.IntegerField(null=True)
    error = peewee.TextField(null=True)

    @classmethod
    def begin(
        cls, run_id: int, site: str, handoff: str, attempt: str, ids: Sequence[int], size: int
    ) -> int:
        """Record that files are about to be sent, and return the id of the batch."""
        known = cls.get_or_none(cls.attempt == attempt)
        if known is not None:  # the commit whose answer was lost
            return int(known.id)
        batch = cls.create(
            run_id=run_id,
            site=site,
            handoff=handoff,
            attempt=attempt,
            status=BatchStatus.OPEN,
            files=len(ids),
            size_bytes=size,
            started=now(),
        )
        where, numbers = bulk.among(ids)
        execute(
            "INSERT INTO transfer_attempt (batch_id, handoff_file_id, checksum)"
            f" SELECT ?, id, checksum FROM handoff_file WHERE id {where}",
            (batch.id, numbers),
        )
        return int(batch.id)

    @classmethod
    def failed_with(cls, file: int) -> int:
        """Return the number of files of the last batch in which a file failed, or 0."""
        row = execute(
            "SELECT b.files FROM transfer_attempt AS a JOIN transfer_batch AS b"
            " ON b.id = a.batch_id WHERE a.handoff_file_id = ? AND a.outcome = 'FAILED'"
            " ORDER BY a.batch_id DESC LIMIT 1",
            (file,),
        ).fetchone()
        return int(row[0]) if row else 0

    @classmethod
    def unfinished(cls, site: str, handoff: str) -> list[TransferBatch]:
        """Return the batches that may have something in staging, oldest first."""
        return list(
            cls.select()
            .where(
                cls.site == site,
                cls.handoff == handoff,
                SQL("status IN ('OPEN', 'SETTLED')"),  # as the index has it
            )
            .order_by(cls.id)
        )

    @classmethod
    def note(cls, batch: int, error: str, **values: Any) -> None:
        """Record what is known about a batch: columns, and an error if it has none yet."""
        known = {name: value for name, value in values.items() if value is not None}
        if error:
            known["error"] = peewee.fn.COALESCE(cls.error, bulk.clean(error))
        if known:
            cls.update(**known).where(cls.id == batch).execute()

    @classmethod
    def read(cls, batch: int, sums: Sequence[tuple[int, str]]) -> None:
        """Record what was sent of each file of a batch: its id and checksum, '' if it was not."""
        change(
            TransferAttempt,
            [(batch, number, checksum) for number, checksum in sums],
            ("batch_id", "handoff_file_id"),
            ("checksum",),
        )

    @classmethod
    def was_read(cls, batch: int) -> bool:
        """Return whether it is known of each file of an open batch what was sent of it."""
        return (
            execute(
                "SELECT 1 FROM transfer_attempt WHERE batch_id = ? AND checksum IS NULL LIMIT 1",
                (batch,),
            ).fetchone()
            is None
        )

    @classmethod
    def files_of(cls, batch: int) -> list[int]:
        """Return the ids of the files of a batch."""
        rows = execute(
            "SELECT handoff_file_id FROM transfer_attempt WHERE batch_id = ?", (batch,)
        ).fetchall()
        return [number for (number,) in rows]

    @classmethod
    def settle(cls, batch: int, outcomes: Sequence[tuple[int, str, str]]) -> None:
        """Record the result of a batch, and of each file: id, outcome, reason."""
        alike: dict[str, list[int]] = {}
        with_reason = []
        for number, outcome, error in outcomes:
            if error:
                with_reason.append((number, outcome, bulk.clean(error)))
            else:
                alike.setdefault(outcome, []).append(number)
        which = ("handoff_file_id", SQL(f"transfer_attempt.batch_id = {batch:d}"))
        for outcome, numbers in alike.items():
            change(TransferAttempt, numbers, which, outcome=outcome, error=None, checksum=None)
        change(TransferAttempt, with_reason, which, ("outcome", "error"), checksum=None)
        change(cls, [batch], becomes=BatchStatus.SETTLED)

    @classmethod
    def done(cls, batches: Sequence[int]) -> None:
        """Record that nothing of these batches is left in staging."""
        change(cls, batches, becomes=BatchStatus.DONE)


class TransferAttempt(Table):
    """The part of a file in a batch.

    Attributes
    ----------
    outcome : `str` or `None`
        DELIVERED, FAILED, CONFLICT, VANISHED or LATER.
    checksum : `str` or `None`
        Of the content that is sent, until the outcome is known; the file may be replaced
        meanwhile. `None`: that is not known yet, and nothing of the batch was placed; '': it was
        left out.
    """

    batch_id = peewee.BigIntegerField()
    handoff_file_id = peewee.BigIntegerField()
    outcome = peewee.TextField(null=True)
    error = peewee.TextField(null=True)
    checksum = peewee.TextField(null=True)

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("batch_id", "handoff_file_id")
