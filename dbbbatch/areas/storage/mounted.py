"""The storage area of a finder, and whether it and the finder's source are mounted."""

from __future__ import annotations

import os

from dbbbatch.areas.storage.incoming import Incoming
from dbbbatch.config import fields
from dbbbatch.config.sections import Finder
from dbbbatch.database.models.file import FileRow
from dbbbatch.errors import ConfigError, TryLater, key_of_full, key_of_missing
from dbbbatch.files import mounts, names, place
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree


class StorageArea:
    """The storage area of a finder, as one pass uses it.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Finder`
    site : `str`
        Name of the site.
    run_id : `int`
        The row of the pass in `run`; 0 for none.
    roots : `dbbbatch.files.roots.Roots`
        Knows whether a directory is still the one of the pass's first look.
    recorded_as : `str`
        Who records files, if it is not this finder, such as "auditor".

    Raises
    ------
    ConfigError
        There is no such group on this host.
    """

    def __init__(
        self, section: Finder, site: str, run_id: int, roots: Roots, recorded_as: str = ""
    ) -> None:
        self.section = section
        self.site = site
        self.run_id = run_id
        self.roots = roots
        self.finder = recorded_as or section.name
        #: Of the checksums that are recorded, the first one in `file` itself.
        self.algorithms = tuple(dict.fromkeys((section.checksum, *section.checksums)))
        self.group = _group_id(section)
        #: Whose temporary files there are ours.
        self.owner = f"finder.{self.finder}"

    @property
    def source(self) -> Tree:
        """The source, as the pass found it first; raise `TryLater` if it is another one now."""
        return self.roots.tree(self.section.source)

    @property
    def storage(self) -> Tree:
        """The storage area, as `source`."""
        return self.roots.tree(self.section.storage)

    def forget(self) -> None:
        """Look the directories of source and storage up again when they are used next."""
        self.source.forget()
        self.storage.forget()

    def incoming(self, rel: str, size_bytes: int = 0, known: FileRow | None = None) -> Incoming:
        """Return a file of the source, given its relative path."""
        destination = self.storage.entry(rel)
        source = Entry(self.source, destination.relpath, destination.name)
        name = names.to_text(source.relpath), names.to_text(source.name)
        return Incoming(rel, name, source, destination, size_bytes, known)

    def copy_beside(self, descriptor: int, destination: Entry) -> dict[str, str]:
        """Copy an open file beside its destination, with the mode and group of storage.

        Returns
        -------
        sums : `dict` [ `str`, `str` ]
            The checksums of what was copied, by algorithm.
        """
        return place.copy_beside(
            descriptor,
            destination,
            self.algorithms,
            owner=self.owner,
            mode=self.section.file_mode,
            group=self.group,
        )

    def is_ours_alone(self, status: os.stat_result) -> bool:
        """Return whether nobody else can change a file of the source after it was renamed.

        Its owner could set its permissions, and write to it, in storage, too. A further link of a
        file that is ours opens it to nobody, and may be the receipt of an attempt in staging, which
        counts the links.
        """
        return self.section.trust_writers or status.st_uid == os.geteuid()

    def require(self) -> None:
        """Raise `TryLater` unless storage is mounted, and the one of the pass's first look."""
        self.roots.require(self.section.storage, self.section.sentinel)

    def require_mounted(self) -> None:
        """Look whether files may be moved from source to storage.

        Raises
        ------
        TryLater
            One of them is not mounted, or storage is no longer the one of the first look.
        ConfigError
            One leads into the other: what is moved would be storage itself.
        """
        source = self.section.source
        if why := mounts.why_absent(source, f"{source}: the source is not there"):
            raise TryLater(why, key=key_of_missing(source))
        self.require()
        if self.section.standard == "move" and (why := overlap_of(self.section)):
            raise ConfigError(f"[{self.section.label}] source: {why}")

    def require_space(self, needed: int) -> None:
        """Raise `TryLater` if copies of so many bytes would fill storage."""
        storage = self.section.storage
        free = place.free_bytes(storage)
        if free - needed < self.section.min_free:
            raise TryLater(
                f"{storage}: {fields.size_text(free)} free and {fields.size_text(needed)} to "
                f"come, but {fields.size_text(self.section.min_free)} must stay free "
                f"([{self.section.label}] min_free)",
                key=key_of_full(storage),
            )


def overlap_of(finder: Finder, relpath: str = "") -> str:
    """Return which directory of source and storage leads into the other of the two, or ''."""
    for inner, outer in ((finder.source, finder.storage), (finder.storage, finder.source)):
        path = os.path.join(inner, relpath) if relpath else inner
        while not os.path.isdir(path) and path != inner:
            path = os.path.dirname(path)
        if mounts.is_inside(path, outer):
            return f"{path} leads into {outer}: nothing is moved; look at links and mounts"
    return ""


def needs_copy(finder: Finder) -> bool:
    """Return whether source and storage are on different file systems, or mounts of one."""
    return not mounts.same_file_system(finder.source, finder.storage)


def _group_id(finder: Finder) -> int | None:
    if not finder.group:
        return None
    if finder.group.isdigit():
        return int(finder.group)
    import grp

    try:
        return grp.getgrnam(finder.group).gr_gid
    except KeyError:
        raise ConfigError(f"[{finder.label}] group: no group {finder.group!r} here") from None
