"""What every pass does: lock → connect → recover → work → record in `run` → exit code.

A kind of pass is a `Work`; `run_pass` takes it through. Nothing here prints but the operator's line
(see `dbbbatch.passes.notices`), and nothing of one pass is kept in memory for the next.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dbbbatch import __version__
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import NamedSection, is_sqlite, sqlite_path
from dbbbatch.errors import NO_ROOM, ConfigError, DbbError, Interrupted, LockHeld, TryLater
from dbbbatch.files import checksum, faults, names, place, processes
from dbbbatch.files.faults import FULL
from dbbbatch.files.lock import Lock
from dbbbatch.files.roots import Roots
from dbbbatch.files.state import must_own
from dbbbatch.passes import crash
from dbbbatch.passes.notices import Notices
from dbbbatch.passes.signals import Signals

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNFORESEEN = 70

logger = logging.getLogger("dbbbatch")
logger.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks of a pass.

    Attributes
    ----------
    wait : `float`
        Seconds to wait for another pass to leave.
    max_time : `float` or `None`
        Seconds after which no further batch is started.
    limit : `int` or `None`
        Most files to handle.
    match : `tuple` [`str`]
        Globs on the relative path, in which ``*`` also crosses ``/``; any of them.
    linger : `float`
        Seconds during which to wait for work and pass again.
    strict : `bool`
        Another pass at work is exit code 75, not 0.
    """

    verbose: int = 0
    log_file: str | None = None
    wait: float = 0
    max_time: float | None = None
    limit: int | None = None
    match: tuple[str, ...] = ()
    progress: bool = False
    linger: float = 0
    strict: bool = False


#: Rows that are told of one by one in a pass.
_MOST_REFUSED = 10

#: A row that names a file.
AnyRow = TypeVar("AnyRow", bound=names.Named)


class Work(ABC):
    """What a kind of pass does for one section."""

    #: The script's word for itself in `run`, in locks and in messages.
    kind: str
    #: How many passes of a section may be at work on a host.
    passes: int = 1
    #: Seconds between two looks for work while lingering.
    interval: float = 5

    @abstractmethod
    def recover(self, p: PassContext) -> None:
        """Finish what an earlier pass left."""

    @abstractmethod
    def work(self, p: PassContext) -> None:
        """Do what is due, in batches; between two of them look at ``p.stopping``."""

    @abstractmethod
    def plan(self, p: PassContext) -> Iterator[str]:
        """Return what would be recovered and then what would be done; change nothing."""

    @abstractmethod
    def due(self, p: PassContext) -> bool:
        """Return by a cheap look whether there is work now."""

    def watched(self) -> list[str]:
        """Return the directories in which a change may mean work."""
        return []


class PassContext:
    """One run of one script, as its work sees it.

    Attributes
    ----------
    settings : `dbbbatch.config.load.Settings`
    section
        The section that the pass is about.
    options : `Options`
    run_id : `int`
        Its row in `run`; 0 in a dry run.
    counts : `collections.Counter`
        What was done, in numbers, recorded in `run`; ``failed`` above zero makes the exit code 1.
    log : `logging.Logger`
    roots : `dbbbatch.files.roots.Roots`
        The directories that the pass has looked at.
    """

    def __init__(
        self,
        settings: Settings,
        section: Any,
        options: Options,
        notices: Notices,
        signals: Signals,
    ) -> None:
        self.settings = settings
        self.section = section
        self.options = options
        self.run_id = 0
        self.counts: Counter[str] = Counter()
        self.log = logger
        self.roots = Roots()
        self._notices = notices
        self._refused: set[tuple[str, str]] = set()
        self._signals = signals
        self._taken = 0
        self._end = (
            time.monotonic() + options.max_time if options.max_time is not None else float("inf")
        )
        self._bar: Any = None
        self._task: Any = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked the pass to end."""
        return self._signals.seen > 0

    @property
    def out_of_time(self) -> bool:
        """Whether not even what was taken is to be gone on with: a signal, or --max-time."""
        return self.interrupted or time.monotonic() >= self._end

    @property
    def stopping(self) -> bool:
        """Whether no further batch is to be started: a signal, --max-time or --limit."""
        return self.out_of_time or self.remaining == 0

    @property
    def remaining(self) -> int | None:
        """How many files --limit still allows; `None` without a limit."""
        return None if self.options.limit is None else max(0, self.options.limit - self._taken)

    def take(self, wanted: int) -> int:
        """Ask to handle some files; the answer is how many --limit allows, and they are counted."""
        allowed = wanted if self.remaining is None else min(wanted, self.remaining)
        self._taken += allowed
        return allowed

    def matches(self, rel: str) -> bool:
        """Return whether --match lets a relative path through."""
        return not self.options.match or any(
            fnmatch.fnmatchcase(rel, glob) for glob in self.options.match
        )

    def must_have_room(self) -> None:
        """See before a batch that what is done with it can be recorded.

        Raises
        ------
        TryLater
            The disk of the state directory, or of an SQLite database, is all but full.
        """
        url = self.settings.database.url
        places = {self.settings.site.state}
        if is_sqlite(url):
            places.add(os.path.dirname(sqlite_path(url)))
        for path in sorted(places):
            if os.path.isdir(path) and (free := place.free_bytes(path)) < place.RESERVE:
                raise TryLater(
                    f"{path}: only {free >> 10} KiB free; what is done could not be recorded",
                    key=NO_ROOM,
                )

    def warn(self, message: str, key: str | None = None, level: int = 0) -> None:
        """Tell the operator of something, once when it begins and once when it ends.

        Parameters
        ----------
        message : `str`
            One line: what, which file or key, what now.
        key : `str`, optional
            What makes it the same trouble in the next pass although its words differ.
        level : `int`
            How great it is: it is told again when it has grown.
        """
        self.log.warning("%s", message, extra={"said": True})
        self._notices.warn(message, key, level)

    def warn_of(self, kind: str, path: str, what: str) -> None:
        """Warn of one file, of at most ten of a kind: of each once when it begins and when it ends.

        Parameters
        ----------
        kind : `str`
            What the trouble is, in one word.
        path : `str`
            The file, or whatever else the message begins with.
        what : `str`
            The rest of the line: what is wrong, and what now.
        """
        message = f"{names.printable(path)}: {what}"
        named = self._notices.warn_of(kind, path, message)
        self.log.log(
            logging.WARNING if named else logging.INFO, "%s", message, extra={"said": named}
        )

    def sound(self, rows: Sequence[AnyRow], table: str) -> list[AnyRow]:
        """Leave out rows whose names are no paths below a directory, and tell of them.

        Nothing is done for such a row, on the disk or in the table, and others need not wait.

        Parameters
        ----------
        rows : `~collections.abc.Sequence`
            With ``relpath`` and ``filename``, and perhaps ``held_as``.
        table : `str`
            Where they are from.
        """
        good = []
        for row in rows:
            if why := names.fault(row, getattr(row, "held_as", None)):
                self.refuse(table, getattr(row, "id", None), why)
            else:
                good.append(row)
        return good

    def refuse(self, table: str, number: int | None, why: str) -> None:
        """Tell, once in a pass, of a row that must not be followed, and count it as failed."""
        which = f"row {number} of {table}" if number is not None else f"a row of {table}"
        if (which, why) in self._refused:
            return
        self._refused.add((which, why))
        self.counts["failed"] += 1
        message = (
            f"{which}: {why}: refused, and nothing was touched; find out who else writes to the "
            "database, then correct it or delete it there"
        )
        if len(self._refused) <= _MOST_REFUSED:
            self.warn(message, key=f"{which} {why}")
        else:
            self.log.warning("%s", message)

    def info(self, message: str) -> None:
        """Say something that is no trouble: only on a terminal or with -v."""
        self.log.info("%s", message, extra={"said": True})
        self._notices.info(message)

    @property
    def troubles(self) -> str:
        """What has been told in this pass, in one line."""
        return "; ".join(self._notices.troubles)

    def on_second_signal(self, callback: Callable[[], None]) -> None:
        """Have a function called when a second signal comes, to stop a transfer at once."""
        self._signals.on_second(callback)

    def progress(self, done: int, total: int | None = None, what: str = "files") -> None:
        """Show how far the pass is, with --progress on a terminal."""
        if not self.options.progress:
            return
        what = names.harmless(what)
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            console = Console(stderr=True)
            if not console.is_terminal:
                return
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done, total=total, description=what)

    def close(self) -> None:
        """Take the progress bar away, and let go of the directories."""
        self.roots.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def run_pass(work: Work, settings: Settings, section: NamedSection, options: Options) -> int:
    """Make a pass, and with ``linger`` further ones when there is work.

    The database is connected from the first pass to the end, also while there is nothing to do: a
    look for work each second is no new connection each second. Where another pass is at work, or
    the section is paused, there is nothing to wait for: the next start finds out.

    Returns
    -------
    code : `int`
        0 all well, nothing to do, a limit reached, or another pass at work; 1 some files failed;
        70 unforeseen; 75 try again later, or interrupted; 78 configuration.

    Raises
    ------
    ConfigError
        If this is not the user who runs passes here. Nothing is made, then.
    """
    label = f"{work.kind}.{section.name}"
    must_own(settings.site.state, str(settings.path))
    state = Path(settings.site.state)
    notices = Notices(state, label, always=options.verbose > 0)
    end = time.monotonic() + options.linger
    worst, first = EXIT_OK, True
    with Signals() as signals:
        try:
            while True:
                p = PassContext(settings, section, options, notices, signals)
                try:
                    code, worked = _guarded(work, p, notices, state, label)
                finally:
                    p.close()
                notices.end_pass()
                worst = max(worst, code)
                lingers = options.linger and worked and code in (EXIT_OK, EXIT_FAILED)
                if not lingers or signals.seen:
                    return worst
                look = PassContext(settings, section, options, notices, signals)
                again = time.monotonic()
                if not first and not any(p.counts.values()):
                    # What is due and yet was not done (--match leaves it) is not begun at once.
                    again += work.interval
                first = False
                try:
                    if not _wait(work, look, again, end):
                        return worst
                except Exception as error:  # noqa: BLE001  (as in a pass)
                    code = _unforeseen(error, look, notices, state, label)
                    notices.end_pass()
                    return max(worst, code)
        finally:
            _disconnect()


def plan_pass(
    work: Work, settings: Settings, section: NamedSection, options: Options
) -> Iterator[str]:
    """Yield what a pass would do: no lock, the database opened read-only.

    Raises
    ------
    DbbError
        As a pass would.
    """
    from dbbbatch.database import connect

    connect.connect(settings.database, readonly=True)
    notices = Notices(Path(settings.site.state), f"{work.kind}.{section.name}", always=True)
    yield from work.plan(PassContext(settings, section, options, notices, Signals()))


def _wait(work: Work, look: PassContext, again: float, end: float) -> bool:
    """Wait until there is work for a further pass; False if it is time to leave.

    Nothing is looked for before ``again``; both are times of `time.monotonic`.
    """
    from dbbbatch.passes.linger import wait_for_work

    try:
        return wait_for_work(
            lambda: time.monotonic() >= again and work.due(look),
            work.watched(),
            work.interval,
            end,
            lambda: look.interrupted,
        )
    except (DbbError, OSError, MemoryError) as error:
        # The next pass meets the same and says so; a lingering one only leaves.
        logger.info("no longer waiting: %s", error)
        return False


def _guarded(
    work: Work, p: PassContext, notices: Notices, state: Path, label: str
) -> tuple[int, bool]:
    """Make one pass; whatever goes wrong becomes an exit code and an operator's line.

    Returns
    -------
    code : `int`
    worked : `bool`
        It was this pass's turn: no other one was at work, and there was no pause.
    """
    from dbbbatch.database import connect

    lock = Lock(state / "locks", label, work.passes)
    try:
        try:
            lock.acquire(p.options.wait, lambda: p.stopping)
        except LockHeld as held:
            if _says_who_hangs(p, lock, label):
                notices.incomplete()
            else:
                p.info(str(held))
                notices.unchanged()
            return held.exit_code if p.options.strict else EXIT_OK, False
        except OSError as error:
            if error.errno in FULL:
                raise TryLater(f"{error.filename}: {error.strerror}", key=NO_ROOM) from None
            if faults.affects_every_file(error, writing=True):
                raise TryLater(f"{error.filename}: {error.strerror}") from None
            raise ConfigError(
                f"{error.filename}: {error.strerror}; this user must be able to write in "
                f"{p.settings.site.state} ([site] state)"
            ) from None
        _says_who_hangs(p, lock, label)
        with faults.as_try_later():
            connect.connect(p.settings.database)
            if _is_paused(p, label):
                notices.unchanged()
                return EXIT_OK, False
            code = _recorded(work, p)
        if p.stopping or p.options.match:
            notices.incomplete()
        return code, True
    except Interrupted as error:
        p.info(str(error))
        notices.incomplete()
        return error.exit_code, True
    except DbbError as error:
        p.warn(str(error), key=_key_of_error(error, p.section))
        notices.incomplete()
        return error.exit_code, True
    except Exception as error:  # noqa: BLE001  (the last door: a traceback is no line for cron)
        return _unforeseen(error, p, notices, state, label), True
    finally:
        lock.release()


def _unforeseen(error: Exception, p: PassContext, notices: Notices, state: Path, label: str) -> int:
    """Tell the operator of a bug of ours, and keep what helps to find it."""
    # Of two mistakes of one type the second is told, too.
    key = f"unforeseen {type(error).__name__}: {_key_of_error(error, p.section)}"
    p.warn(crash.keep(error, state, label), key=key)
    notices.incomplete()
    return EXIT_UNFORESEEN


def _disconnect() -> None:
    from dbbbatch.database import connect

    connect.disconnect()


def _recorded(work: Work, p: PassContext) -> int:
    """Recover and work between the two halves of the row in `run`."""
    from dbbbatch.database import connect

    row = _begin(work, p)
    p.run_id = row.id
    label = f"{work.kind}.{p.section.name}"
    p.log.info("%s: run %d begins", label, p.run_id)
    outcome, code, message = "error", EXIT_UNFORESEEN, ""
    try:
        # Where a file was not read to its end: a signal is told below, a time limit is no failure.
        heeding = checksum.heeding(lambda: p.out_of_time)
        with suppress(Interrupted), heeding, faults.as_try_later():
            work.recover(p)
            if not p.stopping:
                work.work(p)
        if p.interrupted:
            raise Interrupted("interrupted by a signal; the next pass carries on")
        outcome, code = ("failed", EXIT_FAILED) if p.counts["failed"] else ("ok", EXIT_OK)
        _tell_what_failed(work, p)
        message = p.troubles
    except Interrupted as error:
        outcome, code, message = "interrupted", error.exit_code, str(error)
        p.info(message)
    except TryLater as error:
        outcome, code, message = "later", error.exit_code, str(error)
        raise
    except BaseException as error:
        code, message = getattr(error, "exit_code", EXIT_UNFORESEEN), str(error)
        raise
    finally:
        did = ", ".join(f"{count} {what}" for what, count in p.counts.items()) or "nothing to do"
        p.log.info("%s: run %d ends %s: %s", label, p.run_id, outcome, did)
        with suppress(TryLater):
            # If the database is away, that is what ended the pass and it has been said.
            connect.write(
                lambda: row.finish(
                    connect.now(), outcome, code, p.counts, message, p.settings.site.keep_runs
                )
            )
    return code


def _tell_what_failed(work: Work, p: PassContext) -> None:
    """Tell of files that failed, in this pass or before, until the last of them is well again.

    A pass over a part of the files leaves it at what it met: it says of nothing that it is over.
    """
    from dbbbatch.database import connect
    from dbbbatch.database.models.failing import failing_files

    failed, failing, stuck = p.counts["failed"], False, 0
    if not p.stopping and not p.options.match:
        failing, stuck = connect.read(
            failing_files, work.kind, p.settings.site.name, p.section.name
        )
    if failed or failing:
        files = f"{failed} files" if failed else "files"
        p.warn(f"{files} failed; `dbb status` says why, and what lists them", key="failed")
    if stuck:
        # Said again as they become more: the last word on a file that was given up is not that
        # all is over.
        p.warn(
            f"{stuck} files wait for a person; `dbb status` says what deals with them",
            key="stuck",
            level=stuck,
        )


def _begin(work: Work, p: PassContext) -> Any:
    import psutil

    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Run

    born = psutil.Process().create_time()
    started = connect.read(connect.now)

    def insert() -> Any:
        row, _ = Run.get_or_create(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=born,
            started=started,
            defaults={
                "site": p.settings.site.name,
                "script": work.kind,
                "name": p.section.name,
                "machine": processes.machine(),
                "start_ticks": processes.start_ticks(),
                "version": __version__,
                "outcome": "running",
            },
        )
        return row

    return connect.write(insert)


def _says_who_hangs(p: PassContext, lock: Lock, label: str) -> bool:
    """Warn of other passes that have been at work for too long; return whether there are any.

    Neither the database nor the network is asked: they may be what they wait for.
    """
    limit = p.settings.site.hang_after
    found = lock.held_for(limit) if limit else []
    for holder in found:
        p.warn(
            f"a pass may hang: {holder.seconds / 3600:.0f} h at work, longer than hang_after "
            f"([site]): {holder}; "
            + (
                processes.waits_for(holder.pid)
                or f"`kill {holder.pid}` ends it after the batch in hand, a second one at once"
            ),
            key=f"{label} hangs: {holder.pid}",
        )
    return bool(found)


def _is_paused(p: PassContext, label: str) -> bool:
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    pause = connect.read(Pause.get_or_none, site=p.settings.site.name, label=label)
    if pause is None or (pause.until is not None and pause.until <= connect.now()):
        return False
    until = f" until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else ""
    p.info(f"paused{until}; `dbb resume {label}` ends that")
    return True


def _key_of_error(error: Exception, section: Any) -> str:
    """Return what makes two errors the same trouble.

    That is their words without what differs from pass to pass: numbers, with their units, and
    nonces; and which file it was that showed what is wrong with a whole directory of the section.
    """
    if key := getattr(error, "key", ""):
        return str(key)
    words = str(error)
    for root in sorted(_directories_of(section), key=len, reverse=True):
        words = re.sub(rf"{re.escape(root)}/[^:;]+", f"{root}/…", words)
    return re.sub(r"[0-9a-f]{8,}|\d[\d.,]*( ?[kMGT]i?B| ?B\b)?", "#", words)


def _directories_of(section: Any) -> Iterator[str]:
    """Yield the directories that a section of the configuration names."""
    for value in getattr(section, "__dict__", {}).values():
        if isinstance(value, str) and value.startswith("/"):
            yield value
        elif hasattr(value, "staging"):
            yield from _directories_of(value)
