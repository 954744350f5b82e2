"""What is sent together, and what came of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime

from dbbbatch.areas.endpoint.session import Expected
from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.errors import DbbError
from dbbbatch.files.identity import Version, status_of


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a batch.

    Attributes
    ----------
    row : `HandoffRow`
        What the table says about it.
    rel : `str`
        Its path relative to the buffer.
    digest : `str`
        Hexadecimal, by the configured algorithm.
    """

    row: HandoffRow
    rel: str
    digest: str

    @property
    def raw(self) -> bytes:
        """Its relative path as bytes."""
        return os.fsencode(self.rel)

    @property
    def directory(self) -> str:
        """Its directory, relative to the buffer."""
        return os.path.dirname(self.rel)

    @property
    def expected(self) -> Expected:
        """The file as it must arrive."""
        return Expected(self.raw, self.row.size_bytes, self.digest)


@dataclass
class Batch:
    """Files that are sent together.

    Attributes
    ----------
    attempt : `str`
        Name of its directory in staging.
    number : `int`
        Its row in `transfer_batch`.
    tried : `bool`
        Its files failed before.
    """

    attempt: str
    items: list[Item]
    number: int = 0
    tried: bool = False

    @property
    def size_bytes(self) -> int:
        """How much there is to send."""
        return sum(item.row.size_bytes for item in self.items)


@dataclass
class TransferResult:
    """What came of a batch.

    Attributes
    ----------
    delivered : `list` [ `Item` ]
        Verified in the endpoint's buffer.
    failed, unplaced, gone, conflicts, postponed, later : `list` [ `tuple` [ `Item`, `str` ] ]
        With the reason: did not arrive though all else is well; arrived and cannot be placed
        though others can; no longer the same here; something else has the name in the endpoint's
        buffer; failed through no fault of theirs, so they wait without an attempt; not sent.
    trouble : `DbbError` or `None`
        What ends the pass.
    unknown : `bool`
        What the far end did is not known: recovery must ask.
    no_room : `bool`
        There is not room enough for all of them at the far end, though for something.
    cut_off : `bool`
        A transfer command did not end by itself.
    exit_status : `int` or `None`
        Of the transfer command that failed, or of the last one; minus a signal.
    """

    batch: Batch
    delivered: list[Item] = field(default_factory=list)
    failed: list[tuple[Item, str]] = field(default_factory=list)
    unplaced: list[tuple[Item, str]] = field(default_factory=list)
    gone: list[tuple[Item, str]] = field(default_factory=list)
    conflicts: list[tuple[Item, str]] = field(default_factory=list)
    postponed: list[tuple[Item, str]] = field(default_factory=list)
    later: list[tuple[Item, str]] = field(default_factory=list)
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

    @classmethod
    def not_begun(cls, batch: Batch, why: str) -> TransferResult:
        """Tell that a batch was not begun."""
        return cls(batch, later=[(item, why) for item in batch.items], error=why)

    @property
    def told(self) -> set[int]:
        """The ids of the files of which is known what came of them."""
        groups = (
            self.failed,
            self.unplaced,
            self.gone,
            self.conflicts,
            self.postponed,
            self.later,
        )
        told = {item.row.id for group in groups for item, _ in group}
        return told.union(item.row.id for item in self.delivered)

    @property
    def rate(self) -> float | None:
        """Bytes a second of the transfer."""
        if not self.transfer_duration:
            return None
        return self.batch.size_bytes / self.transfer_duration


@dataclass(frozen=True)
class Unrecovered:
    """What recovery could not finish.

    Attributes
    ----------
    trouble : `DbbError` or `None`
        The far end could not be asked: nothing may be sent.
    refused : `DbbError` or `None`
        It could not do what it was asked for some batches.
    files : `frozenset` [ `int` ]
        Ids of the files of these batches, of which is not known whether they are there.
    """

    trouble: DbbError | None = None
    refused: DbbError | None = None
    files: frozenset[int] = frozenset()


def changed(buffer: str, row: HandoffRow, rel: str) -> str:
    """Return what became of a file of the buffer, or nothing if it is the same version."""
    if (status := status_of(os.path.join(buffer, rel))) is None:
        return "no longer in the buffer"
    if Version.of_file(status) != Version.of_row(row):
        return "replaced in the buffer by another version"
    return ""
