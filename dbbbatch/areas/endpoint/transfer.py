"""One batch on its way to the far end: prepare, transfer, verify, place. Knows no database.

A `Sender` has a session with the far end and sends one batch after the other; several of them, in
threads, are the streams of a pass. What came of a batch is returned as a `TransferResult`; nothing
is raised, so that no thread can end unheard.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from dbbbatch.areas.endpoint import charge, session
from dbbbatch.areas.endpoint.batch import Batch, Item, TransferResult, changed
from dbbbatch.areas.endpoint.charge import NOT_WHOLE, Evidence, Failure
from dbbbatch.areas.endpoint.space import SpaceBudget
from dbbbatch.config import fields
from dbbbatch.config.sections import Handoff
from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.errors import DbbError, TryLater
from dbbbatch.files import checksum, names, place, scan, state, temporary
from dbbbatch.files.identity import Version
from dbbbatch.process import run, template

#: What a transfer command says last where there is no room, though there may be free bytes.
_FULL = ("No space left on device", "Disk quota exceeded")

#: Where rsync is told to leave what it has of a file when it is cut off; for one directory only.
_PARTIAL = re.compile(r"--partial-dir=(/[A-Za-z0-9._/-]+)")


def endpoint_address(section: Handoff) -> session.EndpointAddress:
    """Give where a handoff's far end is and how to reach it."""
    endpoint = section.endpoint
    return session.EndpointAddress(
        buffer=endpoint.buffer,
        staging=endpoint.staging,
        remote=template.parse_command(endpoint.remote) if endpoint.remote else None,
        values={name: os.fsencode(value) for name, value in endpoint.placeholders.items()},
        algorithm=section.checksum,
    )


def probe_of(attempt: str) -> str:
    """Name the attempt of a probe that is made on behalf of a batch, and cleaned up with it."""
    return f"{attempt}-trial"


def probe_of_directory(section: Handoff, directory: str) -> str:
    """Return the path of a probe in a directory of the buffer: always the same, for a next pass."""
    return temporary.probe_path(os.path.join(section.buffer, directory), section.label)


class Sender:
    """Sends batches over one session.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Handoff`
    lists : `str`
        Directory for the lists that ``{files_from}`` names.
    room : `SpaceBudget`, optional
        Shared by those that send at the same time.
    evidence : `dbbbatch.areas.endpoint.charge.Evidence`, optional
        As well.
    """

    def __init__(
        self,
        section: Handoff,
        lists: str,
        room: SpaceBudget | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        self._section = section
        self._room = room or SpaceBudget()
        self._evidence = evidence or Evidence()
        self._command = template.parse_command(section.endpoint.transfer)
        self._lists = lists
        self.session = session.Session(endpoint_address(section))

    def send(self, batch: Batch) -> TransferResult:
        """Send a batch, and tell what came of it."""
        sent = TransferResult(batch)
        try:
            self._send(batch, sent)
        except session.Refused as error:
            sent.trouble = error
            sent.unknown = sent.transfer_started is not None
            sent.error = str(error)
        except TryLater as error:
            sent.trouble, sent.unknown, sent.error = error, True, str(error)
        except DbbError as error:
            sent.trouble, sent.error = error, str(error)
        except OSError as error:  # of the list of files
            sent.trouble = TryLater(f"{error.filename or self._lists}: {error.strerror}")
            sent.error = str(sent.trouble)
        except BaseException as error:  # noqa: BLE001  (a thread that ended unheard would hang the pass)
            sent.trouble = DbbError(f"sending failed: {type(error).__name__}: {error}")
            sent.unknown, sent.error = True, str(sent.trouble)
            sent.trouble.__cause__ = error
        finally:
            self._room.release(batch.attempt)
        if not sent.unknown:
            told, why = sent.told, sent.error or "not sent"
            sent.later += [(item, why) for item in batch.items if item.row.id not in told]
        return sent

    def clean(self, attempt: str) -> None:
        """Remove what is left of an attempt at the far end and here."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._list_path(attempt))
        self.session.clean(attempt, self._section.timeout)

    def verify_and_place(
        self,
        attempt: str,
        items: Sequence[Item],
        sent: TransferResult,
        *,
        again: bool = False,
        cut_off: bool = False,
    ) -> None:
        """Verify files that should have arrived and place those that did.

        Parameters
        ----------
        attempt : `str`
        items : `~collections.abc.Sequence` [ `Item` ]
        sent : `TransferResult`
            Is told what came of them.
        again : `bool`
            They are not all the files of the batch.
        cut_off : `bool`
            The transfer did not end by itself, so a file may be whole but not finished.
        """
        if cut_off:
            items, again = self._finished(attempt, items), True
        limit = self.limit(sum(item.row.size_bytes for item in items))
        by_rel = {item.raw: item for item in items}
        right = self.session.verify(attempt, [item.expected for item in items], limit, again)
        if right:
            self._evidence.sent.update(by_rel[file.rel].directory for file in right)
            self.place(attempt, [by_rel[file.rel] for file in right], sent)

    def _finished(self, attempt: str, items: Sequence[Item]) -> list[Item]:
        """Choose the files that have time and permissions of their sources.

        Permissions as far as they go along: the far end may have taken the others already.
        """
        shapes = self.session.modes_and_times(attempt, [item.raw for item in items])
        finished = []
        for item in items:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(self._section.buffer, item.rel))
                seconds, mode = shapes.get(item.raw, (None, 0))
                # As far as the far end lets permissions through.
                if (seconds, mode & 0o555) == (int(status.st_mtime), status.st_mode & 0o555):
                    finished.append(item)
        return finished

    def place(self, attempt: str, items: Sequence[Item], sent: TransferResult) -> None:
        """Place files that were verified."""
        limit = self.limit(sum(item.row.size_bytes for item in items))
        placed = self.session.place_files(attempt, limit)
        if placed.kept:
            self._must_have_spare()
        for item in items:
            if item.raw not in placed.kept:
                sent.delivered.append(item)
            elif item.raw in placed.taken:
                self._compare(item, placed.taken[item.raw], sent)
            elif item.raw in placed.closed:
                where = names.printable(os.path.join(self._section.endpoint.buffer, item.directory))
                why = f"no file can be placed in {where}: {placed.kept[item.raw]}"
                sent.postponed.append((item, why))
                self._evidence.refused.setdefault(item.directory, why)
            else:
                where, why = self._section.endpoint.buffer, placed.kept[item.raw]
                sent.unplaced.append((item, f"cannot be placed in {where}: {why}"))

    def limit(self, size_bytes: int) -> float:
        """Return the time limit of whatever handles so many bytes, in seconds."""
        return self._section.timeout + size_bytes / max(1, self._section.min_rate)

    def _send(self, batch: Batch, sent: TransferResult) -> None:
        began = time.monotonic()
        to_send = self._prepare(batch, sent)
        sent.prepare_duration = time.monotonic() - began
        if not to_send:
            return
        failures = self._try(batch, to_send, sent, again=len(to_send) != len(batch.items))
        alone = len(batch.items) == 1 and not sent.told
        if alone and self._forget_partials(batch, to_send, failures):
            # What was left of an earlier try may have spoiled this one.
            failures = self._try(batch, to_send, sent, again=True)
        self._account(to_send, sent, failures)
        self._forget_partials(batch, [item for item, _ in sent.failed], failures)
        self._probe_command(sent, failures)

    def _try(
        self, batch: Batch, items: Sequence[Item], sent: TransferResult, *, again: bool
    ) -> dict[int, Failure]:
        """Run the commands for files, verify and place them; return why commands failed, by id."""
        sent.transfer_started = sent.transfer_started or _now()
        began = time.monotonic()
        try:
            failures = self._transfer(batch, items, sent)
        finally:
            sent.transfer_duration = (sent.transfer_duration or 0) + time.monotonic() - began
        if failures:
            self.session.end(batch.attempt)
        sent.place_started, began = _now(), time.monotonic()
        self.verify_and_place(batch.attempt, items, sent, again=again, cut_off=sent.cut_off)
        sent.place_duration = time.monotonic() - began
        return failures

    def _probe_command(self, sent: TransferResult, failures: Mapping[int, Failure]) -> None:
        """Charge no file with what is not its own fault.

        One that was sent with others is not charged anyway: it is tried alone. It is charged then
        if the line held and a probe from its directory arrives. Where nothing of a directory
        arrives, a probe tells at once whether that is so for each of its files.
        """
        alone = len(sent.batch.items) == 1
        if alone and sent.failed and failures.get(sent.failed[0][0].row.id, NOT_WHOLE).lost:
            sent.postponed, sent.failed = [*sent.postponed, *sent.failed], []
        arrived = {item.directory for item in sent.delivered}
        for group, certain in ((sent.failed, alone), (sent.unplaced, True)):
            suspected = [item.directory for item, _ in group if item.directory not in arrived]
            if suspected:
                self._ask_a_probe(sent, suspected[0], certain)
            if sent.trouble:
                sent.later, sent.failed = [*sent.later, *sent.failed], []
                return
        for group in (sent.failed, sent.unplaced):
            for item, why in list(group):
                refused = self._evidence.refused.get(item.directory)
                unknown = alone and item.directory not in self._evidence.sent
                if item.directory not in arrived and (refused or unknown):
                    group.remove((item, why))
                    sent.postponed.append((item, refused or why))

    def _ask_a_probe(self, sent: TransferResult, directory: str, certain: bool) -> None:
        """Find out whether another file of a directory can be sent, and could be placed.

        Parameters
        ----------
        sent : `TransferResult`
            Gets its trouble where nothing of the buffer can.
        directory : `str`
        certain : `bool`
            That one was sent before is not enough.
        """
        known = self._evidence
        if directory in known.refused or (directory in known.sent and not certain):
            return
        attempt = probe_of(sent.batch.attempt)
        why = self.probe(attempt, directory)
        if why == "":
            return
        top = self.probe(attempt) if directory else why
        if top and (directory or not known.sent):
            sent.trouble = TryLater(f"the transfer command fails for every file: {top}")
        elif why:
            where = names.printable(os.path.join(self._section.buffer, directory))
            known.refused[directory] = f"the transfer command sends no file of {where}: {why}"

    def probe(self, attempt: str, directory: str = "") -> str | None:
        """Send a file of ours from a directory of the buffer to staging and no further.

        Returns
        -------
        why : `str` or `None`
            Why it did not arrive; '' if it did, and `None` if none can be written there.
        """
        with self._evidence.probing():
            path = probe_of_directory(self._section, directory)
            try:
                if scan.detour(self._section.buffer, directory):
                    return None
                place.write_probe(path)
            except OSError:
                return None
            try:
                why = self._send_probe(attempt, path, os.path.join(directory, names.split(path)[1]))
            finally:
                with contextlib.suppress(OSError):  # the next pass removes it
                    place.remove_if_there(path)
        if not why:
            self._evidence.sent.add(directory)
        return why

    def _send_probe(self, attempt: str, path: str, rel: str) -> str:
        made = checksum.ALGORITHMS[self._section.checksum]()
        made.update(place.PROBE)
        digest = made.hexdigest()
        status = os.lstat(path)
        relpath, name = names.split(rel)
        item = Item(HandoffRow(relpath, name, *Version.of_file(status)), rel, digest)
        batch = Batch(attempt, [item])
        self.session.begin(attempt, [item.raw], self._links(batch))
        try:
            failures = self._transfer(batch, [item], TransferResult(batch))
            if failures:
                self.session.end(attempt)
            if self.session.verify(attempt, [item.expected], self.limit(status.st_size)):
                self.session.try_place(attempt)
                return ""
        except session.Refused as error:
            return str(error)
        finally:
            with contextlib.suppress(session.Refused):  # the janitor sweeps it up
                self.clean(attempt)
        return failures.get(0, NOT_WHOLE).text

    def _forget_partials(
        self, batch: Batch, items: Sequence[Item], failures: Mapping[int, Failure]
    ) -> bool:
        """Remove what was kept of files that failed though the line held; return if any was."""
        staging = self.session.place.staging
        found = _PARTIAL.search(self._command.shown().replace("{staging}", staging))
        if not found or not found[1].startswith(f"{staging}/") or "/.." in found[1]:
            return False
        wanted = [item.raw for item in items if not failures.get(item.row.id, NOT_WHOLE).lost]
        directory = found[1].removeprefix(f"{staging}/")
        return bool(wanted) and self.session.forget_partials(batch.attempt, directory, wanted)

    def _links(self, batch: Batch) -> list[bytes]:
        """Return the directories for which the command wants numbered directories."""
        return [] if self._command.source == "files_from" else list(_by_directory(batch.items))

    def _prepare(self, batch: Batch, sent: TransferResult) -> list[Item]:
        """Make the attempt's directory; return what is not in the endpoint's buffer yet."""
        links = self._links(batch)
        names_ = [item.raw for item in batch.items]
        # What the buffer has already is read there.
        look = self.session.begin(batch.attempt, names_, links, self.limit(batch.size_bytes))
        to_send = []
        for item in batch.items:
            if item.raw in look.taken:
                self._compare(item, look.taken[item.raw], sent)
            else:
                to_send.append(item)
        wanted = sum(item.row.size_bytes for item in to_send)
        spare = self._room.reserve(
            batch.attempt, wanted, self._spare(look.free_bytes), self._must_have_spare
        )
        if wanted <= spare:
            return to_send
        rel = names.printable(to_send[0].rel)
        what = rel if len(to_send) == 1 else f"{len(to_send)} files from {rel} on"
        sent.error = self._too_little(
            spare + self._section.min_free, f"{what} ({fields.size_text(wanted)})"
        )
        sent.no_room = True
        return []

    def check_space(self) -> None:
        """Raise `receive.Refused` if the far end has less free space than it must keep."""
        self._must_have_spare()

    def _must_have_spare(self) -> int:
        return self._spare(self.session.free_bytes())

    def _spare(self, free: int) -> int:
        """Give how much of the free space may be filled, or raise `receive.Refused`."""
        if free < self._section.min_free:
            raise session.Refused(self._too_little(free, "anything"))
        return free - self._section.min_free

    def _too_little(self, free: int, what: str) -> str:
        return (
            f"{self.session.place.name}: {fields.size_text(free)} free in "
            f"{self._section.endpoint.staging}: too little for {what} and min_free "
            f"({fields.size_text(self._section.min_free)})"
        )

    def _compare(self, item: Item, digest: str | None, sent: TransferResult) -> None:
        """Decide about a file whose name the endpoint's buffer has already."""
        if digest == item.digest:
            sent.delivered.append(item)
            return
        what = "a file of this name with another content"
        if digest == session.NO_DIRECTORY:
            what = "something that is no directory where its directory should be"
        sent.conflicts.append((item, f"the endpoint's buffer has {what}"))

    def _transfer(
        self, batch: Batch, items: Sequence[Item], sent: TransferResult
    ) -> dict[int, Failure]:
        """Run the transfer command, or one for each directory or file.

        Returns
        -------
        failures : `dict` [ `int`, `Failure` ]
            Why the command of a file failed, by the id of its row.
        """
        failures: dict[int, Failure] = {}
        texts: list[str] = []
        commands = self._commands(batch, items)
        for number, (argv, group) in enumerate(commands):
            size = sum(item.row.size_bytes for item in group)
            finished = run.run(argv, timeout=self.limit(size))
            status = finished.exit_code if finished.signal is None else -finished.signal
            if not texts:
                sent.exit_status = status
            if status not in self._section.success_codes or finished.timed_out:
                tool = os.path.basename(os.fsdecode(argv[0]))
                # The attempt has another name each time, and it is the same trouble.
                texts.append(f"{tool}: {finished.summary()}".replace(batch.attempt, "*"))
                lost = charge.lost_line(self._section.endpoint.transfer, finished)
                failures.update((item.row.id, Failure(texts[-1], lost)) for item in group)
                sent.cut_off = sent.cut_off or finished.exit_code is None or finished.timed_out
                # Is it the files, or is nobody there any more?
                self.session.free_bytes()
                if finished.timed_out:
                    unsent = [item for _, group in commands[number + 1 :] for item in group]
                    failures.update((item.row.id, Failure(texts[-1], True)) for item in unsent)
                    break
        if texts:
            more = f" (and {len(texts) - 1} more commands)" if len(texts) > 1 else ""
            sent.error = texts[0] + more
        return failures

    def _commands(
        self, batch: Batch, items: Sequence[Item]
    ) -> list[tuple[list[bytes], Sequence[Item]]]:
        """Return the commands that send the files, with those of each."""
        root = os.fsencode(self._section.buffer)
        place = os.fsencode(f"{self._section.endpoint.staging}/{batch.attempt}")
        values: dict[str, bytes | Sequence[bytes]] = {
            **self.session.place.values,
            "source_root": root,
            "dest_root": place + b"/t/",
        }
        if self._command.source == "files_from":
            values["files_from"] = os.fsencode(self._write_list(batch.attempt, items))
            values["dest"] = values["dest_root"]
            return [(self._command.argv(values), items)]
        found: list[tuple[list[bytes], Sequence[Item]]] = []
        # The numbers are those of the links, also where some files need not be sent.
        numbers = {path: n for n, path in enumerate(_by_directory(batch.items), 1)}
        for path, group in _by_directory(items).items():
            values["dest"] = b"%s/%d/" % (place, numbers[path])
            for some in self._groups(root, group, values):
                sources = [b"%s/%s" % (root, item.raw) for item in some]
                values["batch"], values["file"] = sources, sources[0]
                found.append((self._command.argv(values), some))
        return found

    def _groups(
        self, root: bytes, items: Sequence[Item], values: Mapping[str, bytes | Sequence[bytes]]
    ) -> Iterator[Sequence[Item]]:
        """Divide the files of a directory into those of one command."""
        if self._command.source == "file":
            yield from ([item] for item in items)
            return
        bare = self._command.argv({**values, "batch": []})
        room = template.MOST_ARGUMENTS - sum(len(argument) + 1 for argument in bare)
        begin = 0
        for names_ in template.groups([b"%s/%s" % (root, item.raw) for item in items], room):
            yield items[begin : begin + len(names_)]
            begin += len(names_)

    def _write_list(self, attempt: str, items: Sequence[Item]) -> str:
        state.make(self._lists)
        path = self._list_path(attempt)
        with open(path, "wb") as file:
            file.writelines(b"./%s\0" % item.raw for item in items)
        return path

    def _list_path(self, attempt: str) -> str:
        return os.path.join(self._lists, f"{attempt}.list")

    def _account(
        self, items: Sequence[Item], sent: TransferResult, failures: Mapping[int, Failure]
    ) -> None:
        """Record why what did not arrive did not; the far end answers, so it is not the network."""
        told = sent.told
        missing = [item for item in items if item.row.id not in told]
        if missing and failures:
            self._must_have_spare()
        for item in missing:
            text = failures.get(item.row.id, NOT_WHOLE).text
            if any(words in text for words in _FULL):
                # Of the quota, or of the table of files: free bytes do not tell of these.
                sent.no_room = True
                sent.error = f"{self.session.place.name}: {self._section.endpoint.staging}: {text}"
                return
        for item in missing:
            what = ""
            with contextlib.suppress(OSError):  # it is there, but cannot be looked at
                what = changed(self._section.buffer, item.row, item.rel)
            if what:
                sent.gone.append((item, what))
            else:
                sent.failed.append((item, failures.get(item.row.id, NOT_WHOLE).text))


def _by_directory(items: Sequence[Item]) -> dict[bytes, list[Item]]:
    found: dict[bytes, list[Item]] = {}
    for item in items:
        found.setdefault(item.raw.rpartition(b"/")[0], []).append(item)
    return found


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
