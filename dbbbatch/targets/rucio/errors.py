"""What Rucio's errors mean: unavailable, busy, wrongly configured, or about one file."""

from __future__ import annotations

import re
from enum import Enum

import requests
from rucio.common import exception as rucio


class Sort(Enum):
    """What an error means."""

    #: The server is unavailable or refuses: nothing can be done now.
    AWAY = "away"
    #: Two calls collided in its database: to be repeated at once.
    BUSY = "busy"
    #: No file could be registered like this: a person must change something.
    WRONG = "wrong"
    #: This file can never be registered.
    NEVER = "never"
    #: This file was refused.
    REFUSED = "refused"


_SERVER_AWAY = (
    rucio.ServerConnectionException,
    rucio.CannotAuthenticate,
    rucio.RSEWriteBlocked,
    rucio.RSEOverQuota,
    rucio.InsufficientAccountLimit,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
)
_WRONG = (
    rucio.RSENotFound,
    rucio.RSEProtocolNotSupported,
    rucio.RSEAccessDenied,
    rucio.ScopeNotFound,
    rucio.ScopeAccessDenied,
    rucio.AccountNotFound,
    rucio.AccessDenied,
    rucio.InvalidRSEExpression,
    rucio.InvalidReplicationRule,
    rucio.InsufficientTargetRSEs,
    rucio.InvalidMetadata,
)
_NEVER = (rucio.InvalidObject, rucio.InvalidPath)
#: What a database says when two calls collide in it.
_COLLISION = re.compile(
    r"database is locked|deadlock|UniqueViolation|UNIQUE constraint|IntegrityError", re.I
)
#: What a proxy says of a server that is unavailable, and a server of its database.
_UNAVAILABLE = re.compile(
    r"http status code: (?:429|502|503|504)|OperationalError|InterfaceError|unable to open database"
)


def sort(error: Exception) -> Sort:
    """Return what an error means."""
    if isinstance(error, _SERVER_AWAY):
        return Sort.AWAY
    if _COLLISION.search(str(error)):
        return Sort.BUSY
    if _UNAVAILABLE.search(str(error)):
        return Sort.AWAY
    if isinstance(error, _WRONG):
        return Sort.WRONG
    if isinstance(error, _NEVER):
        return Sort.NEVER
    return Sort.REFUSED


def said(error: Exception) -> str:
    """Return an error as one line, without Rucio's preambles."""
    text = " ".join(str(error).split())
    text = text.removeprefix("An unknown exception occurred. ").replace("Details: ", "")
    name = type(error).__name__
    return f"{name}: {text[:500]}" if text else name


def forbids_slash(text: str) -> bool:
    """Return whether a refusal of a name quotes a pattern of the server without a slash."""
    found = re.search(r"does not match '(.*?)'", text)
    return found is not None and "/" not in found[1]
