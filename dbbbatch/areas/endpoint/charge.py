"""Which failure of a transfer is a file's own, and which is the line's or the command's.

A file is charged with an attempt only if the line held, and the command, in this pass and from the
same directory, sent another file: a probe of ours if need be.
"""

from __future__ import annotations

import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dbbbatch.process.run import Finished

#: Exit codes by which tools say that the connection was lost, or could not be made. rsync: its
#: manual page, EXIT VALUES; ssh: ssh(1), EXIT STATUS; curl: curl(1), EXIT CODES; rclone: its
#: documentation, "List of exit codes" (5 may go away by itself).
_LOST_CODES = {
    "rsync": {5, 10, 12, 20, 30, 35, 255},
    "ssh": {255},
    "scp": {255},
    "sftp": {255},
    "bbcp": {255},
    "curl": {5, 6, 7, 28, 35, 52, 55, 56},
    "rclone": {5},
}

#: The same in words, also of a tool that another one, or a script, has started.
_LOST_WORDS = re.compile(
    r"lost connection|broken pipe|connection (\w+ ){0,2}(closed|reset|refused|timed out|lost)"
    r"|connection to .{1,200} (closed|timed out)|client_loop: send disconnect|kex_exchange_id"
    r"|no route to host|network is (unreachable|down)|host is down|could not resolve hostname"
    r"|name or service not known|temporary failure in name resolution|timeout, server .{0,200} not"
    r"|timeout in data send/receive|i/o timeout|operation timed out",
    re.IGNORECASE,
)
_RSYNC = re.compile(r"rsync (?:error|warning): .*?\(code (\d+)\)")

#: Somebody ended the tool: an operator, the system that goes down or has no more memory.
_ENDING_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGPIPE, signal.SIGTERM}


@dataclass(frozen=True)
class Failure:
    """Why a transfer command failed.

    Attributes
    ----------
    text : `str`
        For an operator.
    lost : `bool`
        The line was lost, the time was over, or somebody ended it: nothing is known of its files.
    """

    text: str
    lost: bool = False


#: What did not arrive although its command was content.
NOT_WHOLE = Failure("it did not arrive whole although the transfer command was content")


@dataclass
class Evidence:
    """What the transfer command has shown in this pass; shared by the streams.

    Attributes
    ----------
    sent : `set` [ `str` ]
        Directories of the buffer of which a file has arrived.
    refused : `dict` [ `str`, `str` ]
        Those of which no file can be sent, and why.
    """

    sent: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Have one stream at a time send a probe: it has one name in each directory."""
        with self._lock:
            yield


def lost_line(transfer: str, finished: Finished) -> bool:
    """Return whether a transfer command failed since the line was lost or it was ended.

    Parameters
    ----------
    transfer : `str`
        The command as it is configured.
    finished : `dbbbatch.process.run.Finished`
        How it ended.
    """
    if finished.timed_out or finished.signal in _ENDING_SIGNALS:
        return True
    said = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")[-(1 << 16) :]
    code = finished.exit_code
    if code is not None and code - 128 in _ENDING_SIGNALS:  # as a shell tells it
        return True
    if _LOST_WORDS.search(said):
        return True
    if any(int(number) in _LOST_CODES["rsync"] for number in _RSYNC.findall(said)):
        return True
    return any(code in _LOST_CODES.get(tool, ()) for tool in _tools(transfer))


def _tools(transfer: str) -> set[str]:
    """Return the names of the programs that a command line mentions."""
    words = {part for word in shlex.split(transfer) for part in word.split()}
    return {word.rpartition("/")[2] for word in words}
