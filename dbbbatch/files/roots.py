"""The directories that a pass works in: the same ones from its first look to its last record.

A disk that is unmounted while a pass works leaves its bare mount point, which takes files like the
disk and hides them when the disk is back. So a pass looks once more after it has put files
somewhere and before it records that: only what lies where the pass began to work is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from dbbbatch.errors import TryLater
from dbbbatch.files import faults, mounts, names, place


class _Root(NamedTuple):
    """A directory as it was at the first look; the descriptor keeps its numbers its own."""

    descriptor: int
    identity: tuple[int, int, str]


class MovedFile(NamedTuple):
    """A file that a pass put below a root, and where it was before.

    Attributes
    ----------
    rel : `str`
        Its path relative to the root.
    source : `str`
        Where it goes back to.
    copied : `bool`
        The original is still there.
    """

    rel: str
    source: str
    copied: bool = False


class Roots:
    """The directories that a pass has looked at; they are held open until `close`."""

    def __init__(self) -> None:
        self._roots: dict[str, _Root] = {}

    def require(self, path: str, sentinel: str = "") -> None:
        """Look whether a directory is there, and is the one of the first look.

        Parameters
        ----------
        path : `str`
            A configured root.
        sentinel : `str`
            The name by which it is known, if it has one.

        Raises
        ------
        TryLater
            It is not.
        """
        if why := self.why_not(path, sentinel):
            raise TryLater(why)

    def why_not(self, path: str, sentinel: str = "") -> str:
        """Return why a directory must not be used now; '' if it may. As `require`."""
        if why := faults.why_unmounted(path, sentinel):
            return why
        try:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return f"{path}: {error.strerror}; is it mounted?"
        kept = False
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino, mounts.mount_of(descriptor))
            first = self._roots.get(path)
            if first is None:
                self._roots[path] = _Root(descriptor, identity)
                kept = True
            elif first.identity != identity:
                return (
                    f"{path}: is another directory than when this pass began; it was unmounted, "
                    "mounted or renamed meanwhile; nothing that was put there since is recorded"
                )
        except OSError as error:
            return f"{path}: {error.strerror}; is it mounted?"
        finally:
            if not kept:
                os.close(descriptor)
        return ""

    def take_back(self, path: str, moved: Iterable[MovedFile]) -> str:
        """Take back what was put below a root that is another one by now; say what could not be.

        It is looked for in the directory that has the root's path now, and nowhere else, also if
        the disk comes back meanwhile. A file that was moved there goes back under its own name, if
        that is free. A copy, whose original is where it was, is only told of: whether what lies
        there is ours and not another disk's, a person sees.

        Returns
        -------
        told : `str`
            For an operator; '' if nothing is left there.
        """
        try:
            here = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return ""
        left, copies = [], []
        try:
            first = self._roots.get(path)
            status = os.fstat(here)
            if first and first.identity == (status.st_dev, status.st_ino, mounts.mount_of(here)):
                return ""
            for file in moved:
                there = f"/proc/self/fd/{here}/{file.rel}"
                if not os.path.lexists(there):
                    continue
                if file.copied:
                    copies.append(file.rel)
                    continue
                try:
                    place.place(there, file.source)
                except OSError:
                    left.append(file.rel)
        finally:
            os.close(here)
        told = [
            f"{len(some)} {what}, such as {names.printable(os.path.join(path, some[0]))}"
            for some, what in (
                (left, "files lie there that cannot be taken back"),
                (copies, "copies lie there, whose originals are where they were"),
            )
            if some
        ]
        return "; ".join(told)

    def close(self) -> None:
        """Let go of all."""
        for root in self._roots.values():
            os.close(root.descriptor)
        self._roots.clear()
