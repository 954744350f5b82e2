"""The state directory: who owns it, and the modes of what is in it.

Its owner runs the passes. Files that another user (root, by hand) makes there, or in an SQLite
database, could stop the owner's passes for good, so others are refused before anything is made.
Nobody else needs to read it: whoever can open a lock file could hold the lock.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbbbatch.errors import ConfigError, TryLater, user, user_named
from dbbbatch.files.faults import FULL

#: Modes of directories and files in it.
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

#: Mode of a new SQLite database, wherever it is: an operator may let a group read it.
DATABASE_MODE = 0o640

#: Bytes that a file of `write_json` has at least: a block, which can be written in place where the
#: disk is full.
SMALLEST_FILE = 4096

#: Ends the name of one that is not finished: the process that writes it.
_BEING_WRITTEN = re.compile(r"\.(\d{1,9})\.tmp\Z")

#: Bytes that are read of such a file at most.
_LARGEST_FILE = 1 << 24

#: A time that no file of ours has; seconds since 1970.
_LATEST_TIME = 1e11


def must_own(state: str, config: str = "") -> None:
    """Raise unless this user owns the state directory, or it does not exist yet.

    Parameters
    ----------
    state : `str`
    config : `str`, optional
        The configuration file, for the command that the message advises.

    Raises
    ------
    ConfigError
        It belongs to another user.
    TryLater
        It cannot be examined.
    """
    try:
        owner = os.stat(state).st_uid
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise ConfigError(
            f"{state} ([site] state): cannot be reached by user {user()}: {error.strerror}; run "
            "this as the user that runs the passes"
        ) from None
    except OSError as error:
        raise TryLater(f"{state} ([site] state): {error.strerror}") from None
    if owner == os.geteuid():
        return
    name = user_named(owner)
    if owner == 0:
        advice = (
            f"is its disk mounted? If {user()} is to run the passes: "
            f"sudo chown -R {user()} {shlex.quote(state)}"
        )
    else:
        advice = f"run this as that user: {as_user(owner, config)}"
    raise ConfigError(
        f"{state} ([site] state) belongs to {name}, who alone runs passes and changes what they "
        f"keep, and this is {user()}: {advice}"
    )


def is_ours(state: str | os.PathLike[str]) -> bool:
    """Return whether this user owns the state directory, or it does not exist yet."""
    try:
        return os.stat(state).st_uid == os.geteuid()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def is_foreign(path: str | os.PathLike[str], user: int) -> bool:
    """Return whether something is known to belong to another user."""
    try:
        return os.stat(path).st_uid != user
    except OSError:
        return False


def let_write(state: str | os.PathLike[str], path: str | os.PathLike[str], owner: int) -> str:
    """Return the command that lets the owner of a state directory write all that is in it.

    Parameters
    ----------
    state : `str` or path-like
    path : `str` or path-like
        What the owner cannot write: it is another user's, or its mode forbids it.
    owner : `int`
        The number of the user who runs the passes.
    """
    where = shlex.quote(os.fspath(state))
    if is_foreign(path, owner):
        return f"sudo chown -R {user_named(owner)} {where}"
    return f"chmod -R u+rwX {where}"


def as_user(owner: int, config: str = "") -> str:
    """Return the command line of this process as another user would type it."""
    name = user_named(owner)
    # sudo passes on neither the environment nor, always, the PATH.
    program = sys.argv[0]
    with suppress(OSError):  # the current directory may be gone
        program = os.path.abspath(program)
    words = ["sudo", "-u", f"#{owner}" if name.isdigit() else name, program]
    arguments = sys.argv[1:]
    named = any(word.startswith(("-c", "--config")) for word in arguments)
    if config and not named:
        words += ["-c", config]
    return shlex.join([*words, *arguments])


def make(path: str | os.PathLike[str]) -> None:
    """Make a directory in the state directory, and that one, if they do not exist."""
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(os.path.dirname(path)), exist_ok=True)
        make(os.path.dirname(path))
        make(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file of ours; `None` if that is missing, cut short, or no file."""
    try:
        # What is no file must not be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = json.loads(file.read(_LARGEST_FILE))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_time(value: Any) -> float:
    """Return a time (seconds since 1970) from a file of ours.

    Raises
    ------
    ValueError, TypeError, OverflowError
        It is none.
    """
    found = float(value)
    if not 0 <= found < _LATEST_TIME:
        raise ValueError(f"{found} is no time")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> str:
    """Replace a file of ours, whole; on a full disk write over its old content, if it fits.

    Nothing depends on such a file: what is in it can be learned again.

    Returns
    -------
    why : `str`
        Why it cannot be written; '' if it is.
    """
    content = json.dumps(value).encode().ljust(SMALLEST_FILE)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        make(path.parent)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # of a directory that this user may not even enter
            temporary.unlink(missing_ok=True)
        if not (error.errno in FULL and _write_in_place(path, content)):
            return error.strerror or str(error)
    return ""


def remove_unfinished(state: Path) -> None:
    """Remove what `write_json` left in the state directory in processes that were killed."""
    for directory in (state, state / "passes", state / "said"):
        with suppress(OSError):
            for name in os.listdir(directory):
                if (match := _BEING_WRITTEN.search(name)) and not _lives(int(match[1])):
                    with suppress(OSError):
                        os.unlink(directory / name)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _write_in_place(path: Path, content: bytes) -> bool:
    try:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if len(content.rstrip()) > size:
                return False
            file.write(content.rstrip().ljust(size))
    except OSError:
        return False
    return True
