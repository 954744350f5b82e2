"""What a night writes down of itself, for the checker: versions of files, faults, and passes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """A file of lines of JSON, each written at once.

    Parameters
    ----------
    path : `pathlib.Path`
        It may exist: lines are added.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="ascii", buffering=1)
        self._lock = threading.Lock()

    def write(self, what: str, **values: Any) -> None:
        """Write a line; a name that is not UTF-8 may be among the values."""
        line = json.dumps({"t": round(time.time(), 3), "what": what, **values}, default=str)
        with self._lock:
            self._file.write(line + "\n")


def read_all(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal that are written to their end."""
    with path.open(encoding="ascii") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
