"""Read the nights from the database: files first seen lately, in the order of that time.

The night of a file is the date in its path, or the night in which it was first seen. Only files
first seen since the oldest night that is asked for began (or a day sooner, as dates in paths may be
those of another time zone) are read, by two indexes: those that a handoff found, and those in
storage that no handoff knows. They pass through in pages, and memory does not grow with them but
for the few bytes each that `dbbbatch.report.night_tally` keeps.

Of two versions of a path the newer one counts. It is stored where storage has a file of its path
and size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Report
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File, Name, among_paths
from dbbbatch.errors import ConfigError
from dbbbatch.files import names
from dbbbatch.report.night_tally import FileOfNight, NightTally
from dbbbatch.report.nights import Night, NightFile

#: Called with each file and the day of its night.
Each = Callable[[date, NightFile], None]

#: Files read at a time.
_PAGE = 5000

#: Directories whose date is remembered.
_DIRECTORIES = 50_000

#: Where a file is, by its status at the handoff and in storage.
_AT_HANDOFF = {
    "FOUND": "in the buffer",
    "DELIVERED": "delivered",
    "HELD": "delivered",
    "PURGED": "delivered",
    "QUARANTINED": "quarantined",
    "IGNORED": "ignored",
    "VANISHED": "vanished from the buffer",
}
_IN_STORAGE = {
    "ARRIVING": "arriving in storage",
    "STORED": "stored",
    "MISSING": "missing",
    "CORRUPT": "corrupt",
    "QUARANTINED": "quarantined in storage",
    "FORGOTTEN": "forgotten",
}


def nights(
    settings: Settings, *, count: int | None = None, each: Each | None = None
) -> list[Night]:
    """Return the last nights, the newest first, back to the first one that has a file.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
        Its section `[report]` says what a night is. The database is connected.
    count : `int`, optional
        How many nights; by default as many as the configuration says.
    each : callable, optional
        Called with the day and each file, in no order, as they are read.

    Raises
    ------
    ConfigError
        `[report]` is wrong.
    TryLater
        The database is away.
    """
    settings.require("report")
    today = _night_at(settings.report, connect.read(connect.now))
    first = today - timedelta(days=(count or settings.report.nights) - 1)
    # A date in a path may be that of a time zone where the next day has begun.
    reader = _NightReader(settings, first, today + timedelta(days=1), each)
    reader.tally_of(today)
    return reader.read()


#: Statuses of ingests that have a reason.
_INGEST_FAILED = ("FAILURE", "UNKNOWN", "INVALID")


def _night_at(report: Report, when: datetime) -> date:
    return (when - timedelta(seconds=report.night_begins)).date()


#: A row of the questions below.
_Row = tuple[Any, ...]

#: The time and the id after which a page begins.
_Position = tuple[Any, int]

#: Of a file: for each target its id and the status, and then since when it has that. To read it in
#: one column takes half as long as in a row for each target, and most files have the same statuses.
_INGESTS = (
    "(SELECT {concat}(s.target_id || ' ' || s.status, ',') || '/' || {concat}({changed_at}, ',')"
    " FROM ingest_state AS s WHERE s.file_id = f.id)"
)

_HANDED_OFF = (
    "SELECT h.id, h.discovered_at, h.relpath, h.filename, h.size_bytes, h.status, h.delivered_at,"
    f" h.error, h.site || '/' || h.handoff, f.id, f.status, f.added_on, f.error, {_INGESTS}"
    " FROM handoff_file AS h LEFT JOIN file AS f ON f.filename = h.filename"
    " AND f.relpath = h.relpath AND f.storage {among} AND f.size_bytes = h.size_bytes"
    " WHERE (h.discovered_at, h.id) > (?, ?) AND (h.discovered_at, h.id) <= (?, ?)"
    " AND NOT EXISTS (SELECT 1 FROM handoff_file AS n WHERE n.filename = h.filename"
    " AND n.relpath = h.relpath AND {newer})"
)

_ONLY_STORED = (
    "SELECT f.id, f.added_on, f.relpath, f.filename, f.size_bytes, NULL, NULL, NULL, '',"
    f" f.id, f.status, f.added_on, f.error, {_INGESTS} FROM file AS f"
    " WHERE (f.added_on, f.id) > (?, ?) AND (f.added_on, f.id) <= (?, ?)"
    " AND NOT EXISTS (SELECT 1 FROM handoff_file AS h WHERE h.filename = f.filename"
    " AND h.relpath = f.relpath)"
)


class _States(NamedTuple):
    """The statuses of a file's ingests.

    Attributes
    ----------
    by_target : sequence of `tuple`
        Id of the target, and the status.
    by_name : mapping
        Status by the name of the target, without retired ones.
    failed : `bool`
        Whether any is that of a failure.
    """

    by_target: Sequence[tuple[str, str]]
    by_name: Mapping[str, str]
    failed: bool


_NO_STATES = _States((), MappingProxyType({}), False)


class _NightReader:
    """Reads the files of some nights, and sums them up."""

    def __init__(self, settings: Settings, first: date, last: date, each: Each | None) -> None:
        self._settings = settings
        self._report = settings.report
        self._first = first
        self._last = last
        self._each = each
        self._since = self._begin_of(first)
        self._targets = connect.read(_known_targets)
        self._names = {key: name for key, _, name in self._targets}
        #: By day, with the time at which it began.
        self._tallies: dict[date, tuple[NightTally, datetime]] = {}
        self._days: dict[str, date | None] = {}
        self._states: dict[str, _States] = {}
        self._shared: dict[str, bool] = {}
        self._moment: Callable[[Any], Any] = datetime.fromisoformat
        if connect.on_postgresql():
            self._moment = bulk.read_moment

    def tally_of(self, day: date) -> tuple[NightTally, datetime]:
        """Return the tally of a night, and when it began."""
        known = self._tallies.get(day)
        if known is None:
            begins = self._begin_of(day)
            tally = NightTally(day, begins, list(self._names), self._report.exposure is not None)
            known = self._tallies[day] = tally, begins
        return known

    def read(self) -> list[Night]:
        """Read all files, and return the nights from the newest to the first that has a file."""
        among, storages = bulk.among(connect.read(File.storages))
        words = {"among": among, "concat": "group_concat", "changed_at": "s.changed_at"}
        words["newer"] = "n.id > h.id"
        if any(one.siblings for one in self._settings.handoff.values()):
            # Of several endpoints that counts which does not have a file yet.
            words["newer"] = "(n.status = 'FOUND', n.id) > (h.status = 'FOUND', h.id)"
        if connect.on_postgresql():
            words |= {"concat": "string_agg", "changed_at": "CAST(s.changed_at AS TEXT)"}
        handed_off, only_stored = (one.format(**words) for one in (_HANDED_OFF, _ONLY_STORED))
        self._read_table("handoff_file", "discovered_at", handed_off, [storages])
        self._read_table("file", "added_on", only_stored, [])
        day, found = max(self._tallies), []
        while day >= min(self._tallies):
            found.append(self.tally_of(day)[0].night(self._report.expected, self._targets))
            day -= timedelta(days=1)
        return found

    def _read_table(self, table: str, column: str, sql: str, values: Sequence[Any]) -> None:
        after: _Position = bulk.time_value(self._since - timedelta(days=1)), -1
        while upto := connect.read(_end_of_page, table, column, after):
            self._add_page(connect.read(_rows_between, sql, [*values, *after, *upto]))
            after = upto

    def _add_page(self, rows: Sequence[_Row]) -> None:
        failing, before = _Failing(), None
        for row in rows:
            # Two storage areas may have the file of a row.
            if row[0] != before:
                try:
                    before = self._add_row(row, failing) or before
                except (ValueError, TypeError, OverflowError) as error:
                    path = names.printable(names.join(str(row[2]), str(row[3])))
                    raise ConfigError(f"a row of {path} makes no sense: {error}") from None
        connect.read(failing.add_reasons)

    def _add_row(self, row: _Row, failing: _Failing) -> int | None:
        """Add a file, if it is of these nights; return the number of its row then."""
        number, seen_at, relpath, filename = row[:4]
        path = names.join(relpath, filename)
        day = self._days.get(relpath) or self._day_of(relpath, path, seen_at)
        if not self._first <= day <= self._last:
            return None
        tally, begins = self._tallies.get(day) or self.tally_of(day)
        file, states = self._file(row, path, begins)
        tally.add(file)
        failing.note(tally, file, row, states.failed)
        if self._each:
            where = _IN_STORAGE.get(file.storage) or _AT_HANDOFF.get(file.handoff, "")
            self._each(day, NightFile(path, file.size_bytes, where, states.by_name))
        return int(number)

    def _file(self, row: _Row, path: str, begins: datetime) -> tuple[FileOfNight, _States]:
        _, seen_at, _, _, size, handoff, delivered, _, owner, _, storage, stored, _, ingests = row
        moment = self._moment
        since: Sequence[float] = ()
        states = _NO_STATES
        if ingests:
            text, _, times = ingests.partition("/")
            states = self._states.get(text) or self._states_of(text)
            since = [
                (datetime.fromisoformat(at) - begins).total_seconds() for at in times.split(",")
            ]
        file = FileOfNight(
            path,
            size,
            self._exposure_of(path) if self._report.exposure else 0,
            (moment(seen_at) - begins).total_seconds(),
            handoff or "",
            (moment(delivered) - begins).total_seconds() if delivered else None,
            storage or "",
            (moment(stored) - begins).total_seconds() if stored else None,
            bool(storage) or self._is_shared(owner),
            states.by_target,
            since,
        )
        return file, states

    def _states_of(self, text: str) -> _States:
        """Return the statuses of a file's ingests, as the database writes them."""
        by_target = [
            (target, status)
            for target, _, status in (one.partition(" ") for one in text.split(","))
        ]
        known = self._states[text] = _States(
            by_target,
            {self._names[one]: status for one, status in by_target if one in self._names},
            any(status in _INGEST_FAILED for _, status in by_target),
        )
        return known

    def _begin_of(self, day: date) -> datetime:
        midnight = datetime(day.year, day.month, day.day)
        return midnight + timedelta(seconds=self._report.night_begins)

    def _day_of(self, relpath: str, path: str, seen_at: Any) -> date:
        """Return the day of a file's night; the directory's, where its path has a date."""
        if relpath not in self._days:
            if len(self._days) >= _DIRECTORIES:
                self._days.clear()
            self._days[relpath] = self._date_in(f"{relpath}/")
        day = self._days[relpath] or self._date_in(path)
        return day or _night_at(self._report, self._moment(seen_at))

    def _date_in(self, path: str) -> date | None:
        found = self._report.night.search(path) if self._report.night else None
        digits = re.sub(r"\D", "", found[1] or "") if found else ""
        try:
            return date.fromisoformat(digits) if len(digits) == 8 else None
        except ValueError:
            return None

    def _exposure_of(self, path: str) -> int:
        found = self._report.exposure.search(path) if self._report.exposure else None
        return hash(found[0] if found else path)

    def _is_shared(self, owner: str) -> bool:
        """Return whether this database is that of the storage to which a handoff's files go."""
        if owner not in self._shared:
            site, _, name = owner.rpartition("/")
            known = self._settings.handoff.get(name)
            sources = {one.source for one in self._settings.finder.values()}
            self._shared[owner] = (
                site == self._settings.site.name
                and known is not None
                and not known.endpoint.remote
                and known.endpoint.buffer in sources
            ) or connect.read(_has_stored, site, name, self._since)
        return self._shared[owner]


class _Failing:
    """Why the files of a page do not proceed."""

    def __init__(self) -> None:
        #: Files that are delivered and not stored, by path.
        self._unstored: dict[Name, tuple[NightTally, str]] = {}
        #: Files that some target could not ingest, by id.
        self._refused: dict[int, tuple[NightTally, str]] = {}

    def note(self, tally: NightTally, file: FileOfNight, row: _Row, refused: bool) -> None:
        """Count the reason that a row has, or remember to ask for it."""
        error, file_id, file_error = row[7], row[9], row[12]
        if file.handoff in ("FOUND", "QUARANTINED"):
            if error:
                tally.add_reason("delivered", error, file.path)
        elif file.storage in ("MISSING", "CORRUPT"):
            tally.add_reason("stored", file_error or file.storage.lower(), file.path)
        elif not file.storage and file.is_known:
            self._unstored[row[2], row[3]] = tally, file.path
        if refused:
            self._refused[file_id] = tally, file.path

    def add_reasons(self) -> None:
        """Ask for the other reasons, and count them."""
        if self._unstored:
            where, values = among_paths(list(self._unstored))
            for table, column, condition in (
                ("finder_left", "message", "verdict <> 'DUPLICATE'"),
                ("quarantine", "reason", "released_at IS NULL AND label LIKE 'finder.%'"),
            ):
                for relpath, filename, message in connect.execute(
                    f"SELECT relpath, filename, {column} FROM {table}"
                    f" WHERE (relpath, filename) {where} AND {condition}",
                    values,
                ).fetchall():
                    tally, path = self._unstored[relpath, filename]
                    tally.add_reason("stored", message, path)
        if self._refused:
            where, value = bulk.among(list(self._refused))
            for number, name, message in connect.execute(
                "SELECT s.file_id, target.name, s.message FROM ingest_state AS s"
                f" JOIN target ON target.id = s.target_id WHERE s.file_id {where}"
                " AND s.status IN ('FAILURE', 'UNKNOWN', 'INVALID')"
                " AND target.retired_at IS NULL",
                (value,),
            ).fetchall():
                tally, path = self._refused[number]
                tally.add_reason(f"target.{name}", message, path)


def _known_targets() -> list[tuple[str, str, str]]:
    rows = connect.execute(
        "SELECT id, site, name FROM target WHERE retired_at IS NULL ORDER BY name, site"
    )
    return [(str(number), site, name) for number, site, name in rows.fetchall()]


def _end_of_page(table: str, column: str, after: _Position) -> _Position | None:
    """Return the position of the last row of the next page; `None` if there is no further row."""
    row = connect.execute(
        f"SELECT {column}, id FROM (SELECT {column}, id FROM {table} WHERE ({column}, id) > (?, ?)"
        f" ORDER BY {column}, id LIMIT {_PAGE}) AS page ORDER BY {column} DESC, id DESC LIMIT 1",
        after,
    ).fetchone()
    return (row[0], row[1]) if row else None


#: Of PostgreSQL, for one transaction: a page looks its rows up by indexes. The planner would rather
#: read a table of a million rows as a whole, for each page.
_BY_INDEXES = (
    "SELECT set_config('enable_hashjoin', 'off', true),"
    " set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),"
    " set_config('max_parallel_workers_per_gather', '0', true)"
)


def _rows_between(sql: str, values: Sequence[Any]) -> list[_Row]:
    if connect.on_postgresql():
        connect.execute(_BY_INDEXES)
    rows: list[_Row] = connect.execute(sql, values).fetchall()
    return rows


def _has_stored(site: str, handoff: str, since: datetime) -> bool:
    """Return whether any file that a handoff found since a time is in storage here."""
    found = connect.execute(
        "SELECT 1 FROM handoff_file AS h JOIN file AS f ON f.filename = h.filename"
        " AND f.relpath = h.relpath WHERE h.discovered_at >= ? AND h.site = ? AND h.handoff = ?"
        " LIMIT 1",
        [bulk.time_value(since - timedelta(days=1)), site, handoff],
    )
    return found.fetchone() is not None
