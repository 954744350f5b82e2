"""The child process in which a plugin runs: the other end of `dbbbatch.targets.worker`.

It takes its orders from a socket, so a plugin may use stdin, stdout and stderr as it likes. A
thread waits for the end of the pass on a pipe that only the pass holds open. When the pass has
ended, in whatever way, the thread kills the programs that the plugin started, then the process.
(PR_SET_PDEATHSIG would end the process alone and orphan those programs.) If a plugin hangs in code
that does not let the thread run, faulthandler's watchdog, which needs no interpreter, ends the
process soon after its time limit.
"""

from __future__ import annotations

import faulthandler
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, names
from dbbbatch.targets import failures, messages
from dbbbatch.targets.plugin import (
    MISSING,
    PLUGIN_RESULTS,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)

#: Seconds beyond the time limit after which a process that nobody watches ends itself.
CHILD_GRACE = 30.0

_REFUSALS = frozenset({Result.FAILED, Result.NEVER, Result.PARTLY})


def main(orders: int, lifeline: int) -> None:
    """Serve one pass until it sends `messages.CLOSE` or has ended.

    Parameters
    ----------
    orders, lifeline : `int`
        Descriptors of the socket, and of the pipe that ends with the pass.
    """
    os.set_inheritable(orders, False)
    os.set_inheritable(lifeline, False)
    faulthandler.enable()
    _end_with_parent(lifeline)
    with socket.socket(fileno=orders) as connection:
        _Child(connection).serve()


def _end_with_parent(lifeline: int) -> None:
    import threading

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        import psutil

        for process in psutil.Process().children(recursive=True):
            try:
                process.kill()
            except psutil.Error:
                continue
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


class _Child:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = messages.Frames()
        self._plugin: Plugin
        self._version = ""
        self._timeout = 0.0
        self._watched_since = 0.0
        self._started = 0.0
        self._stopped = False
        self._orders = select.poll()
        self._orders.register(connection, select.POLLIN)

    def serve(self) -> None:
        orders: dict[str, Callable[..., None]] = {
            messages.SETUP: self._set_up,
            messages.INGEST: self._ingest,
            messages.KNOWN_FILES: self._known,
            messages.CLOSE: lambda: self._plugin.close(),
        }
        while data := self._connection.recv(1 << 20):
            for order, *content in self._frames.feed(data):
                if order in orders:
                    self._guarded(orders[order], *content)
                if order == messages.CLOSE:
                    return

    def _send(self, *message: Any) -> None:
        self._connection.sendall(messages.frame(*message))

    def _guarded(self, work: Callable[..., None], *content: Any) -> None:
        """Call code of the plugin, and report whatever it raises."""
        try:
            work(*content)
        except NotReady as error:
            self._send(messages.NOT_READY, str(error))
        except Misconfigured as error:
            self._send(messages.MISCONFIGURED, str(error))
        except MemoryError:
            # The state of the plugin can no longer be trusted.
            self._send(messages.NO_MEMORY)
            os._exit(1)
        except Exception as error:  # noqa: BLE001 (a plugin may raise anything)
            self._send(messages.RAISED, _described(error))
        except BaseException as error:  # noqa: BLE001 (sys.exit, KeyboardInterrupt)
            self._send(messages.EXIT, _described(error))
            os._exit(1)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._watched_since = 0.0

    def _set_up(self, pickled: bytes) -> None:
        import pickle
        import resource

        from dbbbatch.targets import registry

        launch = pickle.loads(pickled)
        name, context, memory = launch.plugin, launch.context, launch.memory_limit
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        self._timeout = context.timeout
        plugin_type = registry.find(name)
        settings = registry.read_settings(plugin_type, launch.table, f"target.{context.target}")
        plugin = plugin_type(settings, context)
        try:
            plugin.start()
        except ImportError as error:
            raise Misconfigured(f"plugin {name!r} cannot start: {_described(error)}") from None
        except MemoryError:
            raise Misconfigured(f"plugin {name!r} needs more than memory_limit to start") from None
        self._plugin = plugin
        self._version = str(plugin.version())
        self._send(messages.READY, self._version, bool(plugin.one_at_a_time))

    def _known(self, pickled: bytes) -> None:
        import pickle

        self._watch()
        self._plugin.look_anew()
        found = self._plugin.known(pickle.loads(pickled))
        answer = None if found is None else [(int(number), bool(held)) for number, held in found]
        self._send(messages.FOUND, answer)

    def _ingest(self, pickled: bytes) -> None:
        import pickle

        self._started = time.monotonic()
        self._stopped = False
        self._plugin.look_anew()
        waiting: dict[int, StoredFile] = {}
        for file in pickle.loads(pickled):
            self._watch()
            if refused := _unfit(file, self._plugin):
                self._report(refused)
            else:
                waiting[file.number] = file
        left = self._offer(waiting)
        self._send(messages.END, left or (self._stopped and self._plugin.one_at_a_time))

    def _offer(self, waiting: dict[int, StoredFile]) -> bool:
        """Let the plugin ingest files; return whether STOP came before one or while it was read."""
        while waiting:
            if self._stopped:
                return True
            try:
                with checksum.heeding(self._must_stop_reading):
                    self._collect(waiting)
                return False
            except Interrupted:
                return True
            except (NotReady, Misconfigured, MemoryError):
                raise
            except Exception as error:
                if not self._plugin.one_at_a_time:
                    raise
                file = waiting.pop(next(iter(waiting)))
                failed = Outcome(file.number, Result.FAILED, _described(error))
                self._report(_or_missing(failed, file, self._plugin))
        return False

    def _collect(self, waiting: dict[int, StoredFile]) -> None:
        """Report the outcomes that the plugin yields, and remove their files from `waiting`."""
        self._started = started = time.monotonic()
        for outcome in self._plugin.ingest(list(waiting.values())):
            _check(outcome, waiting)
            outcome = _or_missing(outcome, waiting.pop(outcome.number), self._plugin)
            self._report(outcome, None if self._plugin.one_at_a_time else started)
            if self._stopped and self._plugin.one_at_a_time:
                return

    def _report(self, outcome: Outcome, started: float | None = None) -> None:
        now = time.monotonic()
        started = self._started if started is None else started
        self._send(
            messages.OUTCOME,
            outcome.number,
            outcome.result.value,
            str(outcome.message)[: messages.LONGEST_TEXT],
            (str(outcome.version) or self._version)[: messages.LONGEST_TEXT],
            frozenset(map(str, outcome.parts_done)),
            {str(name): str(digits) for name, digits in outcome.checksums.items()},
            started,
            now - started,
        )
        self._started = now
        self._watch()
        self._look_for_stop()

    def _watch(self) -> None:
        """Restart the watchdog, but not for every one of thousands of quick files."""
        now = time.monotonic()
        if now - self._watched_since >= 1.0:
            faulthandler.dump_traceback_later(self._timeout + CHILD_GRACE, exit=True)
            self._watched_since = now

    def _must_stop_reading(self) -> bool:
        # Nothing but STOP is sent meanwhile.
        return self._stopped or bool(self._orders.poll(0))

    def _look_for_stop(self) -> None:
        if self._orders.poll(0):
            data = self._connection.recv(1 << 16)
            received = [message[0] for message in self._frames.feed(data)]
            self._stopped = self._stopped or not data or messages.STOP in received


def _unfit(file: StoredFile, plugin: Plugin) -> Outcome | None:
    """Return the outcome of a file that is not even offered."""
    try:
        found = plugin.stored(file).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Outcome(file.number, Result.MISSING, MISSING)
    except OSError as error:
        failures.require_storage(file, error)
        return Outcome(file.number, Result.FAILED, f"cannot be looked at: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return Outcome(file.number, Result.ALTERED, "is no regular file")
    if found.st_size != file.size_bytes:
        sizes = f"has {names.counted(found.st_size, 'byte')}; {file.size_bytes:,} were stored"
        return Outcome(file.number, Result.ALTERED, sizes)
    if found.st_size == 0:
        return Outcome(file.number, Result.EMPTY, "is empty")
    return None


def _or_missing(outcome: Outcome, file: StoredFile, plugin: Plugin) -> Outcome:
    """Return an outcome, or that the file is missing if that is why it failed."""
    if outcome.result not in _REFUSALS or not _is_missing(file, plugin):
        return outcome
    message = f"{MISSING}: {outcome.message}" if outcome.message else MISSING
    return replace(outcome, result=Result.MISSING, message=message)


def _is_missing(file: StoredFile, plugin: Plugin) -> bool:
    plugin.look_anew()
    try:
        return plugin.stored(file).status() is None
    except NotReady:
        return True
    except OSError:
        return False  # that is not known


def _check(outcome: Any, waiting: Collection[int]) -> None:
    if not isinstance(outcome, Outcome) or outcome.result not in PLUGIN_RESULTS:
        raise TypeError(f"the plugin yielded {outcome!r}, which is no outcome of a plugin")
    if outcome.number not in waiting:
        raise ValueError(
            f"the plugin yielded an outcome for {outcome.number!r}, which has none left"
        )


def _described(error: BaseException) -> str:
    """Return one line: the error and those that it came from, outermost first."""
    texts = ((type(one).__name__, " ".join(str(one).split())) for one in failures.chain(error))
    lines = (f"{name}: {text}" if text else name for name, text in texts)
    return "; from ".join(lines)[: messages.LONGEST_TEXT]
