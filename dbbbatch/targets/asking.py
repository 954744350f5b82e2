"""Asking a plugin which files its target holds; in a child process, like all that a plugin does."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dbbbatch.targets import messages as protocol
from dbbbatch.targets.child import pack
from dbbbatch.targets.plugin import Misconfigured, NotReady, StoredFile
from dbbbatch.targets.pool import STARTING
from dbbbatch.targets.worker import Launch, Worker


def held(
    launch: Launch, batches: Iterable[Sequence[StoredFile]], log: logging.Logger
) -> Iterator[dict[int, bool] | None]:
    """Ask, batch by batch.

    Parameters
    ----------
    launch : `dbbbatch.targets.worker.Launch`
        The plugin.
    batches : iterable
        Files to ask about.
    log : `logging.Logger`
        Hears what the plugin prints (debug).

    Yields
    ------
    answer : `dict` [`int`, `bool`] or `None`
        For each file of a batch, by its number, whether the target holds it; `None` if the plugin
        cannot be asked.

    Raises
    ------
    NotReady
        The target is away, or the plugin died or gave no answer in time.
    Misconfigured
        The target cannot be used as configured.
    """
    try:
        worker = Worker(launch, log)
    except OSError as error:
        why = f"the plugin's process cannot be started: {error.strerror}"
        raise NotReady(why) from None
    try:
        _answer(worker, protocol.READY, max(launch.context.timeout, STARTING))
        for batch in batches:
            worker.say(protocol.KNOWN_FILES, [pack(file) for file in batch])
            (found,) = _answer(worker, protocol.FOUND, launch.context.timeout)
            yield None if found is None else dict(found)
        worker.say(protocol.CLOSE)
    finally:
        worker.end()


def _answer(worker: Worker, awaited: str, seconds: float) -> list[Any]:
    poll = select.poll()
    poll.register(worker.connection, select.POLLIN)
    poll.register(worker.output, select.POLLIN)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        poll.poll(int(left * 1000) + 1)
        if worker.talks and not worker.drain():
            poll.unregister(worker.output)
        messages = worker.listen()
        if messages is None:
            raise NotReady(f"the plugin's process ended; it said: {worker.last_words()}")
        for what, *content in messages:
            if what == awaited:
                return content
            if what == protocol.MISCONFIGURED:
                raise Misconfigured(*content)
            raise NotReady(str(*content) or what)
    raise NotReady(f"the plugin gave no answer within {seconds:g} s")
