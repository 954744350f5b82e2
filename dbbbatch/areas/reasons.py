"""The text file beside a file in quarantine that says why the file is there: ``NAME.reason``.

The table has the reason too. The text file serves people, and `dbb rebuild` after the database was
lost.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

from dbbbatch.database import connect
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.files import faults, names, place
from dbbbatch.files.tree import Entry

#: Added to the name of a file in quarantine.
REASON = ".reason"

#: How the names end that `dbbbatch.files.place.versioned` makes.
VERSION = re.compile(r"\.~\d+~$")

#: The line below a reason with the file's own name, where the name in quarantine is another one.
_OWN_NAME = re.compile(r'^Its name was (".*")\n\Z', re.MULTILINE)

#: Bytes that the line with the own name may have, and of a reason that are read.
_LONGEST_OWN_NAME = 4096
_LONGEST_REASON = 1 << 16


def is_reason(file: Entry) -> bool:
    """Return whether a file in quarantine is the reason of another one."""
    base = file.name.removesuffix(REASON)
    return base != file.name and place.is_there(file.beside(base))


def reason_beside(file: Entry) -> Entry:
    """Return the name of a file's reason."""
    return file.beside(file.name + REASON)


def is_reason_of(file: Entry, reason: str) -> bool:
    """Return whether a file is a reason that was written here, and not a file in quarantine."""
    written = _text_of(reason).encode("utf-8", "surrogateescape")
    longest = len(written) + _LONGEST_OWN_NAME
    try:
        if file.lstat().st_size > longest:
            return False
        with open(file.open(), "rb") as opened:
            found = opened.read(longest)
    except OSError:
        return False
    below = found.removeprefix(written).decode(errors="replace")
    if not found.startswith(written) or (below and not _OWN_NAME.fullmatch(below)):
        return False
    return not connect.read(Quarantine.is_at, names.to_text(file.path))


def reason_and_name(file: Entry) -> tuple[str, str]:
    """Return the reason of a file in quarantine, and its own name as the tables have it.

    The reason is '' if there is no text file. If that does not have the own name, a name that looks
    like a version's is taken for one of the file beside it, if there is such a file.

    Raises
    ------
    TryLater
        The disk is away: the reason may be there.
    """
    reason, filename = reason_beside(file), names.to_text(file.name)
    base = VERSION.sub("", filename)
    text = ""
    try:
        with open(reason.open(), encoding="utf-8", errors="replace") as opened:
            text = opened.read(_LONGEST_REASON)
    except OSError as error:
        faults.raise_if_general(error, reason.path)
    if match := _OWN_NAME.search(text):
        text = text[: match.start()]
        with suppress(ValueError):
            own_name = json.loads(match[1])
            names.from_text(own_name)
            # A person may have written here.
            if "/" not in own_name and own_name.startswith(base):
                return text.strip(), own_name
    if base.endswith(REASON) or place.is_there(file.beside(VERSION.sub("", file.name))):
        filename = base
    return text.strip(), filename


def write_reason(row: Quarantine, file: Entry) -> None:
    """Write the reason beside a file in quarantine, if its name is not too long for that.

    The own name follows where the file has the name of a version, or one that looks like that.
    """
    text = _text_of(row.reason)
    if VERSION.search(row.path):
        text += f"Its name was {json.dumps(row.filename)}\n"
    with suppress(OSError):
        place.write_new(reason_beside(file), text)


def remove_reason(row: Quarantine, file: Entry) -> None:
    """Remove the reason of a file that left quarantine, unless a person changed it."""
    reason = reason_beside(file)
    if is_reason_of(reason, row.reason):
        with suppress(OSError):
            reason.unlink()


def _text_of(reason: str) -> str:
    return f"{names.harmless(reason)}\n"
