"""How files are sent without a command: as a stream through the session, each of them read once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint.batch import (
    Batch,
    FileFate,
    Prepared,
    SendStatus,
    TransferResult,
    kept_name,
)
from dbbbatch.areas.endpoint.line import Line
from dbbbatch.areas.endpoint.session import Session, Streamed
from dbbbatch.areas.endpoint.stream import Outgoing, Rest
from dbbbatch.areas.endpoint.transfer_command import time_limit
from dbbbatch.config.sections import Handoff
from dbbbatch.files import checksum
from dbbbatch.files.tree import Tree

#: What cannot be read is filled up with zeros on the line. A file of this size or more is therefore
#: opened once before (bytes).
_TRIED_FIRST = 1 << 20


class TransferStream:
    """Sends files of batches through the session, when the line is free for them.

    No failure here is the fault of a file, but that it cannot be read: nothing else than the
    session sends it.
    """

    #: Nothing that was interrupted is continued.
    partials = ""

    def __init__(self, section: Handoff, tree: Tree, session: Session, line: Line) -> None:
        self._section = section
        self._buffer = tree
        self._session = session
        self._line = line

    def numbered_directories(self, items: Sequence[Prepared]) -> list[bytes]:
        """Return the directories to which numbered links are needed in staging: none."""
        return []

    def send(
        self, batch: Batch, items: Sequence[Prepared], result: TransferResult
    ) -> dict[int, FileFate]:
        """Send files of a batch, which learn their checksums; settle those that were not sent.

        Returns
        -------
        failures : `dict` [ `int`, `FileFate` ]
            If the far end complains: why the others may not have arrived, by the id of their row.

        Raises
        ------
        TryLater
            The line, the far end or the disk here is at fault.
        """
        self._buffer.forget()
        outgoing = {item.raw: self._outgoing(item, result) for item in items}
        files = [file for file in outgoing.values() if file is not None]
        if not files:
            return {}
        sent = None
        if len(batch.items) == 1 and files[0].size_bytes >= self._section.resume_from:
            sent = self._resume(batch.attempt, items[0].row.id, files[0])
        if sent is None:
            stall, pace = self._section.timeout, self._line.pace
            limit = time_limit(self._section, sum(file.size_bytes for file in files))
            sent = self._session.stream(batch.attempt, files, stall, pace, limit)
        for item in items:
            outcome = sent.outcomes.get(item.raw)
            if isinstance(outcome, str):
                item.learn(self._section.checksum, outcome)
            elif outcome is not None:
                self._leave_out(item, outcome, result)
        if not sent.complaint:
            return {}
        result.error = f"unpacking: {sent.complaint}"
        fate = FileFate(SendStatus.FAILED, result.error)
        return {item.row.id: fate for item in items if item.row.id not in result.fate_of}

    def clean(self, attempt: str) -> None:
        """Remove what was written here for an attempt: nothing was."""

    def _resume(self, attempt: str, number: int, file: Outgoing) -> Streamed | None:
        """Continue a file of which a part arrived; `None` if there is none, or of another file."""
        limit = time_limit(self._section, file.size_bytes)
        part = self._session.kept_part(attempt, file.raw, kept_name(attempt, number), limit)
        if part is None:
            return None
        most_at_once = self._session.place.most_at_once
        with Rest(file, self._section.checksum, most_at_once) as rest:
            if not rest.skip(*part):
                return None
            stall, pace = self._section.timeout, self._line.pace
            return self._session.send_rest(attempt, file, rest, stall, pace)

    def _outgoing(self, item: Prepared, result: TransferResult) -> Outgoing | None:
        row, file = item.row, self._buffer.entry(item.rel)
        open_file = partial(buffer.open_version, file, row)
        try:
            status = item.status or file.lstat()
            if row.size_bytes >= _TRIED_FIRST:
                os.close(open_file())
        except OSError as error:
            self._leave_out(item, error, result)
            return None
        return Outgoing(
            item.raw, open_file, row.size_bytes, status.st_mode, status.st_mtime_ns, item.digest
        )

    def _leave_out(self, item: Prepared, error: OSError, result: TransferResult) -> None:
        """Settle a file that is not, or no longer, what was to be sent."""
        file = self._buffer.entry(item.rel)
        gone = buffer.why_gone(file, item.row) if isinstance(error, checksum.Changed) else ""
        fate = buffer.fate_of_unreadable(file, error)
        if gone:
            result.settle(item, SendStatus.VANISHED, gone)
        elif fate:
            result.settle(item, *fate)
        else:
            result.settle(item, SendStatus.LATER, f"not sent: {error.strerror}")
