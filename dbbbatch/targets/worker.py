"""One child process that contains a plugin, as the pass sees it.

The child is a new interpreter, not a fork, so no lock, connection or thread of the pass exists in
it. The pass talks to it over a socket, since stdin and stdout belong to the plugin, and the child
notices by a pipe when the pass has ended.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.sections import Site, Target
from dbbbatch.process import environment, run
from dbbbatch.targets import messages
from dbbbatch.targets.plugin import Context, StoredFile

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from dbbbatch.targets.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)

#: Seconds that a plugin has to close its connections at the end of a pass.
CLOSING = 10.0

#: Set in the environment of a child, and so in that of programs which have lost their parent.
_WORKER_MARK = "DBB_WORKER"

#: Most reads from a child in a row: it may write faster than it is read.
_MOST_READS = 64

_KEPT_LINES = 12
_KEPT_CHARACTERS = 600


@dataclass(frozen=True)
class Launch:
    """What a child needs to become a worker.

    Attributes
    ----------
    plugin : `str`
        The plugin's name.
    table : mapping
        Its configuration as in the TOML file. The child reads it again, so no parsed password is
        sent.
    context : `dbbbatch.targets.plugin.Context`
        Its surroundings.
    memory_limit : `int`
        Bytes of address space (RLIMIT_AS); 0 for no limit.
    """

    plugin: str
    table: Mapping[str, Any]
    context: Context
    memory_limit: int = 0

    @classmethod
    def of(cls, section: Target, site: Site) -> Launch:
        """Return the launch of a target's plugin."""
        context = Context(
            target=section.name,
            site=site.name,
            storage=section.storage,
            state=site.state,
            timeout=section.timeout,
        )
        return cls(section.plugin, section.config, context, section.memory_limit)


class Worker:
    """A child process with a plugin in it.

    Attributes
    ----------
    connection : `socket.socket`
        Receives its messages.
    output : `int`
        Descriptor from which `read_output` reads what the plugin prints.
    output_open : `bool`
        Whether there may be more to read from `output`.
    last_heard : `float`
        When a message was last sent or received (`time.monotonic`).
    ready : `bool`
        Whether the plugin has started; its ``version`` and ``one_at_a_time`` are known then.
    busy : `bool`
        Whether it has a batch and has not reported the end of it.
    awaited : `dict` [`int`, `StoredFile`]
        The files of the batch that have no outcome yet, by number.
    excuse : `str`
        What the child said about why it would end.
    unkillable : `bool`
        Whether it did not end although it was killed.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self, launch: Launch, log: logging.Logger) -> None:
        self._log = log
        self._frames = messages.Frames()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial_line = b""
        self.output_open = True
        self.unkillable = False
        self.ready = False
        self.version = ""
        self.one_at_a_time = False
        self.busy = False
        self.awaited: dict[int, StoredFile] = {}
        self.excuse = ""
        self._mark = os.urandom(8).hex()
        variables = environment.for_children(
            keep=fields.variables(launch.table), **{_WORKER_MARK: self._mark}
        )
        self.connection, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self.output, output = os.pipe()
        descriptors = (theirs.fileno(), lifeline)
        try:
            self._process = run.ChildProcess(
                [sys.executable, "-c", _BOOT, *map(str, descriptors), json.dumps(sys.path)],
                output=output,
                descriptors=descriptors,
                env=variables,
            )
        except BaseException:
            self._release()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(output)
        os.set_blocking(self.output, False)
        self.last_heard = time.monotonic()
        self.send(messages.SETUP, pickle.dumps(launch))

    @property
    def pid(self) -> int:
        """Process id of the child, which also leads a session of its own."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs. It is not waited for, so its number stays its own."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def take(self, files: Sequence[StoredFile]) -> None:
        """Take a batch; it is sent to the plugin as soon as that has started."""
        self.busy = True
        self.awaited = {file.number: file for file in files}
        if self.ready:
            self.begin()

    def begin(self) -> None:
        """Send the batch to the plugin."""
        self.send(messages.INGEST, pickle.dumps(list(self.awaited.values())))

    def release(self) -> list[StoredFile]:
        """End the batch, and return its files without an outcome."""
        self.busy = False
        files, self.awaited = list(self.awaited.values()), {}
        return files

    def send(self, *message: Any) -> None:
        """Send a message; a child that has ended is noticed when its answer is received."""
        self.last_heard = time.monotonic()
        self.connection.settimeout(CLOSING)
        try:
            self.connection.sendall(messages.frame(*message))
        except OSError as error:
            self._log.debug("plugin process %d takes no more messages: %s", self.pid, error)
        self.connection.setblocking(False)

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Return the messages that have arrived; `None` if the child has ended and all are read."""
        received: list[tuple[Any, ...]] = []
        for _ in range(_MOST_READS):
            try:
                data = self.connection.recv(1 << 18)
            except BlockingIOError:
                return received
            except ConnectionResetError:
                data = b""
            if not data:
                return received or None
            try:
                complete = self._frames.feed(data)
            except (messages.TooLong, ValueError, EOFError, TypeError):
                self._log.warning("plugin process %d sends what is no message of ours", self.pid)
                return None
            if complete:
                # A part of a message does not extend the time limit for the whole.
                self.last_heard = time.monotonic()
                received += complete
        return received

    def read_output(self) -> bool:
        """Log what the plugin has printed and keep the last lines; return `output_open`."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return True
        self.output_open = bool(data)
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        self._partial_line = self._partial_line[-4096:]
        for line in lines:
            if text := line.decode(errors="backslashreplace").strip():
                self._lines.append(text)
                self._log.debug("plugin: %s", text)
        return self.output_open

    def last_output(self) -> str:
        """Return the last lines that the plugin printed, as one line, shortened."""
        for _ in range(_MOST_READS):
            if not self.read_output():
                break
        text = " | ".join([*self._lines, self._partial_line.decode(errors="backslashreplace")])
        text = text.strip(" |")
        return text if len(text) <= _KEPT_CHARACTERS else "…" + text[-_KEPT_CHARACTERS:]

    def kill(self) -> None:
        """Kill the child alone, at once; `end` must still be called."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill the child and everything that it started; return how the child itself had ended."""
        import psutil

        started = _started_by(self.pid, self._mark)
        # Not yet waited for, so its number cannot have become another process's.
        self.kill()
        for process in {*started, *_started_by(self.pid, self._mark)}:
            with suppress(psutil.Error):
                process.kill()
        self._release()
        try:
            code = self._process.wait(CLOSING)
        except TimeoutError:
            self.unkillable = True
            return "not to be killed: it waits for a disk, or for a server that does not answer"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {signal.strsignal(-code) or 'signal'} ({name})"

    def close(self) -> None:
        """Let the plugin close, and wait a little before the child is killed."""
        self.send(messages.CLOSE)
        deadline = time.monotonic() + CLOSING
        try:
            while True:
                self.connection.settimeout(max(0.001, deadline - time.monotonic()))
                if not self.connection.recv(1 << 16):
                    break
                if time.monotonic() >= deadline:
                    raise TimeoutError
                self.read_output()
            self._process.wait(max(0.001, deadline - time.monotonic()))
        except OSError:
            self._log.warning("the plugin did not close within %.0f s", CLOSING)
            self.end()
        else:
            self._release()

    def _release(self) -> None:
        self.connection.close()
        for descriptor in (self._lifeline, self.output):
            os.close(descriptor)


def _started_by(pid: int, mark: str) -> list[Any]:
    """Return what a worker has started: its descendants, and orphans by the inherited mark."""
    import psutil

    found = []
    with suppress(psutil.NoSuchProcess):
        found += psutil.Process(pid).children(recursive=True)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != pid and process.environ().get(_WORKER_MARK) == mark:
                found.append(process)
    return found
