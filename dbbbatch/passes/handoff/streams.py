"""The streams of a handoff: threads that each send one batch after the other.

A thread is started when there is a batch for it, and so is its session: a small pass makes one
connection. Nothing here uses the database.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbbbatch.areas.endpoint.batch import Batch, TransferResult
from dbbbatch.areas.endpoint.charge import Evidence
from dbbbatch.areas.endpoint.space import SpaceBudget
from dbbbatch.areas.endpoint.transfer import Sender
from dbbbatch.config.sections import Handoff
from dbbbatch.errors import DbbError
from dbbbatch.passes.runner import PassContext
from dbbbatch.process import run

#: Seconds after which a waiting pass looks whether it is to stop.
_WAIT_STEP = 0.2


@dataclass(frozen=True)
class _Clean:
    batch: Batch


@dataclass(frozen=True)
class _Cleaned:
    number: int


class Streams:
    """Sends batches at the same time.

    Attributes
    ----------
    trouble : `dbbbatch.errors.DbbError` or `None`
        What ends the pass.
    evidence : `dbbbatch.areas.endpoint.charge.Evidence`
        What the transfer command has shown.
    """

    def __init__(self, p: PassContext, section: Handoff) -> None:
        self._p = p
        self._section = section
        self._lists = lists_directory(p.settings.site.state)
        self._room = SpaceBudget()
        self.evidence = Evidence()
        self._jobs: queue.Queue[Batch | _Clean | None] = queue.Queue()
        self._results: queue.Queue[TransferResult | _Cleaned | DbbError | None] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._connected = threading.Event()
        self._closing = False
        self._batches = 0
        self._cleaning = 0
        self._cleaned: list[int] = []
        self._sent: list[TransferResult] = []
        self.trouble: DbbError | None = None
        p.on_second_signal(run.end_all)

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._batches > 0

    @property
    def wants_more(self) -> bool:
        """Whether a further batch should be made ready: one is kept in reserve."""
        return self._batches <= self._section.streams

    def start(self) -> None:
        """Begin to connect, if that has not begun."""
        if not self._threads:
            self._start_thread()

    def connected(self) -> bool:
        """Wait until the far end is connected; False if it cannot be."""
        self.start()
        while not self._connected.wait(_WAIT_STEP):
            pass
        self._collect()
        return self.trouble is None

    def send(self, batch: Batch) -> None:
        """Send a batch as soon as a stream is free."""
        self._batches += 1
        self._jobs.put(batch)
        if self._batches > len(self._threads) < self._section.streams:
            self._start_thread()

    def clean(self, batch: Batch) -> None:
        """Remove what is left of a batch in staging, in between."""
        if self._threads:
            self._cleaning += 1
            self._jobs.put(_Clean(batch))

    def finished(self) -> Iterator[TransferResult]:
        """Yield what has come of batches since the last time."""
        self._collect()
        while self._sent:
            yield self._sent.pop(0)

    def wait(self) -> None:
        """Wait until something comes of a batch, or for a moment."""
        with contextlib.suppress(queue.Empty):
            self._note(self._results.get(timeout=_WAIT_STEP))

    def cleaned(self) -> list[int]:
        """Return the numbers of the batches of which nothing is left in staging, once."""
        self._collect()
        done, self._cleaned = self._cleaned, []
        return done

    def finish(self) -> list[int]:
        """Wait until staging is clean; give the numbers of the batches that are."""
        while self._cleaning:
            self.wait()
        return self.cleaned()

    def close(self) -> None:
        """End the sessions; what is still under way (the pass failed) is ended too."""
        self._closing = True
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + 2 * run.GRACE
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < end:
                if self._batches or self._cleaning:
                    run.end_all()  # a thread may have been about to start something
                thread.join(_WAIT_STEP)

    def _start_thread(self) -> None:
        sender = Sender(self._section, self._lists, self._room, self.evidence)
        first = not self._threads
        thread = threading.Thread(target=self._serve, args=(sender, first), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, sender: Sender, first: bool) -> None:
        if first:
            try:
                sender.session.open()
                sender.check_space()
            except DbbError as error:
                self._results.put(error)
            except BaseException as error:  # noqa: BLE001  (see Sender.send)
                self._results.put(DbbError(f"connecting failed: {type(error).__name__}: {error}"))
            finally:
                self._connected.set()
        while (job := self._jobs.get()) is not None:
            if self._closing:
                continue
            if isinstance(job, _Clean):
                self._results.put(_clean(sender, job))
            elif self._p.interrupted:
                self._results.put(TransferResult.not_begun(job, "the pass was asked to end"))
            else:
                self._results.put(sender.send(job))
        with contextlib.suppress(BaseException):  # what was sent is told, and ends without us
            sender.session.close()

    def _collect(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._note(self._results.get_nowait())

    def _note(self, result: TransferResult | _Cleaned | DbbError | None) -> None:
        if isinstance(result, TransferResult):
            self._batches -= 1
            self._sent.append(result)
            self.trouble = self.trouble or result.trouble
        elif isinstance(result, DbbError):
            self.trouble = self.trouble or result
        else:
            self._cleaning -= 1
            if result is not None:
                self._cleaned.append(result.number)


def lists_directory(state: str) -> str:
    """Return the directory of the lists that ``{files_from}`` names."""
    return str(Path(state) / "lists")


def _clean(sender: Sender, job: _Clean) -> _Cleaned | None:
    """Clean up; if that fails, the next pass does it."""
    try:
        sender.clean(job.batch.attempt)
    except BaseException:  # noqa: BLE001  (whatever it was, the next pass says it)
        return None
    return _Cleaned(job.batch.number)
