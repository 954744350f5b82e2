"""What this host shows at once, without a database: passes, locks, the state directory, disks.

Nothing here waits longer than it is told, and nothing is changed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Handoff, Target, is_sqlite, sqlite_path
from dbbbatch.errors import ConfigError, DbbError, user_named
from dbbbatch.files import place
from dbbbatch.files.lock import Holder, held_locks
from dbbbatch.files.names import counted
from dbbbatch.files.state import let_write
from dbbbatch.passes.memory import PassMemory, remembered_passes
from dbbbatch.passes.notices import Notice, outstanding_notices
from dbbbatch.report.health import Room
from dbbbatch.report.judge import CORRECT
from dbbbatch.targets import registry

Answered = TypeVar("Answered")

#: Directories of the state directory in which each pass writes.
_WRITTEN = ("locks", "said", "passes")

#: Imports a plugin and prints what is wrong with it, in a process of its own.
_TRY_PLUGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from dbbbatch.targets import registry; "
    "sys.stdout.write('\\n'.join(registry.plugin_problems(*json.loads(sys.argv[1]))))"
)


class Seen(NamedTuple):
    """Something that is wrong on this host, whatever passes say.

    Attributes
    ----------
    label : `str`
        KIND.NAME; '' for the whole site.
    what : `str`
        As `dbbbatch.report.health.Trouble` has it.
    message : `str`
    advice : `str`
        What to do about it.
    """

    label: str
    what: str
    message: str
    advice: str = CORRECT


@dataclass(frozen=True, kw_only=True)
class HostView:
    """What one host shows.

    Attributes
    ----------
    passes : mapping
        `PassMemory` by KIND.NAME.
    notices : mapping
        By label and key, what was reported and is not over.
    holders : `list`
        Label and `Holder` of each lock that is held.
    problems : `list` [`Seen`]
    rooms : `list` [`Room`]
    hidden : `str`
        Why passes, notices and locks cannot be seen; '' if they can.
    owner : `int` or `None`
        The number of the user who owns the state directory, if that exists.
    """

    passes: Mapping[str, PassMemory] = field(default_factory=dict)
    notices: Mapping[str, Mapping[str, Notice]] = field(default_factory=dict)
    holders: list[tuple[str, Holder]] = field(default_factory=list)
    problems: list[Seen] = field(default_factory=list)
    rooms: list[Room] = field(default_factory=list)
    hidden: str = ""
    owner: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether another user, who is not root, looks than the one that runs passes."""
        return self.owner is not None and os.geteuid() not in (self.owner, 0)


def look_here(settings: Settings, seconds: float) -> HostView:
    """Return what this host shows.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
    seconds : `float`
        The longest wait for a disk or a plugin that does not answer.
    """
    state = Path(settings.site.state)
    looked: list[str] = []
    rooms: list[Room] = []
    problems = [
        Seen(label, "configuration", "; ".join(found)) for label, found in settings.wrong.items()
    ]

    def look() -> bool:
        rooms.extend(_rooms(settings, looked))
        return True

    if not within(seconds, look, False):
        message = f"{looked[-1]}: no answer within {seconds:.0f} s"
        problems.append(Seen("", "not seen", message, "see whether its disk or server works"))
    problems += _plugin_problems(settings, seconds)
    owner = _owner(state)
    if hidden := _why_hidden(state, owner):
        return HostView(problems=problems, rooms=[*rooms], hidden=hidden, owner=owner)
    return HostView(
        passes={memory.label: memory for memory in remembered_passes(state)},
        notices=outstanding_notices(state),
        holders=list(held_locks(state / "locks")),
        problems=[*problems, *_unwritable(state, owner)],
        rooms=[*rooms],
        owner=owner,
    )


def within(seconds: float, function: Callable[[], Answered], otherwise: Answered) -> Answered:
    """Return what a function returns, or something else if it takes too long.

    A disk that is gone may never answer; its thread is left behind and keeps no process alive.
    """
    found: list[Answered] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else otherwise


def _owner(state: Path) -> int | None:
    try:
        return os.stat(state).st_uid
    except OSError:
        return None


def _why_hidden(state: Path, owner: int | None) -> str:
    """Return why this user cannot see what passes left in the state directory."""
    try:
        with os.scandir(state) as entries:
            next(entries, None)
    except FileNotFoundError:
        return ""
    except PermissionError:
        who = "its owner" if owner is None else f"user {user_named(owner)}"
        return f"{state} ([site] state): only {who} may read it"
    except OSError as error:
        return f"{state} ([site] state): {error.strerror}"
    return ""


def _unwritable(state: Path, owner: int | None) -> Iterator[Seen]:
    """Yield what in the state directory its owner, who runs the passes, cannot write."""
    if owner is None or os.geteuid() not in (owner, 0):
        return
    user = user_named(owner)
    for path in (state, *(state / name for name in _WRITTEN)):
        if path.exists() and not _may_change(path, owner):
            message = f"{path}: user {user}, who runs the passes, may not write in it"
            yield Seen("", "state directory", message, let_write(state, path, owner))
            break  # the advice is for all of them
    closed = []
    for path in sorted((state / "locks").glob("*.lock")):
        if not path.is_file():
            yield Seen(_label_of(path), "lock", f"{path}: is no file", "remove it")
        elif not _may_change(path, owner):
            closed.append(path)
    if closed:
        one = len(closed) == 1
        what = str(closed[0]) if one else f"{state / 'locks'} ({counted(len(closed), 'file')})"
        message = (
            f"{what}: user {user}, who runs the passes, may not write {'it' if one else 'them'}"
        )
        label = _label_of(closed[0]) if one else ""
        yield Seen(label, "lock", message, let_write(state, closed[0], owner))


def _label_of(path: Path) -> str:
    """Return the KIND.NAME to which a lock belongs."""
    return path.name.removesuffix(".lock").partition("~")[0]


def _may_change(path: Path, owner: int) -> bool:
    """Return whether a user may write to a file or directory of the state directory."""
    if owner == os.geteuid():
        return os.access(path, os.W_OK)
    found = path.stat()
    return bool(found.st_mode & (0o200 if found.st_uid == owner else 0o002))


def _plugin_problems(settings: Settings, seconds: float) -> Iterator[Seen]:
    """Yield which plugins do not accept their keys, or cannot be imported.

    Our own need nothing but themselves until they start. One of another package is imported in a
    process of its own, which may hang or crash.
    """
    for target in settings.target.values():
        if target.plugin in registry.BUILT_IN:
            try:
                settings.check_plugin(target, registry)
            except ConfigError as error:
                yield Seen(target.label, "configuration", str(error))
        elif problem := _try_plugin(target, seconds):
            yield Seen(target.label, "configuration", f"{settings.path}: {problem}")


def _try_plugin(target: Target, seconds: float) -> str:
    from dbbbatch.process import run

    choice = json.dumps([target.label, target.plugin, target.config], default=str)
    argv = [sys.executable, "-c", _TRY_PLUGIN, choice, json.dumps(sys.path)]
    try:
        done = run.run([os.fsencode(word) for word in argv], timeout=seconds)
    except DbbError:
        return ""  # what cannot be tried is not known to be wrong
    if done.timed_out:
        return ""
    if done.exit_code == 0:
        return "; ".join(done.stdout.decode(errors="backslashreplace").split("\n")).strip("; ")
    return f"[{target.label}] plugin: {target.plugin!r} cannot be imported: {done.summary()}"


def _rooms(settings: Settings, looked: list[str]) -> Iterator[Room]:
    """Yield the free room where passes of this host write, of each file system and section once.

    What is looked at is appended to ``looked`` first: it may never answer.
    """
    seen = set()
    for where, path, needed in _places_written(settings):
        looked.append(f"{path} ({where})")
        try:
            found, device = os.statvfs(path), os.stat(path).st_dev
        except OSError:
            continue  # a pass that needs it says so
        section = where.partition("]")[0]
        if (section, device) in seen:
            continue
        seen.add((section, device))
        yield Room(
            where=where,
            path=path,
            free_bytes=found.f_bavail * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
            needed_bytes=needed,
        )


def _places_written(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Yield key, path and the bytes that must be free; of a section, the most wanted first."""
    yield "[site] state", settings.site.state, place.RESERVE
    if is_sqlite(settings.database.url):
        directory = os.path.dirname(sqlite_path(settings.database.url))
        if directory != settings.site.state:
            yield "[database] url", directory, place.RESERVE
    for handoff in settings.handoff.values():
        if not handoff.endpoint.remote:
            yield _place_of_endpoint(handoff)
        yield str(handoff.path("buffer").where), handoff.buffer, place.RESERVE
    for finder in settings.finder.values():
        yield str(finder.path("storage").where), finder.storage, finder.min_free
        yield str(finder.path("source").where), finder.source, place.RESERVE


def _place_of_endpoint(handoff: Handoff) -> tuple[str, str, int]:
    staging = handoff.far_path("staging")
    return staging.where, staging.path, handoff.min_free
