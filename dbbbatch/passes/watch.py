"""What a pass sees of the other components of its host: which hang, and which cron starts no more.

Neither the network nor, unless one is silent, the database is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dbbbatch.config import fields
from dbbbatch.config.load import Settings
from dbbbatch.files import processes
from dbbbatch.files.lock import Holder, held_locks
from dbbbatch.passes import memory
from dbbbatch.passes.memory import PassMemory
from dbbbatch.passes.notices import Symptom
from dbbbatch.passes.outages import clock_text
from dbbbatch.passes.overdue import RECURRING, SECTION_OF, longest_interval, usual_interval


def hanging(label: str, holder: Holder) -> tuple[str, str]:
    """Return the key and the message of the trouble that a pass has been at work for too long."""
    advice = (
        processes.waits_for(holder.pid)
        or f"`kill {holder.pid}` ends it after the current batch, a second one at once"
    )
    return f"{label} hangs: {holder.pid}", (
        f"a pass may hang: {fields.span_text(holder.seconds)} at work, longer than hang_after "
        f"([site]): {holder}; {advice}"
    )


def look_at_others(settings: Settings, now: float | None = None) -> dict[str, Symptom]:
    """Return what is wrong with the components of this host, whether or not they say so.

    Raises
    ------
    DbbError
        One makes no passes, and the database does not say whether it is paused.
    """
    state, now = Path(settings.site.state), now or time.time()
    found = {}
    held = list(held_locks(state / "locks"))
    for label, holder in held:
        if settings.site.hang_after and holder.seconds >= settings.site.hang_after:
            key, message = hanging(label, holder)
            found[key] = Symptom(message=f"{label}: {message}")
    at_work = {label for label, _ in held}
    for last, longest in _silent(settings, state, now):
        if last.label not in at_work and not _is_excused(settings, last.label, longest):
            found[f"{last.label} makes no passes"] = Symptom(
                message=f"{last.label}: no pass since {clock_text(_last_sign(last))}, and one is "
                f"expected every {fields.span_text(longest)} at most; "
                "does cron run? See `crontab -l`"
            )
    return found


def _silent(settings: Settings, state: Path, now: float) -> Iterator[tuple[PassMemory, float]]:
    """Yield the components that make no passes, and how long they may take between two.

    While the machine was off none could.
    """
    on_since = now - time.clock_gettime(time.CLOCK_BOOTTIME)
    for last in memory.remembered_passes(state):
        kind, _, name = last.label.partition(".")
        if kind not in RECURRING:
            continue
        section = settings.sections(SECTION_OF.get(kind, kind)).get(name)
        if section is None:
            continue
        starts = [datetime.fromtimestamp(one, UTC) for one in last.starts]
        expect = None if kind in SECTION_OF else section.expect
        longest = longest_interval(usual_interval(starts), expect)
        # One that fails says so itself.
        if longest is not None and now - max(_last_sign(last), on_since) > longest:
            yield last, longest


def _last_sign(last: PassMemory) -> float:
    return max(last.started, last.finished or 0)


def _is_excused(settings: Settings, label: str, longest: float) -> bool:
    """Return whether a component is paused, or another host has run it within so many seconds."""
    from dbbbatch.database import connect
    from dbbbatch.database.models.lease import ComponentLease
    from dbbbatch.database.models.run import Pause

    pause = connect.read(Pause.get_or_none, site=settings.site.name, label=label)
    if pause is not None and (pause.until is None or pause.until > connect.now()):
        return True
    if not connect.on_postgresql():
        return False
    lease = connect.read(ComponentLease.of, settings.site.name, label, longest)
    return lease is not None and not lease.ended and not lease.holder.startswith(processes.boot())
