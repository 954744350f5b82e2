"""What an error of a database means for a pass: the tables of SQLSTATEs and of SQLite's codes."""

import sqlite3
from enum import Enum


class Cause(Enum):
    """What to do about an error."""

    #: May be over in a moment: the work is repeated.
    REPEAT = "repeat"
    #: A repeat at once would fail, but a later pass may succeed (75).
    LATER = "later"
    #: A person must change the set-up (78).
    SETUP = "setup"
    #: A mistake in this program (70).
    BUG = "bug"


#: SQLSTATEs and classes of them (PostgreSQL, appendix A); a state counts before its class.
#: Whatever is not listed is LATER: extensions and other servers have their own.
POSTGRESQL = {
    "08": Cause.REPEAT,  # the connection; 08P01 is also what PgBouncer says
    "0A": Cause.SETUP,  # not supported: an old server, a view upon a column that is to change
    "0L": Cause.SETUP,
    "0P": Cause.SETUP,  # the role of `options`
    "20": Cause.BUG,
    "21": Cause.BUG,
    "22": Cause.BUG,
    "22P05": Cause.SETUP,  # a character that the database's encoding lacks
    "23": Cause.BUG,
    "24": Cause.BUG,
    "25": Cause.BUG,  # transactions
    "25006": Cause.REPEAT,  # read-only: a standby, until it takes over
    "25P03": Cause.REPEAT,  # idle in a transaction
    "25P04": Cause.REPEAT,  # transaction time-out
    "26": Cause.BUG,
    "28": Cause.SETUP,
    "2B": Cause.SETUP,  # something depends on what is to be changed
    "2D": Cause.BUG,
    "34": Cause.BUG,
    "38": Cause.SETUP,  # triggers and functions that are not ours
    "39": Cause.SETUP,
    "3B": Cause.BUG,
    "3D": Cause.SETUP,  # no such database
    "3F": Cause.SETUP,  # no such schema
    "40": Cause.REPEAT,  # serialization, deadlock
    "40002": Cause.BUG,
    "42": Cause.BUG,  # syntax
    "42501": Cause.SETUP,  # a missing grant
    "42P01": Cause.SETUP,  # no such table
    "42P06": Cause.SETUP,  # what is to be made is there already, and not ours
    "42P07": Cause.SETUP,
    "42P10": Cause.SETUP,  # no such unique index
    "42701": Cause.SETUP,
    "42703": Cause.SETUP,  # no such column
    "42704": Cause.SETUP,
    "42710": Cause.SETUP,
    "42723": Cause.SETUP,
    "42809": Cause.SETUP,  # a view where a table is expected
    "42883": Cause.SETUP,  # no such function: an old server
    "44": Cause.SETUP,
    "53": Cause.LATER,  # disk full, out of memory
    "53300": Cause.REPEAT,  # too many connections
    "55": Cause.LATER,
    "55006": Cause.REPEAT,  # in use
    "55P03": Cause.REPEAT,  # lock not available
    "57": Cause.REPEAT,  # cancelled, shutting down, starting, idle
    "72": Cause.REPEAT,  # snapshot too old
    "F0": Cause.SETUP,
    "P0": Cause.SETUP,  # a trigger that is not ours
    "XX001": Cause.SETUP,  # damaged
    "XX002": Cause.SETUP,
}

#: Primary result codes of SQLite. Whatever is not listed is LATER.
SQLITE = {
    sqlite3.SQLITE_ERROR: Cause.BUG,  # but see NO_TABLE
    sqlite3.SQLITE_INTERNAL: Cause.BUG,
    sqlite3.SQLITE_PERM: Cause.SETUP,
    sqlite3.SQLITE_ABORT: Cause.REPEAT,
    sqlite3.SQLITE_BUSY: Cause.REPEAT,
    sqlite3.SQLITE_LOCKED: Cause.REPEAT,
    sqlite3.SQLITE_READONLY: Cause.SETUP,
    sqlite3.SQLITE_CORRUPT: Cause.SETUP,
    sqlite3.SQLITE_CANTOPEN: Cause.SETUP,
    sqlite3.SQLITE_PROTOCOL: Cause.REPEAT,  # "locking protocol": others hold locks in turn
    sqlite3.SQLITE_SCHEMA: Cause.REPEAT,
    sqlite3.SQLITE_TOOBIG: Cause.BUG,
    sqlite3.SQLITE_CONSTRAINT: Cause.BUG,
    sqlite3.SQLITE_MISMATCH: Cause.BUG,
    sqlite3.SQLITE_MISUSE: Cause.BUG,
    sqlite3.SQLITE_AUTH: Cause.SETUP,
    sqlite3.SQLITE_FORMAT: Cause.SETUP,
    sqlite3.SQLITE_RANGE: Cause.BUG,
    sqlite3.SQLITE_NOTADB: Cause.SETUP,
}


def of_sqlstate(state: str) -> Cause:
    """Return what an SQLSTATE means."""
    for length in (5, 2):
        if (cause := POSTGRESQL.get(state[:length])) is not None:
            return cause
    return Cause.LATER


def of_sqlite(code: int) -> Cause:
    """Return what a result code of SQLite means, also an extended one."""
    return SQLITE.get(code & 0xFF, Cause.LATER)
