"""Which directories of a configuration may not lie in each other.

A handoff moves everything out of its buffer, and a scanning finder everything out of its source:
nothing that is to stay may be there. What the scripts keep for themselves may lie in no directory
of files.
"""

from collections.abc import Collection, Iterator
from itertools import combinations, product

from dbbbatch.config.sections import ConfiguredPath, Finder, Handoff, Receive, Target

#: What is wrong, and the KIND.NAME of the sections concerned.
Problem = tuple[str, frozenset[str]]


def overlaps(
    handoffs: Collection[Handoff], finders: Collection[Finder], receivers: Collection[Receive] = ()
) -> Iterator[Problem]:
    """Yield which directories of files may not lie where they do.

    A holding area or a storage area may serve several sections, a quarantine or the staging area of
    a receiver only one, and what is delivered on this machine may be the buffer of a handoff, or a
    finder's source.
    """
    near = [section for section in handoffs if not section.endpoint.remote]
    # What several endpoints have in common counts once.
    buffers = {section.table: section for section in handoffs}.values()
    holdings = [section.path("holding") for section in buffers]
    quarantines = [section.path("quarantine") for section in (*buffers, *finders)]
    arrivals = [section.far_path("buffer") for section in near]
    arrivals += [section.path("buffer") for section in receivers]
    stagings = [section.far_path("staging") for section in near]
    stagings += (received := [section.path("staging") for section in receivers])
    storages = [section.path("storage") for section in finders]
    logs = [section.path("source") for section in finders if section.search != "scan"]
    emptied = _emptied(buffers, finders)
    for one, other in (
        *combinations(emptied, 2),
        *product((*holdings, *quarantines, *stagings, *storages), emptied),
        *((section.far_path("buffer"), section.path("buffer")) for section in near),
    ):
        if one.overlaps(other):
            why = "what is put into the one is taken from the other"
            yield _problem(f"{one} and {other}: neither may lie in the other: {why}", one, other)
    for one, other in (
        *_same_endpoints(handoffs),
        # Without a database, only the place of a file shows to which section it goes back.
        *combinations(quarantines, 2),
        *product(quarantines, (*holdings, *storages, *logs)),
        *product(stagings, (*holdings, *quarantines, *storages)),
        *product(arrivals, (*holdings, *quarantines)),
        *combinations(received, 2),
        *product(received, (section.path("buffer") for section in receivers)),
    ):
        if one.overlaps(other):
            why = "their files must stay apart"
            yield _problem(f"{one} and {other}: neither may lie in the other: {why}", one, other)


def among_files(
    others: Collection[ConfiguredPath],
    handoffs: Collection[Handoff],
    finders: Collection[Finder],
    targets: Collection[Target],
) -> Iterator[Problem]:
    """Yield which directories of the scripts, or of plugins, lie where files are kept.

    Parameters
    ----------
    others : collection of `ConfiguredPath`
        What the scripts keep for themselves, or plugins write.
    handoffs, finders, targets
        The sections.
    """
    near = [section for section in handoffs if not section.endpoint.remote]
    every = (
        *(section.path("storage") for section in (*targets, *finders)),
        *(section.path("source") for section in finders if section.search != "scan"),
        *(section.far_path(key) for section in near for key in ("buffer", "staging")),
        *(section.path("quarantine") for section in (*handoffs, *finders)),
        *(section.path("holding") for section in handoffs),
        *_emptied(handoffs, finders),
    )
    # Of two keys with the same path, the message names the last.
    places = {place.path: place for place in every}
    for one, other in product(others, places.values()):
        if one.is_in(other):
            same = (place for place in every if place.path == other.path)
            why = "it would be taken for a file there"
            yield _problem(f"{one}: must not lie in {other}: {why}", one, *same)


def _same_endpoints(
    handoffs: Collection[Handoff],
) -> Iterator[tuple[ConfiguredPath, ConfiguredPath]]:
    """Yield the buffers of endpoints to which the same files go, if they are on one host."""
    for one, other in combinations(handoffs, 2):
        if one.name in other.siblings and _host(one) == _host(other):
            yield one.far_path("buffer"), other.far_path("buffer")


def _host(section: Handoff) -> tuple[str, str | None]:
    endpoint = section.endpoint
    return endpoint.remote, endpoint.placeholders.get("host")


def _emptied(handoffs: Collection[Handoff], finders: Collection[Finder]) -> list[ConfiguredPath]:
    """Return the directories out of which everything is moved."""
    return [
        *(section.path("buffer") for section in handoffs),
        *(section.path("source") for section in finders if section.search == "scan"),
    ]


def _problem(text: str, *places: ConfiguredPath) -> Problem:
    return text, frozenset(place.label for place in places if place.label)
