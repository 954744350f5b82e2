"""What an ingester pass would do, from looking alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dbbbatch import retry
from dbbbatch.config import Target as TargetSection
from dbbbatch.database import connect
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.due import Place, due, with_names
from dbbbatch.database.models.target import Target
from dbbbatch.files import faults, names
from dbbbatch.files.processes import machine
from dbbbatch.passes.base import Pass
from dbbbatch.passes.ingester import judging
from dbbbatch.passes.ingester.claims import is_wanted, lives

_PAGE = 1000


def plan(p: Pass, section: TargetSection, target: Target | None) -> Iterator[str]:
    """Say what would be recovered, and then file by file what would be done.

    Parameters
    ----------
    p : `dbbbatch.passes.base.Pass`
        Its options say which files it would be about.
    section : `dbbbatch.config.Target`
        The target's section.
    target : `dbbbatch.database.models.target.Target` or `None`
        The target, if it was ever added.
    """
    if away := faults.away(section.storage, section.sentinel):
        yield f"would leave with exit code 75: {away}"
        return
    if target is None:
        found = connect.look(
            lambda: connect.execute(
                "SELECT count(*) FROM file WHERE storage = ? AND status = 'STORED'",
                [section.storage],
            ).fetchone()
        )
        yield f"would add {section.label} and make due the {found[0]} files of {section.storage}"
        return
    number = target.id
    for holder, why in connect.look(
        lambda: IngestClaim.dead(0, number, machine(), lives, lock=False)
    ):
        yield f"would make due what run {holder} had in hand: {why}"
    yield from _files(p, section, number)


def _files(p: Pass, section: TargetSection, target_id: int) -> Iterator[str]:
    longest = judging.policy_of(section).longest
    until, latest = retry.span(longest, connect.look(connect.now))
    place = Place()
    while not p.stopping:
        look = partial(due, target_id, _PAGE, _PAGE, until, latest, place, lock=False)
        found, place = connect.look(look)
        if not found:
            return
        for held in connect.look(partial(with_names, found)):
            name = names.readable(names.join(held.relpath, held.filename))
            if not p.matches(name) or p.take(1) == 0:
                continue
            does = "offer" if is_wanted(section, name) else "ignore"
            yield f"would {does} {names.printable(name)}"
