"""The streams of a handoff: threads that each send one batch after the other, over a session each.

A session is opened when there is a batch for it: a small pass makes one connection. While the
process lingers one session stays open for its next pass. Nothing here uses the database: what must
be recorded while a batch is under way is handed to the thread that does.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from dbbbatch.areas.endpoint.batch import Batch, TransferResult
from dbbbatch.areas.endpoint.charge import Evidence
from dbbbatch.areas.endpoint.line import Line
from dbbbatch.areas.endpoint.session import Away, Session
from dbbbatch.areas.endpoint.transfer import Sender, Shared
from dbbbatch.config.sections import Handoff
from dbbbatch.errors import DbbError
from dbbbatch.files import faults
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.delivery import lists_directory
from dbbbatch.passes.handoff.pace import MOST_STREAMS, Pace
from dbbbatch.process import run

#: Seconds after which a waiting pass checks whether it is to stop.
_WAIT_STEP = 0.2

#: Seconds after which connecting takes long, and how many round trips ssh needs for it.
_LONG_CONNECTING, _ROUND_TRIPS_OF_SSH = 1.0, 10

#: Transfers at a time of a command, unless the configuration says how many.
_STREAMS_OF_COMMAND = 2


class KeptSession:
    """The session that one pass of a process leaves open for the next one, if any."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def keep(self, session: Session) -> bool:
        """Keep a session; return `False` if there is another one, or it is not open."""
        if self._session is not None or not session.is_open:
            return False
        self._session = session
        return True

    def take(self) -> Session | None:
        """Return the session, which is no longer kept."""
        session, self._session = self._session, None
        return session

    def close(self) -> None:
        """End the session."""
        if session := self.take():
            _close(session)


class ToRecord(NamedTuple):
    """What is to be recorded of a batch under way, and what is done then."""

    result: TransferResult
    done: Future[None]


class Streams:
    """Sends batches at the same time.

    The function `act` sends a batch with a sender, and raises nothing. The session that `kept` has
    is used first; one is left there when the streams are closed in good order.

    Of the built-in stream as many batches are on the line as the configuration says, or else as
    `Pace` finds useful. Then one more is under way, whose files the far end verifies and places
    meanwhile.

    Attributes
    ----------
    trouble : `dbbbatch.errors.DbbError` or `None`
        What ends the pass.
    """

    def __init__(
        self,
        context: PassContext,
        section: Handoff,
        act: Callable[[Sender, Batch], TransferResult],
        kept: KeptSession | None = None,
    ) -> None:
        self._section = section
        self._act = act
        self._kept = kept
        self._buffer = context.roots.tree(section.buffer)
        self._lists = lists_directory(context.settings.site.state)
        adapts = section.has_stream and section.streams is None
        width = 1 if adapts else section.streams or _STREAMS_OF_COMMAND
        self._line = Line(width, section.bandwidth)
        self._pace = Pace(width) if adapts else None
        self._shared = Shared(line=self._line, record=self._record)
        self.trouble: DbbError | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._connecting: Future[DbbError | None] | None = None
        self._batches: dict[Future[TransferResult], Batch] = {}
        self._cleaning: list[Future[int | None]] = []
        self._further: list[Future[None]] = []
        self._idle: list[Sender] = []
        self._lent = 0
        self._returned = threading.Condition()
        self._news = threading.Event()
        self._recordings: queue.SimpleQueue[ToRecord] = queue.SimpleQueue()
        self._closing = False
        context.on_second_signal(run.end_all)

    @property
    def evidence(self) -> Evidence:
        """What the transfer command has shown."""
        return self._shared.evidence

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return bool(self._batches)

    @property
    def takes_long(self) -> bool:
        """Whether a long file may be sent: there are not as many on the line as there may be."""
        return sum(not batch.sent for batch in self._long) < self._line.width

    @property
    def wants_more(self) -> bool:
        """Whether a further batch should be made ready: one is kept in reserve."""
        return len(self._batches) <= self._sessions

    def start(self) -> None:
        """Begin to connect, if that has not begun."""
        if self._executor is None:
            most = MOST_STREAMS + 2 if self._pace else self._sessions
            self._executor = ThreadPoolExecutor(most, "stream")
            self._connecting = self._executor.submit(self._connect)

    def connected(self, *, more: bool) -> bool:
        """Wait until the far end is connected; return whether it is.

        Parameters
        ----------
        more : `bool`
            One batch is not all: where there is more than one session, a second one is opened
            meanwhile, and as many as a long line needs where that takes long.
        """
        self.start()
        assert self._connecting is not None
        if more and self._pace and not self._connecting.done():
            self._open_further(1)
            wait([self._connecting], _LONG_CONNECTING)
            if not self._connecting.done():
                # That is several round trips.
                self._line.widen(self._pace.begin(_LONG_CONNECTING / _ROUND_TRIPS_OF_SSH))
                self._open_further(self._line.width - 1)
        self.trouble = self.trouble or self._connecting.result()
        return self.trouble is None

    def send(self, batch: Batch) -> None:
        """Send a batch as soon as a stream is free."""
        self.start()
        assert self._executor is not None
        self._batches[future := self._executor.submit(self._send, batch)] = batch
        future.add_done_callback(lambda _: self._news.set())

    def clean(self, batch: Batch) -> None:
        """Remove what is left of a batch in staging, as soon as a stream is free."""
        if self._executor is not None:
            self._cleaning.append(self._executor.submit(self._clean, batch))

    def finished(self) -> Iterator[TransferResult]:
        """Yield the results of the batches that ended since the last time."""
        for future in [each for each in self._batches if each.done()]:
            del self._batches[future]
            result = future.result()
            self.trouble = self.trouble or result.trouble
            if self._pace:
                starved = len(self._batches) < self._line.width
                self._pace.count(len(result.batch.items), starved=starved)
            yield result
        if self._pace:
            self._line.widen(self._pace.streams(self._line.sent, time.monotonic()))

    def wait(self) -> None:
        """Wait until a batch ends, something is to be recorded, or for a moment."""
        self._news.wait(_WAIT_STEP)
        self._news.clear()

    def to_record(self) -> Iterator[ToRecord]:
        """Yield what is to be recorded of batches under way, which wait for it."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._recordings.get_nowait()

    def cleaned(self) -> list[int]:
        """Wait until staging is clean; return the numbers of the batches that were removed."""
        found = [future.result() for future in self._cleaning]
        self._cleaning.clear()
        return [number for number in found if number is not None]

    def close(self) -> None:
        """End the sessions, and what is still under way if the pass failed."""
        if self._executor is None:
            return
        self._closing = True
        self._line.close()
        for recording in self.to_record():
            recording.done.cancel()
        with self._returned:
            self._returned.notify_all()
        under_way: list[Future[Any]] = [*self._batches, *self._cleaning, *self._further]
        sessions = [sender.session for sender in self._idle]
        if self._kept and not self.trouble:
            sessions = [session for session in sessions if not self._kept.keep(session)]
        closing = [self._executor.submit(_close, session) for session in sessions]
        self._executor.shutdown(wait=False)
        end = time.monotonic() + 2 * run.GRACE
        while (pending := wait([*under_way, *closing], 0).not_done) and time.monotonic() < end:
            if not all(future.done() for future in under_way):
                run.end_all()  # a thread may have been about to start something
            wait(pending, _WAIT_STEP)

    @property
    def _sessions(self) -> int:
        """How many sessions there may be: one more while it takes long to verify a long file."""
        if self._pace is None:
            return self._line.width
        return self._line.width + (2 if self._long else 1)

    @property
    def _long(self) -> list[Batch]:
        """The batches under way that are a long file."""
        # A copy: other threads look, too.
        return [batch for batch in list(self._batches.values()) if batch.long]

    def _open_further(self, sessions: int) -> None:
        """Open sessions beside the first one; if that fails, they are opened when needed."""
        assert self._executor is not None
        for _ in range(sessions):
            self._further.append(self._executor.submit(self._open_one))

    def _open_one(self) -> None:
        with self._sender() as sender, contextlib.suppress(BaseException):
            if not self._closing:
                sender.session.open()

    def _connect(self) -> DbbError | None:
        try:
            with self._sender() as sender:
                self._open(sender)
        except DbbError as error:
            return error
        except BaseException as error:  # noqa: BLE001  (as `Sender.send`)
            return faults.of_a_thread(error, "connecting")
        return None

    def _open(self, sender: Sender) -> None:
        """Open a session if none is open, and see how long its answers take."""
        if sender.session.is_open:
            # It may have been closed while nothing was to be done.
            with contextlib.suppress(Away):
                self._look(sender)
                return
        sender.session.open()
        self._look(sender)

    def _look(self, sender: Sender) -> None:
        began = time.monotonic()
        sender.spare_bytes()
        if self._pace:
            self._line.widen(self._pace.begin(time.monotonic() - began))

    def _record(self, result: TransferResult) -> Future[None]:
        recording = ToRecord(result, Future())
        self._recordings.put(recording)
        self._news.set()
        if self._closing:
            recording.done.cancel()
        return recording.done

    def _send(self, batch: Batch) -> TransferResult:
        with self._sender() as sender:
            return TransferResult(batch) if self._closing else self._act(sender, batch)

    def _clean(self, batch: Batch) -> int | None:
        """Clean up; if that fails, the next pass does it."""
        with self._sender() as sender, contextlib.suppress(BaseException):
            if not self._closing:
                sender.clean(batch.attempt)
                return batch.number
        return None

    @contextlib.contextmanager
    def _sender(self) -> Iterator[Sender]:
        """Lend a sender to this thread; its session is closed if the pass has ended meanwhile."""
        with self._returned:
            self._returned.wait_for(lambda: self._closing or self._lent < self._sessions)
            self._lent += 1
        try:
            sender = self._idle.pop()
        except IndexError:
            kept = self._kept.take() if self._kept else None
            sender = Sender(self._section, self._buffer, self._lists, self._shared, kept)
        try:
            yield sender
        finally:
            if self._closing:
                _close(sender.session)
            else:
                self._idle.append(sender)
            with self._returned:
                self._lent -= 1
                self._returned.notify_all()


def _close(session: Session) -> None:
    """End a session; what was sent is recorded, and what fails to end here ends without us."""
    with contextlib.suppress(BaseException):
        session.close()
