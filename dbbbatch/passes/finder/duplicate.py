"""What becomes of a file that storage holds already: proved first, then the alternative action."""

from __future__ import annotations

import os

from dbbbatch.files import checksum, place
from dbbbatch.passes.finder.arrival import Arrival


def remove(arrival: Arrival, algorithm: str, digest: str) -> None:
    """Remove a file from the source after proving that the stored one is there and equal.

    Parameters
    ----------
    arrival : `Arrival`
        The file, as it was read.
    algorithm, digest : `str`
        What both must have.

    Raises
    ------
    NotProved
        There is a doubt; nothing was removed.
    OSError
        It could not be removed.
    """
    if place.same_entry(arrival.source, arrival.destination):
        raise NotProved("source and storage are the same directory under two names")
    try:
        stored = os.lstat(arrival.destination)
        found = checksum.compute(arrival.destination, [algorithm])[algorithm]
    except OSError as error:
        raise NotProved(f"the stored file cannot be read: {error.strerror}") from None
    if found != digest:
        raise NotProved("the stored file does not have the content that the table tells of")
    now = os.lstat(arrival.source)
    checksum.same(arrival.status, now, arrival.source)
    if os.path.samestat(stored, now) and now.st_nlink < 2:
        raise NotProved("source and storage lead to the same file")
    os.unlink(arrival.source)


class NotProved(Exception):
    """The stored copy was not proved to be whole, so the other one stays."""
