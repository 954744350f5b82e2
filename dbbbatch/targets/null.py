"""The plugin that does nothing, successfully: for trials, and to measure everything around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbbbatch.targets.plugin import Outcome, Plugin, Result, StoredFile


class Null(Plugin):
    """Accepts every file and does nothing with it."""

    name = "null"
    one_at_a_time = True

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Yield a success for each file."""
        for file in files:
            yield Outcome(file.number, Result.DONE)
