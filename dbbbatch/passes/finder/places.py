"""Where a finder works, and whether it is all there."""

from __future__ import annotations

import os

from dbbbatch.config import Finder
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files import place, ways
from dbbbatch.passes.base import Pass
from dbbbatch.passes.finder.arrival import Area
from dbbbatch.passes.quarantine import Quarantining
from dbbbatch.passes.release import Explained


def area_of(finder: Finder, p: Pass) -> Area:
    """Return what storing files of a finder needs to know."""
    return Area(
        site=p.settings.site.name,
        finder=finder.name,
        source=finder.source,
        storage=finder.storage,
        algorithms=tuple(dict.fromkeys((finder.checksum, *finder.checksums))),
        mode=finder.file_mode,
        dir_mode=finder.dir_mode,
        group=_group(finder),
        run_id=p.run_id,
        jobs=finder.jobs,
        sentinel=finder.sentinel,
        roots=p.roots,
    )


def quarantining(finder: Finder, p: Pass) -> Quarantining:
    """Return the way to a finder's quarantine."""
    return Explained(p.settings.site.name, finder.label, finder.quarantine, finder.source, p.roots)


def must_be_there(finder: Finder, p: Pass) -> None:
    """Leave with TryLater where source or storage is not mounted, or is another one by now.

    And with ConfigError where one leads into the other: what is moved would be storage itself.
    """
    if not os.path.isdir(finder.source):
        raise TryLater(f"{finder.source}: the source is not there; is it mounted?")
    p.roots.require(finder.storage, finder.sentinel)
    if finder.standard == "move" and (why := entangled(finder)):
        raise ConfigError(f"[{finder.label}] source: {why}")


def entangled(finder: Finder, relpath: str = "") -> str:
    """Say which directory of source and storage leads into the other of the two, or nothing."""
    for inner, outer in ((finder.source, finder.storage), (finder.storage, finder.source)):
        path = os.path.join(inner, relpath) if relpath else inner
        while not os.path.isdir(path) and path != inner:
            path = os.path.dirname(path)
        if ways.leads_into(path, outer):
            return f"{path} leads into {outer}: nothing is moved; look at links and mounts"
    return ""


def must_have_room(finder: Finder, needed: int) -> None:
    """Leave with TryLater where a copy of so many bytes would fill storage."""
    if not apart(finder):
        return
    free = place.free_bytes(finder.storage)
    if free - needed < finder.min_free:
        raise TryLater(
            f"{finder.storage}: {free} bytes are free and {needed} are to come, but "
            f"{finder.min_free} must stay free ([{finder.label}] min_free)"
        )


def apart(finder: Finder) -> bool:
    """Tell whether source and storage are on different file systems, or mounts of one."""
    return not ways.same_file_system(finder.source, finder.storage)


def _group(finder: Finder) -> int | None:
    if not finder.group:
        return None
    if finder.group.isdigit():
        return int(finder.group)
    import grp

    try:
        return grp.getgrnam(finder.group).gr_gid
    except KeyError:
        raise ConfigError(f"[{finder.label}] group: no group {finder.group!r} here") from None
