"""How long a piece of work with the database may take, and how soon a signal ends it.

A piece of work is what is given to `dbbbatch.database.connect.write` or ``read``: with all its
repetitions it ends when `patience` is over, whatever it waits for: a lock, a writer, a server that
does not answer, or a connection. Whoever waits calls `raise_if_over`, ten times a second or so.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbbbatch.errors import Interrupted

#: Seconds that a statement may take however small ``patience`` is: the server may be loaded.
LEAST = 5.0

#: How many times as long work may take that grows with the history: a migration, a count of all
#: files. Locks are not waited for any longer.
LONG = 600

#: Seconds for each piece of work after an earlier one was given up.
BRIEF = 2.0

#: Seconds for work that meets a signal: what takes no longer is not broken off.
_AFTER_SIGNAL = 3.0
_AFTER_SECOND = 0.5

#: Seconds between two looks while sleeping.
_SLEEP_STEP = 0.1


class GaveUp(Exception):
    """The time of the work at hand is over."""


def no_signals() -> int:
    """Return that no signal has come: they end the process."""
    return 0


#: How many signals have asked this process to end; set by `dbbbatch.passes.signals`.
seen: Callable[[], int] = no_signals


class _Limit(threading.local):
    """The limit of the work that this thread does.

    Attributes
    ----------
    patience : `float`
        Seconds until the work is not repeated any more, and for which a lock is waited for.
    seconds : `float`
        For how long a statement is waited for.
    began : `float`
        By `time.monotonic`; 0 while there is no work.
    noticed : `float`
        When a signal was met; 0 if none.
    """

    patience = LEAST
    seconds = LEAST
    began = 0.0
    noticed = 0.0


_limit = _Limit()


@contextmanager
def limited(patience: float, *, long: bool = False, brief: bool = False) -> Iterator[None]:
    """Limit the work done within.

    Parameters
    ----------
    patience : `float`
        Seconds.
    long : `bool`
        The work grows with the history.
    brief : `bool`
        An earlier piece of work was given up.
    """
    _limit.patience = min(patience, BRIEF) if brief else patience
    _limit.seconds = BRIEF if brief else max(patience, LEAST) * (LONG if long else 1)
    _limit.began, _limit.noticed = time.monotonic(), 0.0
    try:
        yield
    finally:
        _limit.began = 0.0


def at_work() -> bool:
    """Return whether this thread is within `limited`."""
    return _limit.began > 0


def limits() -> tuple[float, float]:
    """Return for how many seconds a lock and a statement of the work at hand may be waited for."""
    return min(max(_limit.patience, LEAST), _limit.seconds), _limit.seconds


def elapsed() -> float:
    """Return for how many seconds the work at hand goes on."""
    return time.monotonic() - _limit.began


def over() -> bool:
    """Return whether the work at hand is not to be repeated any more."""
    return at_work() and elapsed() >= _limit.patience


def raise_if_over() -> None:
    """Return if the work at hand may go on.

    Raises
    ------
    GaveUp
        If its time is over.
    Interrupted
        If a signal has come.
    """
    if not at_work():
        return
    now = time.monotonic()
    if signals := seen():
        _limit.noticed = _limit.noticed or now
        if now - _limit.noticed >= (_AFTER_SIGNAL if signals == 1 else _AFTER_SECOND):
            raise Interrupted("interrupted by a signal while the database was waited for")
    if now - _limit.began >= _limit.seconds:
        raise GaveUp(
            f"no answer within {_limit.seconds:.0f} s: another session holds a lock, or the server "
            "is overloaded or cannot be reached"
        )


def sleep(seconds: float) -> None:
    """Sleep, no longer than the work at hand may take.

    Raises
    ------
    Interrupted
        If a signal has come.
    """
    raise_if_over()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not over():
        raise_if_over()
        time.sleep(min(left, _SLEEP_STEP))
