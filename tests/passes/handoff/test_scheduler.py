"""What a pass does next, as a table."""

from __future__ import annotations

import pytest

from dbbbatch.passes.handoff.scheduler import Action, State, next_action

YES, NO, ANY = (True,), (False,), (True, False)

#: scanning, head start, ready, under way, and what follows
TABLE = [
    (YES, YES, ANY, ANY, Action.SCAN),
    (YES, NO, YES, ANY, Action.SEND),
    (YES, NO, NO, ANY, Action.SCAN),
    (NO, ANY, YES, ANY, Action.SEND),
    (NO, ANY, NO, YES, Action.WAIT),
    (NO, ANY, NO, NO, Action.END),
]


@pytest.mark.parametrize("scanning", ANY)
@pytest.mark.parametrize("head_start", ANY)
@pytest.mark.parametrize("ready", ANY)
@pytest.mark.parametrize("under_way", ANY)
def test_each_state_has_one_next_action(
    scanning: bool, head_start: bool, ready: bool, under_way: bool
) -> None:
    state = State(scanning, head_start, ready, under_way)
    (expected,) = [
        action
        for *allowed, action in TABLE
        if all(value in values for value, values in zip(state, allowed, strict=True))
    ]
    assert next_action(state) is expected
