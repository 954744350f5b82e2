"""How long a piece of work with the database may take, and how soon a signal ends it.

A piece of work is one call of `dbbbatch.database.connect.write` or ``read``. With all its repeats
it ends when ``patience`` is over, whatever it waits for: a lock, a writer, a server that does not
answer, or a connection. Code that waits calls `raise_if_over` about ten times a second.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbbbatch.errors import Interrupted

#: Seconds that a statement may take at least, however small ``patience`` is.
LEAST = 5.0

#: Factor of time for work that grows with the history: a migration, a count of all files. It
#: does not wait longer for locks.
LONG = 600

#: Seconds for each piece of work after an earlier one was given up.
BRIEF = 2.0

#: Seconds that work may take after a first and a second signal.
_AFTER_SIGNAL = 3.0
_AFTER_SECOND = 0.5

#: Seconds between two looks while sleeping.
_SLEEP_STEP = 0.1


class GaveUp(Exception):
    """The time of the current work is over."""


def no_signals() -> int:
    """Return 0: where nobody counts signals, they end the process."""
    return 0


#: Returns how many signals have asked this process to end; set by `dbbbatch.passes.signals`.
seen: Callable[[], int] = no_signals


class _Limit(threading.local):
    """The limit of the work that this thread does.

    Attributes
    ----------
    patience : `float`
        Seconds after which the work is no longer repeated, and for which it waits for a lock.
    seconds : `float`
        Seconds for which it waits for a statement.
    began : `float`
        By `time.monotonic`; 0 while there is no work.
    noticed : `float`
        When a signal was noticed; 0 if none.
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
    """Return the seconds for which the current work may wait for a lock and for a statement."""
    return min(max(_limit.patience, LEAST), _limit.seconds), _limit.seconds


def elapsed() -> float:
    """Return the seconds since the current work began."""
    return time.monotonic() - _limit.began


def over() -> bool:
    """Return whether the current work is no longer to be repeated."""
    return at_work() and elapsed() >= _limit.patience


def raise_if_over() -> None:
    """Raise unless the current work may continue.

    Raises
    ------
    GaveUp
        Its time is over.
    Interrupted
        A signal has come.
    """
    if not at_work():
        return
    now = time.monotonic()
    if signals := seen():
        _limit.noticed = _limit.noticed or now
        if now - _limit.noticed >= (_AFTER_SIGNAL if signals == 1 else _AFTER_SECOND):
            raise Interrupted("interrupted by a signal during a wait for the database")
    if now - _limit.began >= _limit.seconds:
        raise GaveUp(
            f"no answer within {_limit.seconds:.0f} s: another session holds a lock, or the server "
            "is overloaded or cannot be reached"
        )


def sleep(seconds: float) -> None:
    """Sleep, no longer than the current work may take.

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
