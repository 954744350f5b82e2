"""Errors with a message for an operator and the exit code that cron sees.

The exit codes are those of sysexits(3), so that a wrapper can distinguish "try again later" (75)
from "a person must edit something" (78).
"""

import errno
import os
import re


def user() -> str:
    """Return the name of the user whose rights this process has."""
    return user_named(os.geteuid())


def user_named(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


#: What differs from pass to pass; the digits of an algorithm's name do not.
_NUMBERS = re.compile(
    r"[0-9a-f]{8,}|\b(?P<name>blake2[bs]|sha\d+|md5)\b|\d[\d.,]*( ?[kMGT]i?B| ?B\b)?"
)


def without_numbers(words: str) -> str:
    """Return a text with "#" for numbers, with their units, and nonces: what recurs is the same."""
    return _NUMBERS.sub(lambda found: found["name"] or "#", words)


#: Key of the trouble that nothing can be recorded, because the disk of the state directory or of an
#: SQLite database is full.
NO_ROOM = "no room to record what is done"

#: Key of the trouble that the database does not work: one outage shows as refused connections, as
#: silence and as a server that starts.
AWAY = "the database is busy or away"

#: Key of the trouble that the database answers, and a person must see to it.
UNUSABLE = "the database is not set up for this"


#: What the far end says of a directory that its account has no right to.
NOT_WRITABLE = "the account there may not write in it"

_MOUNT = "mount it, then: dbb check"
_MAKE_ROOM = "make room there"
_ALLOW = "change its owner or mode there, then: dbb check"

#: What a person must do about an error, whatever its key, by words of its message; the first that
#: are found count. ssh says the first ones if the far end answers, and the two do not trust each
#: other.
_REMEDIES = (
    (
        ("Host key verification failed", "Permission denied ("),
        "let ssh log in there without a question, then: dbb check",
    ),
    ((NOT_WRITABLE, os.strerror(errno.EACCES), os.strerror(errno.EPERM)), _ALLOW),
    (("mounted?", "empty mount point", "looks unmounted"), _MOUNT),
    ((os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)), _MAKE_ROOM),
    ((os.strerror(errno.EROFS),), "mount it for writing, then: dbb check"),
)

_MISSING, _FULL = " is not there", " is full"


def key_of_missing(path: str) -> str:
    """Return the key of the trouble that a directory is not there, or is another one by now."""
    return f"{path}{_MISSING}"


def key_of_full(place: str) -> str:
    """Return the key of the trouble that a place has too little room."""
    return f"{place}{_FULL}"


def remedy(key: str, message: str, denied: str = _ALLOW) -> str:
    """Return what a person must do about a trouble that does not end by itself; '' of others.

    Parameters
    ----------
    key : `str`
        '' if it is not known.
    message : `str`
    denied : `str`, optional
        What to do where a user has no right to something.
    """
    if key == NO_ROOM or key.endswith(_FULL):
        return _MAKE_ROOM
    found = (advice for words, advice in _REMEDIES if any(map(message.count, words)))
    advice = next(found, _MOUNT if key.endswith(_MISSING) else "")
    return denied if advice == _ALLOW else advice


def remedy_of_file(message: str) -> str:
    """Return what a person must do about a file that failed; '' where trying again may do."""
    return remedy(
        "",
        message,
        denied="change owner or mode of the directory that is named, or else of the file",
    )


class DbbError(Exception):
    """An expected error that ends a script.

    Parameters
    ----------
    *problems : `str`
        Each is printed on a line of its own.
    key : `str`, optional
        Identifies the trouble in later passes, where the text may differ.
    """

    exit_code = 70
    key = ""

    def __init__(self, *problems: str, key: str = "") -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.key = key


class UsageError(DbbError):
    """The command line asks for something that does not exist."""

    exit_code = 64


class ConfigError(DbbError):
    """A person must change the configuration or the set-up before this can work.

    Each problem names file, section and key, what is wrong, and what to do.
    """

    exit_code = 78


class TryLater(DbbError):
    """Nothing is lost and no status changed for good: a later pass carries on."""

    exit_code = 75


class Interrupted(TryLater):
    """A signal ended the pass after the current batch."""


class LockHeld(TryLater):
    """Another pass of the same script and section is at work."""


class LeaseLost(TryLater):
    """Another host does what this pass did, or may do it soon."""
