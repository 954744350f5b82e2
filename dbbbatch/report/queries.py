"""What `dbb status` and reports ask of the database: backlogs, last passes, what needs a person.

Every question is answered by an index over what is new, due or wrong, so its cost does not grow
with history.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbbbatch.database import connect
from dbbbatch.files import names

#: Files of a holding area that are looked at, those first that are there for longest.
_OLDEST = 1000


@dataclass(frozen=True)
class LastPass:
    """The last pass of a script and section, and the last one that ended well.

    Attributes
    ----------
    outcome : `str`
        As in `run`: running, ok, failed, later, interrupted, error.
    last_ok : `datetime.datetime` or `None`
        When the last pass with outcome "ok" ended.
    """

    site: str
    script: str
    name: str
    host: str
    pid: int
    process_started: float
    machine: str
    start_ticks: int | None
    started: datetime
    finished: datetime | None
    outcome: str
    exit_code: int | None
    counts: dict[str, int]
    message: str
    last_ok: datetime | None

    @property
    def label(self) -> str:
        """KIND.NAME, as the operators' commands take it."""
        return f"{self.script}.{self.name}"


@dataclass(frozen=True)
class Backlog:
    """Files that wait for one step, of a section.

    Attributes
    ----------
    what : `str`
        The step: "deliver", "hold", "store", "ingest", "try again", "end its try".
    oldest : `datetime.datetime` or `None`
        Since when the oldest of them waits.
    """

    site: str
    label: str
    what: str
    files: int
    size_bytes: int | None
    oldest: datetime | None


@dataclass(frozen=True)
class Trouble:
    """Files that failed, or wait for a person.

    Attributes
    ----------
    what : `str`
        "failing": retried by itself; else what happened: "quarantined", "gave up", "missing", …
    message : `str`
        The reason of the newest of them.
    advice : `str`
        What deals with them, such as a command; '' if nobody need do anything.
    listing : `str`
        The command that lists them with their reasons.
    """

    site: str
    label: str
    what: str
    files: int
    message: str
    advice: str
    listing: str


@dataclass(frozen=True)
class Paused:
    """A script and section that an operator stopped for a while."""

    site: str
    label: str
    since: datetime
    until: datetime | None
    reason: str


@dataclass(frozen=True)
class SiteStatus:
    """The state of everything that uses this database."""

    at: datetime
    passes: list[LastPass] = field(default_factory=list)
    backlog: list[Backlog] = field(default_factory=list)
    trouble: list[Trouble] = field(default_factory=list)
    paused: list[Paused] = field(default_factory=list)


def status() -> SiteStatus:
    """Ask for everything that `dbb status` shows."""
    return connect.read(_status)


def _status() -> SiteStatus:
    handoffs, passes = _handoff_backlog(), last_passes()
    sites = {last.name: last.site for last in passes if last.script == "finder"}
    return SiteStatus(
        at=connect.now(),
        passes=passes,
        backlog=[*handoffs, *_storage_backlog(sites), *_ingest_backlog()],
        trouble=[
            *_handoff_failing(handoffs),
            *_unconfirmed([last for last in passes if last.script == "janitor"]),
            *_ingest_failing(),
            *_finder_failing(),
            *_quarantined(),
            *_storage_wrong(sites),
        ],
        paused=_pauses(),
    )


def last_passes() -> list[LastPass]:
    """Return the last pass of each site, script and section: one step in an index for each."""
    found: list[LastPass] = []
    key: tuple[Any, ...] = ("", "", "")
    while True:
        row = connect.execute(
            "SELECT site, script, name FROM run WHERE (site, script, name) > (?, ?, ?)"
            " ORDER BY site, script, name LIMIT 1",
            key,
        ).fetchone()
        if row is None:
            return found
        key = tuple(row)
        found.append(_last_pass(*key))


def _last_pass(site: str, script: str, name: str) -> LastPass:
    key = (site, script, name)
    last = connect.execute(
        "SELECT host, pid, process_started, machine, start_ticks, started, finished, outcome,"
        " exit_code, counts, message FROM run WHERE site = ? AND script = ? AND name = ?"
        " ORDER BY id DESC LIMIT 1",
        key,
    ).fetchone()
    good = connect.execute(
        "SELECT finished FROM run WHERE site = ? AND script = ? AND name = ? AND outcome = 'ok'"
        " ORDER BY id DESC LIMIT 1",
        key,
    ).fetchone()
    host, pid, born, machine, ticks, started, finished, outcome, exit_code, counts, message = last
    return LastPass(
        site=site,
        script=script,
        name=name,
        host=host,
        pid=pid,
        process_started=born,
        machine=machine,
        start_ticks=ticks,
        started=_required(started),
        finished=time_read(finished),
        outcome=outcome,
        exit_code=exit_code,
        counts=json.loads(counts),
        message=message,
        last_ok=time_read(good[0]) if good else None,
    )


#: As the partial index of `handoff_file` has it; SQLite uses it only where it finds the same words.
_UNFINISHED_STATUSES = "status IN ('FOUND', 'DELIVERED', 'QUARANTINED')"

_STATUS = {"deliver": "FOUND", "hold": "DELIVERED"}


def _handoff_backlog() -> list[Backlog]:
    waiting = connect.execute(
        f"SELECT site, handoff, status, COUNT(*) FROM handoff_file WHERE {_UNFINISHED_STATUSES}"
        " AND status <> 'QUARANTINED' GROUP BY site, handoff, status"
        " ORDER BY site, handoff, status DESC"
    ).fetchall()
    found = []
    for site, name, state, files in waiting:
        size, oldest = connect.execute(
            "SELECT SUM(size_bytes), MIN(discovered_at) FROM handoff_file"
            f" WHERE {_UNFINISHED_STATUSES} AND site = ? AND handoff = ? AND status = ?",
            (site, name, state),
        ).fetchone()
        what = "deliver" if state == _STATUS["deliver"] else "hold"
        found.append(
            Backlog(site, f"handoff.{name}", what, files, int(size or 0), time_read(oldest))
        )
    return found


def _storage_backlog(sites: Mapping[str, str]) -> list[Backlog]:
    rows = connect.execute(
        "SELECT finder, COUNT(*), SUM(size_bytes) FROM file WHERE status = 'ARRIVING'"
        " GROUP BY finder ORDER BY finder"
    )
    return [
        Backlog(sites.get(name, ""), f"finder.{name}", "store", files, int(size), None)
        for name, files, size in rows.fetchall()
    ]


#: What an ingest waits for, each as one of the table's partial indexes has it.
_WAITING_FOR = {
    "ingest": "status = 'UNTRIED' AND next_try_at IS NULL",
    "try again": "next_try_at IS NOT NULL",
    "end its try": "claim IS NOT NULL",
}


def _ingest_backlog() -> list[Backlog]:
    found = []
    for what, condition in _WAITING_FOR.items():
        rows = connect.execute(
            "SELECT target.site, target.name, waiting.files, file.added_on FROM ("
            " SELECT target_id, COUNT(*) AS files, MIN(file_id) AS oldest FROM ingest_state"
            f" WHERE {condition} GROUP BY target_id) AS waiting"
            " JOIN target ON target.id = waiting.target_id JOIN file ON file.id = waiting.oldest"
            " WHERE target.retired_at IS NULL ORDER BY target.site, target.name"
        )
        found += [
            Backlog(site, f"target.{name}", what, files, None, time_read(oldest))
            for site, name, files, oldest in rows.fetchall()
        ]
    return found


def _handoff_failing(backlog: list[Backlog]) -> list[Trouble]:
    found = []
    for waiting in backlog:
        key = (waiting.site, waiting.label.partition(".")[2], _STATUS[waiting.what])
        files, newest = connect.execute(
            f"SELECT COUNT(*), MAX(id) FROM handoff_file WHERE {_UNFINISHED_STATUSES}"
            " AND site = ? AND handoff = ? AND status = ? AND error IS NOT NULL",
            key,
        ).fetchone()
        if files:
            error = connect.execute("SELECT error FROM handoff_file WHERE id = ?", [newest])
            message = error.fetchone()[0]
            # What cannot be moved to holding is no matter of trying again; its error has its path.
            sent = waiting.what == "deliver"
            listing = f"dbb retry {waiting.label} --status FOUND --dry-run" if sent else ""
            found.append(
                Trouble(waiting.site, waiting.label, "failing", files, message, "", listing)
            )
    return found


def _unconfirmed(janitors: list[LastPass]) -> list[Trouble]:
    """Tell of files that stay in holding, among those that are there for longest."""
    found = []
    for last in janitors:
        label = f"handoff.{last.name}"
        rows = connect.execute(
            "SELECT relpath, filename, error FROM (SELECT relpath, filename, error, held_at, id"
            " FROM handoff_file WHERE site = ? AND handoff = ? AND status = 'HELD'"
            f" ORDER BY held_at, id LIMIT {_OLDEST}) AS oldest"
            " WHERE error IS NOT NULL ORDER BY held_at, id",
            (last.site, last.name),
        ).fetchall()
        if rows:
            relpath, filename, error = rows[0]
            found.append(
                Trouble(
                    last.site,
                    label,
                    "not confirmed",
                    len(rows),
                    f"{names.join(relpath, filename)}: {error}",
                    "ask the endpoint: dbb history FILE",
                    f"dbb ignore {label} --status HELD --reason 'not confirmed' --dry-run",
                )
            )
    return found


#: What is wrong with files of a target, in words: which they are, what deals with them, and what
#: lists them.
_INGEST_TROUBLE = {
    "failing": ("status IN ('FAILURE', 'UNKNOWN') AND next_try_at IS NOT NULL", "", ""),
    "gave up": ("status IN ('FAILURE', 'UNKNOWN') AND next_try_at IS NULL", "dbb retry {}", ""),
    "invalid": ("status = 'INVALID'", "dbb retry {0} --status INVALID", " --status INVALID"),
}


def _ingest_failing() -> list[Trouble]:
    targets = connect.execute(
        "SELECT id, site, name FROM target WHERE retired_at IS NULL ORDER BY site, name"
    ).fetchall()
    found = []
    for target, site, name in targets:
        for what, (condition, advice, chosen) in _INGEST_TROUBLE.items():
            # The first condition is that of the partial index, word for word.
            among = (
                "FROM ingest_state WHERE target_id = ?"
                f" AND status IN ('FAILURE', 'UNKNOWN', 'INVALID') AND {condition}"
            )
            (files,) = connect.execute(f"SELECT COUNT(*) {among}", [target]).fetchone()
            if files:
                newest = connect.execute(
                    f"SELECT message {among} ORDER BY changed_at DESC, file_id DESC LIMIT 1",
                    [target],
                ).fetchone()
                label = f"target.{name}"
                listing = f"dbb retry {label}{chosen} --dry-run"
                found.append(
                    Trouble(site, label, what, files, newest[0], advice.format(label), listing)
                )
    return found


#: What a finder has in mind that is not well: in words, what deals with it, and what lists it.
_FINDER_TROUBLE = {
    "FAILED": ("failing", "", "dbb retry {} --dry-run"),
    "MOVED": (
        "stored, original not removed",
        "let the finder's user remove it from the source",
        "",
    ),
    "GIVEN_UP": (
        "gave up",
        "put it into storage, or: dbb forget {} FILE",
        "dbb ignore {} --status GIVEN_UP --dry-run",
    ),
}


def _finder_failing() -> list[Trouble]:
    rows = connect.execute(
        "SELECT site, finder, verdict, COUNT(*) FROM finder_left"
        " WHERE verdict IN ('FAILED', 'MOVED', 'GIVEN_UP') GROUP BY site, finder, verdict"
        " ORDER BY 1, 2, 3"
    )
    found = []
    for site, finder, verdict, files in rows.fetchall():
        relpath, filename, message, seen = connect.execute(
            "SELECT relpath, filename, message, seen_at FROM finder_left"
            " WHERE site = ? AND finder = ? AND verdict = ?"
            " ORDER BY seen_at DESC, relpath DESC, filename DESC LIMIT 1",
            (site, finder, verdict),
        ).fetchone()
        what, advice, listing = _FINDER_TROUBLE[verdict]
        label = f"finder.{finder}"
        # It stays in mind until the auditor's next pass, though it may have left the source.
        last = f"{names.join(relpath, filename)}, last tried {_required(seen):%Y-%m-%d %H:%M}"
        message = f"{message} ({last} UTC)" if message else last
        found.append(
            Trouble(site, label, what, files, message, advice.format(label), listing.format(label))
        )
    return found


def _quarantined() -> list[Trouble]:
    rows = connect.execute(
        "SELECT waiting.site, waiting.label, waiting.files, quarantine.reason FROM ("
        " SELECT site, label, COUNT(*) AS files, MAX(id) AS newest FROM quarantine"
        " WHERE released_at IS NULL AND quarantined_at IS NOT NULL GROUP BY site, label"
        ") AS waiting JOIN quarantine ON quarantine.id = waiting.newest ORDER BY 1, 2"
    )
    return [
        Trouble(
            site,
            label,
            "quarantined",
            files,
            reason,
            f"dbb quarantine release {label}, or dbb ignore {label} --status QUARANTINED",
            f"dbb quarantine list {label}",
        )
        for site, label, files, reason in rows.fetchall()
    ]


def _storage_wrong(sites: Mapping[str, str]) -> list[Trouble]:
    rows = connect.execute(
        "SELECT wrong.storage, wrong.status, wrong.files, file.error, file.relpath, file.filename,"
        " file.finder FROM ("
        " SELECT storage, status, COUNT(*) AS files, MAX(id) AS newest FROM file"
        " WHERE status IN ('MISSING', 'CORRUPT') GROUP BY storage, status"
        ") AS wrong JOIN file ON file.id = wrong.newest ORDER BY 1, 2"
    )
    found = []
    for storage, state, files, error, relpath, filename, finder in rows.fetchall():
        auditor = f"dbb-auditor {finder if finder in sites else 'FINDER'}"
        found.append(
            Trouble(
                sites.get(finder, ""),
                storage,
                state.lower(),
                files,
                f"{names.join(relpath, filename)}: {error or state.lower()}",
                f"copy it back, then: {auditor} --share 1 --match PATH",
                f"{auditor} --dry-run",
            )
        )
    return found


def _pauses() -> list[Paused]:
    rows = connect.execute(
        "SELECT site, label, since, until, reason FROM pause"
        " WHERE until IS NULL OR until > ? ORDER BY site, label",
        (stamp(connect.now()),),
    )
    return [
        Paused(site, label, _required(since), time_read(until), reason)
        for site, label, since, until, reason in rows.fetchall()
    ]


def time_read(value: Any) -> datetime | None:
    """Return a time that the driver gave: text from SQLite, a datetime from PostgreSQL."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def stamp(value: datetime) -> Any:
    """Return a time as the database keeps it, to compare with."""
    from dbbbatch.database.base import time_text

    return value if connect.on_postgresql() else time_text(value)


def _required(value: Any) -> datetime:
    found = time_read(value)
    assert found is not None
    return found
