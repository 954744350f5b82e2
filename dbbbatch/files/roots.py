"""The directories that a pass works in: the same ones from its first look to its last record.

A disk that is unmounted while a pass works leaves its bare mount point, which accepts files like
the disk and hides them when the disk is mounted again. What a pass puts into a root goes to the
directory that it found at its beginning, by its descriptor; and before a pass records that, it
checks that this directory still has the path of the root.
"""

from __future__ import annotations

import os

from dbbbatch.errors import TryLater, key_of_missing
from dbbbatch.files import faults, mounts
from dbbbatch.files.tree import Tree

#: Device, inode and mount of a directory.
_Identity = tuple[int, int, str]


class Roots:
    """The directories that a pass has looked at, held open until `close`."""

    def __init__(self) -> None:
        # The open descriptor keeps the inode from being used again.
        self._roots: dict[str, tuple[int, _Identity]] = {}
        self._trees: dict[str, Tree] = {}

    def tree(self, path: str) -> Tree:
        """Return the tree of a configured root, the same one in the whole pass.

        It is that of the first look: what is done in it reaches the same disk also when the path
        leads elsewhere meanwhile, such as to the bare mount point.

        Raises
        ------
        TryLater
            The root is not there, or another one than at the first look.
        """
        if path not in self._trees:
            self.require(path)
            self._trees[path] = Tree(path, opened=os.dup(self._roots[path][0]))
        return self._trees[path]

    def require(self, path: str, sentinel: str = "") -> None:
        """Raise `TryLater` unless a configured root is there, and is the one of the first look.

        Parameters
        ----------
        path : `str`
        sentinel : `str`
            The name of a file in it by which it is recognized, if it has one.
        """
        if why := self.why_not(path, sentinel):
            raise TryLater(why, key=key_of_missing(path))

    def why_not(self, path: str, sentinel: str = "") -> str:
        """Return why a directory must not be used now; '' if it may. As `require`."""
        if why := mounts.why_unmounted(path, sentinel):
            return why
        try:
            descriptor, identity = _open_directory(path)
        except OSError as error:
            return str(faults.of_the_machine(error, path))
        held, first = self._roots.setdefault(path, (descriptor, identity))
        if held != descriptor:
            os.close(descriptor)
        if first != identity:
            return (
                f"{path}: is another directory than when this pass began; it was unmounted, "
                "mounted or renamed meanwhile; nothing that was put there since is recorded"
            )
        return ""

    def close(self) -> None:
        """Close all directories."""
        for descriptor, _ in self._roots.values():
            os.close(descriptor)
        self._roots.clear()
        for tree in self._trees.values():
            tree.close()
        self._trees.clear()


def _open_directory(path: str) -> tuple[int, _Identity]:
    """Return a descriptor of a directory, and which one it is."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, (status.st_dev, status.st_ino, mounts.mount_of(descriptor))
