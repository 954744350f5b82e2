"""Where a finder works, and whether it is all there."""

from __future__ import annotations

import os

from dbbbatch.areas.storage.store import StorageArea
from dbbbatch.config.sections import Finder
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files import mounts, place
from dbbbatch.files.roots import Roots


def storage_area(finder: Finder, site: str, run_id: int, roots: Roots) -> StorageArea:
    """Return what storing files of a finder needs to know."""
    return StorageArea(
        site=site,
        finder=finder.name,
        source=finder.source,
        storage=finder.storage,
        algorithms=tuple(dict.fromkeys((finder.checksum, *finder.checksums))),
        mode=finder.file_mode,
        dir_mode=finder.dir_mode,
        group=_group_id(finder),
        run_id=run_id,
        jobs=finder.jobs,
        sentinel=finder.sentinel,
        roots=roots,
    )


def require_mounted(finder: Finder, roots: Roots) -> None:
    """Leave with TryLater where source or storage is not mounted, or is another one by now.

    And with ConfigError where one leads into the other: what is moved would be storage itself.
    """
    if not os.path.isdir(finder.source):
        raise TryLater(f"{finder.source}: the source is not there; is it mounted?")
    roots.require(finder.storage, finder.sentinel)
    if finder.standard == "move" and (why := overlap_of(finder)):
        raise ConfigError(f"[{finder.label}] source: {why}")


def overlap_of(finder: Finder, relpath: str = "") -> str:
    """Return which directory of source and storage leads into the other of the two, or nothing."""
    for inner, outer in ((finder.source, finder.storage), (finder.storage, finder.source)):
        path = os.path.join(inner, relpath) if relpath else inner
        while not os.path.isdir(path) and path != inner:
            path = os.path.dirname(path)
        if mounts.is_inside(path, outer):
            return f"{path} leads into {outer}: nothing is moved; look at links and mounts"
    return ""


def require_space(finder: Finder, needed: int) -> None:
    """Leave with TryLater where a copy of so many bytes would fill storage."""
    if not needs_copy(finder):
        return
    free = place.free_bytes(finder.storage)
    if free - needed < finder.min_free:
        raise TryLater(
            f"{finder.storage}: {free} bytes are free and {needed} are to come, but "
            f"{finder.min_free} must stay free ([{finder.label}] min_free)"
        )


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
