"""Which failure of a transfer is a file's own, and which is the line's or the command's.

A file is charged with an attempt only if the line held, and the command, in this pass and from the
same directory, sent another file: a probe of ours if necessary.
"""

from __future__ import annotations

import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dbbbatch.process.run import Finished

#: Exit codes of tools whose connection was lost, or could not be made. rsync: its manual page, EXIT
#: VALUES; ssh: ssh(1), EXIT STATUS; curl: curl(1), EXIT CODES; rclone: its documentation, "List of
#: exit codes" (5 may go away by itself).
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

#: The tool was ended: by an operator, or by the system that goes down or is out of memory.
_ENDING_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGPIPE, signal.SIGTERM}


class Evidence:
    """What the transfer command has shown in this pass; shared by the streams.

    Attributes
    ----------
    sent : `set` [ `str` ]
        Directories of the buffer of which a file has arrived.
    refused : `dict` [ `str`, `str` ]
        Those of which no file can be sent, and why.
    """

    def __init__(self) -> None:
        self.sent: set[str] = set()
        self.refused: dict[str, str] = {}
        self._lock = threading.Lock()

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Let one stream at a time send a probe: it has one name in each directory."""
        with self._lock:
            yield


def tells_lost_line(output: str) -> bool:
    """Return whether a tool says that there is no connection, or no longer."""
    return _LOST_WORDS.search(output) is not None


def lost_line(transfer: str, finished: Finished) -> bool:
    """Return whether a configured command failed because the line was lost or it was ended."""
    if finished.timed_out or finished.signal in _ENDING_SIGNALS:
        return True
    output = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")[-(1 << 16) :]
    code = finished.exit_code
    if code is not None and code - 128 in _ENDING_SIGNALS:  # as a shell reports it
        return True
    if tells_lost_line(output):
        return True
    if any(int(number) in _LOST_CODES["rsync"] for number in _RSYNC.findall(output)):
        return True
    words = {part for word in shlex.split(transfer) for part in word.split()}
    tools = {word.rpartition("/")[2] for word in words}
    return any(code in _LOST_CODES.get(tool, ()) for tool in tools)
