"""How far a pass is, on a terminal, and in one line what it did."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dbbbatch.config import fields
from dbbbatch.errors import DbbError
from dbbbatch.files import names
from dbbbatch.files.scan import Found

#: Characters of the bar, and fewest for which there is one.
_BAR = 40
_SHORTEST_BAR = 10

#: Files that are counted ahead between two looks at whether the bar is still shown.
_COUNTED_TOGETHER = 100

#: Seconds up to which a length of time is written as such.
_IN_SECONDS = 120


@dataclass
class Progress:
    """How far a step of a pass is; sizes are bytes, times those of `time.monotonic`.

    Attributes
    ----------
    what : `str`
        What is done now.
    began : `float`
        When the step began.
    files, size : `int`
        What is done.
    read : `int`
        What was read: it moves the bar within a long file.
    all_files, all_size : `int` or `None`
        What there is to do.
    more : `bool`
        There may be more to do than is known yet.
    """

    what: str
    began: float
    files: int = 0
    size: int = 0
    read: int = 0
    all_files: int | None = None
    all_size: int | None = None
    more: bool = False

    @property
    def share(self) -> float | None:
        """How much of the work is done, from 0 to 1; `None` if that is not known."""
        if self.all_size:
            return min(1.0, max(self.size, self.read) / self.all_size)
        return min(1.0, self.files / self.all_files) if self.all_files else None

    def numbers(self, now: float, failed: int = 0) -> list[str]:
        """Return the numbers for people, the most important ones first."""
        seconds, size = now - self.began, max(self.size, self.read)
        least = "at least " if self.more else ""
        of = f"{self.files} of {least}" if self.all_files else ""
        shown = [of + names.counted(self.all_files or self.files, "file")]
        if self.share and seconds >= 1:
            left = seconds / self.share - seconds
            shown.append(f"{least}{_clock(left)} left")
        if size and seconds >= 1:
            shown.append(f"{fields.size_text(size / seconds)}/s")
        if size or self.all_size:
            of = f" of {least}{fields.size_text(self.all_size)}" if self.all_size else ""
            shown.append(fields.size_text(size) + of)
        return [*shown, f"{_clock(seconds)} so far", *([f"{failed} failed"] if failed else [])]


class ProgressBar:
    """Shows how far a pass is, if that is asked for, and nothing where stderr is no terminal.

    Parameters
    ----------
    label : `str`
        KIND.NAME of the pass.
    counts : `~collections.abc.Mapping`
        What the pass counts.
    shown : `bool`
        It is asked for.
    """

    def __init__(self, label: str, counts: Mapping[str, int], shown: bool) -> None:
        self._label = label
        self._counts = counts
        self._shown = shown and sys.stderr.isatty()
        self._live: Any = None
        self._now = Progress("", time.monotonic())

    def step(self, what: str, files: int | None = None, size: int | None = None) -> None:
        """Begin a step of the pass, of so many files and bytes, if that is known."""
        self._now = Progress(what, time.monotonic(), all_files=files, all_size=size)
        if self._shown and self._live is None:
            self._start()

    def doing(self, what: str, files: int = 0, size: int = 0) -> None:
        """Show what is done now in this step: the verb, and with how many files and bytes."""
        of = f" {names.counted(files, 'file')}, {fields.size_text(size)}" if files else ""
        self._now.what = what + of

    def expect(self, files: int, size: int | None = None, *, more: bool = False) -> None:
        """Note how much there is to do in this step, or at least so much."""
        now = self._now
        now.all_files = max(files, now.files)
        now.all_size = None if size is None else max(size, now.size)
        now.more = more

    def advance(self, files: int, size: int = 0) -> None:
        """Note that so many files and bytes more are done."""
        self._now.files += files
        self._now.size += size

    def read(self, size: int) -> None:
        """Note that so many bytes of files were read, which may be by several threads."""
        self._now.read += size

    def count_ahead(self, scan: Callable[[], Iterable[Found]]) -> None:
        """Count, while the bar is shown and the pass works, what a scan finds."""
        if self._live is not None:
            threading.Thread(target=self._count, args=[scan], daemon=True).start()

    def close(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _count(self, scan: Callable[[], Iterable[Found]]) -> None:
        files = size = 0
        with suppress(OSError, DbbError):  # the pass meets it, too
            for found in scan():
                files, size = files + 1, size + found.size_bytes
                if files % _COUNTED_TOGETHER == 0:
                    if self._live is None:
                        return
                    self.expect(files, size, more=True)
            self.expect(files, size)

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        if console.is_dumb_terminal:
            return
        self._live = Live(
            console=console, refresh_per_second=4, transient=True, get_renderable=self._render
        )
        self._live.start()

    def _render(self) -> Any:
        """Return a line with what is done and the bar, and a line of numbers."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar as Bar
        from rich.table import Table
        from rich.text import Text

        width = self._live.console.width if self._live else _BAR
        what = Text(names.harmless(f"{self._label}: {self._now.what}"), no_wrap=True)
        what.truncate(width, overflow="ellipsis")
        first = Table.grid(padding=(0, 1))
        cells: list[Any] = [what]
        share, room = self._now.share, min(_BAR, width - what.cell_len - 1)
        if share is not None and room >= _SHORTEST_BAR:
            cells.append(Bar(total=1, completed=share, width=room))
        first.add_row(*cells)
        numbers = self._now.numbers(time.monotonic(), self._counts.get("failed", 0))
        return Group(first, Text(fitting(numbers, width), no_wrap=True))


def fitting(numbers: Iterable[str], width: int) -> str:
    """Return as many of the first numbers as fit into a line of so many characters."""
    line = ""
    for number in numbers:
        longer = f"{line}, {number}" if line else number
        if len(longer) > width:
            break
        line = longer
    return line


def what_it_did(counts: Mapping[str, int], did: str, size: int, seconds: float) -> str:
    """Return what a pass did, in one line.

    Parameters
    ----------
    counts : `~collections.abc.Mapping`
        What the pass counted.
    did : `str`
        Which of that is the purpose of the pass, such as "delivered".
    size : `int`
        Bytes of these files.
    seconds : `float`
        How long it took.
    """
    files = counts.get(did, 0)
    # An original that is held after its delivery is no news.
    also = [
        f"{number:,} {what}"
        for what, number in counts.items()
        if number and what != did and (what, number) != ("held", files)
    ]
    if not files and not also:
        return "nothing to do"
    text = f"{names.counted(files, 'file')} {did}"
    if files:
        text += f", {fields.size_text(size)}"
    text += f" in {span(seconds)}"
    if files and size and seconds > 0:
        text += f", {fields.size_text(size / seconds)}/s"
    return "; ".join([text, ", ".join(also)] if also else [text])


def span(seconds: float) -> str:
    """Return a length of time for people: seconds, or hours, minutes and seconds."""
    if seconds >= _IN_SECONDS:
        return _clock(seconds)
    return f"{seconds:.{0 if seconds >= 10 or seconds == int(seconds) else 1}f} s"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
