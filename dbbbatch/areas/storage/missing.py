"""Directories of storage that are bare: lost with all their files, or a disk that is not mounted.

An empty mount point looks like a directory that lost everything. Where the table has more than a
few files in it, it is taken for one, until a person says otherwise.
"""

from __future__ import annotations

import glob

from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.files import names
from dbbbatch.files.tree import Tree

#: Files that a bare directory may have lost one by one.
FEW = 3


class MissingDirectories:
    """Which directories of a storage area are bare: not there, or empty.

    Each is looked at once, so that this is good for one batch only.

    Parameters
    ----------
    storage : `Tree`
        The storage area.
    """

    def __init__(self, storage: Tree) -> None:
        self._storage = storage
        self._bare: dict[str, bool] = {}
        self._unmounted: dict[str, bool] = {}

    def outermost(self, directory: str) -> str:
        """Return the outermost bare directory on the way to one, a relative path, or ''."""
        top = ""
        while directory and self._is_bare(directory):
            top, directory = directory, names.split(directory)[0]
        return top

    def unmounted(self, directory: str) -> str:
        """Return the outermost bare directory on the way to one, if it looks unmounted, or ''."""
        top = self.outermost(directory)
        if top and top not in self._unmounted:
            storage = self._storage.path
            self._unmounted[top] = (
                connect.read(lambda: File.below(storage, names.to_text(top), FEW + 1)) > FEW
            )
        return top if self._unmounted.get(top) else ""

    def _is_bare(self, directory: str) -> bool:
        if directory not in self._bare:
            try:
                bare = next(self._storage.scan(directory), None) is None
            except (FileNotFoundError, NotADirectoryError):
                bare = True
            except OSError:
                bare = False
            self._bare[directory] = bare
        return self._bare[directory]


def if_it_is_lost(finder: Finder, directory: str) -> str:
    """Return what an operator does who knows that a directory is no mount point."""
    which = names.quoted(glob.escape(directory) + "/*")
    return f"if it is lost, run dbb-auditor {finder.name} --missing 1 --match {which}"
