"""Which directories of a configuration may not lie in each other.

A handoff takes whatever is in its buffer, and a scanning finder whatever is in its source: nothing
that is to stay may be there. What the scripts need themselves may lie in no directory of files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import combinations, product
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dbbbatch.config import Finder, Handoff, Target


class Area(NamedTuple):
    """A path of the configuration, and the section and key that name it."""

    where: str
    path: str

    def __str__(self) -> str:
        return f"{self.where} ({self.path})"

    def is_in(self, other: Area) -> bool:
        """Tell whether this is the other one, or lies below it."""
        return self.path == other.path or self.path.startswith(other.path + "/")


def problems(
    own: Collection[Area],
    handoffs: Collection[Handoff],
    finders: Collection[Finder],
    targets: Collection[Target],
) -> Iterator[str]:
    """Say which areas may not lie where they do.

    A holding area or a storage area may serve several sections, a quarantine only one, and what
    one handoff delivers on this machine may be the buffer of another one, or a finder's source.

    Parameters
    ----------
    own : collection of `Area`
        What the scripts keep for themselves.
    handoffs, finders, targets
        The sections.
    """
    near = [section for section in handoffs if not section.endpoint.remote]
    buffers = [_area(section, "buffer") for section in handoffs]
    holdings = [_area(section, "holding") for section in handoffs]
    quarantines = [_area(section, "quarantine") for section in (*handoffs, *finders)]
    arrivals = [_endpoint(section, "buffer") for section in near]
    stagings = [_endpoint(section, "staging") for section in near]
    storages = [_area(section, "storage") for section in finders]
    taken = buffers + [_area(f, "source") for f in finders if f.search == "scan"]
    logs = [_area(f, "source") for f in finders if f.search != "scan"]
    for one, other in (
        *combinations(taken, 2),
        *product((*holdings, *quarantines, *stagings, *storages), taken),
        *((_endpoint(section, "buffer"), _area(section, "buffer")) for section in near),
    ):
        if one.is_in(other) or other.is_in(one):
            yield (
                f"{one} and {other}: neither may lie in the other: what is put into the one is "
                "taken from the other"
            )
    for one, other in (
        # Where a file lies is what tells, without a database, which section it goes back to.
        *combinations(quarantines, 2),
        *product(quarantines, (*holdings, *storages, *logs)),
        *product(stagings, (*holdings, *quarantines, *storages)),
        *product(arrivals, (*holdings, *quarantines)),
    ):
        if one.is_in(other) or other.is_in(one):
            yield f"{one} and {other}: neither may lie in the other: their files are to stay apart"
    read = [_area(section, "storage") for section in targets]
    everywhere = (*read, *logs, *arrivals, *stagings, *storages, *quarantines, *holdings, *taken)
    places = {area.path: area for area in everywhere}.values()
    for one, other in product((*own, *_trees(targets)), places):
        if one.is_in(other):
            yield f"{one}: must not lie in {other}: it would be taken for a file there"


def _area(section: Handoff | Finder | Target, key: str) -> Area:
    return Area(f"[{section.label}] {key}", getattr(section, key))


def _endpoint(section: Handoff, key: str) -> Area:
    return Area(f"[{section.label}.endpoint] {key}", getattr(section.endpoint, key))


def _trees(targets: Collection[Target]) -> Iterator[Area]:
    """Give the directories into which plugins write."""
    if not targets:
        return
    from dbbbatch.targets import registry
    from dbbbatch.targets.base import Misconfigured

    for target in targets:
        with suppress(Misconfigured):  # which is said of the section itself
            for key, path in registry.written(target.label, target.plugin, target.config).items():
                yield Area(f"[{target.label}.config] {key}", path)
