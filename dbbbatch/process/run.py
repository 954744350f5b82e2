"""The only module that starts programs: exact bytes, no terminal, a session of their own.

Programs are started by `sh` with pipes of ours, so that we read and write exactly the bytes that
they write and read. They have no terminal, inherit no descriptor (a lock least of all) and lead a
session of their own. We end them together with all their descendants, first by SIGTERM, then by
SIGKILL. One that outlives that (it has other rights, or waits for a dead disk) is left behind.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dbbbatch.errors import DbbError, TryLater
from dbbbatch.files import faults
from dbbbatch.process import environment, family
from dbbbatch.process.pipes import Descriptor, Ends, poll, watch

#: Bytes kept of each output stream: the last ones, in which a program says why it failed.
KEPT = 1 << 20

#: Seconds between SIGTERM and SIGKILL, and for which a program that was killed is waited for.
GRACE = 2.0

#: Seconds within which a new process must have become the program; it is ended before twice that.
_LONGEST_START = 30.0

#: Seconds for which the output of a program that has ended is still read, where a child of it (an
#: ssh master connection) keeps it open.
_LINGERING = 0.5

_READ_SIZE = 1 << 16

#: Most reads of what a program left in its pipes when it had ended: more than a pipe holds. Whoever
#: still writes is not the program.
_MOST_LEFT = 32

_live: weakref.WeakSet[Process] = weakref.WeakSet()

#: How often `end_all` was called: what was being started at that moment must end too.
_ended_all = 0

#: Errors of a program that this user can never run as it is.
_NO_TOOL = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOEXEC,
        errno.E2BIG,
        errno.EINVAL,
    }
)


class ToolMissing(DbbError):
    """A program of the configuration does not exist, or cannot be started."""

    exit_code = 78


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Attributes
    ----------
    exit_code : `int` or `None`
        None if a signal ended it.
    signal : `int` or `None`
    stdout, stderr : `bytes`
        The last `KEPT` bytes of each.
    timed_out : `bool`
        We ended it, at the time limit.
    seconds : `float`
        How long it ran.
    survivor : `int` or `None`
        Its process number if it could not be ended: it goes on running.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool
    seconds: float
    survivor: int | None = None

    def summary(self) -> str:
        """Return how it ended and the end of its stderr, or else stdout, as one line."""
        if self.survivor is not None:
            after = f"after {self.seconds:.0f} s"
            how = f"process {self.survivor} could not be ended {after}: it goes on running"
        elif self.timed_out:
            how = f"ended at its time limit, after {self.seconds:.0f} s"
        elif self.signal is not None:
            how = f"ended by signal {self.signal}"
        else:
            how = f"exit code {self.exit_code}"
        last = last_lines(self.stderr) or last_lines(self.stdout)
        return f"{how}: {last}" if last else how


def last_lines(output: bytes, most: int = 300) -> str:
    """Return the last lines of a program's output as one printable line of `most` characters.

    Only a single line that is longer than that loses its begin.
    """
    text = output.decode("utf-8", "backslashreplace")
    parts = ["".join(c if c.isprintable() else " " for c in part) for part in text.splitlines()]
    parts = [part for part in map(str.strip, parts) if part]
    line = parts.pop() if parts else ""
    while parts and len(longer := f"{parts.pop()} | {line}") <= most:
        line = longer
    return line if len(line) <= most else "…" + line[1 - most :]


class Process:
    """A running program, which is ended at the end of its ``with`` block.

    No method waits for long after it was killed, whether it has ended or not.

    Only one thread reads and writes; `end` may be called by any, and by a signal handler.

    Parameters
    ----------
    argv : `~collections.abc.Sequence` [ `bytes` ]
        The program (searched on PATH) and its arguments, passed on as they are.
    cwd : `str`, optional
        Directory to start it in.
    env : `~collections.abc.Mapping` [ `str`, `str` ], optional
        The whole environment; by default `environment.for_children`.

    Raises
    ------
    ToolMissing
        There is no such program, or it can never be started.
    TryLater
        It cannot be started now.
    """

    def __init__(
        self,
        argv: Sequence[bytes],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._began = time.monotonic()
        ended_all = _ended_all
        with faults.as_try_later(os.fsdecode(argv[0])):
            self._ends = Ends()
            try:
                self._command = _start(argv, self._ends, cwd, env)
            except BaseException:
                self._ends.close()
                raise
            finally:
                self._ends.close_theirs()
        self.pid: int = self._command.process.pid
        self._watch = watch(self.pid)
        self._output = {self._ends.output: bytearray(), self._ends.error: bytearray()}
        self._open = set(self._output)
        self._gone_since = 0.0
        self._give_up_at = math.inf
        self._ended: Finished | None = None
        _live.add(self)
        if ended_all != _ended_all:
            self.end()

    def __enter__(self) -> Process:
        """Return the program."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the program if it runs."""
        if self._ended is None:
            self.end()
            self.finish(time.monotonic() + GRACE)

    @property
    def reads(self) -> bool:
        """Whether it may still read what is written to it: it did not close its stdin."""
        return self._ends.input >= 0

    def widen(self) -> None:
        """Prepare for much data: the program is waited for less often while it is written."""
        self._ends.widen()

    def write(self, data: bytes | memoryview | Iterable[bytes], deadline: float) -> None:
        """Write all of `data` to the program's stdin, reading what it writes meanwhile.

        A program that no longer reads is no error here.

        Raises
        ------
        TimeoutError
            The program does not read until `deadline`, a time of `time.monotonic`.
        """
        for piece in [data] if isinstance(data, bytes | memoryview) else data:
            rest = memoryview(piece)
            while rest and self._ends.input >= 0:
                self._wait(deadline, writing=True)
                try:
                    rest = rest[os.write(self._ends.input, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    self._ends.close_input()

    def close_input(self) -> None:
        """Close the program's stdin."""
        self._ends.close_input()

    def read(self, deadline: float) -> bytes:
        """Return what the program wrote to stdout since the last time, waiting for some.

        Returns
        -------
        data : `bytes`
            Empty at the end of its output.

        Raises
        ------
        TimeoutError
            It is past `deadline`, a time of `time.monotonic`, even if there is output: calling
            this until an answer is whole ends then, however much comes.
        """
        if time.monotonic() >= deadline:
            raise TimeoutError
        output = self._output[self._ends.output]
        while not output and self._ends.output in self._open:
            self._wait(deadline)
        data = bytes(output)
        output.clear()
        return data

    @property
    def stderr(self) -> bytes:
        """What the program wrote to stderr so far (the last `KEPT` bytes)."""
        return bytes(self._output[self._ends.error])

    def finish(self, deadline: float, keep: int = KEPT) -> Finished:
        """Close the program's stdin, read the rest of its output, and wait until it has ended.

        At `deadline`, a time of `time.monotonic`, it is ended. If it cannot be, it is not waited
        for.
        """
        if self._ended is not None:
            return self._ended
        self._ends.close_input()
        timed_out, gone = False, True
        try:
            while self._open:
                self._wait(deadline, keep=keep)
            self._await_end(deadline)
        except TimeoutError:
            timed_out = True
            gone = self._end_gently()
        code = self._command.process.wait() if gone else None
        self._drain(keep)
        output, error = (bytes(self._output[fd]) for fd in (self._ends.output, self._ends.error))
        self._ends.close()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1
        _live.discard(self)
        self._ended = Finished(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stdout=output,
            stderr=error,
            timed_out=timed_out,
            seconds=time.monotonic() - self._began,
            survivor=None if gone else self.pid,
        )
        return self._ended

    def end(self, how: int = signal.SIGKILL) -> None:
        """Send a signal (kill, by default) to the program, its session and its descendants."""
        family.end(self._family(), how)
        if how == signal.SIGKILL:
            self._give_up_at = min(self._give_up_at, time.monotonic() + GRACE)

    def _family(self) -> list[int]:
        running = self._ended is None and self._command.process.exit_code is None
        return family.members(self.pid, running=running)

    def _end_gently(self) -> bool:
        """Send SIGTERM, so that the program can tidy up at both ends; then SIGKILL.

        Returns
        -------
        gone : `bool`
            It has ended.
        """
        before = self._family()
        self.end(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            self._await_end(time.monotonic() + GRACE)
        self._give_up_at = math.inf
        self.end()
        # Also those that have just lost their parent.
        family.end([pid for pid in before if family.descends(pid, before)])
        try:
            self._await_end(math.inf)
        except TimeoutError:
            return False
        return True

    def _is_over(self, deadline: float) -> bool:
        return time.monotonic() >= min(deadline, self._give_up_at)

    def _await_end(self, deadline: float) -> None:
        while self._alive():
            if self._is_over(deadline):
                raise TimeoutError
            watched = {self._watch: select.POLLIN} if self._watch >= 0 else {}
            poll(watched, deadline, short=None if watched else 0.05)

    def _alive(self) -> bool:
        if self._watch >= 0:
            return not poll({self._watch: select.POLLIN}, 0)
        return bool(self._command.process.is_alive()[0])

    def _wait(self, deadline: float, *, writing: bool = False, keep: int = 0) -> None:
        """Wait until the program reads (if `writing`), writes or ends; take what it wrote.

        Raises
        ------
        TimeoutError
            It is past `deadline`, even if the program goes on writing, or it was killed before.
        """
        if not writing and not self._alive():
            # Whoever still holds the pipes open, silent or not, is not the program.
            self._gone_since = self._gone_since or time.monotonic()
            until = min(deadline, self._gone_since + _LINGERING)
            if not self._take(poll(self._readable(keep), until), keep) or time.monotonic() >= until:
                self._drain(keep)
                self._open.clear()
            return
        wanted = self._readable(keep)
        if writing:
            wanted[self._ends.input] = select.POLLOUT
        elif self._watch >= 0:
            wanted[self._watch] = select.POLLIN
        ready = poll(wanted, deadline, short=0.05 if self._watch < 0 else None)
        self._take(ready, keep)
        if self._is_over(deadline):
            raise TimeoutError

    def _readable(self, keep: int) -> dict[int, int]:
        """Return the pipes to read: not stdout while `KEPT` bytes of it wait for `read`."""
        wanted = dict.fromkeys(self._open, select.POLLIN)
        if not keep and len(self._output[self._ends.output]) >= KEPT:
            wanted.pop(self._ends.output, None)
        return wanted

    def _drain(self, keep: int) -> None:
        """Take what is left in the pipes of a program that has ended."""
        for _ in range(_MOST_LEFT):
            ready = poll(dict.fromkeys(self._open, select.POLLIN), 0)
            if not self._open or not self._take(ready, keep):
                return

    def _take(self, ready: Iterable[int], keep: int) -> bool:
        took = False
        for fd in self._open.intersection(ready):
            data = os.read(fd, _READ_SIZE)
            took = True
            if data:
                self._output[fd] += data
                most = keep or (KEPT if fd == self._ends.error else 0)
                if most and len(self._output[fd]) > 2 * most:
                    del self._output[fd][:-most]
            else:
                self._open.discard(fd)
        return took


def run(
    argv: Sequence[bytes],
    *,
    timeout: float,
    stdin: bytes | Iterable[bytes] | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    keep: int = KEPT,
) -> Finished:
    """Run a program to its end, or to its time limit.

    Parameters
    ----------
    argv, cwd, env
        As for `Process`, which may also raise.
    timeout : `float`
        Seconds after which the program and all that it started are ended.
    stdin : `bytes` or `~collections.abc.Iterable` [ `bytes` ], optional
        What it reads; nothing by default.
    keep : `int`
        Bytes kept of each output stream, at most twice that.
    """
    deadline = time.monotonic() + timeout
    with Process(argv, cwd=cwd, env=env) as process:
        with contextlib.suppress(TimeoutError):  # `finish` then ends it
            process.write(stdin or b"", deadline)
        return process.finish(deadline, keep)


class ChildProcess:
    """A program that inherits some descriptors, and no others, in a session of its own.

    Not started by `sh`, which connects programs by stdin, stdout and stderr only, and imports
    asyncio.

    Parameters
    ----------
    argv : `~collections.abc.Sequence` [ `str` ]
        The program and its arguments.
    output : `int`
        Descriptor that becomes its stdout and stderr.
    descriptors : `~collections.abc.Sequence` [ `int` ]
        Those that it inherits under their numbers.
    env : `~collections.abc.Mapping` [ `str`, `str` ]
        The whole environment.

    Raises
    ------
    OSError
        It cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        output: int,
        descriptors: Sequence[int],
        env: Mapping[str, str],
    ) -> None:
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=descriptors,
                start_new_session=True,
                env=env,
            )
        except subprocess.SubprocessError as error:
            raise OSError(errno.EAGAIN, str(error)) from None
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int:
        """Return the exit code, or the negative signal; raise `TimeoutError` if it still runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None


def end_all() -> None:
    """Kill all running programs, and what is about to be one.

    A second signal does not wait for a transfer, and nothing may outlive a pass with its lock.
    """
    global _ended_all
    _ended_all += 1
    for process in list(_live):
        process.end()
    family.end_copies(0)


def fork() -> int:
    """Return the number of a copy of this process, and 0 in the copy.

    It has a process group of its own: a key of the terminal interrupts only who made it.

    Raises
    ------
    TryLater
        The machine cannot make a process now.
    """
    try:
        number = os.fork()
    except OSError as error:
        raise TryLater(
            f"cannot make a process now: {error.strerror}; see what uses the processes and the "
            "memory of this machine"
        ) from None
    if not number:
        os.setpgid(0, 0)
    return number


def become(argv: list[str]) -> NoReturn:
    """Become another program, which keeps the standard streams of this process and nothing else.

    Raises
    ------
    ToolMissing
        There is no such program, or it cannot be started.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, which is inherited
    try:
        os.execvpe(argv[0], argv, environment.for_children())
    except OSError as error:
        raise ToolMissing(f"cannot run {argv[0]!r}: {error.strerror}") from None


@contextlib.contextmanager
def _limited_start() -> Iterator[None]:
    """End a new process that does not become the program in time: `sh` waits without a limit.

    Until then it is a copy of this process with one thread, which has all our descriptors, those of
    locks too. It may wait for ever for what another thread had locked when it was made.
    """
    started = threading.Event()

    def end_those_that_hang() -> None:
        # More than once: the process is made a little after the wait for it began.
        while not started.wait(_LONGEST_START):
            family.end_copies(_LONGEST_START)

    threading.Thread(target=end_those_that_hang, daemon=True).start()
    try:
        yield
    finally:
        started.set()


def _start(
    argv: Sequence[bytes], ends: Ends, cwd: str | None, env: Mapping[str, str] | None
) -> Any:
    """Start a program by `sh`, which encodes each argument as latin-1: byte for byte."""
    import logging

    import sh

    logging.getLogger("sh").setLevel(logging.CRITICAL)  # it logs command lines, secrets and all
    program = os.fsdecode(argv[0])
    try:
        if not program.isascii():
            raise ToolMissing(f"cannot run {program!r}: the path of a program must be ASCII")
        command: Any = sh.Command(program)
        with _limited_start():
            return command(
                *(argument.decode("latin-1") for argument in argv[1:]),
                _encoding="latin-1",
                _in=Descriptor(ends.their_input),
                _out=Descriptor(ends.their_output),
                _err=Descriptor(ends.their_error),
                _tty_out=False,
                _new_session=True,
                _close_fds=True,
                _bg=1,  # True would have the program ignore SIGHUP
                _bg_exc=False,
                _cwd=cwd,
                _env=dict(env) if env is not None else environment.for_children(),
            )
    except sh.CommandNotFound:
        raise ToolMissing(
            f"cannot run {program!r}: no such program on this machine (PATH of cron is short: "
            "write the whole path)"
        ) from None
    except sh.ForkException as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        reason = last.partition("] ")[2] or "it cannot be started"
        if (number := re.search(r"\[Errno (\d+)\]", last)) and int(number[1]) not in _NO_TOOL:
            raise TryLater(f"cannot run {program!r} now: {reason}") from None
        raise ToolMissing(f"cannot run {program!r}: {reason}") from None
    except (ValueError, EOFError):
        # `sh` waits for a word of its child, which was killed before it became the program.
        raise TryLater(f"cannot run {program!r} now: its process was killed at its start") from None
    except OSError as error:
        raise TryLater(f"cannot run {program!r} now: {error.strerror}") from None
