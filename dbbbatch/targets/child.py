"""The child process in which a plugin runs; the other side of `dbbbatch.targets.worker`.

It takes its orders from a socket, so a plugin may do with stdin, stdout and stderr what it likes.
A thread waits for the end of the pass on a pipe that only the pass holds open: when the pass is
gone, however it went, the thread ends whatever programs the plugin has started, then the process.
(PR_SET_PDEATHSIG would end the process alone and orphan those programs.) Should a plugin hang in
code that does not let the thread run, faulthandler's watchdog, which needs no interpreter, ends the
process soon after its time limit.
"""

from __future__ import annotations

import faulthandler
import os
import select
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum
from dbbbatch.targets import messages
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile
from dbbbatch.targets.verdict import MISSING

#: Seconds beyond the time limit after which a process that nobody watches ends itself.
CHILD_GRACE = 30.0

_REFUSED_RESULTS = {Result.FAILED, Result.NEVER, Result.PARTLY}


def main(orders: int, lifeline: int) -> None:
    """Serve one pass until it says so or is gone.

    Parameters
    ----------
    orders, lifeline : `int`
        Descriptors of the socket, and of the pipe whose end is the end of the pass.
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
        self._plugin: Plugin | None = None
        self._timeout = 0.0
        self._armed = 0.0
        self._begun = 0.0
        self._stopped = False
        self._orders = select.poll()
        self._orders.register(connection, select.POLLIN)

    def serve(self) -> None:
        while data := self._connection.recv(1 << 20):
            for order, *content in self._frames.feed(data):
                if order == messages.CLOSE:
                    self._guarded(self._close)
                    return
                if order == messages.SETUP:
                    self._guarded(self._set_up, *content)
                elif order == messages.INGEST:
                    self._guarded(self._ingest, *content)
                elif order == messages.KNOWN_FILES:
                    self._guarded(self._known, *content)

    def _say(self, *message: Any) -> None:
        self._connection.sendall(messages.frame(*message))

    def _guarded(self, work: Any, *content: Any) -> None:
        """Do something of the plugin's, whatever it throws."""
        try:
            work(*content)
        except NotReady as error:
            self._say(messages.NOT_READY, str(error))
        except Misconfigured as error:
            self._say(messages.MISCONFIGURED, str(error))
        except MemoryError:
            # What is left of the plugin cannot be trusted.
            self._say(messages.NO_MEMORY)
            os._exit(1)
        except Exception as error:  # noqa: BLE001
            self._say(messages.RAISED, _described(error))
        except BaseException as error:  # noqa: BLE001 (sys.exit, KeyboardInterrupt)
            self._say(messages.EXIT, _described(error))
            os._exit(1)

    def _set_up(self, packed: bytes) -> None:
        import pickle
        import resource

        from dbbbatch.targets import registry

        # Pickled, since TOML has values (dates) that marshal has not; the pass itself sent it.
        name, table, context, memory = pickle.loads(packed)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        self._timeout = context.timeout
        plugin_type = registry.find(name)
        plugin = plugin_type(
            registry.read_settings(plugin_type, table, f"target.{context.target}"), context
        )
        try:
            plugin.start()
        except ImportError as error:
            raise Misconfigured(f"plugin {name!r} cannot start: {_described(error)}") from None
        except MemoryError:
            raise Misconfigured(f"plugin {name!r} needs more than memory_limit to start") from None
        self._plugin = plugin
        self._say(messages.READY, str(plugin.version()), bool(plugin_type.one_at_a_time))

    def _close(self) -> None:
        if self._plugin is not None:
            self._plugin.close()

    def _watch(self) -> None:
        """Wind the watchdog up, but not for every one of thousands of quick files."""
        now = time.monotonic()
        if now - self._armed >= 1.0:
            faulthandler.dump_traceback_later(self._timeout + CHILD_GRACE, exit=True)
            self._armed = now

    def _known(self, files: list[tuple[Any, ...]]) -> None:
        assert self._plugin is not None
        self._watch()
        found = self._plugin.known([_file(packed) for packed in files])
        answer = None if found is None else [(int(number), bool(held)) for number, held in found]
        self._say(messages.FOUND, answer)

    def _ingest(self, packed: list[tuple[Any, ...]]) -> None:
        assert self._plugin is not None
        files = {}
        self._begun = time.monotonic()
        self._stopped = False
        for file in map(_file, packed):
            self._watch()
            wrong = _unreadable(file)
            if wrong is None:
                files[file.number] = file
            else:
                self._tell(file.number, *wrong)
        left = False
        while files:
            if self._stopped:
                left = True  # heard while what is missing was told: nothing was begun
                break
            try:
                with checksum.heeding(self._is_to_stop):
                    self._offer(files)
            except Interrupted:
                left = True
                break
            except (NotReady, Misconfigured, MemoryError):
                raise
            except Exception as error:
                if not self._plugin.one_at_a_time:
                    raise
                self._charge(next(iter(files.values())), error)
                del files[next(iter(files))]
            else:
                break
        faulthandler.cancel_dump_traceback_later()
        self._armed = 0.0
        self._say(messages.END, left or (self._stopped and self._plugin.one_at_a_time))

    def _offer(self, files: dict[int, StoredFile]) -> None:
        """Let the plugin ingest files, and take away those for which it has told the outcome."""
        assert self._plugin is not None
        self._begun = started = time.monotonic()
        for outcome in self._plugin.ingest(list(files.values())):
            _check(outcome, files)
            file = files.pop(outcome.number)
            verdict, message = outcome.result.value, str(outcome.message)
            if outcome.result in _REFUSED_RESULTS and not os.path.lexists(file.path):
                verdict, message = "missing", message or MISSING
            self._tell(
                file.number,
                verdict,
                message,
                version=str(outcome.version),
                parts=[str(part) for part in outcome.parts_done],
                checksums={str(name): str(digits) for name, digits in outcome.checksums.items()},
                since=None if self._plugin.one_at_a_time else started,
            )
            if self._stopped and self._plugin.one_at_a_time:
                return

    def _charge(self, file: StoredFile, error: Exception) -> None:
        if os.path.lexists(file.path):
            self._tell(file.number, "failed", _described(error))
        else:
            self._tell(file.number, "missing", MISSING)

    def _tell(
        self,
        number: int,
        verdict: str,
        message: str,
        version: str = "",
        parts: Sequence[str] = (),
        checksums: Mapping[str, str] | None = None,
        since: float | None = None,
    ) -> None:
        now = time.monotonic()
        begun = self._begun if since is None else since
        message, version = message[: messages.MOST_TEXT], version[: messages.MOST_TEXT]
        self._say(
            messages.OUTCOME, number, verdict, message, version, parts, checksums or {}, begun, now
        )
        self._begun = now
        self._watch()
        self._heed()

    def _is_to_stop(self) -> bool:
        """Return whether reading a file is to end: nothing else is said to us meanwhile."""
        return self._stopped or bool(self._orders.poll(0))

    def _heed(self) -> None:
        """Hear, between two files, whether no further one is to be begun."""
        if not self._orders.poll(0):
            return
        data = self._connection.recv(1 << 16)
        told = [message[0] for message in self._frames.feed(data)]
        self._stopped = self._stopped or not data or messages.STOP in told


def pack(file: StoredFile) -> tuple[Any, ...]:
    """Make plain values of a file, to be sent to a child."""
    return (
        file.number,
        file.path,
        file.relpath,
        file.filename,
        file.size_bytes,
        dict(file.checksums),
        list(file.parts_done),
        file.attempt,
        None if file.added_on is None else file.added_on.isoformat(),
    )


def _file(packed: tuple[Any, ...]) -> StoredFile:
    number, path, relpath, filename, size, checksums, parts, attempt, added = packed
    when = None if added is None else datetime.fromisoformat(added)
    return StoredFile(
        number, path, relpath, filename, size, checksums, frozenset(parts), attempt, when
    )


def _unreadable(file: StoredFile) -> tuple[str, str] | None:
    """Return what is wrong with a file before a plugin is troubled with it."""
    try:
        found = os.stat(file.path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing", MISSING
    except OSError as error:
        return "later", f"cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "altered", "is no regular file"
    if found.st_size != file.size_bytes:
        return "altered", f"has {found.st_size} bytes; {file.size_bytes} were stored"
    if found.st_size == 0:
        return "empty", "is empty"
    return None


def _check(outcome: Any, awaited: Iterable[int]) -> None:
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the plugin yielded {outcome!r}, not an Outcome")
    if outcome.number not in awaited:
        raise ValueError(f"the plugin yielded an outcome for {outcome.number!r}, which awaits none")


def _described(error: BaseException) -> str:
    """One line: the error and what it came from, outermost first."""

    def chain() -> Iterator[str]:
        at: BaseException | None = error
        while at is not None:
            text = " ".join(str(at).split())
            yield f"{type(at).__name__}: {text}" if text else type(at).__name__
            at = at.__cause__

    return "; from ".join(chain())[: messages.MOST_TEXT]
