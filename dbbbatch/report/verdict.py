"""Whether all is well, from the database, from the state directory, and from what is seen here.

`examine` asks; `dbbbatch.report.judge` decides. Where the database is away, it answers from this
host alone, and tells so.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dbbbatch.config import fields
from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.errors import AWAY, DbbError, TryLater
from dbbbatch.files import processes
from dbbbatch.files.state import as_user
from dbbbatch.passes import overdue
from dbbbatch.passes.memory import PassMemory
from dbbbatch.report import backlog, host, judge, queries
from dbbbatch.report.health import Component, Health, Level, Trouble, Waiting
from dbbbatch.report.judge import moment, since_seconds

#: The file that is found without -c, by whoever pastes a command.
_DEFAULT_CONFIG = "/etc/dbb/dbb.toml"


def examine(settings: Settings, *, look: float = 2.0) -> Health:
    """Return the state of everything that uses the database, as it is seen from this host.

    It changes nothing. Afterwards this thread is connected to the database, for reading, if that
    answered.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
    look : `float`
        The longest wait (seconds) for each of: a connection to the database, the disks of this
        host, a look into buffers and sources.
    """
    seen = host.look_here(settings, look)
    known, error = _ask_database(settings, look)
    waiting = backlog.look_at(settings, known.backlog if known else None, look)
    return _Examination(settings, seen, known, error, waiting).health()


def _ask_database(
    settings: Settings, look: float
) -> tuple[queries.SiteStatus | None, DbbError | None]:
    """Return what the database knows, or why it could not be asked."""
    try:
        connect.connect(replace(settings.database, patience=look), readonly=True, brief=True)
        known = queries.status()
        known.trouble.extend(queries.abandoned_storage(settings))
        return known, None
    except DbbError as error:
        connect.disconnect()
        return None, error


@dataclass(frozen=True)
class _Examination:
    """What was seen, and what follows from it."""

    settings: Settings
    seen: host.HostView
    known: queries.SiteStatus | None
    error: DbbError | None
    waiting: list[Waiting]

    @property
    def now(self) -> datetime:
        return self.known.at if self.known else datetime.now(UTC).replace(tzinfo=None)

    @property
    def site(self) -> str:
        return self.settings.site.name

    def health(self) -> Health:
        limits = dict(self._components())
        components = [component for component, _ in limits.values()]
        troubles = [
            *judge.without_repeats(self._seen_here(), self._of_passes(components)),
            *self._overdue(limits),
            *self._of_files(),
        ]
        troubles += self._reported(components, troubles)
        path = str(self.settings.path)
        config = "" if path == _DEFAULT_CONFIG else f"-c {shlex.quote(path)}"
        return Health(
            at=self.now,
            site=self.site,
            troubles=judge.worst_first(
                judge.pasteable(trouble, self.site, config, self._is_known(trouble))
                for trouble in troubles
            ),
            components=components,
            backlog=self.waiting,
            rooms=self.seen.rooms,
            database=str(self.error) if self.error else "",
            exit_code=self.error.exit_code if self.error else 0,
        )

    def _is_known(self, trouble: Trouble) -> bool:
        """Return whether commands about a trouble work with this configuration."""
        kind, _, name = trouble.label.partition(".")
        # Any component may be paused.
        if kind not in overdue.RECURRING or trouble.what == "overdue":
            return True
        return name in self.settings.names(overdue.SECTION_OF.get(kind, kind))

    def _components(self) -> Iterator[tuple[tuple[str, str], tuple[Component, float | None]]]:
        """Yield each component, by site and label, with the seconds after which it is overdue."""
        rows = {(row.site, row.label): row for row in self.known.passes} if self.known else {}
        paused = {(one.site, one.label): one for one in self.known.paused} if self.known else {}
        here = {(self.site, label): memory for label, memory in self.seen.passes.items()}
        configured = [
            (self.site, f"{kind}.{name}")
            for kind in ("handoff", "finder", "target")
            for name in self.settings.names(kind)
        ]
        for key in sorted({*rows, *here, *paused, *configured}):
            if key[1].partition(".")[0] not in overdue.RECURRING or self._is_retired(key):
                continue
            row, memory, pause = rows.get(key), here.get(key), paused.get(key)
            component = judge.later_of(
                _of_row(row) if row else None,
                _of_memory(memory, self.site) if memory else None,
            ) or Component(site=key[0], label=key[1], host="", state="never")
            if pause:
                component = replace(
                    component, state="paused", paused_until=pause.until, message=pause.reason
                )
            starts = row.starts if row else [*map(moment, memory.starts if memory else ())]
            expect = self._expected(key)
            usual = overdue.usual_interval(starts)
            longest = overdue.longest_interval(usual, expect)
            late = judge.is_overdue(component, longest, self.now)
            yield key, (replace(component, usual=expect or usual, overdue=late), longest)

    def _is_retired(self, key: tuple[str, str]) -> bool:
        return self.known is not None and key in self.known.retired

    def _expected(self, key: tuple[str, str]) -> float | None:
        site, label = key
        kind, _, name = label.partition(".")
        if site != self.site or kind not in ("handoff", "finder", "target"):
            return None
        section = self.settings.sections(kind).get(name)
        return section.expect if section else None

    def _overdue(
        self, components: Mapping[tuple[str, str], tuple[Component, float | None]]
    ) -> Iterator[Trouble]:
        for component, longest in components.values():
            if trouble := judge.overdue_trouble(component, longest, self.now):
                yield trouble

    def _of_passes(self, components: list[Component]) -> list[Trouble]:
        """Return the troubles of last passes."""
        limit = self.settings.site.hang_after
        keys = {one.label: key for one in components if (key := self._key_of(one))}
        here: list[Trouble] = []
        elsewhere: list[Trouble] = []
        for one in components:
            at_home = one.site == self.site
            key = keys.get(one.label, "") if at_home else ""
            trouble = judge.pass_trouble(one, self.now, limit, key)
            if trouble is not None and one.state != "paused" and not self._is_over(key, one):
                (here if at_home else elsewhere).append(trouble)
        return elsewhere + judge.one_outage(here, keys, self.known is not None)

    def _is_over(self, key: str, component: Component) -> bool:
        """Return whether a component that makes more passes is over what this one met."""
        ended = component.finished
        return ended is not None and any(
            memory.over == key and moment(memory.over_at) > ended
            for memory in self.seen.passes.values()
            if key
        )

    def _key_of(self, component: Component) -> str:
        """Return the key of the error of a last pass, if this host knows it."""
        memory = self.seen.passes.get(component.label)
        if memory is None or component.site != self.site:
            return ""
        return memory.key if judge.without_advice(memory.message) == component.message else ""

    def _seen_here(self) -> list[Trouble]:
        """Return the troubles that are seen on this host at once."""
        return [
            *self._database(),
            *self._hidden(),
            *map(self._problem, self.seen.problems),
            *self._hanging(),
            *judge.room_troubles(self.site, self.seen.rooms),
        ]

    def _trouble(
        self,
        label: str,
        what: str,
        message: str,
        advice: str,
        since: datetime | None = None,
        level: Level = Level.CRITICAL,
    ) -> Trouble:
        return Trouble(self.site, label, what, 0, message, advice, since=since, level=level)

    def _problem(self, seen: host.Seen) -> Trouble:
        # Without [alert] or [report] passes do their work.
        level = Level.CRITICAL if "." in seen.label or not seen.label else Level.WARNING
        if seen.what == "not seen":
            level = Level.UNKNOWN
        return self._trouble(seen.label, seen.what, seen.message, seen.advice, level=level)

    def _database(self) -> Iterator[Trouble]:
        if self.error is None:
            return
        told = [
            notice.since
            for label in self.seen.notices
            if (notice := self.seen.notices[label].get(AWAY)) and notice.since
        ]
        since = since_seconds(min(told, default=0))
        later = isinstance(self.error, TryLater)
        if not later and self.seen.is_foreign:
            yield self._not_seen(str(self.error))
            return
        what = "database away" if later else "configuration"
        level = judge.level_of_later(since, self.now) if later else Level.CRITICAL
        advice = judge.CORRECT
        if later:
            advice = judge.advice_of_later(level, self.error.key, str(self.error))
        yield self._trouble("", what, str(self.error), advice, since, level)

    def _not_seen(self, why: str) -> Trouble:
        """Return that this user is not the one who may see what is asked for."""
        owner = self.seen.owner
        advice = "" if owner is None else as_user(owner, str(self.settings.path))
        return self._trouble("", "not seen", why, advice, level=Level.UNKNOWN)

    def _hidden(self) -> Iterator[Trouble]:
        # Said once, also if the database is closed to this user, too.
        if self.seen.hidden and (self.error is None or isinstance(self.error, TryLater)):
            yield self._not_seen(
                f"{self.seen.hidden}: how passes of this host ended is not known in full"
            )

    def _hanging(self) -> Iterator[Trouble]:
        limit = self.settings.site.hang_after
        for label, holder in self.seen.holders:
            if 0 < limit <= holder.seconds:
                lasts = fields.span_text(holder.seconds)
                message = f"at work for {lasts}, longer than hang_after: {holder}"
                advice = processes.waits_for(holder.pid) or f"kill {holder.pid}"
                yield self._trouble(label, "hangs", message, advice, since_seconds(holder.since))

    def _of_files(self) -> list[Trouble]:
        """Return the files that are wrong by the tables."""
        return [
            judge.with_since(
                self._audited_here(trouble),
                self.seen.notices.get(trouble.label, {}) if trouble.site == self.site else {},
            )
            for trouble in (self.known.trouble if self.known else ())
        ]

    def _audited_here(self, trouble: Trouble) -> Trouble:
        """Return the trouble of a storage area with the name of a finder that is here."""
        for finder in self.settings.finder.values():
            if finder.storage == trouble.label:
                return replace(trouble, site=self.site, advice=queries.copied_back(finder.name))
        return trouble

    def _reported(self, components: list[Component], troubles: list[Trouble]) -> Iterator[Trouble]:
        """Yield what passes reported that nothing else says."""
        wrong = any(trouble.what in ("missing", "corrupt") for trouble in troubles)
        for component in components:
            told = {one.label for one in troubles if one.site == component.site}
            found = None
            if component.site == self.site:
                notices = self.seen.notices.get(component.label, {})
                found = judge.warnings_of(component, notices, self.known is not None, wrong)
            if wrong and component.label.startswith("auditor."):
                told.add(component.label)
            if found := found or judge.failed_pass(component, told, self.known is not None):
                yield found


def _of_row(row: queries.LastPass) -> Component:
    return Component(
        site=row.site,
        label=row.label,
        host=row.host,
        state=_state_of(row),
        started=row.started,
        finished=row.finished,
        last_ok=row.last_ok,
        code=row.exit_code,
        failing_since=row.failing_since if row.outcome not in ("ok", "failed") else None,
        counts=row.counts,
        message=judge.without_advice(row.message),
    )


def _state_of(row: queries.LastPass) -> str:
    """Return how a pass ended, or whether it still runs: a killed one could not record its end."""
    if row.outcome != "running":
        return f"{row.outcome} ({row.exit_code})" if row.exit_code else row.outcome
    here = processes.machine()
    if row.machine == here or (not row.machine and row.host == socket.gethostname()):
        lives = processes.lives(row.pid, row.start_ticks, row.process_started)
        return "at work" if lives else "killed"
    if row.host == socket.gethostname() and not processes.same_boot(row.machine, here):
        return "killed"
    return f"running on {row.host}"


def _of_memory(memory: PassMemory, site: str) -> Component:
    state, begun = memory.outcome, memory.outcome == "running"
    if begun:
        state = "at work" if processes.lives(memory.pid, None, memory.started) else "killed"
    elif memory.code:
        state = f"{state} ({memory.code})"
    return Component(
        site=site,
        label=memory.label,
        host=socket.gethostname(),
        state=state,
        started=since_seconds(memory.started),
        finished=since_seconds(memory.finished or 0),
        last_ok=since_seconds(memory.last_ok or 0),
        code=None if begun and memory.message.startswith("interrupted") else memory.code,
        failing_since=since_seconds(memory.failing_since or 0),
        message=judge.without_advice(memory.message),
    )
