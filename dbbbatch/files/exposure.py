"""What others could exchange for something else: a directory, and what is below it."""

from __future__ import annotations

import os
import stat
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from dbbbatch.files import names
from dbbbatch.files.tree import Tree
from dbbbatch.files.trust import way_to, why_exposed

#: Directories below one that are looked at, those nearest to it first, and names in them.
_MOST_DIRECTORIES = 1000
_MOST_NAMES = 100_000


class Below(NamedTuple):
    """What was found in a directory and below it.

    Attributes
    ----------
    exposed : `str`
        Which directory others can write to, and what ends that; '' if none was found.
    link : `str`
        The path of a link to a directory; '' if none was found.
    """

    exposed: str
    link: str


def why_replaceable(path: str) -> str:
    """Return who can put another directory in the place of one, and what ends that.

    Returns
    -------
    why : `str`
        '' if only this user and root can.

    Raises
    ------
    OSError
        It is not there, or cannot be looked at.
    """
    above = list(way_to(path))[:-1]
    found = (why_exposed(here, status, sticky=True) for here, status in above)
    return next(filter(None, found), "")


def look_below(path: str) -> Below:
    """Return what others can exchange in a directory and below it, where only this user may write.

    Raises
    ------
    OSError
        It is not there.
    """
    exposed = link = ""
    pending, begun, seen = deque([""]), 1, 0
    with Tree(path) as tree:
        while pending and seen < _MOST_NAMES and not (exposed and link):
            rel = pending.popleft()
            with suppress(OSError):  # gone, or this user may not read it, which a pass tells
                directory = tree.directory(rel)
                whole = os.path.join(path, rel) if rel else path
                exposed = exposed or why_exposed(whole, os.fstat(directory.fd), sticky=False)
                for entry in tree.scan(rel):
                    seen += 1
                    here = names.join(rel, entry.name)
                    if entry.is_symlink():
                        if not link and _leads_to_directory(entry.name, directory.fd):
                            link = os.path.join(path, here)
                    elif entry.is_dir(follow_symlinks=False) and begun < _MOST_DIRECTORIES:
                        begun += 1
                        pending.append(here)
    return Below(exposed, link)


def _leads_to_directory(name: str, directory: int) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(name, dir_fd=directory).st_mode)
    return False
