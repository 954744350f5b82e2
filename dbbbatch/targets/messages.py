"""The messages between a pass and the child process of its plugin, as frames on a socket.

A frame is a length and a marshalled tuple, whose first element names the message. The child answers
with plain values only, so that a plugin cannot make the pass run anything.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

_LENGTH = struct.Struct("=I")

#: Most bytes of a message: of a batch of files, or of an outcome.
LONGEST_MESSAGE = 256 << 20

#: Most characters of a text from a plugin.
LONGEST_TEXT = 1 << 16

# From the pass to the child. Objects are pickled: TOML has dates, which marshal cannot write.
SETUP = "setup"  # pickled Launch
INGEST = "ingest"  # pickled list of files
KNOWN_FILES = "known"  # pickled list of files
STOP = "stop"  # begin no further file of the batch
CLOSE = "close"

# From the child to the pass.
READY = "ready"  # version, one_at_a_time
OUTCOME = "outcome"  # the fields of an Outcome in their order
FOUND = "found"  # answer to KNOWN_FILES: list of (number, held), or None
END = "end"  # the batch is over; whether files without an outcome were left because of STOP
RAISED = "raised"  # the batch is over: the plugin raised (message)
NOT_READY = "not ready"  # message
MISCONFIGURED = "misconfigured"  # message
NO_MEMORY = "no memory"
EXIT = "exit"  # the plugin called sys.exit (its argument)


class TooLong(Exception):
    """A frame is longer than any message: the other side does not speak this protocol."""


def frame(*message: Any) -> bytes:
    """Return the bytes of a message."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """Add received bytes, and return the messages that are complete now.

        Raises
        ------
        TooLong
            The bytes are not messages.
        """
        self._buffer += data
        complete = []
        begin = 0
        while len(self._buffer) - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, begin)
            if length > LONGEST_MESSAGE:
                raise TooLong
            end = begin + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            complete.append(marshal.loads(bytes(self._buffer[begin + _LENGTH.size : end])))
            begin = end
        del self._buffer[:begin]
        return complete
