"""The plugin that shows the files of storage in a second tree, shaped by a template.

Useful without any data management system: all files of one night in one directory, the tree that
an older program expects, a copy on another file system. Nothing there is ever overwritten.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbbbatch.config import fields as config_fields
from dbbbatch.config.fields import option
from dbbbatch.files import checksum, faults, place, temporary
from dbbbatch.files.batches import batched
from dbbbatch.files.roots import Roots
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile

#: What may stand in braces in the template, besides the groups of ``pattern``.
_EXAMPLE_LINK = {
    "relpath": "",
    "filename": "",
    "stem": "",
    "suffix": "",
    "added_on": datetime(2000, 1, 1),
    "target": "",
}
FIELDS = tuple(_EXAMPLE_LINK)

#: Files whose directories are made durable together before they are said to be done.
_SYNCED_TOGETHER = 100


def _tree_path(value: Any) -> str:
    text = config_fields.text(value)
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from None
    if wrong := [name for name in names if not name.isidentifier()]:
        raise ValueError(f"{{{wrong[0]}}} is no name of a field")
    if not names:
        raise ValueError("a template without a {field} gives every file the same path")
    return text


def _pattern(value: Any) -> re.Pattern[str] | None:
    return config_fields.patterns([value])[0] if value else None


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """The keys of ``[target.NAME.config]``."""

    root: str = option(
        help="top of the tree; must exist",
        parse=config_fields.absolute_path,
        example="/data/by-night",
    )
    path: str = option(
        "{relpath}/{filename}",
        "path below root: {relpath}, {filename}, {stem}, {suffix}, {added_on:%Y-%m-%d}, {target}, "
        "and the named groups of `pattern`",
        _tree_path,
    )
    pattern: re.Pattern[str] | None = option(
        "",
        "regular expression searched in the relative path; its named groups are fields of `path`",
        _pattern,
    )
    how: str = option(
        "hard",
        '"hard" links (one file system), "symbolic" links, or "copy"',
        config_fields.choice("hard", "symbolic", "copy"),
    )


class Link(Plugin):
    """Links or copies each file to the path that the template gives."""

    name = "link"
    Settings = LinkSettings
    fills = ("root",)

    settings: LinkSettings

    def start(self) -> None:
        groups = self.settings.pattern.groupindex if self.settings.pattern else {}
        for _, name, _, _ in string.Formatter().parse(self.settings.path):
            if name is not None and name not in FIELDS and name not in groups:
                meant = config_fields.nearest(name, [*FIELDS, *groups])
                raise Misconfigured(f"path: {{{name}}} has no value{meant}")
        try:
            self.settings.path.format(**dict.fromkeys(groups, ""), **_EXAMPLE_LINK)
        except (ValueError, LookupError) as error:
            raise Misconfigured(f"path: {self.settings.path!r}: {error}") from None
        self._roots = Roots()
        if why := self._roots.why_not(self.settings.root):
            raise NotReady(f"root: {why}")

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        for some in batched(files, _SYNCED_TOGETHER):
            directories: set[str] = set()
            outcomes = [self._show(file, directories) for file in some]
            try:
                for directory in directories:
                    place.sync_directory(directory)
            except OSError as error:
                raise NotReady(f"{error.filename}: {error.strerror}") from None
            if why := self._roots.why_not(self.settings.root):
                # What was made since is in another tree; none of it is recorded.
                raise NotReady(f"root: {why}")
            yield from outcomes

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        for file in files:
            rel = self._destination(file)
            yield file.number, rel is not None and self._holds(rel, file)

    def _holds(self, rel: str, file: StoredFile) -> bool:
        try:
            return _is_same(os.path.join(self.settings.root, rel), file)
        except OSError as error:
            _explained(error, self.settings)
            return False

    def _destination(self, file: StoredFile) -> str | None:
        """Return the path below the root, or None if the pattern is not for this file."""
        fields: dict[str, Any] = {}
        if self.settings.pattern is not None:
            name = os.path.join(file.relpath, file.filename)
            found = self.settings.pattern.search(name)
            if found is None:
                return None
            fields = {group: value or "" for group, value in found.groupdict().items()}
        stem, suffix = os.path.splitext(file.filename)
        fields |= {
            "relpath": file.relpath,
            "filename": file.filename,
            "stem": stem,
            "suffix": suffix,
            "added_on": file.added_on,
            "target": self.context.target,
        }
        return self.settings.path.format(**fields).lstrip("/")

    def _show(self, file: StoredFile, directories: set[str]) -> Outcome:
        rel = self._destination(file)
        if rel is None:
            return Outcome(file.number, Result.NEVER, "the pattern does not match its path")
        if not rel or rel.endswith("/") or {"..", "."} & set(rel.split("/")) or "\0" in rel:
            return Outcome(file.number, Result.NEVER, f"the template gives no path: {rel!r}")
        destination = os.path.join(self.settings.root, rel)
        directory = os.path.dirname(destination)
        try:
            place.make_directories(self.settings.root, os.path.dirname(rel))
            try:
                self._make(file, destination)
            except FileExistsError:
                if not _is_same(destination, file):
                    return Outcome(file.number, Result.FAILED, f"{rel}: another file is there")
                directories.add(directory)
                return Outcome(file.number, Result.ALREADY, rel)
        except OSError as error:
            return Outcome(file.number, Result.FAILED, f"{rel}: {_explained(error, self.settings)}")
        directories.add(directory)
        return Outcome(file.number, Result.DONE, rel)

    def _make(self, file: StoredFile, destination: str) -> None:
        if self.settings.how == "hard":
            os.link(file.path, destination, follow_symlinks=False)
        elif self.settings.how == "symbolic":
            os.symlink(file.path, destination)
        else:
            self._copy(file, destination)

    def _copy(self, file: StoredFile, destination: str) -> None:
        if os.path.lexists(destination):
            raise FileExistsError
        # One of several workers has this file; another may have one for the same destination.
        owner = f"target.{self.context.target} {file.path}"
        known = [name for name in file.checksums if name in checksum.ALGORITHMS][:1]
        sums = place.copy_beside(file.path, destination, known, owner=owner)
        try:
            if any(sums[name] != file.checksums[name] for name in known):
                raise OSError(errno.EIO, "the file in storage is not what was stored: checksum")
            hidden = temporary.temporary_path(destination, owner)
            place.sync_file(hidden)
            place.place(hidden, destination)
        finally:
            place.remove_temporary(destination, owner)


def _is_same(destination: str, file: StoredFile) -> bool:
    """Return whether what is there is the file, a link to it, or a copy with the same content.

    However it came there: `how` may have been another one, and another program may have made it.

    Raises
    ------
    OSError
        It cannot be told.
    """
    there = os.lstat(destination)
    if stat.S_ISLNK(there.st_mode):
        if os.readlink(destination) == file.path:
            return True
        try:
            return os.path.samefile(destination, file.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    if not stat.S_ISREG(there.st_mode):
        return False
    here = os.lstat(file.path)
    if os.path.samestat(there, here):
        return True
    if there.st_size != here.st_size:
        return False
    for algorithm, digest in file.checksums.items():
        if algorithm in checksum.ALGORITHMS:
            return checksum.compute(destination, [algorithm])[algorithm] == digest
    return checksum.compute(destination) == checksum.compute(file.path)


def _explained(error: OSError, settings: LinkSettings) -> str:
    """Return what is wrong with one file, or raise what is wrong with all."""
    if error.errno == errno.EXDEV:
        raise Misconfigured(
            f'how: {settings.root} is on another file system than storage; "hard" links do not '
            'reach there, "symbolic" ones and a "copy" do'
        ) from None
    if faults.affects_every_file(error) or not os.path.isdir(settings.root):
        raise NotReady(f"{settings.root}: {error.strerror}") from None
    return error.strerror or str(error)
