"""What waits: in the tables, and where files lie before any table knows them.

Buffers and sources of this host are looked at by threads that nothing waits for: a disk that does
not answer delays nobody for longer than the time limit, and is then said to hold "at least" what
was seen of it.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import FileStatus, HandoffStatus, WhyRemembered
from dbbbatch.errors import DbbError
from dbbbatch.files import names
from dbbbatch.files.identity import Version
from dbbbatch.files.scan import Found, scan
from dbbbatch.files.tree import Tree
from dbbbatch.report import rates
from dbbbatch.report.health import Waiting

#: Files that are asked about at a time, and seconds after which fewer are.
_HANDED_OVER = 1000
_HANDED_OVER_AFTER = 0.2

#: Batches that wait for the database; a disk may be read faster than it answers.
_BATCHES_AHEAD = 8

#: The order of kinds of sections, and of the steps of one.
_KIND_ORDER = ("handoff", "finder", "target")
_STEP_ORDER = ("deliver", "hold", "store", "ingest", "try again", "end its try")

#: The step for which files of a directory wait that no table knows.
_STEP_OF = {"handoff": "deliver", "finder": "store"}

#: Returns which of the files wait without being counted yet.
Uncounted = Callable[[Sequence[Found]], Iterable[Found]]


def look_at(settings: Settings, counted: Sequence[Waiting] | None, seconds: float) -> list[Waiting]:
    """Return what waits: what the tables know, and what lies in buffers and sources of this host.

    A file is counted once. Not counted are files that wait for a person, or for nothing: excluded
    and temporary ones, duplicates that a finder leaves, and those that failed in a finder.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
        Its handoffs, and its finders that scan, are looked at.
    counted : sequence of `Waiting` or `None`
        What the tables know; `None` if the database cannot be asked. Then all files that lie there
        are counted.
    seconds : `float`
        Time limit of the look, for all directories together.

    Returns
    -------
    waiting : `list` [`Waiting`]
        Handoffs, finders and targets by site, name and step. Where a directory could not be read
        to its end, or a section is wrong, `at_least` is set, though no file may have been seen.
    """
    known = counted is not None
    before = {(one.label, one.step): one for one in counted or ()}
    for label, step in _not_looked_at(settings):
        one = before.get((label, step)) or _nothing_known(settings, label, step)
        before[label, step] = replace(one, at_least=True)
    places = [_buffer_of(settings.site.name, one, known) for one in settings.handoff.values()]
    places += [
        _source_of(settings.site.name, one, known, (one.label, "store") in before)
        for one in settings.finder.values()
        if one.search == "scan"
    ]
    with suppress(DbbError):  # a place that could not be read to its end says so
        _look_into(places, seconds)
    merged = [_with_counted(place, before.pop((place.label, place.step), None)) for place in places]
    waiting = [one for one in (*before.values(), *merged) if one.files or one.at_least]
    if known:
        looked = {place.label: place.young for place in places if place.read_all}
        with suppress(DbbError):
            waiting = rates.with_rates(waiting, looked)
    return sorted(waiting, key=_place_in_order)


def unrecorded(settings: Settings, label: str, seconds: float) -> Waiting | None:
    """Return what lies in the buffer or source of a section and is in no table.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
    label : `str`
        KIND.NAME.
    seconds : `float`
        Time limit of the look.

    Returns
    -------
    waiting : `Waiting` or `None`
        With ``at_least`` where the directory could not be read to its end, or the section is
        wrong; `None` where there is no such directory in the configuration.
    """
    kind, _, name = label.partition(".")
    site = settings.site.name
    if (label, step := _STEP_OF.get(kind, "")) in _not_looked_at(settings):
        return _nothing_known(settings, label, step)
    if kind == "handoff" and name in settings.handoff:
        place = _buffer_of(site, settings.handoff[name], True)
    elif kind == "finder" and name in settings.finder and settings.finder[name].search == "scan":
        place = _source_of(site, settings.finder[name], True, True)
    else:
        return None
    _look_into([place], seconds)
    return _with_counted(place, None)


def _not_looked_at(settings: Settings) -> list[tuple[str, str]]:
    """Return label and step of the sections that are wrong: where their files lie is not known."""
    kinds = ((label, label.partition(".")[0]) for label in settings.wrong)
    return [(label, _STEP_OF[kind]) for label, kind in kinds if kind in _STEP_OF]


def _nothing_known(settings: Settings, label: str, step: str) -> Waiting:
    return Waiting(site=settings.site.name, label=label, step=step, files=0, at_least=True)


class _Place:
    """A directory that is looked at, and what was counted in it."""

    def __init__(
        self,
        site: str,
        section: Handoff | Finder,
        root: str,
        step: str,
        uncounted: Uncounted,
        no_file: str = "",
    ) -> None:
        self.site = site
        self.label = section.label
        self.step = step
        self.root = root
        self.exclude = section.exclude
        #: The relative path of what is no file that waits.
        self.no_file = no_file
        self.uncounted = uncounted
        self.files = 0
        self.size_bytes = 0
        self.oldest_ns: int | None = None
        #: How many files came lately.
        self.young = 0
        #: Whether every directory could be read to its end.
        self.read_all = False

    def count(self, batch: Sequence[Found], lately_ns: int) -> None:
        for found in self.uncounted(batch):
            self.files += 1
            self.size_bytes += found.size_bytes
            self.young += found.changed_ns >= lately_ns
            if self.oldest_ns is None or found.changed_ns < self.oldest_ns:
                self.oldest_ns = found.changed_ns


@dataclass(frozen=True)
class _Seen:
    """What a thread saw of a place: some files, or the end of it."""

    place: _Place
    files: Sequence[Found] = ()
    is_end: bool = False
    read_all: bool = False


def _look_into(places: Sequence[_Place], seconds: float) -> None:
    """Count what lies in all places, until the time is over."""
    seen: queue.Queue[_Seen] = queue.Queue(_BATCHES_AHEAD)
    stop = threading.Event()
    until = time.monotonic() + seconds
    lately_ns = time.time_ns() - rates.LATELY * 10**9
    started = [place for place in places if _starts_reading(place, seen, stop)]
    unread = len(started)
    try:
        while unread and (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                some = seen.get(timeout=left)
                some.place.count(some.files, lately_ns)
                some.place.read_all = some.read_all
                unread -= some.is_end
    finally:
        stop.set()


#: By section and directory, the thread that reads it, or waits for a disk that does not answer.
_readers: dict[tuple[str, str], threading.Thread] = {}


def _starts_reading(place: _Place, seen: queue.Queue[_Seen], stop: threading.Event) -> bool:
    """Start to read a place, unless a thread of an earlier look still waits for its disk."""
    if before := _readers.get((place.label, place.root)):
        before.join(_HANDED_OVER_AFTER)
        if before.is_alive():
            return False
    reader = threading.Thread(target=_read_place, args=(place, seen, stop), daemon=True)
    _readers[place.label, place.root] = reader
    reader.start()
    return True


def _read_place(place: _Place, seen: queue.Queue[_Seen], stop: threading.Event) -> None:
    """Read a place, in a thread of its own."""

    def hand_over(some: _Seen) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                seen.put(some, timeout=0.1)
                return

    unreadable: list[str] = []

    def odd(rel: str, what: str) -> None:
        if re.search("cannot be (read|looked at)", what):
            unreadable.append(rel)

    batch: list[Found] = []
    last = time.monotonic()
    try:
        with Tree(place.root) as root:
            for found in scan(root, place.exclude, odd=odd):
                if stop.is_set():
                    return
                if found.rel != place.no_file:
                    batch.append(found)
                if len(batch) == _HANDED_OVER or time.monotonic() - last > _HANDED_OVER_AFTER:
                    hand_over(_Seen(place, batch))
                    batch, last = [], time.monotonic()
    except OSError:
        unreadable.append(place.root)
    hand_over(_Seen(place, batch, is_end=True, read_all=not unreadable))


def _buffer_of(site: str, section: Handoff, known: bool) -> _Place:
    left_alone = (HandoffStatus.DELIVERED, HandoffStatus.QUARANTINED, HandoffStatus.IGNORED)

    def uncounted(batch: Sequence[Found]) -> Iterable[Found]:
        paths = [names.name_of(found.rel) for found in batch]
        rows: dict[tuple[str, str], list[HandoffRow]] = {}
        for row in connect.read(HandoffFile.known, site, section.name, paths):
            rows.setdefault((row.relpath, row.filename), []).append(row)
        for found, path in zip(batch, paths, strict=True):
            version = Version.of_row(found)
            if not any(
                row.status == HandoffStatus.FOUND
                or (row.status in left_alone and Version.of_row(row).is_like(version))
                for row in rows.get(path, ())
            ):
                yield found

    return _Place(site, section, section.buffer, "deliver", uncounted if known else iter)


def _source_of(site: str, section: Finder, known: bool, some_arrive: bool) -> _Place:
    def waits(found: Found, left: RememberedFile | None) -> bool:
        if left is None or Version.of_row(left) != Version.of_row(found):
            return True
        return left.verdict == WhyRemembered.DUPLICATE and section.alternative != "none"

    def uncounted(batch: Sequence[Found]) -> Iterable[Found]:
        paths = [names.name_of(found.rel) for found in batch]
        remembered = connect.read(Remembered.among, site, section.name, paths)
        rows = connect.read(File.known, section.storage, paths) if some_arrive else {}
        arriving = {path for path, row in rows.items() if row.status == FileStatus.ARRIVING}
        for found, path in zip(batch, paths, strict=True):
            if path not in arriving and waits(found, remembered.get(path)):
                yield found

    return _Place(
        site, section, section.source, "store", uncounted if known else iter, section.sentinel
    )


def _with_counted(place: _Place, counted: Waiting | None) -> Waiting:
    """Return what waits in a place, with what the tables know of it."""
    if counted is None:
        counted = Waiting(site=place.site, label=place.label, step=place.step, files=0)
    oldest = [counted.oldest] if counted.oldest else []
    if place.oldest_ns is not None:
        with suppress(ValueError, OverflowError, OSError):  # no clock ever said so
            oldest.append(datetime.fromtimestamp(place.oldest_ns / 1e9, UTC).replace(tzinfo=None))
    return replace(
        counted,
        site=counted.site or place.site,
        files=counted.files + place.files,
        at_least=not place.read_all,
        size_bytes=(counted.size_bytes or 0) + place.size_bytes,
        oldest=min(oldest, default=None),
    )


def _place_in_order(waiting: Waiting) -> tuple[int, str, str, int]:
    kind, _, name = waiting.label.partition(".")
    return _KIND_ORDER.index(kind), waiting.site, name, _STEP_ORDER.index(waiting.step)
