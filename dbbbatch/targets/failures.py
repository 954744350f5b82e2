"""The causes of an exception that the code of a target has wrapped, once or several times."""

from __future__ import annotations

from collections.abc import Iterator

from dbbbatch.files import faults


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, outermost first."""
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        yield at
        seen.add(id(at))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def disk_away(error: BaseException) -> bool:
    """Return whether an error came from a disk that is unavailable, failing or full.

    An `OSError` without a number, as cfitsio and astropy raise, is about the file.
    """
    return any(
        isinstance(one, OSError) and faults.affects_every_file(one, writing=True)
        for one in chain(error)
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without what SQLAlchemy adds to it."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
