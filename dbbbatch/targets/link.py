"""The plugin that shows the files of storage in a second tree, whose paths come from a template.

Useful without any data management system: all files of one night in one directory, the tree that
an older program expects, a copy on another file system. Nothing there is ever overwritten.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Naming, why_refused
from dbbbatch.targets import naming
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile

#: Files whose directories are made durable together before their outcomes are yielded.
_SYNCED_TOGETHER = 100


def _tree_path(value: Any) -> str:
    text = naming.template(value)
    if not naming.template_fields(text):
        raise ValueError("a template without a {field} gives every file the same path")
    return text


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """The keys of ``[target.NAME.config]``."""

    root: str = option(
        help="top of the tree; must exist", parse=fields.absolute_path, example="/data/by-night"
    )
    path: str = option(
        "{relpath}/{filename}",
        "path below root: {relpath}, {filename}, {stem}, {suffix}, {path} (in storage), "
        "{added_on:%Y-%m-%d}, {target}, and the named groups of `pattern`",
        _tree_path,
    )
    pattern: re.Pattern[str] | None = option(
        "",
        "regular expression searched in the relative path; its named groups are fields of `path`",
        naming.pattern,
    )
    how: str = option(
        "hard",
        '"hard" links (one file system), "symbolic" links, or "copy"',
        fields.choice("hard", "symbolic", "copy"),
    )
    onward: bool = option(
        False,
        "root is the buffer of a handoff, which takes the files on to a further site",
        fields.boolean,
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` for links that no handoff would take."""
        if self.onward and self.how == "symbolic":
            raise ValueError('how: a handoff takes no links: set "hard" or "copy" with onward')


class Link(Plugin):
    """Links or copies each file to the path that the template gives."""

    name = "link"
    Settings = LinkSettings
    fills = ("root",)

    settings: LinkSettings

    def start(self) -> None:
        """Check the template and the root."""
        templates = {"path": self.settings.path}
        self._namer = naming.Namer(self.settings.pattern, self.context.target, templates)
        self._roots = Roots()
        try:
            self._tree = self._roots.tree(self.settings.root)
        except TryLater as error:
            raise NotReady(f"root: {error}") from None

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Link or copy files; an outcome is yielded once the directory is durable."""
        for some in batched(files, _SYNCED_TOGETHER):
            directories: set[str] = set()
            self._tree.forget()
            outcomes = [self._show(file, directories) for file in some]
            try:
                self._tree.sync(directories)
            except OSError as error:
                raise NotReady(f"{error.filename}: {error.strerror}") from None
            # If another tree is mounted there now, what was made is in that one: not recorded.
            self._require_root()
            yield from outcomes

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]] | None:
        """Return whether the tree has each file at its path, unless what it has is taken away."""
        return None if self.settings.onward else self._held(files)

    def _held(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        self._tree.forget()
        for file in files:
            held = False
            try:
                held = self._is_same(self._tree.entry(self._path_of(file)), file)
            except naming.NoName:
                pass
            except OSError as error:
                self._explain(error)
            yield file.number, held

    def _require_root(self) -> None:
        if why := self._roots.why_not(self.settings.root):
            raise NotReady(f"root: {why}")

    def _path_of(self, file: StoredFile) -> str:
        # The relative path of the top directory is empty.
        return re.sub("/+", "/", self._namer.names(file)["path"]).lstrip("/")

    def _show(self, file: StoredFile, directories: set[str]) -> Outcome:
        try:
            rel = self._path_of(file)
        except naming.NoName as error:
            return Outcome(file.number, Result.NEVER, str(error))
        if names.is_astray(rel):
            return Outcome(file.number, Result.NEVER, f"the template gives no path: {rel!r}")
        destination = self._tree.entry(rel)
        result = Result.DONE
        try:
            place.make_directories(self._tree, destination.relpath)
            try:
                self._make(file, destination)
            except FileExistsError:
                if not self._is_same(destination, file):
                    return Outcome(file.number, Result.FAILED, f"{rel}: another file is there")
                result = Result.ALREADY
        except OSError as error:
            why = self._explain(error, destination)
            return Outcome(file.number, Result.FAILED, f"{rel}: {why}")
        directories.add(destination.relpath)
        return Outcome(file.number, result, rel)

    def _make(self, file: StoredFile, destination: Entry) -> None:
        if self.settings.how == "hard":
            original = self.stored(file)
            here, there = original.where(), destination.where()
            with Naming(original, destination):
                os.link(
                    original.name,
                    destination.name,
                    src_dir_fd=here.fd,
                    dst_dir_fd=there.fd,
                    follow_symlinks=False,
                )
        elif self.settings.how == "symbolic":
            self._tree.link_to(file.path, destination.rel)
        else:
            self._copy(file, destination)

    def _copy(self, file: StoredFile, destination: Entry) -> None:
        if place.is_there(destination):
            raise FileExistsError
        # Another worker may have another file for the same destination.
        owner = f"target.{self.context.target} {file.path}"
        known = [name for name in file.checksums if name in checksum.ALGORITHMS][:1]
        sums = place.copy_beside(self.stored(file), destination, known, owner=owner)
        try:
            if any(sums[name] != file.checksums[name] for name in known):
                raise OSError(errno.EIO, "the file in storage is not what was stored: checksum")
            place.sync_file(place.temporary_of(destination, owner))
            place.place_copy(destination, owner)
        finally:
            place.remove_temporary(destination, owner)

    def _is_same(self, destination: Entry, file: StoredFile) -> bool:
        """Return whether something is the file, a link to it, or a copy with the same content.

        The key `how` may have been another one when it was made, or another program made it.

        Raises
        ------
        OSError
            This cannot be found out.
        """
        there = destination.lstat()
        stored = self.stored(file)
        if stat.S_ISLNK(there.st_mode):
            return _leads_to(destination, stored)
        if not stat.S_ISREG(there.st_mode):
            return False
        here = stored.lstat()
        if os.path.samestat(there, here):
            return True
        if there.st_size != here.st_size:
            return False
        for algorithm, digest in file.checksums.items():
            if algorithm in checksum.ALGORITHMS:
                return checksum.compute(destination, [algorithm])[algorithm] == digest
        return checksum.compute(destination) == checksum.compute(stored)

    def _explain(self, error: OSError, destination: Entry | None = None) -> str:
        """Return what is wrong with one file; raise if it is wrong with every file."""
        root = self.settings.root
        if error.errno == errno.EXDEV:
            raise Misconfigured(
                f'how: {root} is on another file system than storage; "hard" links do not '
                'reach there, "symbolic" ones and a "copy" do'
            ) from None
        if faults.affects_every_file(error) or not os.path.isdir(root):
            raise NotReady(f"{root}: {error.strerror}") from None
        if destination is None or not isinstance(error, PermissionError):
            return error.strerror or str(error)
        if destination.refusing() == "":
            raise NotReady(str(faults.of_the_machine(error, root))) from None
        return why_refused(error, destination)


def _leads_to(link: Entry, file: Entry) -> bool:
    """Return whether a symbolic link leads to a file, perhaps through other links."""
    directory = link.where()
    with Naming(link):
        if os.readlink(link.name, dir_fd=directory.fd) == file.path:
            return True
        try:
            there = os.stat(link.name, dir_fd=directory.fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
    here = file.status()
    return here is not None and os.path.samestat(there, here)
