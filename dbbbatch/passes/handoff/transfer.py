"""One batch on its way to the far end: prepare, transfer, verify, place. Knows no database.

A `Sender` has a session with the far end and sends one batch after the other; several of them, in
threads, are the streams of a pass. What came of a batch is told in a `Sent`; nothing is raised, so
that no thread can end unheard.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from dbbbatch import keys
from dbbbatch.config import Handoff
from dbbbatch.database.models.handoff import Waiting
from dbbbatch.errors import DbbError, TryLater
from dbbbatch.files import checksum, names, place, state
from dbbbatch.files.scan import mtime_ns
from dbbbatch.passes.handoff.batch import Batch, Item, Sent, changed
from dbbbatch.passes.handoff.room import Room
from dbbbatch.remote import execute, receive, template

#: What a transfer command says last where there is no room, though there may be free bytes.
_FULL = ("No space left on device", "Disk quota exceeded")

#: What a file of ours holds that is sent to see whether the transfer command works.
_TRIAL = "Sent to see whether the transfer command works.\n"

_NOT_WHOLE = "it did not arrive whole although the transfer command was content"


def far_end(section: Handoff) -> receive.Place:
    """Give where a handoff's far end is and how to reach it."""
    endpoint = section.endpoint
    return receive.Place(
        buffer=endpoint.buffer,
        staging=endpoint.staging,
        remote=template.parse(endpoint.remote) if endpoint.remote else None,
        values={name: os.fsencode(value) for name, value in endpoint.placeholders.items()},
        algorithm=section.checksum,
    )


def trial_of(attempt: str) -> str:
    """Name the attempt of a trial that is made on behalf of a batch, and cleaned up with it."""
    return f"{attempt}-trial"


class Sender:
    """Sends batches over one session.

    Parameters
    ----------
    section : `dbbbatch.config.Handoff`
    lists : `str`
        Directory for the lists that ``{files_from}`` names.
    room : `Room`, optional
        Shared by those that send at the same time.
    """

    def __init__(self, section: Handoff, lists: str, room: Room | None = None) -> None:
        self._section = section
        self._room = room or Room()
        self._command = template.parse(section.endpoint.transfer)
        self._lists = lists
        self._proved = False  # that the command can send anything
        self.session = receive.Session(far_end(section))

    def send(self, batch: Batch) -> Sent:
        """Send a batch, and tell what came of it."""
        sent = Sent(batch)
        try:
            self._send(batch, sent)
        except receive.Refused as error:
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
        except Exception as error:  # noqa: BLE001  (a thread that ended unheard would hang the pass)
            sent.trouble = DbbError(f"sending failed: {type(error).__name__}: {error}")
            sent.unknown, sent.error = True, str(sent.trouble)
            sent.trouble.__cause__ = error
        finally:
            self._room.leave(batch.attempt)
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
        sent: Sent,
        *,
        again: bool = False,
        cut_off: bool = False,
    ) -> None:
        """Verify files that should have arrived and place those that did.

        Parameters
        ----------
        attempt : `str`
        items : `~collections.abc.Sequence` [ `Item` ]
        sent : `Sent`
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
            self._proved = True
            self.place(attempt, [by_rel[file.rel] for file in right], sent)

    def _finished(self, attempt: str, items: Sequence[Item]) -> list[Item]:
        """Choose the files that have time and permissions of their sources."""
        shapes = self.session.shapes(attempt, [item.raw for item in items])
        finished = []
        for item in items:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(self._section.buffer, item.rel))
                shape = (int(status.st_mtime), stat.S_IMODE(status.st_mode))
                if shapes.get(item.raw) == shape:
                    finished.append(item)
        return finished

    def place(self, attempt: str, items: Sequence[Item], sent: Sent) -> None:
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
            else:
                where, why = self._section.endpoint.buffer, placed.kept[item.raw]
                sent.unplaced.append((item, f"cannot be placed in {where}: {why}"))

    def limit(self, size_bytes: int) -> float:
        """Give the time limit of whatever handles so many bytes, in seconds."""
        return self._section.timeout + size_bytes / max(1, self._section.min_rate)

    def _send(self, batch: Batch, sent: Sent) -> None:
        began = time.monotonic()
        to_send = self._prepare(batch, sent)
        sent.prepare_duration = time.monotonic() - began
        if not to_send:
            return
        sent.transfer_started, began = _now(), time.monotonic()
        try:
            failure = self._transfer(batch, to_send, self._section.buffer, sent)
        finally:
            sent.transfer_duration = time.monotonic() - began
        if failure:
            sent.error = failure
            self.session.end(batch.attempt)
        sent.place_started, began = _now(), time.monotonic()
        everything = len(to_send) == len(batch.items)
        self.verify_and_place(
            batch.attempt, to_send, sent, again=not everything, cut_off=sent.cut_off
        )
        sent.place_duration = time.monotonic() - began
        self._account(to_send, sent, failure)
        if sent.failed and not self._proved:
            self._acquit(sent)

    def _acquit(self, sent: Sent) -> None:
        """Blame no file where the command, with which nothing has arrived yet, sends none of ours.

        One bad file that waits alone and a tool that is missing at the far end look the same.
        """
        if not self.can_try:
            return
        if why := self.trial(trial_of(sent.batch.attempt)):
            sent.trouble = TryLater(f"the transfer command fails for every file: {why}")
            sent.later, sent.failed = [*sent.later, *sent.failed], []
        else:
            self._proved = True

    @property
    def can_try(self) -> bool:
        """Whether the command takes files from where it is told, and not from the buffer only."""
        return self._command.source != "files_from" or "source_root" in self._command.placeholders

    def trial(self, attempt: str) -> str:
        """Send a file of ours to staging and no further; say why it did not arrive, or nothing."""
        path = self._file_of_ours()
        made = checksum.ALGORITHMS[self._section.checksum].new()
        made.update(_TRIAL.encode())
        status = os.lstat(path)
        root, name = names.split(path)
        version = (status.st_size, mtime_ns(status), status.st_ino)
        item = Item(Waiting(0, "", name, *version, None, 0, None, 0, 0), name, made.hexdigest())
        batch = Batch(attempt, [item])
        self.session.begin(attempt, [item.raw], self._links(batch))
        try:
            why = self._transfer(batch, [item], root, Sent(batch))
            if why:
                self.session.end(attempt)
            if self.session.verify(attempt, [item.expected], self.limit(status.st_size)):
                return ""
        finally:
            with contextlib.suppress(receive.Refused):  # the janitor sweeps it up
                self.clean(attempt)
        return why or _NOT_WHOLE

    def _file_of_ours(self) -> str:
        """Give a file that is no one's, where the command finds its lists, too."""
        state.make(self._lists)
        path = os.path.join(self._lists, "trial")
        with contextlib.suppress(FileExistsError):
            place.write_new(path, _TRIAL)
        return path

    def _links(self, batch: Batch) -> list[bytes]:
        """Give the directories for which the command wants numbered directories."""
        return [] if self._command.source == "files_from" else list(_by_directory(batch.items))

    def _prepare(self, batch: Batch, sent: Sent) -> list[Item]:
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
        spare = self._room.take(
            batch.attempt, wanted, self._spare(look.free_bytes), self._must_have_spare
        )
        if wanted <= spare:
            return to_send
        rel = names.printable(to_send[0].rel)
        what = rel if len(to_send) == 1 else f"{len(to_send)} files from {rel} on"
        sent.error = self._too_little(
            spare + self._section.min_free, f"{what} ({keys.size_text(wanted)})"
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
            raise receive.Refused(self._too_little(free, "anything"))
        return free - self._section.min_free

    def _too_little(self, free: int, what: str) -> str:
        return (
            f"{self.session.place.name}: {keys.size_text(free)} free in "
            f"{self._section.endpoint.staging}: too little for {what} and min_free "
            f"({keys.size_text(self._section.min_free)})"
        )

    def _compare(self, item: Item, digest: str | None, sent: Sent) -> None:
        """Decide about a file whose name the endpoint's buffer has already."""
        if digest == item.digest:
            sent.delivered.append(item)
            return
        what = "a file of this name with another content"
        if digest == receive.NO_DIRECTORY:
            what = "something that is no directory where its directory should be"
        sent.conflicts.append((item, f"the endpoint's buffer has {what}"))

    def _transfer(self, batch: Batch, items: Sequence[Item], buffer: str, sent: Sent) -> str:
        """Run the transfer command, or one for each directory or file; return what went wrong."""
        failures: list[str] = []
        for argv, size in self._commands(batch, items, buffer):
            finished = execute.run(argv, timeout=self.limit(size))
            status = finished.exit_code if finished.signal is None else -finished.signal
            if not failures:
                sent.exit_status = status
            if status not in self._section.success_codes or finished.timed_out:
                tool = os.path.basename(os.fsdecode(argv[0]))
                # The attempt has another name each time, and it is the same trouble.
                failures.append(f"{tool}: {finished.said()}".replace(batch.attempt, "*"))
                sent.cut_off = sent.cut_off or finished.exit_code is None or finished.timed_out
                # Is it the files, or is nobody there any more?
                self.session.free_bytes()
                if finished.timed_out:
                    break
        if len(failures) > 1:
            return f"{failures[0]} (and {len(failures) - 1} more commands)"
        return failures[0] if failures else ""

    def _commands(
        self, batch: Batch, items: Sequence[Item], buffer: str
    ) -> list[tuple[list[bytes], int]]:
        """Give the commands that send the files, with their bytes."""
        root = os.fsencode(buffer)
        place = os.fsencode(f"{self._section.endpoint.staging}/{batch.attempt}")
        values: dict[str, bytes | Sequence[bytes]] = {
            **self.session.place.values,
            "source_root": root,
            "dest_root": place + b"/t/",
        }
        if self._command.source == "files_from":
            values["files_from"] = os.fsencode(self._write_list(batch.attempt, items))
            values["dest"] = values["dest_root"]
            return [(self._command.argv(values), sum(item.row.size_bytes for item in items))]
        found = []
        # The numbers are those of the links, also where some files need not be sent.
        numbers = {path: n for n, path in enumerate(_by_directory(batch.items), 1)}
        for path, group in _by_directory(items).items():
            values["dest"] = b"%s/%d/" % (place, numbers[path])
            for some in self._groups(root, group, values):
                sources = [b"%s/%s" % (root, item.raw) for item in some]
                values["batch"], values["file"] = sources, sources[0]
                size = sum(item.row.size_bytes for item in some)
                found.append((self._command.argv(values), size))
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

    def _account(self, items: Sequence[Item], sent: Sent, failure: str) -> None:
        """Say why what did not arrive did not; the far end answers, so it is not the network."""
        told = sent.told
        missing = [item for item in items if item.row.id not in told]
        if missing and failure:
            self._must_have_spare()
        if any(words in failure for words in _FULL):
            # Of the quota, or of the table of files: free bytes do not tell of these.
            sent.no_room = True
            sent.error = f"{self.session.place.name}: {self._section.endpoint.staging}: {failure}"
            return
        for item in missing:
            what = ""
            with contextlib.suppress(OSError):  # it is there, but cannot be looked at
                what = changed(self._section.buffer, item.row, item.rel)
            if what:
                sent.gone.append((item, what))
            else:
                sent.failed.append((item, failure or _NOT_WHOLE))


def _by_directory(items: Sequence[Item]) -> dict[bytes, list[Item]]:
    found: dict[bytes, list[Item]] = {}
    for item in items:
        found.setdefault(item.raw.rpartition(b"/")[0], []).append(item)
    return found


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
