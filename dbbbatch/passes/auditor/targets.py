"""Ask targets that can tell whether they hold what the table calls ingested."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from functools import partial

from dbbbatch.config.sections import Finder, Target
from dbbbatch.database import connect
from dbbbatch.database.models.file import FileChecksum
from dbbbatch.database.models.target import TargetRow
from dbbbatch.files import checksum, names
from dbbbatch.passes.context import PassContext
from dbbbatch.targets.plugin import Misconfigured, NotReady, StoredFile

#: Files that a target is asked about at a time.
_COMPARED_TOGETHER = 1000


def compare_targets(context: PassContext, finder: Finder) -> None:
    """Report the files that the table calls ingested and a target of this storage does not hold.

    A target that is away or cannot tell is left out; nothing is changed.
    """
    site = context.settings.site.name
    for section in context.settings.target.values():
        if section.storage != finder.storage or context.stopping:
            continue
        row = connect.read(TargetRow.named, site, section.name)
        if row is None or row.retired_at is not None:
            continue
        try:
            _compare(context, section, row.id)
        except (NotReady, Misconfigured) as error:
            context.log.warning("%s was not audited: %s", section.label, error)
            context.warn_of("failed", section.label, f"was not audited: {error}")


def _compare(context: PassContext, section: Target, target_id: int) -> None:
    if not connect.read(_ingested_page, section, target_id, 0):
        return
    from dbbbatch.targets.pool import ask_plugin
    from dbbbatch.targets.worker import Launch

    launch = Launch.of(section, context.settings.site)
    asked: list[list[StoredFile]] = []

    def batches() -> Iterator[list[StoredFile]]:
        for files in connect.pages(partial(_ingested_page, section, target_id), 0, "number"):
            if context.stopping:
                return
            sound = context.sound(files, "file")
            asked.append([file for file in sound if context.matches(_rel(file))])
            yield asked[-1]

    for answer in ask_plugin(launch, batches(), context.log):
        if answer is None:
            context.log.info("%s cannot tell what it holds", section.label)
            return
        for file in asked.pop():
            if not answer.get(file.number, True):
                context.counts["failed"] += 1
                context.counts["unknown_to_target"] += 1
                which = names.quoted(glob.escape(_rel(file)))
                context.warn_of(
                    "failed",
                    _rel(file),
                    f"is ingested according to the table, but {section.label} does not hold it; "
                    f"`dbb retry {section.label} --status SUCCESS --match {which}` offers it again",
                )


def _ingested_page(section: Target, target_id: int, after: int) -> Sequence[StoredFile]:
    """Return the next files that the table calls ingested, in the order of their ids."""
    rows = connect.execute(
        "SELECT f.id, f.relpath, f.filename, f.size_bytes, f.checksum FROM ingest_state s"
        " JOIN file f ON f.id = s.file_id WHERE s.target_id = ? AND s.status = 'SUCCESS'"
        " AND s.file_id > ? AND f.status = 'STORED' ORDER BY s.file_id LIMIT ?",
        (target_id, after, _COMPARED_TOGETHER),
    ).fetchall()
    further = FileChecksum.of([row[0] for row in rows])
    files = []
    for number, relpath, filename, size, stored in rows:
        relpath, filename = names.readable(relpath), names.readable(filename)
        files.append(
            StoredFile(
                number=number,
                path=f"{section.storage}/{names.join(relpath, filename)}",
                relpath=relpath,
                filename=filename,
                size_bytes=size,
                checksums=dict([checksum.parse(stored)]) | further.get(number, {}),
            )
        )
    return files


def _rel(file: StoredFile) -> str:
    return names.join(file.relpath, file.filename)
