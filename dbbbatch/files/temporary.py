"""Names of files that are ours and unfinished: hidden copies and probes."""

from __future__ import annotations

import hashlib
import os
import re

#: Names that begin so are ours and unfinished: no scan reports them.
TEMPORARY_PREFIX = ".dbb~"


#: What a file is called, and holds, that is only there to be tried with.
PROBE_PREFIX = f"{TEMPORARY_PREFIX}probe-"


#: How the names end that any of our scripts gives: a digest, or a random number.
_OUR_SUFFIX = re.compile(r"[0-9a-f]{16}\Z")


def temporary_path(destination: str, owner: str = "") -> str:
    """Return the hidden name that `copy_into` uses on its way to `destination`.

    It is the same at each call on a host, so that what a kill left there is
    found, and it is short enough whatever the length of the final name.
    """
    # The whole path: two may lead to one directory, each with a copy on its way.
    return hidden_path(destination, os.uname().nodename, owner, os.path.normpath(destination))


def hidden_path(path: str, *whose: str) -> str:
    """Return a name of ours beside a path: always the same for these words."""
    digest = hashlib.blake2b(os.fsencode("\0".join(whose)), digest_size=12).hexdigest()
    return os.path.join(os.path.dirname(path), TEMPORARY_PREFIX + digest)


def is_temporary(filename: str) -> bool:
    """Return whether a name is one that our scripts give to what is unfinished."""
    return filename.startswith(TEMPORARY_PREFIX) and bool(_OUR_SUFFIX.search(filename))


def probe_path(directory: str, *whose: str) -> str:
    """Return the name in a directory of a file of ours that is only there to be tried with.

    It is the same at each call on a host, so that what a kill left there is found.
    """
    name = os.path.basename(hidden_path("", os.uname().nodename, *whose))
    return os.path.join(directory, name.replace(TEMPORARY_PREFIX, PROBE_PREFIX))
