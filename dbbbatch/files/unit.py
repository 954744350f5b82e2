"""Units of work that a process on another host does: read some files, and copy them if asked.

A unit and its answer are plain data. Nothing here uses a database, places a file or removes one of
a site, and each execution of a unit makes copies of its own: a unit may run twice, or be given up
by a pass while it runs.

The copies are hidden beside their destinations. The pass writes each directory to its `Journal`
before a unit may copy there, and the journal begins with the token of the pass. `Journal.sweep`
takes the token away before it removes the copies. A worker looks at the token before it makes a
copy and after: a copy that the sweep did not see is removed by the worker itself.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

from dbbbatch import __version__
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version, inode_of
from dbbbatch.files.temporary import UNIT_PREFIX, hidden_path, is_temporary
from dbbbatch.files.tree import Entry, Tree

#: Most bytes of a token, with the NUL that ends it.
_TOKEN_SIZE = 33


class SharedRoot(NamedTuple):
    """A directory that must be the same one on all hosts.

    Attributes
    ----------
    path : `str`
    inode : `int`
    sentinel : `str`
        A file in it that must be there; '' for none.
    """

    path: str
    inode: int
    sentinel: str = ""

    @classmethod
    def of(cls, tree: Tree, sentinel: str = "") -> SharedRoot:
        """Return what a worker must see of a tree."""
        return cls(tree.path, inode_of(os.fstat(tree.directory().fd).st_ino), sentinel)


class UnitFile(NamedTuple):
    """A file to be read: its relative path, the size expected, and the checksums wanted."""

    rel: str
    size_bytes: int
    algorithms: tuple[str, ...]


class CopyOrder(NamedTuple):
    """How the files of a unit are copied: below the last of its roots, under the same paths.

    Attributes
    ----------
    journal : `str`
        The name of the journal at the top of that root.
    token : `str`
        With which the journal begins as long as the copies are wanted.
    prefix : `str`
        Begins the names of the copies.
    mode, group : `int` or `None`
        As of `place.copy_to`.
    """

    journal: str
    token: str
    prefix: str
    mode: int | None
    group: int | None


class Unit(NamedTuple):
    """Files below the first of some roots, to be read and perhaps copied."""

    roots: tuple[SharedRoot, ...]
    files: tuple[UnitFile, ...]
    order: CopyOrder | None = None
    version: str = __version__


class FileRead(NamedTuple):
    """What a worker found of a file.

    Attributes
    ----------
    version : `Version` or `None`
        Which version it read; `None` if it could not.
    sums : mapping [ `str`, `str` ]
        Digest by algorithm.
    copy : `str`
        The hidden name of the copy, beside the destination.
    error : `str`
        Why it could not: the pass tries for itself.
    """

    version: Version | None = None
    sums: Mapping[str, str] = MappingProxyType({})
    copy: str = ""
    error: str = ""


class UnitAnswer(NamedTuple):
    """Where a unit ran, why that host must not be used ('' if it may), and what it found."""

    host: str
    unfit: str
    files: tuple[FileRead, ...] = ()


def run_unit(unit: Unit) -> UnitAnswer:
    """Do a unit of work; nothing that is wrong with a file or this host is raised."""
    host = os.uname().nodename
    try:
        if why := why_unfit(unit.roots, unit.version):
            return UnitAnswer(host, why)
        with Tree(unit.roots[0].path) as source, Tree(unit.roots[-1].path) as destination:
            found = tuple(
                _read_of_unit(source, destination, file, unit.order) for file in unit.files
            )
    except OSError as error:
        return UnitAnswer(host, str(error))
    return UnitAnswer(host, "", found)


def why_unfit(roots: Sequence[SharedRoot], version: str) -> str:
    """Return why units with these roots, of this version, must not run in this process, or ''."""
    if version != __version__:
        return f"has dbbbatch {__version__}, and not {version}"
    for root in roots:
        try:
            if inode_of(os.stat(root.path).st_ino) != root.inode:
                return f"sees another directory as {root.path}"
            if root.sentinel:
                os.lstat(os.path.join(root.path, root.sentinel))
        except OSError as error:
            return f"does not see {error.filename}: {error.strerror}"
    return ""


def _read_of_unit(
    source: Tree, destination: Tree, file: UnitFile, order: CopyOrder | None
) -> FileRead:
    try:
        entry = source.entry(file.rel)
        before = entry.lstat()
        if before.st_size != file.size_bytes:
            return FileRead(error="has another size")
        if order is None:
            status, sums = checksum.read_file(entry, file.algorithms)
            return FileRead(Version.of_file(status), sums)
        return _copy_of_unit(entry, destination, file, order)
    except OSError as error:
        return FileRead(error=error.strerror or str(error))


def _copy_of_unit(source: Entry, destination: Tree, file: UnitFile, order: CopyOrder) -> FileRead:
    journal = destination.entry(order.journal)
    if not _has_token(journal, order.token):
        return FileRead(error="no longer wanted")
    relpath, _ = names.split(file.rel)
    # This execution alone has the name.
    copy = Entry(destination, relpath, order.prefix + secrets.token_hex(8))
    try:
        with checksum.opened(source) as descriptor:
            version = Version.of_file(os.fstat(descriptor))
            sums = place.copy_to(
                descriptor, copy, file.algorithms, mode=order.mode, group=order.group
            )
        place.sync_file(copy)
        wanted = _has_token(journal, order.token)
    except BaseException:
        copy.remove()
        raise
    if not wanted:
        copy.remove()
        return FileRead(error="no longer wanted")
    return FileRead(version, sums, copy.name)


def _has_token(journal: Entry, token: str) -> bool:
    """Return whether a journal begins with a token; it is opened, so NFS asks the server."""
    try:
        descriptor = journal.open()
    except FileNotFoundError:
        return False
    try:
        return os.read(descriptor, _TOKEN_SIZE) == _part(token)
    finally:
        os.close(descriptor)


class Journal:
    """The directories of a storage area in which workers may make copies for a pass.

    Parameters
    ----------
    storage : `Tree`
    owner : `str`
        The label of the lock under which the pass runs, such as "finder.latiss". With the name of
        this host it makes the names of journal and copies.
    """

    def __init__(self, storage: Tree, owner: str) -> None:
        self._storage = storage
        digest = os.path.basename(hidden_path("", os.uname().nodename, owner, "units"))
        self._name = digest
        self._swept = os.path.basename(hidden_path("", os.uname().nodename, owner, "swept"))
        self.prefix = f"{UNIT_PREFIX}{digest[-16:]}-"
        self._descriptor = -1
        self._token = ""
        self._known: set[str] = set()

    def order(
        self, relpaths: Collection[str], mode: int | None = None, group: int | None = None
    ) -> CopyOrder:
        """Return how to copy to some directories, which are in the journal from now on."""
        if self._descriptor < 0:
            self.sweep()
            self._token = secrets.token_hex(16)
            self._descriptor = self._storage.create(self._name)
            # Workers may run as a group of their own: they read it, and what it holds is no secret.
            os.fchmod(self._descriptor, 0o644)
            place.write_block(self._descriptor, memoryview(_part(self._token)))
        if new := sorted(set(relpaths) - self._known):
            place.write_block(self._descriptor, memoryview(b"".join(map(_part, new))))
            os.fsync(self._descriptor)
            self._known.update(new)
        return CopyOrder(self._name, self._token, self.prefix, mode, group)

    def take(self, source: Entry, read: FileRead, destination: Entry, owner: str) -> os.stat_result:
        """Rename a worker's copy to the `place.temporary_of` its destination; return the source.

        A copy that is not taken remains for the next sweep.

        Raises
        ------
        checksum.Changed
            The source is no longer what the worker read, or somebody has it open for writing.
        OSError
            The copy is not what the worker says: no file of this user with the size and time of
            the source. Or one of the two cannot be looked at.
        """
        descriptor = checksum.open_closed(source)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        version = Version.of_file(status)
        if version != read.version:
            raise checksum.Changed(errno.EAGAIN, "the file changed after it was read", source.path)
        copy = destination.beside(os.path.basename(read.copy))
        found = copy.lstat()
        if not (
            copy.name.startswith(self.prefix)
            and is_temporary(copy.name)
            and stat.S_ISREG(found.st_mode)
            and Version.of_file(found).is_like(version)
            and (found.st_uid, found.st_nlink) == (os.geteuid(), 1)
        ):
            raise OSError(errno.EINVAL, "is not the copy that a worker says", copy.path)
        temporary = place.temporary_of(destination, owner)
        temporary.remove()
        copy.move_to(temporary)
        return status

    def sweep(self) -> None:
        """Remove the copies that nobody took: of this pass, and of one before that was killed.

        Raises
        ------
        OSError
            The disk cannot be read: the next sweep looks there again.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._known.clear()
        swept = self._storage.entry(self._swept)
        self._remove_copies(swept)
        # From now on no worker begins a copy, and one that ends a copy removes it.
        with suppress(FileNotFoundError):
            self._storage.entry(self._name).move_to(swept)
            self._remove_copies(swept)

    def _remove_copies(self, journal: Entry) -> None:
        """Remove what workers left in the directories of a journal, and then the journal."""
        try:
            descriptor = journal.open()
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "rb") as lines:
            parts = lines.read().split(b"\0")[1:-1]
        for relpath in map(os.fsdecode, parts):
            try:
                for name in self._storage.names(relpath):
                    if name.startswith(self.prefix) and is_temporary(name):
                        Entry(self._storage, relpath, name).remove()
            except OSError as error:
                # Else it is gone, or no longer ours: an auditor finds what is there.
                if faults.affects_every_file(error):
                    raise
        journal.remove()


def _part(text: str) -> bytes:
    return os.fsencode(text) + b"\0"
