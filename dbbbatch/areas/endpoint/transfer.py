"""One batch on its way to the far end: prepare, send, verify, place. Uses no database.

A `Sender` has a session with the far end and sends one batch after the other. The streams of a pass
are several of them, in threads. What is sent, and what came of it, is in `batch`; how it is sent is
the matter of a `TransferCommand`, or else of a `TransferStream`. `Sender.send` raises nothing, so
that no thread ends unnoticed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dbbbatch.areas.buffer import prepare_files, why_gone
from dbbbatch.areas.endpoint import session
from dbbbatch.areas.endpoint.batch import Batch, FileFate, Prepared, SendStatus, TransferResult
from dbbbatch.areas.endpoint.charge import Evidence
from dbbbatch.areas.endpoint.line import Line
from dbbbatch.areas.endpoint.space import SpaceBudget
from dbbbatch.areas.endpoint.transfer_command import TransferCommand, time_limit
from dbbbatch.areas.endpoint.transfer_stream import TransferStream
from dbbbatch.config import fields
from dbbbatch.config.sections import Handoff
from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.errors import DbbError, TryLater
from dbbbatch.files import checksum, faults, names, place, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.process import template

#: The fate of what did not arrive although its command succeeded.
_NOT_WHOLE = FileFate(
    SendStatus.FAILED, "it did not arrive whole although the transfer reported success"
)


def endpoint_address(section: Handoff) -> session.EndpointAddress:
    """Return where a handoff's far end is and how to reach it."""
    endpoint = section.endpoint
    return session.EndpointAddress(
        buffer=endpoint.buffer,
        staging=endpoint.staging,
        remote=template.parse_command(endpoint.remote) if endpoint.remote else None,
        values={name: os.fsencode(value) for name, value in endpoint.placeholders.items()},
        algorithm=section.checksum,
        unpacks=section.has_stream,
        bandwidth=section.bandwidth,
    )


def probe_of(attempt: str) -> str:
    """Return the name of the attempt in which a probe is sent on behalf of a batch."""
    return f"{attempt}-trial"


def probe_of_directory(section: Handoff, buffer: Tree, directory: str) -> Entry:
    """Return a probe in a directory of the buffer: always the same, for a next pass."""
    return Entry(buffer, directory, temporary.probe_path("", section.label))


@dataclass(frozen=True)
class Shared:
    """What those have in common that send at the same time.

    Attributes
    ----------
    room : `SpaceBudget`
    evidence : `Evidence`
    line : `Line`
        Whoever sends by the built-in stream uses it.
    record : `~collections.abc.Callable`
        Has recorded what was read of the files of a batch; it returns what says when that is done.
    """

    room: SpaceBudget = field(default_factory=SpaceBudget)
    evidence: Evidence = field(default_factory=Evidence)
    line: Line = field(default_factory=lambda: Line(1))
    record: Callable[[TransferResult], Future[None]] | None = None


class Sender:
    """Sends batches over one session.

    Parameters
    ----------
    section : `~dbbbatch.config.sections.Handoff`
    buffer : `~dbbbatch.files.tree.Tree`
        Its buffer.
    lists : `str`
        The directory for the lists that ``{files_from}`` names.
    shared : `Shared`, optional
        What it shares with other senders.
    kept : `~dbbbatch.areas.endpoint.session.Session`, optional
        A session that was opened before; else a new one is opened when it is needed.
    """

    def __init__(
        self,
        section: Handoff,
        buffer: Tree,
        lists: str,
        shared: Shared | None = None,
        kept: session.Session | None = None,
    ) -> None:
        self._section = section
        self._buffer = buffer
        shared = shared or Shared()
        self._room, self._evidence = shared.room, shared.evidence
        self._line, self._record = shared.line, shared.record
        self.session = kept or session.Session(endpoint_address(section))
        self._way: TransferCommand | TransferStream = (
            TransferStream(section, buffer, self.session, self._line)
            if section.has_stream
            else TransferCommand(section, self.session, lists)
        )

    def send(self, batch: Batch) -> TransferResult:
        """Send a batch, and return what came of it."""
        result = TransferResult(batch)
        try:
            self._send(batch, result)
        except session.Refused as error:
            result.fail(error, unknown=result.transfer_started is not None)
        except TryLater as error:
            result.fail(error, unknown=True)
        except DbbError as error:
            result.fail(error)
        except BaseException as error:  # noqa: BLE001  (else the pass would wait for ever)
            result.fail(faults.of_a_thread(error, "sending"), unknown=True)
        finally:
            self._room.release(batch.attempt)
        if not result.unknown:
            result.settle_rest(SendStatus.LATER, result.error or "not sent")
        return result

    def clean(self, attempt: str) -> None:
        """Remove what is left of an attempt at the far end and here."""
        self._way.clean(attempt)
        self.session.clean(attempt, self._section.timeout)

    def verify_and_place(
        self,
        attempt: str,
        items: Sequence[Prepared],
        result: TransferResult,
        *,
        again: bool = False,
        cut_off: bool = False,
    ) -> None:
        """Verify files that should have arrived, place those that did, and note it in the result.

        Parameters
        ----------
        again : `bool`
            They are not all the files of the batch.
        cut_off : `bool`
            The transfer did not end by itself, so a file may be whole but not finished.
        """
        if cut_off:
            items, again = self._finished(attempt, items), True
        right = self.session.verify(attempt, items, self._limit(items), again)
        if right:
            self._evidence.sent.update(item.directory for item in right)
            self.place(attempt, right, result)

    def place(self, attempt: str, items: Sequence[Prepared], result: TransferResult) -> None:
        """Place files that were verified, and note what came of them in the result.

        Recovery knows what was placed by the record of what was read: it waits for that.
        """
        if result.recorded:
            result.recorded.result()
        placed = self.session.place_files(attempt, self._limit(items))
        if placed.kept:
            self.spare_bytes()
        for item in items:
            if item.raw not in placed.kept:
                result.settle(item, SendStatus.DELIVERED)
            elif item.raw in placed.taken:
                _compare_taken(item, placed.taken[item.raw], result)
            elif item.raw in placed.closed:
                where = names.printable(os.path.join(self._section.endpoint.buffer, item.directory))
                why = f"no file can be placed in {where}: {placed.kept[item.raw]}"
                result.settle(item, SendStatus.POSTPONED, why)
                self._evidence.refused.setdefault(item.directory, why)
            else:
                why = f"cannot be placed in {self._section.endpoint.buffer}"
                result.settle(item, SendStatus.UNPLACED, f"{why}: {placed.kept[item.raw]}")

    def probe(self, attempt: str, directory: str = "") -> str | None:
        """Send a file of ours from a directory of the buffer to staging and no further.

        Returns
        -------
        why : `str` or `None`
            Why it did not arrive; '' if it did, and `None` if none can be written there.
        """
        with self._evidence.probing():
            self._buffer.forget()
            file = probe_of_directory(self._section, self._buffer, directory)
            try:
                place.write_probe(file)
            except OSError:
                return None
            try:
                why = self._send_probe(attempt, file)
            finally:
                with contextlib.suppress(OSError):  # the next pass removes it
                    file.remove()
        if not why:
            self._evidence.sent.add(directory)
        return why

    def spare_bytes(self) -> int:
        """Return how much of the far end's free space may be filled.

        Raises
        ------
        session.Refused
            It has less than it must keep.
        """
        return self._spare(self.session.free_bytes())

    def _send(self, batch: Batch, result: TransferResult) -> None:
        began = time.monotonic()
        to_send = self._prepare(batch, result)
        result.prepare_duration = time.monotonic() - began
        if not to_send:
            return
        failures = self._try(batch, to_send, result, again=len(to_send) != len(batch.items))
        alone = len(batch.items) == 1 and not result.fate_of
        if alone and self._forget_partials(batch, to_send, failures):
            # What was left of an earlier try may have spoiled this one.
            failures = self._try(batch, to_send, result, again=True)
        self._account(result, failures)
        failed = [item for item, _ in result.having(SendStatus.FAILED)]
        self._forget_partials(batch, failed, failures)
        if isinstance(self._way, TransferCommand):
            self._excuse(result, failures)
        elif len(batch.items) == 1 and not self._evidence.sent:
            # Nothing shows yet that another file would have arrived.
            for item in failed:
                result.settle(item, SendStatus.POSTPONED, result.fate_of[item.row.id].reason)

    def _prepare(self, batch: Batch, result: TransferResult) -> list[Prepared]:
        """Make the attempt's directory; return what is not in the endpoint's buffer yet."""
        links = self._way.numbered_directories(batch.items)
        rels = [item.raw for item in batch.items]
        filled = self._room.filled
        # What the buffer has already is read there, which takes time.
        free, taken = self.session.begin(batch.attempt, rels, links, self._limit(batch.items))
        to_send = []
        for item in batch.items:
            if item.raw not in taken:
                to_send.append(item)
            elif item.digest or self._read(item, result):
                _compare_taken(item, taken[item.raw], result)
        wanted = sum(item.size_bytes for item in to_send)
        spare = self._room.reserve(
            batch.attempt, wanted, self._spare(free), filled, self.spare_bytes
        )
        if wanted <= spare:
            return to_send
        rel = names.printable(to_send[0].rel)
        what = rel if len(to_send) == 1 else f"{names.counted(len(to_send), 'file')} from {rel} on"
        result.error = self._too_little(
            spare + self._section.min_free, f"{what} ({fields.size_text(wanted)})"
        )
        result.no_room = True
        return []

    def _try(
        self, batch: Batch, items: Sequence[Prepared], result: TransferResult, *, again: bool
    ) -> dict[int, FileFate]:
        """Send, verify and place files; return the failures of commands, by id."""
        with self._line.use(long=batch.long) if self._section.has_stream else nullcontext():
            result.transfer_started = result.transfer_started or _now()
            began = time.monotonic()
            try:
                failures = self._way.send(batch, items, result)
            finally:
                spent = time.monotonic() - began
                result.transfer_duration = (result.transfer_duration or 0) + spent
        batch.sent = True
        if failures:
            self.session.end(batch.attempt)
        if self._record and self._section.has_stream:
            result.recorded = self._record(result)
        result.place_started, began = _now(), time.monotonic()
        whole = [item for item in items if item.row.id not in result.fate_of]
        items, again = whole, again or len(whole) != len(items)
        self.verify_and_place(batch.attempt, items, result, again=again, cut_off=result.cut_off)
        result.place_duration = time.monotonic() - began
        return failures

    def _read(self, item: Prepared, result: TransferResult) -> bool:
        """Read a file of whose name the far end has one; return whether it can be compared."""
        (found,) = prepare_files(self._section, self._buffer, [item.row], read=True)
        if isinstance(found, Prepared):
            item.row, item.digest = found.row, found.digest
        elif found:
            result.settle(item, *found)
        else:
            result.settle(item, SendStatus.LATER, "not sent: it changes")
        return bool(item.digest)

    def _finished(self, attempt: str, items: Sequence[Prepared]) -> list[Prepared]:
        """Return the files that arrived with time and permissions of their sources.

        Only the permissions to read and execute count: the far end may have changed the others.
        """
        found = self.session.modes_and_times(attempt, [item.raw for item in items])
        finished = []
        for item in items:
            with contextlib.suppress(OSError):
                status = self._buffer.entry(item.rel).lstat()
                seconds, mode = found.get(item.raw, (None, 0))
                if (seconds, mode & 0o555) == (int(status.st_mtime), status.st_mode & 0o555):
                    finished.append(item)
        return finished

    def _account(self, result: TransferResult, failures: Mapping[int, FileFate]) -> None:
        """Note why files did not arrive; the far end answers, so it is not the network."""
        missing = [
            (item, failures.get(item.row.id, _NOT_WHOLE).reason) for item in result.unsettled()
        ]
        self._buffer.forget()
        if missing and failures:
            self.spare_bytes()
        for _, why in missing:
            if any(words in why for words in session.FULL_WORDS):
                # It is the quota or the table of files: the free bytes do not show these.
                result.no_room = True
                result.error = f"{self.session.place.name}: {self._section.endpoint.staging}: {why}"
                return
        for item, why in missing:
            gone = ""
            with contextlib.suppress(OSError):  # it is there, but cannot be looked at
                gone = why_gone(self._buffer.entry(item.rel), item.row)
            result.settle(item, SendStatus.VANISHED if gone else SendStatus.FAILED, gone or why)

    def _excuse(self, result: TransferResult, failures: Mapping[int, FileFate]) -> None:
        """Charge no file with what is not its own fault.

        A file that was sent with others is not charged anyway: it is tried alone. Then it is
        charged if the line held and a probe from its directory arrives. Where nothing of a
        directory arrives, a probe shows at once whether that is so for each of its files.
        """
        alone = len(result.batch.items) == 1
        for item, why in result.having(SendStatus.FAILED) if alone else ():
            result.settle(item, failures.get(item.row.id, _NOT_WHOLE).status, why)
        arrived = {item.directory for item, _ in result.having(SendStatus.DELIVERED)}
        for status, certain in ((SendStatus.FAILED, alone), (SendStatus.UNPLACED, True)):
            suspected = [item.directory for item, _ in result.having(status)]
            suspected = [directory for directory in suspected if directory not in arrived]
            if suspected:
                self._probe_directory(result, suspected[0], certain)
            if result.trouble:
                for item, why in result.having(SendStatus.FAILED):
                    result.settle(item, SendStatus.LATER, why)
                return
        for item, why in result.having(SendStatus.FAILED, SendStatus.UNPLACED):
            refused = self._evidence.refused.get(item.directory)
            unknown = alone and item.directory not in self._evidence.sent
            if item.directory not in arrived and (refused or unknown):
                result.settle(item, SendStatus.POSTPONED, refused or why)

    def _probe_directory(self, result: TransferResult, directory: str, certain: bool) -> None:
        """Find out whether another file of a directory can be sent, and could be placed.

        If no file of the buffer can, that is the trouble of the result. With `certain` it is not
        enough that one was sent before.
        """
        known = self._evidence
        if directory in known.refused or (directory in known.sent and not certain):
            return
        attempt = probe_of(result.batch.attempt)
        why = self.probe(attempt, directory)
        if why == "":
            return
        top = self.probe(attempt) if directory else why
        if top and (directory or not known.sent):
            result.trouble = TryLater(
                f"the transfer command fails for every file: {top}",
                key=f"{self._section.label}: its transfer command fails for every file",
            )
        elif why:
            where = names.printable(os.path.join(self._section.buffer, directory))
            known.refused[directory] = f"the transfer command sends no file of {where}: {why}"

    def _send_probe(self, attempt: str, file: Entry) -> str:
        made = checksum.ALGORITHMS[self._section.checksum]()
        made.update(place.PROBE)
        version = Version.of_file(file.lstat())
        row = HandoffRow(file.relpath, file.name, *version)
        item = Prepared(row, file.rel, made.hexdigest())
        batch = Batch(attempt, [item])
        links = self._way.numbered_directories(batch.items)
        self.session.begin(attempt, [item.raw], links)
        try:
            failures = self._way.send(batch, [item], TransferResult(batch))
            if failures:
                self.session.end(attempt)
            if self.session.verify(attempt, [item], self._limit([item])):
                self.session.try_place(attempt)
                return ""
        except session.Refused as error:
            return str(error)
        finally:
            with contextlib.suppress(session.Refused):  # the janitor removes it
                self.clean(attempt)
        return failures.get(0, _NOT_WHOLE).reason

    def _forget_partials(
        self, batch: Batch, items: Sequence[Prepared], failures: Mapping[int, FileFate]
    ) -> bool:
        """Remove what was kept of files that failed though the line held; return if any was."""
        partials = self._way.partials
        failed = [
            item.raw
            for item in items
            if failures.get(item.row.id, _NOT_WHOLE).status is SendStatus.FAILED
        ]
        if not partials or not failed:
            return False
        return self.session.forget_partials(batch.attempt, partials, failed)

    def _limit(self, items: Sequence[Prepared]) -> float:
        return time_limit(self._section, sum(item.size_bytes for item in items))

    def _spare(self, free: int) -> int:
        if free < self._section.min_free:
            raise session.Refused(
                self._too_little(free, "any file"), key=self._section.endpoint.key_of_full
            )
        return free - self._section.min_free

    def _too_little(self, free: int, what: str) -> str:
        return (
            f"{self.session.place.name}: {fields.size_text(free)} free in "
            f"{self._section.endpoint.staging}: too little for {what}: "
            f"{fields.size_text(self._section.min_free)} must stay free (min_free)"
        )


def _compare_taken(item: Prepared, digest: str | None, result: TransferResult) -> None:
    """Note what follows from a file that has the name in the endpoint's buffer already."""
    if digest == item.digest:
        result.settle(item, SendStatus.DELIVERED)
        return
    what = "a file of this name with another content"
    if digest == session.NO_DIRECTORY:
        what = "something that is no directory where its directory should be"
    result.settle(item, SendStatus.CONFLICT, f"the endpoint's buffer has {what}")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
