"""What each component's passes leave in the state directory: how the last one ended, and when.

The table `run` says the same, and more, while the database is there. This says it without one: a
pass that could not reach the database, or take its lock, is remembered here only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dbbbatch.files import state

#: Starts of passes that are remembered, to learn how often they come.
_STARTS = 50


@dataclass(frozen=True, kw_only=True)
class PassMemory:
    """How the passes of one component went lately; times are seconds since 1970, UTC.

    Attributes
    ----------
    label : `str`
        KIND.NAME.
    pid : `int`
    started : `float`
        When the last pass began.
    finished : `float` or `None`
        When it ended; `None` while it is at work, and of one that was killed.
    outcome : `str`
        As in `run`: "running", "ok", "failed", "later", "interrupted", "error".
    code : `int` or `None`
        Its exit code.
    message : `str`
        Why it did not succeed.
    key : `str`
        What the trouble shares with those of other components, as `DbbError` has it; '' if nothing.
    over, over_at : `str`, `float`
        The key of the last error that a later pass did not meet again, and when that one ended.
    last_ok : `float` or `None`
        When the last pass that did succeed ended.
    failing_since : `float` or `None`
        When the first pass after that one ended, apart from those that were interrupted; `None`
        if the last one succeeded.
    starts : `list` [`float`]
        When the processes of the last passes that got their turn began.
    """

    label: str
    pid: int = 0
    started: float = 0
    finished: float | None = None
    outcome: str = "running"
    code: int | None = None
    message: str = ""
    key: str = ""
    over: str = ""
    over_at: float = 0
    last_ok: float | None = None
    failing_since: float | None = None
    starts: list[float] = field(default_factory=list)


def _unless_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


#: What reads the values of a file, by the type of the attribute.
_READ: Mapping[Any, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "int | None": _unless_none(int),
    "float": state.read_time,
    "float | None": _unless_none(state.read_time),
    "list[float]": lambda values: [state.read_time(one) for one in values][-_STARTS:],
}


def _path(directory: Path, label: str) -> Path:
    return directory / "passes" / f"{label}.json"


def begin_pass(directory: Path, label: str) -> None:
    """Remember that a pass begins, and remove what killed passes left unfinished beside that.

    Parameters
    ----------
    directory : `pathlib.Path`
        The state directory.
    label : `str`
        KIND.NAME.
    """
    before, now = last_pass(directory, label), time.time()
    # A process that lingers makes many passes.
    new = [] if before.pid == os.getpid() else [now]
    starts = [*before.starts, *new][-_STARTS:]
    begun = replace(
        before, pid=os.getpid(), started=now, finished=None, outcome="running", starts=starts
    )
    state.write_json(_path(directory, label), asdict(begun))
    state.remove_unfinished(directory)


def end_pass(
    directory: Path, label: str, outcome: str, code: int, message: str, key: str = ""
) -> None:
    """Remember how a pass ended, also one that did not get as far as `begin_pass`.

    Parameters
    ----------
    directory : `pathlib.Path`
        The state directory.
    label : `str`
        KIND.NAME.
    outcome, code, message, key
        As `PassMemory` has them.
    """
    before, now = last_pass(directory, label), time.time()
    well = outcome in ("ok", "failed")
    is_over = bool(well and before.key)
    # An interrupted pass shows neither that a trouble is over nor that one begins.
    begun = before.failing_since if outcome == "interrupted" else before.failing_since or now
    ended = replace(
        before,
        pid=os.getpid(),
        started=before.started or now,
        finished=now,
        outcome=outcome,
        code=code,
        message=message,
        key=before.key if outcome == "interrupted" else key,
        over=before.key if is_over else before.over,
        over_at=now if is_over else before.over_at,
        last_ok=now if well else before.last_ok,
        failing_since=None if well else begun,
    )
    state.write_json(_path(directory, label), asdict(ended))


def last_pass(directory: Path, label: str) -> PassMemory:
    """Return what is remembered of a component; what cannot be read was never remembered."""
    found = state.read_json(_path(directory, label)) or {}
    try:
        return PassMemory(
            **{
                each.name: _READ[each.type](found[each.name])
                for each in fields(PassMemory)
                if each.name in found
            }
            | {"label": label}
        )
    except (ValueError, TypeError, ArithmeticError):
        return PassMemory(label=label)


def remembered_passes(directory: Path) -> Iterator[PassMemory]:
    """Yield what is remembered of each component of this host."""
    for path in sorted((directory / "passes").glob("*.json")):
        yield last_pass(directory, path.stem)
