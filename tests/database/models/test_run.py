"""The rows of passes."""

from datetime import timedelta
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.run import Run

_KEEP = 90 * 86400.0


def _pass(number: int, started: Any, outcome: str = "running") -> Run:
    return Run.create(
        site="summit", script="handoff", name="a", host="here", pid=number, process_started=0,
        version="", started=started, outcome=outcome,
    )  # fmt: skip


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("days", "left"), [(0, True), (-91, False), (-89, True), (3, True), (91, False)]
)
def test_a_row_is_kept_until_it_is_old_also_one_from_the_future(days: int, left: bool) -> None:
    now = connect.now()
    other = _pass(1, now + timedelta(days=days))
    _pass(2, now).finish(now, "ok", 0, {}, "", _KEEP)
    assert (Run.get_or_none(Run.id == other.id) is not None) is left
