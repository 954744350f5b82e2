"""A progress bar on a terminal, for passes that are made by hand."""

from __future__ import annotations

from typing import Any

from dbbbatch.files import names


class ProgressBar:
    """Shows how far a pass is; nothing where stderr is not a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def update(self, done: int, total: int | None, what: str) -> None:
        """Show that `done` of `total` files are done; `what` names them."""
        what = names.harmless(what)
        if self._bar is None and not self._start(total, what):
            return
        self._bar.update(self._task, completed=done, total=total, description=what)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, total: int | None, what: str) -> bool:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        if not console.is_terminal:
            return False
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._bar.start()
        self._task = self._bar.add_task(what, total=total)
        return True
