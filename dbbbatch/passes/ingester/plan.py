"""What an ingester pass would do, from looking alone."""

from __future__ import annotations

from collections.abc import Iterator

from dbbbatch.config.sections import Target as TargetSection
from dbbbatch.database import connect, retry
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.due import DueQueue
from dbbbatch.database.models.target import TargetRow
from dbbbatch.files import mounts, names
from dbbbatch.files.processes import machine
from dbbbatch.passes.ingester import rules
from dbbbatch.passes.ingester.claims import is_wanted, pass_lives
from dbbbatch.passes.runner import PassContext

_PLANNED_PAGE = 1000


def plan_ingest(p: PassContext, section: TargetSection, target: TargetRow | None) -> Iterator[str]:
    """Yield what would be recovered, and then file by file what would be done.

    Parameters
    ----------
    p : `dbbbatch.passes.runner.PassContext`
        Its options say which files it would be about.
    section : `dbbbatch.config.sections.Target`
        The target's section.
    target : `dbbbatch.database.models.target.TargetRow` or `None`
        The target, if it was ever added.
    """
    if away := mounts.why_unmounted(section.storage, section.sentinel):
        yield f"would leave with exit code 75: {away}"
        return
    if target is None:
        found = connect.read(
            lambda: connect.execute(
                "SELECT count(*) FROM file WHERE storage = ? AND status = 'STORED'",
                [section.storage],
            ).fetchone()
        )
        yield f"would add {section.label} and make due the {found[0]} files of {section.storage}"
        return
    number = target.id
    for holder, why in connect.read(
        lambda: IngestClaim.dead(0, number, machine(), pass_lives, lock=False)
    ):
        yield f"would make due what run {holder} had in hand: {why}"
    yield from _planned_files(p, section, number)


def _planned_files(p: PassContext, section: TargetSection, target_id: int) -> Iterator[str]:
    longest = rules.policy_of(section).longest
    queue = DueQueue(target_id, *retry.due_range(longest, connect.read(connect.now)))
    while not p.stopping:
        found, queue = connect.read(queue.next, _PLANNED_PAGE, _PLANNED_PAGE, lock=False)
        if not found:
            return
        for held in found:
            name = names.readable(names.join(held.relpath, held.filename))
            if not p.matches(name) or p.take(1) == 0:
                continue
            does = "offer" if is_wanted(section, name) else "ignore"
            yield f"would {does} {names.printable(name)}"
