"""Ask targets that can tell whether they hold what the table calls ingested."""

from __future__ import annotations

import glob
from collections.abc import Iterator

from dbbbatch.config.sections import Finder, Target
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileChecksum, FileRow
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
    def ingested(after: int) -> list[FileRow]:
        return File.ingested(target_id, after, _COMPARED_TOGETHER)

    if not connect.read(ingested, 0):
        return
    from dbbbatch.targets.pool import ask_plugin
    from dbbbatch.targets.worker import Launch

    asked: list[list[FileRow]] = []

    def batches() -> Iterator[list[StoredFile]]:
        for page in connect.pages(ingested, 0, "id"):
            if context.stopping:
                return
            sound = context.sound(page, "file")
            asked.append([row for row in sound if context.matches(names.rel_of(row))])
            further = connect.read(FileChecksum.of, [row.id for row in asked[-1]])
            yield [_stored_file(section, row, further.get(row.id, {})) for row in asked[-1]]

    launch = Launch.of(section, context.settings.site)
    for answer in ask_plugin(launch, batches(), context.log):
        if answer is None:
            context.log.info("%s cannot tell what it holds", section.label)
            return
        for row in asked.pop():
            if not answer.get(row.id, True):
                context.counts["failed"] += 1
                context.counts["unknown_to_target"] += 1
                rel = names.rel_of(row)
                which = names.quoted(glob.escape(rel))
                context.warn_of(
                    "failed",
                    rel,
                    f"is ingested according to the table, but {section.label} does not hold it; "
                    f"`dbb retry {section.label} --status SUCCESS --match {which}` offers it again",
                )


def _stored_file(section: Target, row: FileRow, further: dict[str, str]) -> StoredFile:
    return StoredFile(
        number=row.id,
        path=names.below(section.storage, names.rel_of(row)),
        relpath=names.from_text(row.relpath),
        filename=names.from_text(row.filename),
        size_bytes=row.size_bytes,
        checksums=dict([checksum.parse(row.checksum)]) | further,
    )
