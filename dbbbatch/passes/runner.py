"""What every pass does: lock → connect → recover → work → record in `run` → exit code.

A kind of pass is a `Work`, which is given a new `PassContext` for each pass. Nothing here prints:
the operator's lines are those of `dbbbatch.passes.notices`.
"""

from __future__ import annotations

import os
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbbbatch import __version__
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import NamedSection
from dbbbatch.errors import (
    NO_ROOM,
    ConfigError,
    DbbError,
    Interrupted,
    LeaseLost,
    LockHeld,
    TryLater,
    without_numbers,
)
from dbbbatch.files import checksum, faults, names, processes
from dbbbatch.files.faults import FULL
from dbbbatch.files.fence import fence
from dbbbatch.files.lock import Lock
from dbbbatch.files.state import must_own
from dbbbatch.passes import crash, progress
from dbbbatch.passes.context import Options, PassContext, logger
from dbbbatch.passes.lease import Leases
from dbbbatch.passes.notices import Notices
from dbbbatch.passes.reporter import Reporter
from dbbbatch.passes.signals import Signals

#: Key of the trouble that no pass can take its lock.
_LOCKS = "locks cannot be written"

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNFORESEEN = 70


class Work(ABC):
    """What a kind of pass does for one section."""

    #: The script's word for itself in `run`, in locks and in messages.
    kind: str
    #: Which of its counts is its purpose; none where the command itself ends with what was done.
    did: str = ""
    #: Whether most of its time goes into reading files, which shows how far it is.
    reads: bool = True
    #: How many passes of a section may be at work on a host.
    passes: int = 1
    #: Whether one host at a time may be at work, where several share a database.
    alone: bool = True
    #: Seconds between two looks for work while lingering.
    interval: float = 5

    @abstractmethod
    def recover(self, context: PassContext) -> None:
        """Finish what an earlier pass left."""

    @abstractmethod
    def work(self, context: PassContext) -> None:
        """Do what is due, in batches; between two of them look at ``context.stopping``."""

    @abstractmethod
    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what would be recovered and then what would be done; change nothing."""

    @abstractmethod
    def due(self, context: PassContext) -> bool:
        """Return by a cheap look whether there is work now."""

    def watched(self) -> list[str]:
        """Return the directories in which a change may mean work."""
        return []

    def close(self) -> None:
        """Let go of what was kept from one pass to the next: there is no further one."""
        return


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
        This is not the user who runs passes here. Nothing is made, then.
    """
    must_own(settings.site.state, str(settings.path))
    with Signals() as signals:
        reporter = Reporter(settings, f"{work.kind}.{section.name}", options, signals)
        try:
            code = _Runner(work, settings, section, options, signals, reporter).run()
        finally:
            work.close()
            _disconnect()
        reporter.end(code)
        return code


def refuse_pass(settings: Settings, label: str, options: Options, error: DbbError) -> int:
    """Report, as a pass would, that a component cannot make one; return its exit code.

    Raises
    ------
    ConfigError
        This is not the user who runs passes here. Nothing is made, then.
    """
    must_own(settings.site.state, str(settings.path))
    with Signals() as signals:
        reporter = Reporter(settings, label, options, signals)
        for problem in error.problems:
            reporter.notices.warn(problem)
        reporter.notices.incomplete()
        reporter.remember("error", error.exit_code, str(error))
        reporter.end_pass()
        reporter.end(error.exit_code)
    return error.exit_code


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
    notices.show()


class _Runner:
    """The passes of one start of a script over one section."""

    def __init__(
        self,
        work: Work,
        settings: Settings,
        section: NamedSection,
        options: Options,
        signals: Signals,
        reporter: Reporter,
    ) -> None:
        self._work = work
        self._label = reporter.label
        self._state = Path(settings.site.state)
        self._options = options
        self._signals = signals
        self._reporter = reporter
        self._notices = reporter.notices
        self._settings = settings
        self._section = section
        self._leases = Leases(settings)
        self._end = time.monotonic() + options.linger

    def _new_context(self) -> PassContext:
        return PassContext(
            self._settings, self._section, self._options, self._notices, self._signals
        )

    def run(self) -> int:
        """Make passes until it is time to leave; return the worst exit code."""
        worst, first = EXIT_OK, True
        while True:
            context = self._new_context()
            try:
                code, worked = self._guarded(context)
            finally:
                context.close()
            self._reporter.end_pass()
            if context.summary:
                context.info(context.summary)
            worst = max(worst, code)
            lingers = self._options.linger and worked and code in (EXIT_OK, EXIT_FAILED)
            if not lingers or self._signals.seen:
                return worst
            # What is due and yet was not done (--match leaves it) is not begun at once.
            idle = not first and not any(context.counts.values())
            first = False
            look = self._new_context()
            try:
                if not self._wait(look, idle):
                    return worst
            except Exception as error:  # noqa: BLE001  (as in a pass)
                code = self._unforeseen(error, look)
                self._reporter.end_pass()
                return max(worst, code)
            finally:
                look.close()

    def _wait(self, look: PassContext, idle: bool) -> bool:
        """Wait until there is work for a further pass; False if it is time to leave.

        After an idle pass nothing is looked for before an interval is over.
        """
        from dbbbatch.passes.linger import wait_for_work

        work = self._work
        again = time.monotonic() + (work.interval if idle else 0)
        look.bar.step("waiting for work")

        def due() -> bool:
            self._leases.renew()
            return time.monotonic() >= again and work.due(look)

        try:
            return wait_for_work(
                due,
                work.watched(),
                work.interval,
                self._end,
                lambda: look.interrupted,
            )
        except (DbbError, OSError, MemoryError) as error:
            # The next pass meets the same and says so; a lingering one only leaves.
            logger.info("no longer waiting: %s", error)
            return False

    def _guarded(self, context: PassContext) -> tuple[int, bool]:
        """Make one pass; whatever goes wrong becomes an exit code and an operator's line.

        Returns
        -------
        code : `int`
        worked : `bool`
            It was this pass's turn: no other one was at work, and there was no pause.
        """
        from dbbbatch.database import connect

        lock = Lock(self._state / "locks", self._label, self._work.passes)
        try:
            self._acquire(lock, context)
            context.bar.step("looking for work")
            self._warns_of_hanging(context, lock)
            with faults.as_try_later():
                connect.connect(context.settings.database)
                if self._is_paused(context):
                    self._notices.unchanged()
                    return EXIT_OK, False
                self._take_lease(lock, context)
                with self._leases.kept():
                    self._reporter.begin_pass()
                    outcome, code, message = self._recorded(context)
            self._reporter.remember(outcome, code, message)
            if context.stopping or self._options.match:
                self._notices.incomplete()
            return code, True
        except LockHeld as held:
            if self._warns_of_hanging(context, lock):
                self._notices.incomplete()
            else:
                context.info(str(held))
                self._notices.unchanged()
            return held.exit_code if self._options.strict else EXIT_OK, False
        except (Interrupted, LeaseLost) as error:
            context.info(str(error))
            self._notices.incomplete()
            return self._reporter.remember("interrupted", error.exit_code, str(error)), True
        except DbbError as error:
            shared = faults.key_within(error.key, _directories_of(context.section))
            key = shared or _key_of_error(error, context.section)
            context.warn(str(error), key=key, shared=bool(shared))
            self._notices.incomplete()
            outcome = "later" if isinstance(error, TryLater) else "error"
            code = self._reporter.remember(outcome, error.exit_code, str(error), shared)
            return code, True
        except Exception as error:  # noqa: BLE001  (the last door: a traceback is no line for cron)
            return self._unforeseen(error, context), True
        finally:
            lock.release()

    def _take_lease(self, lock: Lock, context: PassContext) -> None:
        """Take the lease that belongs to the lock; one that lingers waits for another host.

        Raises
        ------
        LockHeld
            Another host is at work.
        """
        if self._work.alone:
            wait = max(self._options.wait, self._end - time.monotonic())
            self._leases.forget()
            self._leases.take(
                lock,
                wait,
                lambda: context.stopping,
                lambda holder: context.info(f"waits up to {progress.span(wait)} for {holder}"),
            )

    def _acquire(self, lock: Lock, context: PassContext) -> None:
        """Take the lock.

        Raises
        ------
        LockHeld
            Another pass is at work.
        TryLater, ConfigError
            The file of the lock cannot be made or opened.
        """
        limit = progress.span(self._options.wait)
        waiting: list[str] = []

        def waits(holders: str) -> None:
            waiting.append(holders)
            context.info(f"waits up to {limit} for {holders}")

        try:
            lock.acquire(self._options.wait, lambda: context.stopping, waits)
            if waiting:
                context.info("the other pass has ended; this one begins")
        except OSError as error:
            if error.errno in FULL:
                raise TryLater(f"{error.filename}: {error.strerror}", key=NO_ROOM) from None
            if faults.affects_every_file(error, writing=True):
                raise TryLater(f"{error.filename}: {error.strerror}", key=_LOCKS) from None
            raise ConfigError(
                f"{error.filename}: {error.strerror}; this user must be able to write in "
                f"{self._state} ([site] state)",
                key=_LOCKS,
            ) from None

    def _recorded(self, context: PassContext) -> tuple[str, int, str]:
        """Recover and work between the two halves of the row in `run`.

        Returns
        -------
        outcome, code, message
            What the row has.
        """
        from dbbbatch.database import connect

        row = self._begin(context)
        context.run_id = row.id
        logger.info("%s: run %d begins", self._label, context.run_id)
        outcome, code, message = "error", EXIT_UNFORESEEN, ""
        began = time.monotonic()
        note_read = context.bar.read if self._work.reads else lambda _: None
        try:
            # A file that was not read to its end: a signal is reported below, a time limit is no
            # failure.
            heeding = checksum.heeding(lambda: context.out_of_time, note_read)
            with suppress(Interrupted), heeding, faults.as_try_later():
                self._work.recover(context)
                if not context.stopping:
                    self._work.work(context)
            if context.interrupted:
                raise Interrupted("interrupted by a signal; the next pass carries on")
            failed = context.counts["failed"]
            outcome, code = ("failed", EXIT_FAILED) if failed else ("ok", EXIT_OK)
            self._warn_of_failed_files(context)
            message = context.troubles
        except Interrupted as error:
            outcome, code, message = "interrupted", error.exit_code, str(error)
            context.info(message)
        except LeaseLost as error:
            fence.concede()
            outcome, code, message = "interrupted", error.exit_code, str(error)
            raise
        except TryLater as error:
            outcome, code, message = "later", error.exit_code, str(error)
            raise
        except BaseException as error:
            code, message = getattr(error, "exit_code", EXIT_UNFORESEEN), str(error)
            raise
        finally:
            counts = context.counts
            logger.info("%s: run %d ends %s", self._label, context.run_id, outcome)
            if self._work.did and (code in (EXIT_OK, EXIT_FAILED) or any(counts.values())):
                seconds = time.monotonic() - began
                did = progress.what_it_did(counts, self._work.did, context.size_bytes, seconds)
                context.summary = did
            with suppress(TryLater):
                # If the database is away, that is what ended the pass and it has been said.
                keep = context.settings.site.keep_runs
                connect.write(
                    lambda: row.finish(connect.now(), outcome, code, counts, message, keep)
                )
        return outcome, code, message

    def _begin(self, context: PassContext) -> Any:
        """Insert the row of this pass."""
        import psutil

        from dbbbatch.database import connect
        from dbbbatch.database.models.run import Run

        row, _ = connect.write(
            Run.get_or_create,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            started=connect.read(connect.now),
            defaults={
                "site": context.site,
                "script": self._work.kind,
                "name": context.section.name,
                "machine": processes.machine(),
                "start_ticks": processes.start_ticks(),
                "version": __version__,
                "outcome": "running",
            },
        )
        return row

    def _warn_of_failed_files(self, context: PassContext) -> None:
        """Warn of files that failed, in this pass or before, until the last of them is well again.

        A pass over a part of the files counts only its own: it cannot know that others are well.
        """
        from dbbbatch.database import connect
        from dbbbatch.database.models.failing import LISTED, failing_files

        failed, failing, stuck = context.counts["failed"], False, 0
        if not context.stopping and not self._options.match:
            failing, stuck = connect.read(
                failing_files, self._work.kind, context.site, context.section.name
            )
        if failed or failing:
            files = names.counted(failed, "file") if failed else "files"
            # What other passes find wrong, each finds anew: `dbb list` does not have it.
            lists = ", and what lists them" if self._work.kind in LISTED else ""
            context.warn(f"{files} failed; `dbb status` says why{lists}", key="failed")
        if stuck:
            # With a level: the last word on many that were given up is not that all is over.
            some = names.counted(stuck, "file waits", "files wait")
            context.warn(
                f"{some} for a person; `dbb status` says what deals with them",
                key="stuck",
                level=stuck,
            )

    def _unforeseen(self, error: Exception, context: PassContext) -> int:
        """Warn of a bug of ours, and keep what helps to find it."""
        # Of two mistakes of one type the second is said, too.
        key = f"unforeseen {type(error).__name__}: {_key_of_error(error, context.section)}"
        context.warn(crash.keep(error, self._state, self._label), key=key)
        self._notices.incomplete()
        return self._reporter.remember("error", EXIT_UNFORESEEN, str(error))

    def _warns_of_hanging(self, context: PassContext, lock: Lock) -> bool:
        """Warn of other passes that have been at work for too long; return whether there are any.

        Neither the database nor the network is asked: they may be what such a pass waits for.
        """
        limit = context.settings.site.hang_after
        found = lock.held_for(limit) if limit else []
        for holder in found:
            from dbbbatch.passes.watch import hanging

            key, message = hanging(self._label, holder)
            context.warn(message, key=key, shared=True)
        return bool(found)

    def _is_paused(self, context: PassContext) -> bool:
        from dbbbatch.database import connect
        from dbbbatch.database.models.run import Pause

        pause = connect.read(Pause.get_or_none, site=context.site, label=self._label)
        if pause is None or (pause.until is not None and pause.until <= connect.now()):
            return False
        until = f" until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else ""
        context.info(f"paused{until}; `dbb resume {self._label}` ends that")
        return True


def _disconnect() -> None:
    from dbbbatch.database import connect

    connect.disconnect()


def _key_of_error(error: Exception, section: Any) -> str:
    """Return what makes two errors the same trouble.

    That is their words without what differs from pass to pass: numbers, with their units, and
    nonces; and which file showed what is wrong with a whole directory of the section.
    """
    words = str(error)
    for root in sorted(_directories_of(section), key=len, reverse=True):
        words = re.sub(rf"{re.escape(root)}/[^:;]+", f"{root}/…", words)
    return without_numbers(words)


def _directories_of(section: Any) -> Iterator[str]:
    """Yield the directories that a section of the configuration names."""
    for value in getattr(section, "__dict__", {}).values():
        if isinstance(value, str) and value.startswith("/"):
            yield value
        elif hasattr(value, "staging"):
            yield from _directories_of(value)
