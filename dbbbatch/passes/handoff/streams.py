"""The streams of a handoff: threads that each send one batch after the other, over a session each.

A session is opened when there is a batch for it: a small pass makes one connection. While the
process lingers one session stays open for its next pass. Nothing here uses the database.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dbbbatch.areas.endpoint.batch import Batch, TransferResult
from dbbbatch.areas.endpoint.charge import Evidence
from dbbbatch.areas.endpoint.session import Away, Session
from dbbbatch.areas.endpoint.transfer import Sender, Shared
from dbbbatch.config.sections import Handoff
from dbbbatch.errors import DbbError
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.delivery import lists_directory
from dbbbatch.process import run

#: Seconds after which a waiting pass checks whether it is to stop.
_WAIT_STEP = 0.2


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


class Streams:
    """Sends batches at the same time.

    The function `act` sends a batch with a sender, and raises nothing. The session that `kept` has
    is used first; one is left there when the streams are closed in good order.

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
        self._lists = lists_directory(context.settings.site.state)
        self._shared = Shared()
        self.trouble: DbbError | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._connecting: Future[DbbError | None] | None = None
        self._batches: list[Future[TransferResult]] = []
        self._cleaning: list[Future[int | None]] = []
        self._idle: list[Sender] = []
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
    def wants_more(self) -> bool:
        """Whether a further batch should be made ready: one is kept in reserve."""
        return len(self._batches) <= self._section.streams

    def start(self) -> None:
        """Begin to connect, if that has not begun."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._section.streams, "stream")
            self._connecting = self._executor.submit(self._connect)

    def connected(self) -> bool:
        """Wait until the far end is connected; return whether it is."""
        self.start()
        assert self._connecting is not None
        self.trouble = self.trouble or self._connecting.result()
        return self.trouble is None

    def send(self, batch: Batch) -> None:
        """Send a batch as soon as a stream is free."""
        self.start()
        assert self._executor is not None
        self._batches.append(self._executor.submit(self._send, batch))

    def clean(self, batch: Batch) -> None:
        """Remove what is left of a batch in staging, as soon as a stream is free."""
        if self._executor is not None:
            self._cleaning.append(self._executor.submit(self._clean, batch))

    def finished(self) -> Iterator[TransferResult]:
        """Yield the results of the batches that ended since the last time."""
        for future in [each for each in self._batches if each.done()]:
            self._batches.remove(future)
            result = future.result()
            self.trouble = self.trouble or result.trouble
            yield result

    def wait(self) -> None:
        """Wait until a batch ends, or for a moment."""
        wait(self._batches, _WAIT_STEP, FIRST_COMPLETED)

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
        under_way: list[Future[Any]] = [*self._batches, *self._cleaning]
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

    def _connect(self) -> DbbError | None:
        try:
            with self._sender() as sender:
                if sender.session.is_open:
                    # It may have been closed while nothing was to be done.
                    with contextlib.suppress(Away):
                        sender.spare_bytes()
                        return None
                sender.session.open()
                sender.spare_bytes()
        except DbbError as error:
            return error
        except BaseException as error:  # noqa: BLE001  (as `Sender.send`)
            return DbbError(f"connecting failed: {type(error).__name__}: {error}")
        return None

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
        try:
            sender = self._idle.pop()
        except IndexError:
            kept = self._kept.take() if self._kept else None
            sender = Sender(self._section, self._lists, self._shared, kept)
        try:
            yield sender
        finally:
            if self._closing:
                _close(sender.session)
            else:
                self._idle.append(sender)


def _close(session: Session) -> None:
    """End a session; what was sent is recorded, and what fails to end here ends without us."""
    with contextlib.suppress(BaseException):
        session.close()
