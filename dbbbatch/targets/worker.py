"""One child process that contains a plugin, as the pass sees it.

Started by `subprocess`, not by `sh`: the child is spoken to over a socket and a pipe of its own for
as long as the pass lasts, and `sh` (which also costs the pass its import of asyncio) talks only
through stdin and stdout, which here belong to the plugin. It is a new interpreter, not a fork, so
no lock, connection or thread of the pass exists in it; all descriptors but those two are closed.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.process import environment
from dbbbatch.targets import messages as protocol
from dbbbatch.targets.plugin import Context

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from dbbbatch.targets.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)

#: Seconds that a plugin gets to close its connections at the end of a pass.
CLOSING = 10.0

#: Set in a child's environment, so that programs which have lost their parent can be told.
_WORKER_MARK = "DBB_WORKER"

#: Pieces of what a child says that are taken at once: it may say more than is ever heard.
_AT_ONCE = 64

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
        Its configuration as TOML gave it; the child reads it anew, so no password travels parsed.
    context : `dbbbatch.targets.plugin.Context`
        Where it finds itself.
    memory_limit : `int`
        Bytes of address space (RLIMIT_AS); 0 for no limit.
    """

    plugin: str
    table: Mapping[str, Any]
    context: Context
    memory_limit: int = 0


class Worker:
    """A child process with a plugin in it.

    Attributes
    ----------
    connection : `socket.socket`
        Where it answers.
    output : `int`
        Descriptor from which to `drain` what the plugin prints.
    heard : `float`
        When it last said something, by `time.monotonic`.
    talks : `bool`
        Whether there is more to `drain`, sooner or later.
    unkillable : `bool`
        It was to be ended and did not.
    """

    def __init__(self, launch: Launch, log: logging.Logger) -> None:
        self._log = log
        self._frames = protocol.Frames()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""
        self.talks = True
        self.unkillable = False
        self._mark = os.urandom(8).hex()
        ours, theirs = socket.socketpair()
        lifeline, self._life = os.pipe()
        self.output, output = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _BOOT,
                    str(theirs.fileno()),
                    str(lifeline),
                    json.dumps(sys.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,
                env=environment.for_children(
                    keep=fields.variables(launch.table), **{_WORKER_MARK: self._mark}
                ),
            )
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(output)
        os.set_blocking(self.output, False)
        self.connection = ours
        self.heard = time.monotonic()
        setup = (launch.plugin, dict(launch.table), launch.context, launch.memory_limit)
        self.say(protocol.SETUP, pickle.dumps(setup))

    @property
    def pid(self) -> int:
        """Process id of the child, which also leads a session of its own."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs; asked without waiting for it, so its number stays its own."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def say(self, *message: Any) -> None:
        """Send a message; a child that is gone is noticed when its answer is awaited."""
        self.heard = time.monotonic()
        self.connection.settimeout(CLOSING)
        try:
            self.connection.sendall(protocol.frame(*message))
        except OSError as error:
            self._log.debug("plugin process %d took no more orders: %s", self.pid, error)
        self.connection.setblocking(False)

    def listen(self) -> list[tuple[Any, ...]] | None:
        """Take what the child has said by now; `None` once it is gone and all is heard."""
        messages: list[tuple[Any, ...]] = []
        for _ in range(_AT_ONCE):
            try:
                data = self.connection.recv(1 << 18)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                data = b""
            if not data:
                return messages or None
            try:
                said = self._frames.feed(data)
            except (protocol.TooLong, ValueError, EOFError, TypeError):
                self._log.warning("plugin process %d says what is no message of ours", self.pid)
                return None
            if said:
                # A part of a message does not put off the time limit for the whole.
                self.heard = time.monotonic()
                messages += said
        return messages

    def drain(self) -> bool:
        """Log what the plugin has printed and keep the last lines; False at the end of it."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return True
        self.talks = bool(data)
        if data:
            *lines, rest = (self._partial + data).split(b"\n")
            self._partial = rest[-4096:]
            for line in lines:
                text = line.decode(errors="backslashreplace").strip()
                if text:
                    self._lines.append(text)
                    self._log.debug("plugin: %s", text)
        return self.talks

    def last_words(self) -> str:
        """Return the last lines that the plugin printed, as one, shortened."""
        for _ in range(64):
            if not self.drain():
                break
        text = " | ".join([*self._lines, self._partial.decode(errors="backslashreplace")])
        text = text.strip(" |")
        return text if len(text) <= _KEPT_CHARACTERS else "…" + text[-_KEPT_CHARACTERS:]

    def kill(self) -> None:
        """Kill the child alone, at once; `end` is still to be called."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill the child and everything that it has started; say how the child itself had ended."""
        import psutil

        started = _started_by(self.pid, self._mark)
        # Not yet waited for, so its number cannot have become another process's.
        self.kill()
        for process in {*started, *_started_by(self.pid, self._mark)}:
            try:
                process.kill()
            except psutil.Error:
                continue
        self._release()
        try:
            code = self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self.unkillable = True
            return "not to be killed: it waits for a disk, or for a server that does not answer"
        if code < 0:
            return f"killed by {signal.strsignal(-code) or 'signal'} ({_signal_name(-code)})"
        return f"ended with exit code {code}"

    def close(self) -> None:
        """Ask the plugin to close, and wait a little before the child is ended."""
        self.say(protocol.CLOSE)
        deadline = time.monotonic() + CLOSING
        try:
            while True:
                self.connection.settimeout(max(0.001, deadline - time.monotonic()))
                if not self.connection.recv(1 << 16):
                    break
                if time.monotonic() >= deadline:
                    raise TimeoutError
                self.drain()
            self._process.wait(max(0.001, deadline - time.monotonic()))
        except (OSError, subprocess.TimeoutExpired):
            self._log.warning("the plugin did not close within %.0f s", CLOSING)
            self.end()
        else:
            self._release()

    def _release(self) -> None:
        self.connection.close()
        for descriptor in (self._life, self.output):
            os.close(descriptor)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started_by(pid: int, mark: str) -> list[Any]:
    """Find what a worker has started: its descendants, and orphans by the inherited mark."""
    import psutil

    found = []
    with suppress(psutil.NoSuchProcess):
        found += psutil.Process(pid).children(recursive=True)
    for process in psutil.process_iter():
        try:
            if process.pid != pid and process.environ().get(_WORKER_MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found
