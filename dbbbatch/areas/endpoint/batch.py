"""What is sent together, and what came of each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.errors import DbbError
from dbbbatch.files import checksum, names


@dataclass(slots=True)
class Prepared:
    """A file of the buffer that is ready to be sent.

    Its row has the inode and the checksum of what was read; `rel` is its path relative to the
    buffer, `raw` the same as bytes, `digest` is hexadecimal, by the configured algorithm. That is
    empty while the file was not read: the built-in stream reads it while it is sent. `status` is
    what it was when it was looked at, if it was.
    """

    row: HandoffRow
    rel: str
    digest: str
    status: os.stat_result | None = None
    raw: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Encode the path."""
        self.raw = os.fsencode(self.rel)

    def learn(self, algorithm: str, digest: str) -> None:
        """Note what its content is."""
        self.digest = digest
        self.row = self.row._replace(checksum=checksum.format(algorithm, digest))

    @property
    def directory(self) -> str:
        """Its directory, relative to the buffer."""
        return names.split(self.rel)[0]

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.row.size_bytes


class SendStatus(StrEnum):
    """What may come of a file."""

    #: Verified in the endpoint's buffer.
    DELIVERED = "DELIVERED"
    #: It did not arrive, though nothing else is wrong.
    FAILED = "FAILED"
    #: It cannot be read here.
    UNREADABLE = "UNREADABLE"
    #: It arrived, and cannot be placed though other files can.
    UNPLACED = "UNPLACED"
    #: It is no longer in the buffer, or no longer this version.
    VANISHED = "VANISHED"
    #: Something else has its name in the endpoint's buffer.
    CONFLICT = "CONFLICT"
    #: It failed through no fault of its own, and waits; no attempt is counted.
    POSTPONED = "POSTPONED"
    #: It was not sent.
    LATER = "LATER"


class FileFate(NamedTuple):
    """What came of a file, and why."""

    status: SendStatus
    reason: str = ""


@dataclass
class Batch:
    """Files that are sent together.

    Attributes
    ----------
    attempt : `str`
        The name of its directory in staging, never used twice.
    number : `int`
        Its row in `transfer_batch`.
    failed_before : `bool`
        Its files failed before, alone or with others.
    long : `bool`
        It is a single file that takes long by itself.
    sent : `bool`
        It no longer uses the line.
    size_bytes : `int`
        The size of all files.
    """

    attempt: str
    items: list[Prepared]
    number: int = 0
    failed_before: bool = False
    long: bool = False
    sent: bool = False
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Add the sizes up."""
        self.size_bytes = sum(item.row.size_bytes for item in self.items)


def kept_name(attempt: str, number: int) -> str:
    """Return the name under which is kept what an attempt has of a file, by the id of its row.

    It looks like an attempt of the same handoff, so that it is removed when it is old.
    """
    return f"{attempt[:-16]}{number:016x}"


@dataclass
class TransferResult:
    """What came of a batch.

    Attributes
    ----------
    recorded : `~concurrent.futures.Future` or `None`
        Done when it is recorded what was read while it was sent: before, nothing may be placed.
    fate_of : `dict` [ `int`, `FileFate` ]
        What came of the files, by the id of their row.
    trouble : `DbbError` or `None`
        What ends the pass.
    unknown : `bool`
        What the far end did is not known: recovery must ask it.
    no_room : `bool`
        The far end has not enough room for all of them, though for some.
    cut_off : `bool`
        A transfer command did not end by itself.
    exit_status : `int` or `None`
        Of the first transfer command that failed, or else of the first one; minus a signal.
    error : `str`
        The first error, for an operator.
    """

    batch: Batch
    recorded: Future[None] | None = None
    fate_of: dict[int, FileFate] = field(default_factory=dict)
    trouble: DbbError | None = None
    unknown: bool = False
    no_room: bool = False
    cut_off: bool = False
    exit_status: int | None = None
    error: str = ""
    prepare_duration: float | None = None
    transfer_started: datetime | None = None
    transfer_duration: float | None = None
    place_started: datetime | None = None
    place_duration: float | None = None

    @property
    def timings(self) -> dict[str, Any]:
        """The columns of `transfer_batch` that it fills."""
        rate = self.batch.size_bytes / self.transfer_duration if self.transfer_duration else None
        return {
            "prepare_duration": self.prepare_duration,
            "transfer_started": self.transfer_started,
            "transfer_duration": self.transfer_duration,
            "place_started": self.place_started,
            "place_duration": self.place_duration,
            "exit_status": self.exit_status,
            "rate": rate,
        }

    @property
    def suspects(self) -> list[tuple[Prepared, str]]:
        """The files that failed together: it is not known which of them made the others fail."""
        return list(self.having(SendStatus.FAILED)) if len(self.batch.items) > 1 else []

    def fail(self, trouble: DbbError, *, unknown: bool = False) -> None:
        """Note what ends the pass, and whether it is unknown what the far end did."""
        self.trouble, self.unknown, self.error = trouble, unknown, str(trouble)

    def settle(self, item: Prepared, status: SendStatus, reason: str = "") -> None:
        """Note what came of a file; the last word counts."""
        self.fate_of[item.row.id] = FileFate(status, reason)

    def settle_rest(self, status: SendStatus, reason: str) -> None:
        """Note what came of all files of which nothing is noted."""
        for item in self.unsettled():
            self.settle(item, status, reason)

    def unsettled(self) -> list[Prepared]:
        """Return the files of which nothing is noted."""
        return [item for item in self.batch.items if item.row.id not in self.fate_of]

    def having(self, *statuses: SendStatus) -> Iterator[tuple[Prepared, str]]:
        """Yield the files with one of the statuses, and the reasons."""
        wanted = {id for id, (status, _) in self.fate_of.items() if status in statuses}
        for item in self.batch.items if wanted else ():
            if item.row.id in wanted:
                yield item, self.fate_of[item.row.id].reason
