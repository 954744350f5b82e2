"""What a pass of the handoff would do, for --dry-run; nobody is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dbbbatch.areas import buffer
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile
from dbbbatch.database.models.statuses import BatchStatus
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.files import names
from dbbbatch.passes.handoff.scanning import scanned
from dbbbatch.passes.runner import PassContext

#: Files looked up at a time.
_DUE_PAGE = 5000


def plan_handoff(p: PassContext, section: Handoff) -> Iterator[str]:
    """Yield what would be recovered first, then what would be sent, file by file."""
    site = p.settings.site.name
    for batch in connect.read(TransferBatch.unfinished, site, section.name):
        what = "ask the endpoint about" if batch.status == BatchStatus.OPEN else "tidy up after"
        yield f"recover: {what} batch {batch.id}, {batch.files} files of {batch.started} UTC"
    for status, what in (("DELIVERED", "move to holding"), ("QUARANTINED", "move to quarantine")):
        for row in connect.read(HandoffFile.in_buffer, site, section.name, status):
            if why := names.fault(row):
                yield f"refuse: row {row.id} of handoff_file: {why}"
                continue
            rel, path = buffer.path_of(section, row)
            if buffer.has_name(path):
                yield f"recover: {what} {names.printable(rel)}"
    yield from _sending(p, section, site)


def _sending(p: PassContext, section: Handoff, site: str) -> Iterator[str]:
    count = size = 0
    for chunk in scanned(p, section):
        for seen in connect.read(HandoffFile.unknown, site, section.name, chunk):
            count, size = count + 1, size + seen.size_bytes
            rel = names.from_text(names.join(seen.relpath, seen.filename))
            yield f"send: {names.printable(rel)} (new)"
    due = partial(HandoffFile.due, site, section.name, longest=section.longest_wait)
    for rows in connect.pages(lambda after: due(after, _DUE_PAGE), FIRST, *ORDER):
        for row in rows:
            if why := names.fault(row):
                yield f"refuse: row {row.id} of handoff_file: {why}"
                continue
            rel, path = buffer.path_of(section, row)
            if p.matches(rel) and buffer.has_name(path):
                count, size = count + 1, size + row.size_bytes
                again = f" (after {row.attempts} failures)" if row.attempts else ""
                yield f"send: {names.printable(rel)}{again}"
    endpoint = section.endpoint.placeholders.get("host", section.endpoint.buffer)
    yield f"in all {count} files, {size} bytes, to {endpoint}"
