"""Whether any files of a section are failing: asked at the end of each pass.

Each question ends after a few rows of a partial index over what is wrong, whatever the history.
"""

from __future__ import annotations

from typing import Any

from dbbbatch.database.connect import execute
from dbbbatch.database.models.handoff import SUSPECTED
from dbbbatch.files import names

#: The kinds of pass whose failed files the tables have, and `dbb list` shows.
LISTED = ("handoff", "finder", "target")


def failing_files(kind: str, site: str, name: str) -> tuple[bool, int]:
    """Look for files of a section that failed, in this pass or before.

    Parameters
    ----------
    kind : `str`
        "handoff", "finder" or "target"; what other kinds of pass find wrong, each pass finds anew.
    site, name : `str`
        Name of the site, and of the section.

    Returns
    -------
    failing : `bool`
        Whether any is to be tried again.
    stuck : `int`
        How many wait for a person, as far as passes do not name them one by one; at most 1000.
    """
    ask = {"handoff": _of_handoff, "finder": _of_finder, "target": _of_target}.get(kind)
    return ask(site, name) if ask else (False, 0)


def name_failing(kind: str, site: str, name: str, stuck: bool, most: int) -> tuple[list[str], int]:
    """Name files of a section that failed; the cost grows with what fails now.

    Parameters
    ----------
    kind, site, name : `str`
        As for `failing_files`.
    stuck : `bool`
        Those that wait for a person, instead of those that are tried again.
    most : `int`

    Returns
    -------
    paths : `list` [`str`]
        Relative paths of at most so many; the first one with the reason.
    more : `int`
        How many others.
    """
    of = _NAMED_IN.get((kind, stuck))
    if of is None:
        return [], 0
    what, before, why = of
    values = (site, f"{before}{name}")
    rows = execute(f"SELECT relpath, filename, {why} {what} LIMIT {most}", values).fetchall()
    ((count,),) = execute(f"SELECT count(*) {what}", values).fetchall()
    paths = [names.readable(names.join(*row[:2])) for row in rows]
    if rows and rows[0][2]:
        paths[0] += f" ({rows[0][2]})"
    return paths, max(0, count - len(rows))


_OF_TARGET = (
    "FROM ingest_state JOIN file ON file.id = ingest_state.file_id WHERE target_id ="
    " (SELECT id FROM target WHERE site = ? AND name = ?)"
    " AND ingest_state.status IN ('FAILURE', 'UNKNOWN', 'INVALID') AND next_try_at IS"
)

#: Where files are that failed, or (true) wait for a person; what precedes the
#: section's name; and the column of the reason.
_NAMED_IN = {
    ("handoff", False): (
        "FROM handoff_file WHERE site = ? AND handoff = ?"
        " AND status IN ('FOUND', 'DELIVERED', 'QUARANTINED') AND error IS NOT NULL"
        " AND (status = 'DELIVERED' OR status = 'FOUND' AND"
        f" (attempts > 0 OR error LIKE '{SUSPECTED}%'))",
        "",
        "error",
    ),
    ("handoff", True): (
        "FROM quarantine WHERE site = ? AND label = ? AND released_at IS NULL"
        " AND quarantined_at IS NOT NULL",
        "handoff.",
        "reason",
    ),
    ("target", False): (f"{_OF_TARGET} NOT NULL", "", "ingest_state.message"),
    ("target", True): (f"{_OF_TARGET} NULL", "", "ingest_state.message"),
}


def _of_handoff(site: str, name: str) -> tuple[bool, int]:
    of = "FROM handoff_file WHERE site = ? AND handoff = ?"
    of += " AND status IN ('FOUND', 'DELIVERED', 'QUARANTINED') AND "
    failing = _exists(f"{of} status = 'DELIVERED' AND error IS NOT NULL", site, name) or _exists(
        # A conflict may end by itself, and is no failure.
        f"{of} status = 'FOUND' AND (attempts > 0 OR error LIKE ?)",
        *(site, name, f"{SUSPECTED}%"),
    )
    stuck = _number_of(
        "FROM quarantine WHERE site = ? AND label = ? AND released_at IS NULL"
        " AND quarantined_at IS NOT NULL",
        *(site, f"handoff.{name}"),
    )
    return failing, stuck


def _of_finder(site: str, name: str) -> tuple[bool, int]:
    # The finder's passes name each file that waits for a person.
    of = (
        "FROM finder_left WHERE site = ? AND finder = ?"
        " AND verdict IN ('FAILED', 'MOVED', 'GIVEN_UP')"
    )
    return _exists(of, site, name), 0


def _of_target(site: str, name: str) -> tuple[bool, int]:
    of = (
        "FROM ingest_state WHERE target_id ="
        " (SELECT id FROM target WHERE site = ? AND name = ?)"
        " AND status IN ('FAILURE', 'UNKNOWN', 'INVALID') AND next_try_at IS"
    )
    return _exists(f"{of} NOT NULL", site, name), _number_of(f"{of} NULL", site, name)


def _exists(what: str, *values: Any) -> bool:
    return execute(f"SELECT 1 {what} LIMIT 1", values).fetchone() is not None


def _number_of(what: str, *values: Any) -> int:
    """Return the number of rows, at most 1000."""
    rows = execute(f"SELECT count(*) FROM (SELECT 1 {what} LIMIT 1000) AS waiting", values)
    return int(rows.fetchone()[0])
