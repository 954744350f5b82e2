"""The workers of one pass: files go in as batches, a verdict for each file comes out.

Whatever a plugin does, each file that was offered gets a verdict, and only the file that was in
hand is charged with a crash, a hang or an exception: where that is not known, the batch is offered
again in pieces until the culprit stands alone.
"""

from __future__ import annotations

import logging
import select
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from dbbbatch.targets import messages as protocol
from dbbbatch.targets.child import pack
from dbbbatch.targets.plugin import Misconfigured, NotReady, StoredFile
from dbbbatch.targets.verdict import Kind, Verdict
from dbbbatch.targets.worker import Launch, Worker

#: Seconds that a plugin gets to start, where its time limit is shorter.
STARTING = 60.0

#: A batch that fails as a whole is offered again in so many pieces: enough that few rounds, each of
#: which may cost a time limit and a new child, leave the culprit alone.
PIECES = 10

OfferedBatch = Sequence[StoredFile]


class Slot:
    """A place for one worker, and what it has in hand."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.ready = False
        self.version = ""
        self.one_at_a_time = False
        #: It has a batch that it has not said to be over; no verdict may be awaited any more.
        self.busy = False
        self.awaited: dict[int, StoredFile] = {}
        self.excuse = ""

    def leave_off(self) -> list[StoredFile]:
        """Have nothing in hand any more, and give what has no verdict."""
        self.busy = False
        files, self.awaited = list(self.awaited.values()), {}
        return files


class WorkerPool:
    """Up to ``workers`` child processes, started when there is something for them to do.

    Parameters
    ----------
    launch : `dbbbatch.targets.worker.Launch`
        What each becomes.
    workers : `int`
        How many at most.
    log : `logging.Logger`
        Hears what plugins print (debug).
    """

    def __init__(self, launch: Launch, workers: int, log: logging.Logger) -> None:
        self._launch = launch
        self._seats = [Slot() for _ in range(workers)]
        self._pieces: deque[OfferedBatch] = deque()
        self._verdicts: list[Verdict] = []
        self._refusal: NotReady | Misconfigured | None = None
        self._stopping = False
        self._interrupted = False
        self._log = log
        #: Numbers of files that the plugin had in hand when `interrupt` killed it.
        self.interrupted: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether `collect` has something to tell, sooner or later."""
        waiting = bool(self._pieces) and not self._stopping
        to_tell = bool(self._verdicts) or self._refusal is not None
        return waiting or to_tell or any(seat.busy for seat in self._seats)

    @property
    def free(self) -> bool:
        """Whether another batch would be begun at once."""
        return not self._pieces and not self._stopping and any(not s.busy for s in self._seats)

    @property
    def unoffered(self) -> list[int]:
        """Numbers of files that are as if never offered, once the crew has stopped."""
        return [file.number for piece in self._pieces for file in piece]

    def offer(self, files: OfferedBatch) -> None:
        """Take a batch; its verdicts come from `collect`."""
        if files:
            self._pieces.append(files)
            self._dispatch()

    def collect(self, wait: float) -> list[Verdict]:
        """Wait until there is something to tell, at most so many seconds.

        Raises
        ------
        NotReady, Misconfigured
            The plugin cannot start or go on, and all that could be told was told: the crew has
            stopped.
        """
        self._dispatch()
        until = time.monotonic() + wait
        while not self._verdicts and any(seat.busy for seat in self._seats):
            now = time.monotonic()
            if now >= until:
                break
            self._listen(min(until, *self._limits()) - now)
            self._end_the_silent()
            self._dispatch()
        idle = not self._verdicts and not any(seat.busy for seat in self._seats)
        if idle and self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def stop(self) -> None:
        """Begin no further file; what is in hand is still told by `collect`.

        A plugin that takes files one at a time stops after the one in hand; others finish their
        batch. A file that is being read, as far as we read it, is left.
        """
        if self._stopping:
            return
        self._stopping = True
        self._log.info("no further file is begun")
        for seat in self._seats:
            if seat.worker is not None and seat.busy and seat.ready:
                seat.worker.say(protocol.STOP)

    def interrupt(self) -> None:
        """Kill the plugins at once; may be called from a signal handler."""
        self._stopping = self._interrupted = True
        for seat in self._seats:
            if (worker := seat.worker) is not None:
                worker.kill()

    def close(self) -> None:
        """Let the plugins close, and end the workers; nothing may be outstanding."""
        for seat in self._seats:
            if seat.worker is not None and seat.ready:
                seat.worker.close()
                seat.worker = None
        self.end()

    def end(self) -> None:
        """Kill all workers at once, whatever they do."""
        for seat in self._seats:
            if seat.worker is not None:
                seat.worker.end()
                seat.worker = None

    # ---- between batches and workers -------------------------------------------------------------

    def _dispatch(self) -> None:
        for seat in self._seats:
            if not self._pieces or self._stopping:
                return
            if seat.busy:
                continue
            seat.busy = True
            seat.awaited = {file.number: file for file in self._pieces.popleft()}
            if seat.worker is not None and not seat.worker.alive:
                # It died between two batches, so no file is to blame.
                self._log.info("the plugin's process was %s while idle", seat.worker.end())
                seat.worker = None
            if seat.worker is None:
                seat.ready = False
                try:
                    seat.worker = Worker(self._launch, self._log)
                except (OSError, subprocess.SubprocessError) as error:
                    why = getattr(error, "strerror", None) or error
                    reason = f"the plugin's process cannot be started: {why}"
                    self._refuse(seat, NotReady(reason))
                    return
            if seat.ready:
                self._send(seat)

    def _send(self, seat: Slot) -> None:
        assert seat.worker is not None
        seat.worker.say(protocol.INGEST, [pack(file) for file in seat.awaited.values()])

    def _limits(self) -> list[float]:
        return [
            seat.worker.heard + self._patience(seat)
            for seat in self._seats
            if seat.worker is not None and seat.busy
        ]

    def _patience(self, seat: Slot) -> float:
        limit = self._launch.context.timeout
        return limit if seat.ready else max(limit, STARTING)

    def _listen(self, seconds: float) -> None:
        poll = select.poll()
        handlers: dict[int, Any] = {}
        for seat in self._seats:
            if seat.worker is not None:
                handlers[seat.worker.connection.fileno()] = (self._hear, seat)
                if seat.worker.talks:
                    handlers[seat.worker.output] = (self._drain, seat)
        for descriptor in handlers:
            poll.register(descriptor, select.POLLIN)
        # Rounded up, so that a limit has passed when the wait for it is over.
        for descriptor, _ in poll.poll(max(0, int(seconds * 1000) + 1)):
            handle, seat = handlers[descriptor]
            if seat.worker is not None:
                handle(seat)

    def _drain(self, seat: Slot) -> None:
        assert seat.worker is not None
        seat.worker.drain()

    def _hear(self, seat: Slot) -> None:
        assert seat.worker is not None
        messages = seat.worker.listen()
        if messages is None:
            self._died(seat, "")
            return
        for what, *content in messages:
            if what == protocol.OUTCOME:
                self._outcome(seat, *content)
            elif what == protocol.END:
                self._ended(seat, *content)
            elif what == protocol.READY:
                seat.ready = True
                seat.version, seat.one_at_a_time = content
                if self._stopping:
                    self._unoffer(seat)
                else:
                    self._send(seat)
            elif what == protocol.RAISED:
                self._raised(seat, content[0])
            elif what in (protocol.NOT_READY, protocol.MISCONFIGURED):
                reason = NotReady if what == protocol.NOT_READY else Misconfigured
                self._refuse(seat, reason(content[0]))
            elif what == protocol.NO_MEMORY:
                limit = self._launch.memory_limit
                seat.excuse = f"needed more memory than memory_limit ({limit} bytes)"
            elif what == protocol.EXIT:
                seat.excuse = f"the plugin left its process ({content[0]})"

    # ---- what became of a batch ------------------------------------------------------------------

    def _outcome(
        self,
        seat: Slot,
        number: int,
        verdict: str,
        message: str,
        version: str,
        parts: list[str],
        checksums: dict[str, str],
        begun: float,
        ended: float,
    ) -> None:
        del seat.awaited[number]
        self._verdicts.append(
            Verdict(
                number,
                Kind(verdict),
                message,
                version or seat.version,
                frozenset(parts),
                checksums,
                begun,
                ended - begun,
            )
        )

    def _ended(self, seat: Slot, stopped: bool) -> None:
        if stopped:
            self._unoffer(seat)
        else:
            self._blame(seat, Kind.UNKNOWN, "the plugin gave no outcome")

    def _raised(self, seat: Slot, message: str) -> None:
        if seat.ready:
            self._blame(seat, Kind.FAILED, message)
        else:
            self._refuse(seat, NotReady(f"the plugin cannot start: {message}"))

    def _end_the_silent(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.worker is not None and seat.busy:
                limit = self._patience(seat)
                if now - seat.worker.heard >= limit:
                    self._died(seat, f"no outcome within {limit:g} s")

    def _died(self, seat: Slot, reason: str) -> None:
        assert seat.worker is not None
        worker, seat.worker = seat.worker, None
        words = worker.last_words()
        how = worker.end()
        reason = reason or seat.excuse or f"the plugin's process was {how}"
        if worker.unkillable:
            reason += f"; process {worker.pid} is {how}"
        seat.excuse = ""
        if words:
            reason += f"; it said: {words}"
        if worker.unkillable:
            self._refuse(None, NotReady(reason))
        if self._interrupted:
            self.interrupted += (file.number for file in seat.leave_off())
        elif seat.ready:
            self._blame(seat, Kind.UNKNOWN, reason, worker.heard)
        elif seat.busy:
            self._refuse(seat, NotReady(f"the plugin cannot start: {reason}"))

    def _refuse(self, seat: Slot | None, refusal: NotReady | Misconfigured) -> None:
        self._refusal = self._refusal or refusal
        if seat is not None:
            self._unoffer(seat)
        self.stop()

    def _unoffer(self, seat: Slot) -> None:
        if files := seat.leave_off():
            self._pieces.append(files)

    def _blame(self, seat: Slot, kind: Kind, reason: str, since: float | None = None) -> None:
        """Charge the file in hand, if it is known; offer the others again."""
        files = seat.leave_off()
        if not files:
            return
        if len(files) > 1 and not seat.one_at_a_time:
            size = -(-len(files) // PIECES)
            self._log.info("batch of %d is tried in pieces of %d: %s", len(files), size, reason)
            self._pieces += [files[at : at + size] for at in range(0, len(files), size)]
            return
        now = time.monotonic()
        begun = now if since is None else since
        self._verdicts.append(
            Verdict(files[0].number, kind, reason, seat.version, begun=begun, seconds=now - begun)
        )
        if files[1:]:
            self._pieces.append(files[1:])
