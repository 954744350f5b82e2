"""What can go wrong, said to an operator, with the exit code that cron sees.

The exit codes are those of sysexits(3), so that a wrapper can tell "try again later" (75) from
"a person must edit something" (78).
"""

import os


def user() -> str:
    """Name the user whose rights this process has, for messages."""
    return user_named(os.geteuid())


def user_named(uid: int) -> str:
    """Return the name of a user, or the number of one who has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


#: Key of the trouble that nothing can be recorded: the disk of the state directory or of an SQLite
#: database is full, whichever of the two is met first.
NO_ROOM = "no room to record what is done"

#: Key of the trouble that the database does not do its work, whatever it was that was met: one
#: outage is refused connections, silence, and a server that starts.
AWAY = "the database is busy or away"


class DbbError(Exception):
    """Anything foreseeable that ends a script.

    Parameters
    ----------
    *problems : `str`
        Each is shown to the operator on a line of its own.
    key : `str`, optional
        What makes it the same trouble in the next pass although the text differs.
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

    Parameters
    ----------
    *problems : `str`
        Each one complete: which file, section and key, what is wrong, what now.
    """

    exit_code = 78


class TryLater(DbbError):
    """Nothing is lost and no status changed for good: a later pass carries on."""

    exit_code = 75


class Interrupted(TryLater):
    """A signal ended the pass after the batch in hand."""


class LockHeld(TryLater):
    """Another pass of the same script and section is at work on this host."""
