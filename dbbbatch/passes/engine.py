"""Let workers of dask.distributed read files, and copy them, ahead of a pass.

A worker's answer only saves the pass reading a file: what workers did not do, or could not do, or
what is not as they say, is None here, and the pass does it as if there were no workers. So nothing
that befalls a worker or the scheduler is charged to a file. After a failure of the scheduler, or of
all workers, nothing more is given to them in this pass, and the operator is told once.

This is the only module that knows dask. It is imported where it is configured, and dask is where
there is enough to do.
"""

from __future__ import annotations

import logging
import shlex
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import islice, repeat
from typing import Any, NamedTuple

from dbbbatch import __version__
from dbbbatch.config import sections
from dbbbatch.errors import DbbError, Interrupted
from dbbbatch.files import checksum, names
from dbbbatch.files.batches import batched_by_size
from dbbbatch.files.checksum import Reading
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.files.unit import (
    CopyOrder,
    FileRead,
    SharedRoot,
    Unit,
    UnitAnswer,
    UnitFile,
    run_unit,
    why_unfit,
)
from dbbbatch.process import run

logger = logging.getLogger("dbbbatch")

#: The most that is in a unit; a larger file is one alone.
_UNIT_FILES = 64
_UNIT_BYTES = 256 << 20

#: Units for each thread of the workers that are under way, or wait for their turn to be read.
_UNITS_AHEAD = 2

#: Seconds between two looks whether the pass must end, and between two looks for workers.
_GLANCE = 0.2
_LOOK = 2.0

#: Seconds for an answer of the scheduler itself, and for its farewell.
_ANSWER = 10.0

#: The slowest reading of a file for which the time limit of a unit is extended, bytes a second.
_SLOWEST = 1e6

#: What dask prints by itself when something happens to a connection; we say that in one line.
_LOUD = ("distributed", "tornado", "asyncio")


class _UnderWay(NamedTuple):
    """A unit under way: what it is, and the workers that may do it."""

    unit: Unit
    workers: frozenset[str]
    future: Future[UnitAnswer]

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(file.size_bytes for file in self.unit.files)


class Engine:
    """The workers of one pass.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Executor`
    warn : `~collections.abc.Callable`
        Tells the operator why threads do the work.
    """

    def __init__(self, section: sections.Executor, warn: Callable[[str], None]) -> None:
        self._section = section
        self._warn = warn
        self._client: Any = None
        self._broken = ""
        #: By address: what a worker answered when it was asked whether it may be used.
        self._asked: dict[str, Future[str]] = {}
        self._fit: set[str] = set()
        self._threads_of: dict[str, int] = {}
        self._threads = 0
        self._looked = 0.0
        #: Why one of the workers is not used.
        self._unfit = ""
        self._roots: tuple[SharedRoot, ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether workers were asked for, so that it is known how they are."""
        return self._client is not None or bool(self._broken)

    def read(
        self,
        roots: tuple[SharedRoot, ...],
        files: Sequence[UnitFile],
        order: Callable[[], CopyOrder] | None = None,
    ) -> Iterator[FileRead | None]:
        """Yield what workers read of files, in their order; None for what is to be done here.

        Few units are under way at a time. To leave off drops those that have not begun.

        Parameters
        ----------
        roots : `tuple` [ `SharedRoot` ]
            Where the files are and, at the end, where they are copied.
        files : `~collections.abc.Sequence` [ `UnitFile` ]
        order : `~collections.abc.Callable`, optional
            Returns how to copy them; called if there are workers.
        """
        size = sum(file.size_bytes for file in files)
        if self._broken or size < self._section.least or not self._has_workers(roots):
            yield from repeat(None, len(files))
            return
        try:
            copying = order() if order is not None else None
        except OSError as error:
            self.distrust(f"{error.filename}: {error.strerror}")
            yield from repeat(None, len(files))
            return
        share = _UNITS_AHEAD * self._threads
        units = batched_by_size(
            files, min(_UNIT_FILES, len(files) // share + 1), min(_UNIT_BYTES, size // share + 1)
        )
        dealt = 0
        pending: deque[tuple[int, _UnderWay | None]] = deque()
        try:
            while True:
                for some in islice(units, max(0, _UNITS_AHEAD * self._threads - len(pending))):
                    pending.append((len(some), self._send(Unit(roots, tuple(some), copying))))
                if not pending:
                    break
                count, sent = pending.popleft()
                answer = self._answer(sent) if sent else ()
                dealt += sum(read.version is not None for read in answer)
                yield from answer if len(answer) == count else repeat(None, count)
        finally:
            logger.info("workers dealt with %d of %s", dealt, names.counted(len(files), "file"))
            for _, sent in pending:
                if sent:
                    sent.future.cancel()

    def distrust(self, why: str) -> None:
        """Let threads do what is left of this pass, and tell the operator why."""
        if not self._broken:
            self._broken = why
            unfit = f" ({self._unfit})" if self._unfit else ""
            self._warn(f"[executor]: {why}{unfit}; threads of the pass do the rest")

    def close(self) -> None:
        """Drop what workers have not begun, and leave the scheduler."""
        if self._unfit and not self._broken:
            self._warn(f"[executor]: not all workers are used: {self._unfit}")
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close(timeout=_ANSWER)

    def _send(self, unit: Unit) -> _UnderWay | None:
        """Submit a unit to the workers that can be used; return `None` if there are none."""
        if not self._has_workers(unit.roots):
            return None
        workers = frozenset(self._fit)
        try:
            return _UnderWay(unit, workers, self._executor(workers).submit(run_unit, unit))
        except Exception as error:  # noqa: BLE001  (as in `_has_workers`)
            self.distrust(f"the scheduler fails: {_in_one_line(error)}")
            return None

    def _answer(self, sent: _UnderWay) -> Sequence[FileRead]:
        """Wait for a unit, and return what was read of its files; nothing if it failed."""
        ended = self._ended(sent)
        if ended is None:
            return ()
        if ended.cancelled():
            self.distrust("the scheduler is gone")
            return ()
        if (error := ended.exception()) is not None:
            # Its worker died time and again, as far as the scheduler knows because of this unit.
            self._warn(f"[executor]: a unit failed; threads read its files: {_in_one_line(error)}")
            return ()
        answer = ended.result()
        if answer.unfit:
            # It was fit when it was asked: all are asked again.
            self._ask_again()
            self._unfit = names.printable(f"a worker on {answer.host} {answer.unfit}")
        with suppress(Interrupted):
            checksum.heed(sent.size)
        return answer.files

    def _ended(self, sent: _UnderWay) -> Future[UnitAnswer] | None:
        """Return the future of a unit that ended; `None` if it is not to be waited for longer.

        The scheduler runs it again where its worker is lost. Where all that it was given to are,
        others get it.
        """
        end = time.monotonic() + self._section.timeout + sent.size / _SLOWEST
        while not sent.future.done():
            if time.monotonic() >= end:
                self.distrust(f"no unit ended within {self._section.timeout:.0f} s")
            if self._broken or _pass_must_end() or not self._has_workers(sent.unit.roots):
                sent.future.cancel()
                return None
            if not sent.workers & self._threads_of.keys():
                sent.future.cancel()
                if (again := self._send(sent.unit)) is None:
                    return None
                sent = again
            wait([sent.future], _GLANCE)
        return sent.future

    def _has_workers(self, roots: tuple[SharedRoot, ...]) -> bool:
        """Return whether there is a worker to use; connect first, and wait for one if need be."""
        if self._broken:
            return False
        if roots != self._roots:
            self._roots = roots
            self._ask_again()
        begun = time.monotonic()
        try:
            if self._client is None:
                self._client = self._connect()
            while True:
                self._look_for_workers()
                waited = time.monotonic() - begun
                if self._fit and (self._all_asked() or waited >= _LOOK):
                    return True
                if _pass_must_end():
                    return False
                if self._asked and self._all_asked():
                    self.distrust("no worker can be used")
                    return False
                if waited >= self._section.wait:
                    self.distrust("no worker can be used now")
                    return False
                if not self._asked:
                    time.sleep(_GLANCE)
                    self._looked = 0
                wait(self._asked.values(), _GLANCE)
        except DbbError as error:
            self.distrust(str(error))
        except Exception as error:  # noqa: BLE001  (what befalls a scheduler is no fault of ours)
            self.distrust(f"the scheduler cannot be used: {_in_one_line(error)}")
        return False

    def _ask_again(self) -> None:
        self._asked.clear()
        self._fit.clear()
        self._looked = 0

    def _all_asked(self) -> bool:
        return all(future.done() for future in self._asked.values())

    def _look_for_workers(self) -> None:
        """Ask new workers whether they may be used, and note which are.

        Raises
        ------
        Exception
            The scheduler is gone, or does not answer.
        """
        if self._client.status != "running":
            raise ConnectionError("the connection is lost")
        if time.monotonic() >= self._looked + _LOOK:
            self._threads_of = self._client.sync(
                self._client.scheduler.ncores, callback_timeout=_ANSWER
            )
            self._looked = time.monotonic()
            for address in self._asked.keys() - self._threads_of.keys():
                del self._asked[address]
            for address in self._threads_of.keys() - self._asked.keys():
                executor = self._executor([address])
                self._asked[address] = executor.submit(why_unfit, self._roots, __version__)
        self._fit = {address for address in self._threads_of if self._is_fit(address)}
        self._threads = max(1, sum(self._threads_of[address] for address in self._fit))

    def _is_fit(self, address: str) -> bool:
        future = self._asked.get(address)
        if future is None or not future.done() or future.cancelled():
            return False
        error = future.exception()
        why = future.result() if error is None else f"or its scheduler lacks dbbbatch {__version__}"
        if why:
            self._unfit = names.printable(f"worker {address} {why}")
        return not why

    def _executor(self, workers: Any) -> AnyExecutor:
        executor: AnyExecutor = self._client.get_executor(
            pure=False, workers=sorted(workers), allow_other_workers=False, retries=0
        )
        return executor

    def _connect(self) -> Any:
        """Return a client of the scheduler.

        Raises
        ------
        Exception
            There is none, or it does not let us in.
        """
        section = self._section
        address = self._address()
        try:
            import distributed
        except ImportError:
            raise DbbError("dask.distributed is missing: install dbbbatch[dask]") from None
        for name in _LOUD:
            loud = logging.getLogger(name)
            loud.handlers[:] = [logging.NullHandler()]
            loud.propagate = False
        security = None
        if address.startswith("tls:"):
            security = distributed.Security(
                tls_ca_file=section.tls_ca,
                tls_client_cert=section.tls_cert,
                tls_client_key=section.tls_key,
                require_encryption=True,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return distributed.Client(
                address, timeout=section.wait, security=security, set_as_default=False
            )

    def _address(self) -> str:
        """Return the address of the scheduler, from the configured command if there is one."""
        section = self._section
        if not section.command:
            return section.scheduler
        argv = [part.encode() for part in shlex.split(section.command)]
        ended = run.run(argv, timeout=section.wait)
        lines = ended.stdout.decode("utf-8", "backslashreplace").split()
        if ended.exit_code != 0 or not lines:
            raise DbbError(f"command: {ended.summary()}")
        try:
            return sections.scheduler_address(lines[-1])
        except ValueError as error:
            raise DbbError(f"command: {error}") from None


def confirmed(
    engine: Engine, tree: Tree, sentinel: str, files: Sequence[tuple[Entry, int, Sequence[str]]]
) -> Iterator[Reading | None]:
    """Yield what workers read of files where this host sees the same versions; as `Engine.read`."""
    roots = (SharedRoot.of(tree, sentinel),)
    wanted = [UnitFile(file.rel, size, tuple(algorithms)) for file, size, algorithms in files]
    for (file, _, _), read in zip(files, engine.read(roots, wanted), strict=True):
        yield _confirm(engine, file, read)


def _confirm(engine: Engine, file: Entry, read: FileRead | None) -> Reading | None:
    if read is None or read.version is None:
        return None
    try:
        status = file.lstat()
    except OSError:
        return None
    version = Version.of_file(status)
    if version.is_like(read.version) and version != read.version:
        engine.distrust("workers see other inodes than this host: that may be another storage area")
    return (status, read.sums) if version == read.version else None


def _pass_must_end() -> bool:
    try:
        checksum.heed(0)
    except Interrupted:
        return True
    return False


def _in_one_line(error: BaseException) -> str:
    """Return an error as the end of one line."""
    lines = str(error).split("\n")
    return names.printable(
        f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
    )
