"""The workers of one pass: files go in as batches, an outcome for each file comes out.

Whatever a plugin does, each file that was offered gets an outcome, and a crash, a hang or an
exception is charged only to the file that caused it. Where that file is not known, the batch is
offered again in pieces until the culprit is alone in one.
"""

from __future__ import annotations

import logging
import pickle
import select
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dbbbatch.files.names import counted
from dbbbatch.targets import messages
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile
from dbbbatch.targets.worker import Launch, Worker

#: Seconds that a plugin has to start, where its time limit is shorter.
STARTING = 60.0

#: A batch that fails as a whole is offered again in so many pieces: enough that few rounds, each of
#: which may cost a time limit and a new child, isolate the culprit.
PIECES = 10

OfferedBatch = Sequence[StoredFile]


class WorkerPool:
    """Up to ``most`` child processes, started when there are files for them.

    Parameters
    ----------
    launch : `dbbbatch.targets.worker.Launch`
        What each becomes.
    most : `int`
        Most processes.
    log : `logging.Logger`
        Receives what plugins print (debug).
    """

    def __init__(self, launch: Launch, most: int, log: logging.Logger) -> None:
        self._launch = launch
        self._most = most
        self._workers: list[Worker] = []
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
        return waiting or known or self._working

    @property
    def _working(self) -> bool:
        return any(worker.busy for worker in self._workers)

    @property
    def free(self) -> bool:
        """Whether another batch would be begun at once."""
        idle = len(self._workers) < self._most or not all(w.busy for w in self._workers)
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
        while not self._outcomes and self._working:
            now = time.monotonic()
            if now >= until:
                break
            limits = (w.last_heard + self._limit(w) for w in self._workers if w.busy)
            self._receive(min(until, *limits) - now)
            self._end_silent_workers()
            self._dispatch()
        if not self._outcomes and not self._working:
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
        for worker in self._workers:
            if worker.busy and worker.ready:
                worker.send(messages.STOP)

    def interrupt(self) -> None:
        """Kill the plugins at once; may be called from a signal handler."""
        self._stopping = self._interrupted = True
        for worker in list(self._workers):
            worker.kill()

    def close(self) -> None:
        """Let the plugins close, and end the workers; no outcome may be missing."""
        for worker in list(self._workers):
            if worker.ready:
                self._workers.remove(worker)
                worker.close()
        self.end()

    def end(self) -> None:
        """Kill all workers at once, whatever they do."""
        while self._workers:
            self._workers.pop().end()

    def _dispatch(self) -> None:
        while self._batches and not self._stopping:
            worker = next((worker for worker in self._workers if not worker.busy), None)
            if worker is not None and not worker.alive:
                # It ended between two batches, so no file is to blame.
                self._workers.remove(worker)
                self._log.info("the plugin's process was %s while idle", worker.end())
                continue
            if worker is None:
                if len(self._workers) == self._most:
                    return
                try:
                    worker = Worker(self._launch, self._log)
                except OSError as error:
                    self._give_up(_not_started(error))
                    return
                self._workers.append(worker)
                if self._interrupted:  # while it was being started
                    worker.kill()
            worker.take(self._batches.popleft())

    def _limit(self, worker: Worker) -> float:
        limit = self._launch.context.timeout
        return limit if worker.ready else max(limit, STARTING)

    def _receive(self, seconds: float) -> None:
        poll = select.poll()
        workers: dict[int, Worker] = {}
        for worker in self._workers:
            workers[worker.connection.fileno()] = worker
            if worker.output_open:
                workers[worker.output] = worker
        for descriptor in workers:
            poll.register(descriptor, select.POLLIN)
        # Rounded up, so that a limit has passed when the wait for it is over.
        for descriptor, _ in poll.poll(max(0, int(seconds * 1000) + 1)):
            worker = workers[descriptor]
            if worker not in self._workers:
                continue  # it has just ended, and its descriptors are closed
            if descriptor == worker.output:
                worker.read_output()
            elif (received := worker.receive()) is None:
                self._ended(worker)
            else:
                for message in received:
                    self._handle(worker, message)

    def _handle(self, worker: Worker, message: tuple[Any, ...]) -> None:
        match message:
            case (messages.OUTCOME, number, result, *more):
                del worker.awaited[number]
                self._outcomes.append(Outcome(number, Result(result), *more))
            case (messages.READY, version, one_at_a_time):
                worker.ready, worker.version, worker.one_at_a_time = True, version, one_at_a_time
                if self._stopping:
                    self._take_back(worker)
                else:
                    worker.begin()
            case (messages.END, True):
                self._take_back(worker)
            case (messages.END, _):
                self._charge(worker, Result.UNKNOWN, "the plugin gave no outcome")
            case (messages.RAISED, why) if worker.ready:
                self._charge(worker, Result.FAILED, why)
            case (messages.RAISED, why):
                self._give_up(NotReady(f"the plugin cannot start: {why}"), worker)
            case (messages.NOT_READY, why):
                self._give_up(NotReady(why), worker)
            case (messages.MISCONFIGURED, why):
                self._give_up(Misconfigured(why), worker)
            case (messages.NO_MEMORY,):
                limit = self._launch.memory_limit
                worker.excuse = f"needed more memory than memory_limit ({counted(limit, 'byte')})"
            case (messages.EXIT, argument):
                worker.excuse = f"the plugin left its process ({argument})"

    def _end_silent_workers(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            limit = self._limit(worker)
            if worker.busy and now - worker.last_heard >= limit:
                self._ended(worker, f"no outcome within {limit:g} s")

    def _ended(self, worker: Worker, reason: str = "") -> None:
        """End a worker that has died or must die, and decide what becomes of its files."""
        self._workers.remove(worker)
        printed = worker.last_output()
        how = worker.end()
        reason = reason or worker.excuse or f"the plugin's process was {how}"
        if worker.unkillable:
            reason += f"; process {worker.pid} is {how}"
        if printed:
            reason += f"; it said: {printed}"
        if worker.unkillable:
            self._give_up(NotReady(reason))
        if self._interrupted:
            self.interrupted += (file.number for file in worker.release())
        elif worker.ready:
            self._charge(worker, Result.UNKNOWN, reason, worker.last_heard)
        elif worker.busy:
            self._give_up(NotReady(f"the plugin cannot start: {reason}"), worker)

    def _give_up(self, error: NotReady | Misconfigured, worker: Worker | None = None) -> None:
        self._error = self._error or error
        if worker is not None:
            self._take_back(worker)
        self.stop()

    def _take_back(self, worker: Worker) -> None:
        if files := worker.release():
            self._batches.append(files)

    def _charge(
        self, worker: Worker, result: Result, reason: str, started: float | None = None
    ) -> None:
        """Charge the file that caused this, if it is known; offer the others again."""
        files = worker.release()
        if not files:
            return
        if len(files) > 1 and not worker.one_at_a_time:
            size = -(-len(files) // PIECES)
            self._log.info("batch of %d is tried in pieces of %d: %s", len(files), size, reason)
            self._batches += [files[at : at + size] for at in range(0, len(files), size)]
            return
        now = time.monotonic()
        started = now if started is None else started
        self._outcomes.append(
            Outcome(
                *(files[0].number, result, reason, worker.version),
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
    except OSError as error:
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
            said = worker.last_output()
            raise NotReady("the plugin's process ended" + (f"; it said: {said}" if said else ""))
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
