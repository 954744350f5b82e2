"""How files are sent: by the configured transfer command, to the staging area of an attempt."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from dbbbatch.areas.endpoint.batch import Batch, FileFate, Prepared, SendStatus, TransferResult
from dbbbatch.areas.endpoint.charge import lost_line
from dbbbatch.areas.endpoint.session import Session
from dbbbatch.config.sections import Handoff
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, state
from dbbbatch.files.tree import outside
from dbbbatch.process import run, template

#: Where rsync is told to leave what it has of a file when it is cut off; for one directory only.
_PARTIAL = re.compile(r"--partial-dir=(/[A-Za-z0-9._/-]+)")


def time_limit(section: Handoff, size_bytes: int) -> float:
    """Return the time limit of whatever handles so many bytes, in seconds."""
    return section.timeout + size_bytes / max(1, section.min_rate)


class TransferCommand:
    """Sends files of batches by runs of a program.

    The session is asked whether the far end still answers when a program failed.
    """

    def __init__(self, section: Handoff, session: Session, lists: str) -> None:
        self._section = section
        self._session = session
        self._command = template.parse_command(section.endpoint.transfer)
        self._lists = lists

    def numbered_directories(self, items: Sequence[Prepared]) -> list[bytes]:
        """Return the directories to which the command needs numbered links in staging."""
        return [] if self._command.source == "files_from" else list(_by_directory(items))

    @property
    def partials(self) -> str:
        """The directory, relative to staging, where interrupted transfers leave files, or none."""
        top = f"{self._session.place.staging}/"
        found = _PARTIAL.search(self._command.shown().replace("{staging}/", top))
        if not found or not found[1].startswith(top) or "/.." in found[1]:
            return ""
        return found[1].removeprefix(top)

    def send(
        self, batch: Batch, items: Sequence[Prepared], result: TransferResult
    ) -> dict[int, FileFate]:
        """Send files of a batch; note in the result how the command ended.

        Returns
        -------
        failures : `dict` [ `int`, `FileFate` ]
            Of the files whose command failed, by the id of their row: FAILED, or POSTPONED if the
            line was lost or the command was ended, which is no fault of theirs.
        """
        failures: dict[int, FileFate] = {}
        texts: list[str] = []
        commands = list(self._commands(batch, items))
        for number, (argv, group) in enumerate(commands):
            size = sum(item.size_bytes for item in group)
            finished = run.run(argv, timeout=time_limit(self._section, size))
            status = finished.exit_code if finished.signal is None else -finished.signal
            if not texts:
                result.exit_status = status
            if status in self._section.success_codes and not finished.timed_out:
                continue
            tool = os.path.basename(os.fsdecode(argv[0]))
            # The attempt has another name each time, and it is the same trouble.
            texts.append(f"{tool}: {finished.summary()}".replace(batch.attempt, "*"))
            lost = lost_line(self._section.endpoint.transfer, finished)
            fate = FileFate(SendStatus.POSTPONED if lost else SendStatus.FAILED, texts[-1])
            failures.update((item.row.id, fate) for item in group)
            result.cut_off = result.cut_off or finished.exit_code is None or finished.timed_out
            # Raises if the far end no longer answers.
            self._session.free_bytes()
            if finished.timed_out:
                unsent = [item for _, group in commands[number + 1 :] for item in group]
                fate = FileFate(SendStatus.POSTPONED, texts[-1])
                failures.update((item.row.id, fate) for item in unsent)
                if finished.survivor is not None:
                    self._leave_to_survivor([*group, *unsent], fate, result)
                break
        if texts:
            more = f" (and {len(texts) - 1} more commands)" if len(texts) > 1 else ""
            result.error = texts[0] + more
        return failures

    def _leave_to_survivor(
        self, items: Sequence[Prepared], fate: FileFate, result: TransferResult
    ) -> None:
        """Verify none of the files that a program may still write; no further one is started."""
        for item in items:
            result.settle(item, *fate)
        result.trouble = TryLater(
            f"{fate.reason}; no file is charged",
            key=f"{self._section.label}: its transfer command cannot be ended",
        )

    def clean(self, attempt: str) -> None:
        """Remove what was written here for an attempt."""
        outside(self._list_path(attempt)).remove()

    def _commands(
        self, batch: Batch, items: Sequence[Prepared]
    ) -> Iterator[tuple[list[bytes], Sequence[Prepared]]]:
        """Yield the commands that send the files, with the files of each."""
        root = os.fsencode(self._section.buffer)
        staging = os.fsencode(f"{self._section.endpoint.staging}/{batch.attempt}")
        values: dict[str, bytes | Sequence[bytes]] = {
            **self._session.place.values,
            "source_root": root,
            "dest_root": staging + b"/t/",
        }
        if self._command.source == "files_from":
            values["files_from"] = os.fsencode(self._write_list(batch.attempt, items))
            values["dest"] = values["dest_root"]
            yield self._command.argv(values), items
            return
        # The numbers are those of the links, also where some files need not be sent.
        numbers = {path: n for n, path in enumerate(_by_directory(batch.items), 1)}
        for path, group in _by_directory(items).items():
            values["dest"] = b"%s/%d/" % (staging, numbers[path])
            for some in self._groups(root, group, values):
                sources = [b"%s/%s" % (root, item.raw) for item in some]
                values["batch"], values["file"] = sources, sources[0]
                yield self._command.argv(values), some

    def _groups(
        self, root: bytes, items: Sequence[Prepared], values: Mapping[str, bytes | Sequence[bytes]]
    ) -> Iterator[Sequence[Prepared]]:
        """Divide the files of a directory into those of one command."""
        if self._command.source == "file":
            yield from ([item] for item in items)
            return
        bare = self._command.argv({**values, "batch": []})
        room = template.MOST_ARGUMENTS - sum(len(argument) + 1 for argument in bare)
        begin = 0
        for names in template.groups([b"%s/%s" % (root, item.raw) for item in items], room):
            yield items[begin : begin + len(names)]
            begin += len(names)

    def _write_list(self, attempt: str, items: Sequence[Prepared]) -> str:
        state.make(self._lists)
        path = self._list_path(attempt)
        with faults.naming(path), open(path, "wb") as file:
            file.writelines(b"./%s\0" % item.raw for item in items)
        return path

    def _list_path(self, attempt: str) -> str:
        return os.path.join(self._lists, f"{attempt}.list")


def _by_directory(items: Sequence[Prepared]) -> dict[bytes, list[Prepared]]:
    found: dict[bytes, list[Prepared]] = {}
    for item in items:
        found.setdefault(item.raw.rpartition(b"/")[0], []).append(item)
    return found
