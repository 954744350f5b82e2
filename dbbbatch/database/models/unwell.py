"""Whether files of a section failed and are not well again: asked at the end of each pass.

Each question ends at the first row of a partial index over what is wrong, whatever the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dbbbatch.database.connect import execute
from dbbbatch.database.models.handoff import SUSPECTED

_ASIDE = (
    "SELECT 1 FROM quarantine WHERE site = ? AND label = ? AND released_at IS NULL"
    " AND quarantined_at IS NOT NULL"
)


class Unwell(NamedTuple):
    """What there is of files that failed.

    Attributes
    ----------
    some : `bool`
        There are any.
    stuck : `bool`
        Some of them wait for a person, which nothing else says.
    """

    some: bool = False
    stuck: bool = False


def unwell(kind: str, site: str, name: str) -> Unwell:
    """Look for files of a section that failed.

    Parameters
    ----------
    kind : `str`
        "handoff", "finder" or "target"; what other kinds of pass find wrong, each pass finds anew.
    site, name : `str`
        Whose.
    """
    ask = {"handoff": _of_handoff, "finder": _of_finder, "target": _of_target}.get(kind)
    return ask(site, name) if ask else Unwell()


def _of_handoff(site: str, name: str) -> Unwell:
    of = "SELECT 1 FROM handoff_file WHERE site = ? AND handoff = ?"
    of += " AND status IN ('FOUND', 'DELIVERED', 'QUARANTINED') AND "
    stuck = _any(_ASIDE, site, f"handoff.{name}")
    some = (
        stuck
        or _any(f"{of} status = 'DELIVERED' AND error IS NOT NULL", site, name)
        or _any(
            # A conflict may pass, and is none.
            f"{of} status = 'FOUND' AND (attempts > 0 OR error LIKE ?)",
            *(site, name, f"{SUSPECTED}%"),
        )
    )
    return Unwell(some, stuck)


def _of_finder(site: str, name: str) -> Unwell:
    left = (
        "SELECT 1 FROM finder_left WHERE site = ? AND finder = ?"
        " AND verdict IN ('FAILED', 'MOVED', 'GIVEN_UP')"
    )
    # Its passes name each file that waits for a person.
    return Unwell(_any(left, site, name) or _any(_ASIDE, site, f"finder.{name}"))


def _of_target(site: str, name: str) -> Unwell:
    of = (
        "SELECT 1 FROM ingest_state WHERE target_id ="
        " (SELECT id FROM target WHERE site = ? AND name = ?)"
        " AND status IN ('FAILURE', 'UNKNOWN', 'INVALID')"
    )
    some = _any(of, site, name)
    return Unwell(some, some and _any(f"{of} AND next_try_at IS NULL", site, name))


def _any(sql: str, *values: Any) -> bool:
    return execute(f"{sql} LIMIT 1", values).fetchone() is not None
