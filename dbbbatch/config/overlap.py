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
    from dbbbatch.config.sections import Finder, Handoff, Target


class ConfiguredPath(NamedTuple):
    """A path of the configuration, and the section and key that name it.

    Attributes
    ----------
    where : `str`
        Section and key.
    path : `str`
    label : `str`
        KIND.NAME of the section; '' for what no section names.
    """

    where: str
    path: str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.where} ({self.path})"

    def is_in(self, other: ConfiguredPath) -> bool:
        """Return whether this is the other one, or lies below it."""
        return self.path == other.path or self.path.startswith(other.path + "/")


class Overlap(NamedTuple):
    """Two areas that may not lie as they do, and the sections that are concerned: both."""

    problem: str
    labels: frozenset[str]


def overlaps(
    own: Collection[ConfiguredPath],
    handoffs: Collection[Handoff],
    finders: Collection[Finder],
    targets: Collection[Target],
) -> Iterator[Overlap]:
    """Yield which areas may not lie where they do.

    A holding area or a storage area may serve several sections, a quarantine only one, and what
    one handoff delivers on this machine may be the buffer of another one, or a finder's source.

    Parameters
    ----------
    own : collection of `ConfiguredPath`
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
            yield _overlap(
                one,
                other,
                "neither may lie in the other: what is put into the one is taken from the other",
            )
    for one, other in (
        # Where a file lies is what tells, without a database, which section it goes back to.
        *combinations(quarantines, 2),
        *product(quarantines, (*holdings, *storages, *logs)),
        *product(stagings, (*holdings, *quarantines, *storages)),
        *product(arrivals, (*holdings, *quarantines)),
    ):
        if one.is_in(other) or other.is_in(one):
            yield _overlap(
                one, other, "neither may lie in the other: their files are to stay apart"
            )
    yield from among_files(own, handoffs, finders, targets)


def among_files(
    ours: Collection[ConfiguredPath],
    handoffs: Collection[Handoff],
    finders: Collection[Finder],
    targets: Collection[Target],
) -> Iterator[Overlap]:
    """Yield which directories that are ours, or filled by plugins, lie where files are kept."""
    near = [section for section in handoffs if not section.endpoint.remote]
    every = (
        *(_area(section, "storage") for section in targets),
        *(_area(f, "source") for f in finders if f.search != "scan"),
        *(_endpoint(section, "buffer") for section in near),
        *(_endpoint(section, "staging") for section in near),
        *(_area(section, "storage") for section in finders),
        *(_area(section, "quarantine") for section in (*handoffs, *finders)),
        *(_area(section, "holding") for section in handoffs),
        *(_area(section, "buffer") for section in handoffs),
        *(_area(f, "source") for f in finders if f.search == "scan"),
    )
    places = {area.path: area for area in every}.values()
    for one, other in product(ours, places):
        if one.is_in(other):
            labels = {area.label for area in every if area.path == other.path}
            yield Overlap(
                f"{one}: must not lie in {other}: it would be taken for a file there",
                frozenset({one.label, *labels} - {""}),
            )


def trees(target: Target) -> Iterator[ConfiguredPath]:
    """Yield the directories into which a target's plugin writes; imports the plugin."""
    from dbbbatch.targets import registry
    from dbbbatch.targets.plugin import Misconfigured

    with suppress(Misconfigured):  # which is said of the section itself
        for key, path in registry.written(target.label, target.plugin, target.config).items():
            yield ConfiguredPath(f"[{target.label}.config] {key}", path, target.label)


def _overlap(one: ConfiguredPath, other: ConfiguredPath, why: str) -> Overlap:
    return Overlap(f"{one} and {other}: {why}", frozenset({one.label, other.label} - {""}))


def _area(section: Handoff | Finder | Target, key: str) -> ConfiguredPath:
    return ConfiguredPath(f"[{section.label}] {key}", getattr(section, key), section.label)


def _endpoint(section: Handoff, key: str) -> ConfiguredPath:
    path = getattr(section.endpoint, key)
    return ConfiguredPath(f"[{section.label}.endpoint] {key}", path, section.label)
