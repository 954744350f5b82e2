"""The questions of `dbb status` and reports: backlogs, last passes, what needs a person.

Every question is answered by an index over what is new, due or wrong, so its cost does not grow
with history.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbbbatch.areas.endpoint import confirm
from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.database.bulk import read_counts, read_moment
from dbbbatch.database.models.run import Pause
from dbbbatch.errors import remedy_of_file
from dbbbatch.files import names
from dbbbatch.passes import relocate
from dbbbatch.report.health import Level, Trouble, Waiting

#: How many passes of a script and section are read to learn how often they come.
_RECENT = 200

#: How many files of a holding area are examined, beginning with those held for longest.
_OLDEST = 1000


@dataclass(frozen=True, kw_only=True)
class LastPass:
    """The last pass of a script and section, and when one last ended well.

    Attributes
    ----------
    outcome : `str`
        As in `run`: running, ok, failed, later, interrupted, error.
    exit_code, message
        Of the last pass that ended.
    last_ok : `datetime.datetime` or `None`
        When the last pass that worked (outcome "ok" or "failed") ended.
    failing_since : `datetime.datetime` or `None`
        When the first pass after that one ended.
    starts : `list` [`datetime.datetime`]
        When processes of the last passes began, the earliest first.
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
    failing_since: datetime | None
    starts: list[datetime]

    @property
    def label(self) -> str:
        """KIND.NAME, as the operators' commands take it."""
        return f"{self.script}.{self.name}"


@dataclass(frozen=True)
class SiteStatus:
    """What the database knows of everything that uses it.

    Attributes
    ----------
    at : `datetime.datetime`
        By the clock of the database; UTC.
    retired : `set` [`tuple` [`str`, `str`]]
        Site and label of targets that are no longer used.
    """

    at: datetime
    passes: list[LastPass]
    backlog: list[Waiting]
    trouble: list[Trouble]
    paused: list[Pause]
    retired: set[tuple[str, str]]


def status() -> SiteStatus:
    """Return what the database knows of what `dbb status` shows."""
    return connect.read(_status)


def _status() -> SiteStatus:
    now, passes = connect.now(), last_passes()
    sites = {last.name: last.site for last in passes if last.script == "finder"}
    return SiteStatus(
        at=now,
        passes=passes,
        backlog=[*_handoff_backlog(), *_storage_backlog(sites), *_ingest_backlog()],
        trouble=[
            *_handoff_failing(),
            *_unconfirmed([last for last in passes if last.script == "janitor"]),
            *_ingest_failing(),
            *_finder_failing(),
            *_quarantined(),
            *_storage_wrong(sites),
        ],
        paused=list(Pause.standing(now)),
        retired={
            (site, f"target.{name}")
            for site, name in _rows("SELECT site, name FROM target WHERE retired_at IS NOT NULL")
        },
    )


def last_passes() -> list[LastPass]:
    """Return the last pass of each site, script and section: one step in an index for each."""
    return [_last_pass(key) for key in keys_of("run", ("site", "script", "name"))]


def keys_of(table: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the values of the first columns of an index, by a few steps in it for each.

    To find what is greater than ``(site, script, name)``, SQLite reads all rows of that key.
    """
    listed = ", ".join(columns)
    steps = [
        (
            " AND ".join([*(f"{column} = ?" for column in columns[:at]), f"{columns[at]} > ?"]),
            at + 1,
        )
        for at in reversed(range(len(columns)))
    ]
    key: tuple[str, ...] = ("",) * len(columns)

    def next_key() -> tuple[str, ...]:
        for condition, given in steps:
            sql = f"SELECT {listed} FROM {table} WHERE {condition} ORDER BY {listed} LIMIT 1"
            for row in _rows(sql, key[:given]):
                return tuple(row)
        return ()

    while key := next_key():
        yield key


_LEARNED = ("last_ok", "failing_since", "starts")
_RUN_COLUMNS = [one.name for one in dataclasses.fields(LastPass) if one.name not in _LEARNED]

_OF_SECTION = "FROM run WHERE site = ? AND script = ? AND name = ?"


def _last_pass(key: tuple[Any, ...]) -> LastPass:
    (last,) = _rows(
        f"SELECT {', '.join(_RUN_COLUMNS)} {_OF_SECTION} ORDER BY id DESC LIMIT 1",
        key,
    )
    good = _rows(
        f"SELECT id, finished {_OF_SECTION} AND outcome IN ('ok', 'failed')"
        " ORDER BY id DESC LIMIT 1",
        key,
    )
    number, last_ok = good[0] if good else (0, None)
    failed = _rows(
        f"SELECT finished {_OF_SECTION} AND id > ? AND finished IS NOT NULL"
        " AND outcome <> 'interrupted' ORDER BY id LIMIT 1",
        (*key, number),
    )
    values = dict(zip(_RUN_COLUMNS, last, strict=True))
    if values["outcome"] == "running":
        # How the one before ended is true until this one ends.
        before = (
            f"SELECT outcome, exit_code, message {_OF_SECTION} ORDER BY id DESC LIMIT 1 OFFSET 1"
        )
        for outcome, exit_code, message in _rows(before, key):
            if outcome != "interrupted":
                values |= {"exit_code": exit_code, "message": message}
    values |= {"counts": read_counts(values["counts"])}
    values |= {column: read_moment(values[column]) for column in ("started", "finished")}
    return LastPass(
        **values,
        last_ok=read_moment(last_ok),
        failing_since=read_moment(failed[0][0]) if failed else None,
        starts=_recent_starts(key),
    )


def _recent_starts(key: tuple[Any, ...]) -> list[datetime]:
    """Return when the last processes began: one that lingers makes many passes."""
    found: list[datetime] = []
    process: tuple[str, int] | None = None
    for started, host, pid in reversed(
        _rows(f"SELECT started, host, pid {_OF_SECTION} ORDER BY id DESC LIMIT {_RECENT}", key)
    ):
        moment = read_moment(started)
        if moment is not None and (host, pid) != process:
            found.append(moment)
        process = host, pid
    return found


#: The condition of the partial index of `handoff_file`; SQLite compares the words.
UNFINISHED = "status IN ('FOUND', 'DELIVERED', 'QUARANTINED')"

#: Of the files of a holding area that were held for longest, those that are not confirmed.
HELD_LONGEST = (
    "FROM (SELECT relpath, filename, held_as, size_bytes, error, held_at, id FROM handoff_file"
    f" WHERE site = ? AND handoff = ? AND status = 'HELD' ORDER BY held_at, id LIMIT {_OLDEST})"
    " AS oldest WHERE error IS NOT NULL"
)

#: The step for which a file of this status waits.
_STEP = {"FOUND": "deliver", "DELIVERED": "hold"}


def _handoff_backlog() -> list[Waiting]:
    found = []
    for site, name, state, files in _rows(
        f"SELECT site, handoff, status, COUNT(*) FROM handoff_file WHERE {UNFINISHED}"
        " AND status <> 'QUARANTINED' AND error IS NULL GROUP BY site, handoff, status"
        " ORDER BY site, handoff, status DESC"
    ):
        ((size, oldest),) = _rows(
            "SELECT SUM(size_bytes), MIN(discovered_at) FROM handoff_file"
            f" WHERE {UNFINISHED} AND site = ? AND handoff = ? AND status = ?"
            " AND error IS NULL",
            (site, name, state),
        )
        label, step = f"handoff.{name}", _STEP[state]
        found.append(
            Waiting(
                site=site,
                label=label,
                step=step,
                files=files,
                size_bytes=int(size or 0),
                oldest=read_moment(oldest),
            )
        )
    return found


def _storage_backlog(sites: Mapping[str, str]) -> list[Waiting]:
    arriving = {
        name: (int(files), int(size))
        for name, files, size in _rows(
            "SELECT finder, COUNT(*), SUM(size_bytes) FROM file WHERE status = 'ARRIVING'"
            " GROUP BY finder"
        )
    }
    found = []
    for name in sorted({*sites, *arriving}):
        site, (files, size) = sites.get(name, ""), arriving.get(name, (0, 0))
        ((awaited,),) = _rows(
            "SELECT COUNT(*) FROM finder_left"
            " WHERE site = ? AND finder = ? AND verdict = 'AWAITED'",
            (site, name),
        )
        if files or awaited:
            found.append(
                Waiting(
                    site=site,
                    label=f"finder.{name}",
                    step="store",
                    files=files + awaited,
                    size_bytes=None if awaited else size,
                )
            )
    return found


#: What an ingest waits for, each with the condition of one of the table's partial indexes.
_WAITING_FOR = {
    "ingest": "status = 'UNTRIED' AND next_try_at IS NULL",
    # Those that failed, or were put off, are a trouble.
    "try again": "next_try_at IS NOT NULL AND status NOT IN ('FAILURE', 'UNKNOWN', 'UNTRIED')",
    "end its try": "claim IS NOT NULL",
}


def _ingest_backlog() -> list[Waiting]:
    return [
        Waiting(
            site=site,
            label=f"target.{name}",
            step=step,
            files=files,
            oldest=read_moment(oldest),
        )
        for step, condition in _WAITING_FOR.items()
        for site, name, files, oldest in _rows(
            "SELECT target.site, target.name, waiting.files, file.added_on FROM ("
            " SELECT target_id, COUNT(*) AS files, MIN(file_id) AS oldest FROM ingest_state"
            f" WHERE {condition} GROUP BY target_id) AS waiting"
            " JOIN target ON target.id = waiting.target_id JOIN file ON file.id = waiting.oldest"
            " WHERE target.retired_at IS NULL ORDER BY target.site, target.name"
        )
    ]


def _handoff_failing() -> list[Trouble]:
    found = []
    for site, name, files, newest in _rows(
        f"SELECT site, handoff, COUNT(*), MAX(id) FROM handoff_file WHERE {UNFINISHED}"
        " AND status <> 'QUARANTINED' AND error IS NOT NULL GROUP BY site, handoff"
        " ORDER BY site, handoff"
    ):
        ((message,),) = _rows("SELECT error FROM handoff_file WHERE id = ?", [newest])
        label = f"handoff.{name}"
        listing = f"dbb list {label} --status failing"
        advice = remedy_of_file(message)
        found.append(Trouble(site, label, "failing", files, message, advice, listing))
    return found


def _unconfirmed(janitors: list[LastPass]) -> list[Trouble]:
    """Return the files that stay in holding, of those held for longest."""
    found = []
    for last in janitors:
        label = f"handoff.{last.name}"
        oldest = f"SELECT relpath, filename, error {HELD_LONGEST} ORDER BY held_at, id"
        rows = _rows(oldest, (last.site, last.name))
        if rows:
            relpath, filename, error = rows[0]
            message = f"{names.join(relpath, filename)}: {error}"
            rel = names.readable(names.join(relpath, filename))
            word = error.rpartition(": ")[2]
            advice = f"at the endpoint: {confirm.command_there(word, names.quoted(rel))}"
            listing = f"dbb list {label} --status not-confirmed"
            found.append(
                Trouble(last.site, label, "not confirmed", len(rows), message, advice, listing)
            )
    return found


#: The condition of the partial index of what went wrong, word for word.
_WENT_WRONG = "status IN ('FAILURE', 'UNKNOWN', 'INVALID')"

#: What is wrong with files of a target: the condition, what to do, and what lists them.
INGEST_TROUBLE = {
    "put off": (
        "next_try_at IS NOT NULL AND status = 'UNTRIED'",
        "",
        "dbb list {} --status put-off",
    ),
    "failing": (
        f"{_WENT_WRONG} AND status <> 'INVALID' AND next_try_at IS NOT NULL",
        "",
        "dbb list {} --status failing",
    ),
    "gave up": (
        f"{_WENT_WRONG} AND status <> 'INVALID' AND next_try_at IS NULL",
        "if the reason is gone: dbb retry {}",
        "dbb list {} --status gave-up",
    ),
    "invalid": (
        f"{_WENT_WRONG} AND status = 'INVALID'",
        "if the reason is gone: dbb retry {} --status INVALID, or: dbb ignore {} --status INVALID",
        "dbb list {} --status invalid",
    ),
}


def _ingest_failing() -> list[Trouble]:
    found = []
    for target, site, name in _rows(
        "SELECT id, site, name FROM target WHERE retired_at IS NULL ORDER BY site, name"
    ):
        label = f"target.{name}"
        for what, (condition, advice, listing) in INGEST_TROUBLE.items():
            among = f"FROM ingest_state WHERE target_id = ? AND {condition}"
            ((files, since),) = _rows(f"SELECT COUNT(*), MIN(changed_at) {among}", [target])
            if files:
                newest = f"SELECT message {among} ORDER BY changed_at DESC, file_id DESC LIMIT 1"
                ((message,),) = _rows(newest, [target])
                # What is tried again changes at each try.
                since = None if what in ("put off", "failing") else read_moment(since)
                advice = advice.format(label, label) or remedy_of_file(message or "")
                listing = listing.format(label)
                found.append(Trouble(site, label, what, files, message, advice, listing, since))
    return found


#: What is wrong with files that a finder remembers: in words, what to do, and the list's name.
FINDER_TROUBLE = {
    "FAILED": ("failing", "", "failing"),
    "MOVED": (
        "stored, original not removed",
        "let the finder's user remove it from the source",
        "not-removed",
    ),
    "GIVEN_UP": (
        "gave up",
        "put it into storage, or: dbb ignore {} --status GIVEN_UP",
        "gave-up",
    ),
}


def _finder_failing() -> list[Trouble]:
    found = []
    for site, finder, verdict, files in _rows(
        "SELECT site, finder, verdict, COUNT(*) FROM finder_left"
        " WHERE verdict IN ('FAILED', 'MOVED', 'GIVEN_UP') GROUP BY site, finder, verdict"
        " ORDER BY 1, 2, 3"
    ):
        ((relpath, filename, message, seen),) = _rows(
            "SELECT relpath, filename, message, seen_at FROM finder_left"
            " WHERE site = ? AND finder = ? AND verdict = ?"
            " ORDER BY seen_at DESC, relpath DESC, filename DESC LIMIT 1",
            (site, finder, verdict),
        )
        what, advice, listed = FINDER_TROUBLE[verdict]
        advice = advice or remedy_of_file(message or "")
        label = f"finder.{finder}"
        listing = f"dbb list {label} --status {listed}"
        # The row stays until the auditor's next pass, though the file may have left the source.
        last = f"{names.join(relpath, filename)}, last tried {read_moment(seen):%Y-%m-%d %H:%M}"
        message = f"{message} ({last} UTC)" if message else last
        found.append(Trouble(site, label, what, files, message, advice.format(label), listing))
    return found


def _quarantined() -> list[Trouble]:
    return [
        Trouble(
            site,
            label,
            "quarantined",
            files,
            reason,
            f"if the reason is gone: dbb quarantine release {label} --reason '*', or: dbb ignore "
            f"{label} --status QUARANTINED",
            f"dbb quarantine list {label}",
            read_moment(since),
        )
        for site, label, files, reason, since in _rows(
            "SELECT waiting.site, waiting.label, waiting.files, quarantine.reason, waiting.since"
            " FROM (SELECT site, label, COUNT(*) AS files, MAX(id) AS newest,"
            " MIN(quarantined_at) AS since FROM quarantine"
            " WHERE released_at IS NULL AND quarantined_at IS NOT NULL GROUP BY site, label"
            ") AS waiting JOIN quarantine ON quarantine.id = waiting.newest ORDER BY 1, 2"
        )
    ]


def _storage_wrong(sites: Mapping[str, str]) -> list[Trouble]:
    found = []
    for storage, state, files, error, relpath, filename, finder in _rows(
        "SELECT wrong.storage, wrong.status, wrong.files, file.error, file.relpath, file.filename,"
        " file.finder FROM ("
        " SELECT storage, status, COUNT(*) AS files, MAX(id) AS newest FROM file"
        " WHERE status IN ('MISSING', 'CORRUPT') GROUP BY storage, status"
        ") AS wrong JOIN file ON file.id = wrong.newest ORDER BY 1, 2"
    ):
        site, what = sites.get(finder, ""), state.lower()
        message = f"{names.join(relpath, filename)}: {error or what}"
        advice = copied_back(finder if finder in sites else "")
        listing = f"dbb list {names.quoted(storage)} --status {what}"
        found.append(
            Trouble(site, storage, what, files, message, advice, listing, level=Level.CRITICAL)
        )
    return found


def abandoned_storage(settings: Settings) -> list[Trouble]:
    """Return the storage areas with files in the table that no section has."""
    return [
        Trouble(
            settings.site.name,
            f"finder.{one.finder}" if one.finder else "",
            "storage without a section",
            0,
            f"{one.storage}: the table has files of it, and no section does; has it moved?",
            one.move if one.new else f"if it has moved: {one.move}",
        )
        for one in relocate.abandoned(settings)
    ]


def copied_back(finder: str) -> str:
    """Return what to do about a file that storage has lost; '' as the finder if it has none."""
    auditor = f"dbb-auditor {finder} --share 0" if finder else "the auditor of its host sees it"
    return f"copy it back, then: {auditor}"


def _rows(sql: str, values: Any = ()) -> list[Any]:
    return list(connect.execute(sql, values).fetchall())
