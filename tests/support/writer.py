"""A process that writes a file and stalls, as an instrument's program may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import sys
with open(sys.argv[1], sys.argv[2], buffering=0) as file:
    for _ in iter(sys.stdin.readline, ""):
        file.write(b"half")
        print("written", flush=True)
"""


class Writer:
    """The process: it writes when asked to, and has the file open until it is closed."""

    def __init__(self, path: Path, mode: str = "wb") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PROGRAM, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self) -> None:
        """Write half of `a`, and wait until that is done."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "written\n"

    def close(self) -> None:
        """Let it close the file and end."""
        self._process.communicate()


@contextmanager
def writing(path: Path, mode: str = "wb") -> Iterator[Writer]:
    """Start a writer that has written a first half of a file, and stalls."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path, mode)
    try:
        writer.write()
        yield writer
    finally:
        writer.close()
