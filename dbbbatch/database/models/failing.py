"""Whether files of a section failed and are not well again: asked at the end of each pass.

Each question ends after a few rows of a partial index over what is wrong, whatever the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dbbbatch.database.connect import execute
from dbbbatch.database.models.handoff import SUSPECTED


class failing_files(NamedTuple):
    """What there is of files that failed.

    Attributes
    ----------
    failing : `bool`
        Some are to be tried again.
    stuck : `int`
        So many wait for a person, which nothing else says.
    """

    failing: bool = False
    stuck: int = 0


def count_failing(kind: str, site: str, name: str) -> failing_files:
    """Look for files of a section that failed.

    Parameters
    ----------
    kind : `str`
        "handoff", "finder" or "target"; what other kinds of pass find wrong, each pass finds anew.
    site, name : `str`
        Whose.
    """
    ask = {"handoff": _of_handoff, "finder": _of_finder, "target": _of_target}.get(kind)
    return ask(site, name) if ask else failing_files()


def _of_handoff(site: str, name: str) -> failing_files:
    of = "FROM handoff_file WHERE site = ? AND handoff = ?"
    of += " AND status IN ('FOUND', 'DELIVERED', 'QUARANTINED') AND "
    failing = _any(f"{of} status = 'DELIVERED' AND error IS NOT NULL", site, name) or _any(
        # A conflict may pass, and is none.
        f"{of} status = 'FOUND' AND (attempts > 0 OR error LIKE ?)",
        *(site, name, f"{SUSPECTED}%"),
    )
    stuck = _count(
        "FROM quarantine WHERE site = ? AND label = ? AND released_at IS NULL"
        " AND quarantined_at IS NOT NULL",
        *(site, f"handoff.{name}"),
    )
    return failing_files(failing, stuck)


def _of_finder(site: str, name: str) -> failing_files:
    # Its passes name each file that waits for a person.
    of = (
        "FROM finder_left WHERE site = ? AND finder = ?"
        " AND verdict IN ('FAILED', 'MOVED', 'GIVEN_UP')"
    )
    return failing_files(_any(of, site, name))


def _of_target(site: str, name: str) -> failing_files:
    of = (
        "FROM ingest_state WHERE target_id ="
        " (SELECT id FROM target WHERE site = ? AND name = ?)"
        " AND status IN ('FAILURE', 'UNKNOWN', 'INVALID') AND next_try_at IS"
    )
    return failing_files(_any(f"{of} NOT NULL", site, name), _count(f"{of} NULL", site, name))


def _any(what: str, *values: Any) -> bool:
    return execute(f"SELECT 1 {what} LIMIT 1", values).fetchone() is not None


def _count(what: str, *values: Any) -> int:
    """Count rows, as far as it matters how many they are."""
    rows = execute(f"SELECT count(*) FROM (SELECT 1 {what} LIMIT 1000) AS waiting", values)
    return int(rows.fetchone()[0])
