"""Names of our unfinished files: hidden copies and probes."""

from __future__ import annotations

import hashlib
import os
import re

#: Begins the names of our unfinished files, which no scan reports.
TEMPORARY_PREFIX = ".dbb~"

#: Begins the names of files with which a pass tries what a directory allows.
PROBE_PREFIX = f"{TEMPORARY_PREFIX}probe-"

#: Begins the names of copies that workers of the engine make.
UNIT_PREFIX = f"{TEMPORARY_PREFIX}unit-"

#: Ends all these names: a digest, or a random number.
_OUR_SUFFIX = re.compile(r"[0-9a-f]{16}\Z")


def temporary_path(destination: str, owner: str = "") -> str:
    """Return the hidden name beside `destination` to which `place.copy_beside` copies.

    It is the same at each call on a host, so that what a kill left there is found, and never too
    long for a file system.
    """
    # The whole path: two paths may lead to one directory, and a file be copied to each.
    return hidden_path(destination, os.uname().nodename, owner, os.path.normpath(destination))


def hidden_path(path: str, *whose: str) -> str:
    """Return a hidden name beside a path: always the same for the same words."""
    digest = hashlib.blake2b(os.fsencode("\0".join(whose)), digest_size=12).hexdigest()
    return os.path.join(os.path.dirname(path), TEMPORARY_PREFIX + digest)


def is_temporary(filename: str) -> bool:
    """Return whether a name is one of our unfinished files."""
    return filename.startswith(TEMPORARY_PREFIX) and bool(_OUR_SUFFIX.search(filename))


def probe_path(directory: str, *whose: str) -> str:
    """Return the path of a probe in a directory: the same at each call on a host."""
    name = os.path.basename(hidden_path("", os.uname().nodename, *whose))
    return os.path.join(directory, name.replace(TEMPORARY_PREFIX, PROBE_PREFIX))
