"""What a pass of the handoff finishes for an earlier one that was killed or cut off.

Each step leaves its intent in the database, so this knows what may be half-done: files recorded as
delivered are to be moved to holding; a batch that is open has a directory in staging, which is the
receipt: verified there and gone from it means placed.
"""

from __future__ import annotations

import contextlib
import os

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint.batch import Batch, Item, TransferResult, Unrecovered
from dbbbatch.areas.endpoint.session import Refused
from dbbbatch.areas.endpoint.transfer import Sender, probe_of, probe_of_directory
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import BatchStatus
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import DbbError
from dbbbatch.files import checksum, place, scan
from dbbbatch.passes.handoff.outcomes import Outcomes, attempt_prefix, is_attempt
from dbbbatch.passes.handoff.streams import lists_directory
from dbbbatch.passes.runner import PassContext
from dbbbatch.process import family

#: Originals moved to holding in one transaction.
_HELD_TOGETHER = 2000


def recover_handoff(p: PassContext, section: Handoff) -> Unrecovered:
    """Finish what earlier passes left, and tell what could not be finished."""
    outcomes = Outcomes(p, section)
    outcomes.recover_quarantine()
    site = p.settings.site.name
    for rows in connect.pages(
        lambda after: HandoffFile.in_buffer(site, section.name, "DELIVERED", after, _HELD_TOGETHER),
        FIRST,
        *ORDER,
    ):
        outcomes.hold(p.sound(rows, "handoff_file"))
    _remove_lists(lists_directory(p.settings.site.state), attempt_prefix(site, section.name))
    batches = []
    for batch in connect.read(TransferBatch.unfinished, site, section.name):
        # What runs with this name is killed, and what lies under it is removed.
        if is_attempt(site, section.name, batch.attempt):
            batches.append(batch)
        else:
            p.refuse("transfer_batch", batch.id, f"{batch.attempt!r} is no attempt of ours")
    if not batches:
        return Unrecovered()
    refused: DbbError | None = None
    files: set[int] = set()
    sender = Sender(section, lists_directory(p.settings.site.state))
    try:
        with sender.session:
            sender.session.open()
            for batch in batches:
                if batch.status == BatchStatus.OPEN:
                    try:
                        _recover_batch(p, section, sender, outcomes, batch)
                    except Refused as error:
                        refused = refused or error
                        files.update(row.id for row in _files_of_batch(p, batch))
                        continue
                _tidy(p, section, sender, outcomes, batch)
    except DbbError as error:
        return Unrecovered(trouble=error)
    return Unrecovered(refused=refused, files=frozenset(files))


def _remove_lists(directory: str, prefix: str) -> None:
    """Remove the lists of killed passes: no other pass of this section is at work here."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if name.startswith(prefix):
                os.unlink(os.path.join(directory, name))


def _recover_batch(
    p: PassContext, section: Handoff, sender: Sender, outcomes: Outcomes, row: TransferBatch
) -> None:
    family.end_naming(row.attempt.encode())
    items = [_item(section, file) for file in _files_of_batch(p, row)]
    for directory in {"", *(item.directory for item in items)}:
        with contextlib.suppress(OSError):  # the janitor sweeps it up
            if not scan.detour(section.buffer, directory):
                place.remove_if_there(probe_of_directory(section, directory))
    sent = _ask(section, sender, row, items)
    p.counts["recovered"] += len(sent.delivered)
    outcomes.settle(sent, again=())


def _files_of_batch(p: PassContext, row: TransferBatch) -> list[HandoffRow]:
    return p.sound(connect.read(HandoffFile.of_batch, row.id), "handoff_file")


def _tidy(
    p: PassContext, section: Handoff, sender: Sender, outcomes: Outcomes, row: TransferBatch
) -> None:
    """Remove what is left of a batch in staging; if that is refused, it is no hindrance."""
    try:
        sender.clean(row.attempt)
        sender.clean(probe_of(row.attempt))
    except Refused as error:
        where = f"{section.endpoint.staging}/{row.attempt}*"
        p.warn(f"{where} cannot be removed, which is tried again: {error}", key="tidy")
    else:
        outcomes.cleaned([row.id])


def _ask(section: Handoff, sender: Sender, row: TransferBatch, items: list[Item]) -> TransferResult:
    """Find out how far a batch came, and bring what has arrived to its end."""
    sent = TransferResult(Batch(row.attempt, items, row.id), error="the pass was interrupted")
    sender.session.end(row.attempt)
    state = sender.session.take_over(row.attempt)
    taken_over = f"{row.attempt}.r"
    if state == "verified":
        receipt = sender.session.receipt(taken_over)
        sender.place(taken_over, [item for item in items if item.raw in receipt], sent)
    elif state == "arrived" and items:
        sender.verify_and_place(taken_over, items, sent, cut_off=True)
    told = sent.told
    sent.later = [(item, sent.error) for item in items if item.row.id not in told]
    return sent


def _item(section: Handoff, row: HandoffRow) -> Item:
    """Make an item of a file that was in a batch, so it was hashed."""
    _, digest = checksum.parse(row.checksum or "")
    return Item(row, buffer.path_of(section, row)[0], digest)
