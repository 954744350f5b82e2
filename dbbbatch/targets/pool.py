"""The workers of one pass: files go in as batches, an outcome for each file comes out.

Whatever a plugin does, each file that was offered gets an outcome, and a crash, a hang or an
exception is charged only to the file that caused it. Where that file is not known, the batch is
offered again in pieces until the culprit is alone in one.
"""

from __future__ import annotations

import logging
import pickle
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dbbbatch.targets import messages
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile
from dbbbatch.targets.worker import Launch, Worker

#: Seconds that a plugin has to start, where its time limit is shorter.
STARTING = 60.0

#: A batch that fails as a whole is offered again in so many pieces: enough that few rounds, each of
#: which may cost a time limit and a new child, isolate the culprit.
PIECES = 10

OfferedBatch = Sequence[StoredFile]


class Slot:
    """A place for one worker and the batch that it has."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.ready = False
        self.version = ""
        self.one_at_a_time = False
        #: The worker has a batch and has not reported its end, even if no outcome is missing.
        self.busy = False
        #: The files of the batch that have no outcome yet.
        self.awaited: dict[int, StoredFile] = {}
        #: What the worker said about why it would end.
        self.excuse = ""

    def release(self) -> list[StoredFile]:
        """End the batch, and return its files without an outcome."""
        self.busy = False
        files, self.awaited = list(self.awaited.values()), {}
        return files


class WorkerPool:
    """Up to ``workers`` child processes, started when there are files for them.

    Parameters
    ----------
    launch : `dbbbatch.targets.worker.Launch`
        What each becomes.
    workers : `int`
        Most processes.
    log : `logging.Logger`
        Receives what plugins print (debug).
    """

    def __init__(self, launch: Launch, workers: int, log: logging.Logger) -> None:
        self._launch = launch
        self._slots = [Slot() for _ in range(workers)]
        self._batches: deque[OfferedBatch] = deque()
        self._outcomes: list[Outcome] = []
        self._error: NotReady | Misconfigured | None = None
        self._stopping = False
        self._interrupted = False
        self._log = log
        #: Numbers of files that the plugin had when `interrupt` killed it.
        self.interrupted: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether `collect` will return or raise something."""
        waiting = bool(self._batches) and not self._stopping
        known = bool(self._outcomes) or self._error is not None
        return waiting or known or any(slot.busy for slot in self._slots)

    @property
    def free(self) -> bool:
        """Whether another batch would be begun at once."""
        idle = any(not slot.busy for slot in self._slots)
        return not self._batches and not self._stopping and idle

    @property
    def unoffered(self) -> list[int]:
        """Numbers of files that are as if never offered, once the pool has stopped."""
        return [file.number for batch in self._batches for file in batch]

    def offer(self, files: OfferedBatch) -> None:
        """Add a batch; `collect` returns its outcomes."""
        if files:
            self._batches.append(files)
            self._dispatch()

    def collect(self, wait: float) -> list[Outcome]:
        """Return outcomes as soon as there are any, after ``wait`` seconds at most.

        Raises
        ------
        NotReady, Misconfigured
            The plugin cannot start or go on. The pool has stopped, and all outcomes have been
            returned.
        """
        self._dispatch()
        until = time.monotonic() + wait
        while not self._outcomes and any(slot.busy for slot in self._slots):
            now = time.monotonic()
            if now >= until:
                break
            limits = (
                s.worker.last_heard + self._limit(s) for s in self._slots if s.worker and s.busy
            )
            self._receive(min(until, *limits) - now)
            self._end_silent_workers()
            self._dispatch()
        if not self._outcomes and not any(slot.busy for slot in self._slots):
            error, self._error = self._error, None
            if error is not None:
                raise error
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def stop(self) -> None:
        """Begin no further file; `collect` still returns the outcomes of those begun.

        A plugin that takes files one at a time stops after the present one; others finish their
        batch. A file that our own code is reading is left unfinished.
        """
        if self._stopping:
            return
        self._stopping = True
        self._log.info("no further file is begun")
        for slot in self._slots:
            if slot.worker is not None and slot.busy and slot.ready:
                slot.worker.send(messages.STOP)

    def interrupt(self) -> None:
        """Kill the plugins at once; may be called from a signal handler."""
        self._stopping = self._interrupted = True
        for slot in self._slots:
            if (worker := slot.worker) is not None:
                worker.kill()

    def close(self) -> None:
        """Let the plugins close, and end the workers; no outcome may be missing."""
        for slot in self._slots:
            if slot.worker is not None and slot.ready:
                slot.worker.close()
                slot.worker = None
        self.end()

    def end(self) -> None:
        """Kill all workers at once, whatever they do."""
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.end()
                slot.worker = None

    def _dispatch(self) -> None:
        for slot in self._slots:
            if not self._batches or self._stopping:
                return
            if slot.busy:
                continue
            slot.busy = True
            slot.awaited = {file.number: file for file in self._batches.popleft()}
            if slot.worker is not None and not slot.worker.alive:
                # It ended between two batches, so no file is to blame.
                self._log.info("the plugin's process was %s while idle", slot.worker.end())
                slot.worker = None
            if slot.worker is None:
                slot.ready = False
                try:
                    slot.worker = Worker(self._launch, self._log)
                except (OSError, subprocess.SubprocessError) as error:
                    self._give_up(slot, _not_started(error))
                    return
            if slot.ready:
                self._send_batch(slot)

    def _send_batch(self, slot: Slot) -> None:
        assert slot.worker is not None
        slot.worker.send(messages.INGEST, pickle.dumps(list(slot.awaited.values())))

    def _limit(self, slot: Slot) -> float:
        limit = self._launch.context.timeout
        return limit if slot.ready else max(limit, STARTING)

    def _receive(self, seconds: float) -> None:
        poll = select.poll()
        workers: dict[int, tuple[Slot, Worker]] = {}
        for slot in self._slots:
            if slot.worker is not None:
                workers[slot.worker.connection.fileno()] = slot, slot.worker
                if slot.worker.output_open:
                    workers[slot.worker.output] = slot, slot.worker
        for descriptor in workers:
            poll.register(descriptor, select.POLLIN)
        # Rounded up, so that a limit has passed when the wait for it is over.
        for descriptor, _ in poll.poll(max(0, int(seconds * 1000) + 1)):
            slot, worker = workers[descriptor]
            if slot.worker is not worker:
                continue  # it has just ended, and its descriptors are closed
            if descriptor == worker.output:
                worker.read_output()
            else:
                self._handle(slot, worker)

    def _handle(self, slot: Slot, worker: Worker) -> None:
        received = worker.receive()
        if received is None:
            self._ended(slot, worker)
            return
        for what, *content in received:
            match what:
                case messages.OUTCOME:
                    number, result, *more = content
                    del slot.awaited[number]
                    self._outcomes.append(Outcome(number, Result(result), *more))
                case messages.READY:
                    slot.ready = True
                    slot.version, slot.one_at_a_time = content
                    if self._stopping:
                        self._take_back(slot)
                    else:
                        self._send_batch(slot)
                case messages.END if content[0]:
                    self._take_back(slot)
                case messages.END:
                    self._charge(slot, Result.UNKNOWN, "the plugin gave no outcome")
                case messages.RAISED if slot.ready:
                    self._charge(slot, Result.FAILED, content[0])
                case messages.RAISED:
                    self._give_up(slot, NotReady(f"the plugin cannot start: {content[0]}"))
                case messages.NOT_READY:
                    self._give_up(slot, NotReady(content[0]))
                case messages.MISCONFIGURED:
                    self._give_up(slot, Misconfigured(content[0]))
                case messages.NO_MEMORY:
                    limit = self._launch.memory_limit
                    slot.excuse = f"needed more memory than memory_limit ({limit} bytes)"
                case messages.EXIT:
                    slot.excuse = f"the plugin left its process ({content[0]})"

    def _end_silent_workers(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.worker is not None and slot.busy:
                limit = self._limit(slot)
                if now - slot.worker.last_heard >= limit:
                    self._ended(slot, slot.worker, f"no outcome within {limit:g} s")

    def _ended(self, slot: Slot, worker: Worker, reason: str = "") -> None:
        """End a worker that has died or must die, and decide what becomes of its files."""
        slot.worker = None
        printed = worker.last_output()
        how = worker.end()
        reason = reason or slot.excuse or f"the plugin's process was {how}"
        if worker.unkillable:
            reason += f"; process {worker.pid} is {how}"
        slot.excuse = ""
        if printed:
            reason += f"; it said: {printed}"
        if worker.unkillable:
            self._give_up(None, NotReady(reason))
        if self._interrupted:
            self.interrupted += (file.number for file in slot.release())
        elif slot.ready:
            self._charge(slot, Result.UNKNOWN, reason, worker.last_heard)
        elif slot.busy:
            self._give_up(slot, NotReady(f"the plugin cannot start: {reason}"))

    def _give_up(self, slot: Slot | None, error: NotReady | Misconfigured) -> None:
        self._error = self._error or error
        if slot is not None:
            self._take_back(slot)
        self.stop()

    def _take_back(self, slot: Slot) -> None:
        if files := slot.release():
            self._batches.append(files)

    def _charge(
        self, slot: Slot, result: Result, reason: str, started: float | None = None
    ) -> None:
        """Charge the file that caused this, if it is known; offer the others again."""
        files = slot.release()
        if not files:
            return
        if len(files) > 1 and not slot.one_at_a_time:
            size = -(-len(files) // PIECES)
            self._log.info("batch of %d is tried in pieces of %d: %s", len(files), size, reason)
            self._batches += [files[at : at + size] for at in range(0, len(files), size)]
            return
        now = time.monotonic()
        started = now if started is None else started
        self._outcomes.append(
            Outcome(
                files[0].number,
                result,
                reason,
                slot.version,
                started=started,
                seconds=now - started,
            )
        )
        if files[1:]:
            self._batches.append(files[1:])


def ask_plugin(
    launch: Launch, batches: Iterable[OfferedBatch], log: logging.Logger
) -> Iterator[dict[int, bool] | None]:
    """Start a plugin, and ask it batch by batch which files its target holds.

    Parameters
    ----------
    launch : `dbbbatch.targets.worker.Launch`
        The plugin.
    batches : iterable
        The files in question.
    log : `logging.Logger`
        Receives what the plugin prints (debug).

    Yields
    ------
    answer : `dict` [`int`, `bool`] or `None`
        For each file of a batch, by its number, whether the target holds it; `None` if the plugin
        cannot be asked.

    Raises
    ------
    NotReady
        The target is unavailable, or the plugin died or did not answer in time.
    Misconfigured
        The target cannot be used as configured.
    """
    try:
        worker = Worker(launch, log)
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_started(error) from None
    timeout = launch.context.timeout
    try:
        _answer(worker, messages.READY, max(timeout, STARTING))
        for batch in batches:
            worker.send(messages.KNOWN_FILES, pickle.dumps(list(batch)))
            (found,) = _answer(worker, messages.FOUND, timeout)
            yield None if found is None else dict(found)
        worker.send(messages.CLOSE)
    finally:
        worker.end()


def _answer(worker: Worker, expected: str, seconds: float) -> list[Any]:
    poll = select.poll()
    poll.register(worker.connection, select.POLLIN)
    poll.register(worker.output, select.POLLIN)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        poll.poll(int(left * 1000) + 1)
        if worker.output_open and not worker.read_output():
            poll.unregister(worker.output)
        received = worker.receive()
        if received is None:
            raise NotReady(f"the plugin's process ended; it said: {worker.last_output()}")
        for what, *content in received:
            if what == expected:
                return content
            if what == messages.MISCONFIGURED:
                raise Misconfigured(*content)
            raise NotReady(str(*content) or what)
    raise NotReady(f"the plugin gave no answer within {seconds:g} s")


def _not_started(error: Exception) -> NotReady:
    why = getattr(error, "strerror", None) or error
    return NotReady(f"the plugin's process cannot be started: {why}")
