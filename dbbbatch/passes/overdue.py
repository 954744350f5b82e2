"""How often a component's passes are expected, learned from their starts or configured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

#: Kinds of pass that cron starts again and again.
RECURRING = ("handoff", "finder", "target", "janitor", "auditor")

#: Kinds of pass that work by the section of another kind.
SECTION_OF = {"janitor": "handoff", "auditor": "finder"}

#: Gaps between starts of which the usual interval is learned: so many at most, and at least.
_GAPS = 50
_FEWEST_GAPS = 4

#: Seconds; shorter gaps are between passes by hand, as cron starts one a minute at most.
_BY_HAND = 30.0

#: Share of the gaps that are not longer than the usual interval: busy times make many short ones.
_QUANTILE = 0.9

#: A learned interval is exceeded after this factor and so many seconds more.
_FACTOR, _EXTRA = 1.5, 300.0


def usual_interval(starts: Sequence[datetime]) -> float | None:
    """Return the interval (seconds) at which passes usually start; `None` if too few are known.

    Parameters
    ----------
    starts : sequence of `datetime.datetime`
        The earliest first.
    """
    gaps = [
        (later - earlier).total_seconds() for earlier, later in pairwise(starts) if later > earlier
    ][-_GAPS:]
    if len(gaps) < _FEWEST_GAPS:
        return None
    usual = sorted(gaps)[math.ceil(_QUANTILE * len(gaps)) - 1]
    return usual if usual >= _BY_HAND else None


def longest_interval(usual: float | None, expect: float | None) -> float | None:
    """Return the seconds after which a component is overdue; `None` if that is not known."""
    if expect is not None:
        return expect
    return None if usual is None else _FACTOR * usual + _EXTRA
