"""Who else can write a file, or put another file or directory in the place of one.

A configuration names the commands that its reader runs, so it is only read if nobody but its
reader, or root, can have written it. As sshd does with its files (StrictModes of sshd_config(5)),
all directories on the way to the file are checked: whoever may write in one may put another file,
or another directory, in its place.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from dbbbatch.errors import user, user_named
from dbbbatch.files import names

#: Links that are followed on the way to a file, as many as by the kernel.
_MOST_LINKS = 40


class Distrusted(Exception):
    """A file that others can write; the message names the problem and its remedy.

    Attributes
    ----------
    foreign : `bool`
        It belongs to another user, or is where others put files: perhaps not meant for its reader.
    owner : `int` or `None`
        The other user.
    """

    def __init__(self, problem: str, foreign: bool, owner: int | None = None) -> None:
        super().__init__(problem)
        self.foreign = foreign
        self.owner = owner


def read_trusted(path: str) -> bytes:
    """Return the content of a file, given by its absolute path, that only this user or root wrote.

    Raises
    ------
    Distrusted
        Others can write it, or one of the directories on the way to it.
    OSError
        It cannot be read.
    """
    # Without waiting: it may be a pipe that nobody writes to.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _must_be_ours(path, status := os.fstat(descriptor), sticky=False)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        for directory, status in way_to(path):
            _must_be_ours(directory, status, sticky=True)
        return file.read()


def _must_be_ours(path: str, status: os.stat_result, sticky: bool) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Distrusted(
            f"{path} belongs to {user_named(status.st_uid)}, who could choose the commands that "
            f"{user()} runs: give it to {user()} (chown), or run this as that user",
            foreign=True,
            owner=status.st_uid,
        )
    who, mode = _who_else(status, sticky)
    if who:
        raise Distrusted(
            f"{path} can be written by {who}, who could then choose the commands that are run: "
            f"chmod {mode} {path}",
            foreign=stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_IWOTH),
        )


def why_exposed(path: str, status: os.stat_result, *, sticky: bool) -> str:
    """Return who else than this user and root can write to a directory, and what ends that.

    Parameters
    ----------
    path : `str`
    status : `os.stat_result`
        Of the directory, or of a link to one: then only its owner counts.
    sticky : `bool`
        Those who may only add names, as in /tmp, do not count.

    Returns
    -------
    why : `str`
        '' if nobody can.
    """
    shown = names.quoted(path)
    if status.st_uid not in (0, os.geteuid()):
        owner = user_named(status.st_uid)
        return f"{names.printable(path)} belongs to {owner}: sudo chown {user()} {shown}"
    who, mode = _who_else(status, sticky)
    return f"{names.printable(path)} can be written by {who}: chmod {mode} {shown}" if who else ""


def _who_else(status: os.stat_result, sticky: bool) -> tuple[str, str]:
    """Return who else than its owner may write to a file, and the mode for chmod(1) that ends it.

    Both are '' if nobody else may.
    """
    # In a sticky directory (/tmp) nobody can remove or rename the files of others. The bits of a
    # link mean nothing.
    if stat.S_ISLNK(status.st_mode) or (sticky and status.st_mode & stat.S_ISVTX):
        return "", ""
    others = bool(status.st_mode & stat.S_IWOTH)
    group = bool(status.st_mode & stat.S_IWGRP)
    if stat.S_ISDIR(status.st_mode) and group and _is_private(status):
        group = False
    if not (others or group):
        return "", ""
    mode = "o-w" if others and not group else "go-w" if others else "g-w"
    return "everybody" if others else "its group", mode


def way_to(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the directories and links on the way to a file, as the kernel goes it.

    A directory that is given comes last.
    """
    at, links = "/", 0
    yield at, os.lstat(at)
    left = path.split("/")[::-1]
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, part)
        status = os.lstat(here)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"{path}: too many links")
            yield here, status
            aim = os.readlink(here)
            at = "/" if aim.startswith("/") else at
            left += aim.split("/")[::-1]
        elif stat.S_ISDIR(status.st_mode):
            yield here, status
            at = here


def _is_private(status: os.stat_result) -> bool:
    """Return whether a directory's group is its owner alone, as where a login has umask 002."""
    import grp
    import pwd

    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return (
        status.st_uid != 0
        and owner.pw_gid == status.st_gid
        and group.gr_name == owner.pw_name
        and set(group.gr_mem) <= {owner.pw_name}
    )
