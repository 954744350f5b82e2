"""What a pass and its plugin's child process say to each other, as frames on a socket.

A frame is a length and a marshalled tuple: its first element names the message. Only plain values
travel (no classes), so that neither side can make the other run anything.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

_LENGTH = struct.Struct("=I")

#: Bytes of a message at most: of a batch of files, or of what became of one.
LONGEST_MESSAGE = 256 << 20

#: Characters of a text that a plugin says at most.
MOST_TEXT = 1 << 16


class TooLong(Exception):
    """A message is announced that is longer than any of ours."""


# From the pass to the child.
SETUP = "setup"  # pickled: plugin, its configuration table, context, memory limit (bytes)
INGEST = "ingest"  # list of files
KNOWN_FILES = "known"  # list of files
STOP = "stop"  # begin no further file of the batch
CLOSE = "close"

# From the child to the pass.
READY = "ready"  # version, one_at_a_time
OUTCOME = "outcome"  # number, verdict, message, version, parts done, checksums, begun, ended
FOUND = "found"  # answer to KNOWN: list of (number, held), or None
END = "end"  # the batch is over; whether what has no outcome was left since it was to stop
RAISED = "raised"  # the batch is over: the plugin raised (message)
NOT_READY = "not ready"  # message
MISCONFIGURED = "misconfigured"  # message
NO_MEMORY = "no memory"
EXIT = "exit"  # the plugin called sys.exit (its argument)


def frame(*message: Any) -> bytes:
    """Make a message ready to be sent."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """Take what was received and return the messages that are now complete.

        Raises
        ------
        TooLong
            What comes are no messages of ours.
        """
        self._buffer += data
        messages = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > LONGEST_MESSAGE:
                raise TooLong
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(marshal.loads(bytes(self._buffer[at + _LENGTH.size : end])))
            at = end
        del self._buffer[:at]
        return messages
