"""A plugin that keeps a catalogue of stored files in an SQLite file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of ``[target.NAME.config]``; each is checked before anything runs."""

    file: str = option(
        help="the SQLite file", parse=fields.absolute_path, example="/data/catalog.sqlite"
    )
    largest: int = option("10 GiB", "larger files are not for this catalogue", fields.byte_count)


class Catalog(Plugin):
    """Enters each file once."""

    name = "catalog"
    Settings = Settings

    def start(self) -> None:
        # Runs once in the child process: heavy imports and connections belong here.
        import sqlite3

        directory = os.path.dirname(self.settings.file)
        if not os.path.isdir(directory):
            raise NotReady(f"{directory} is not there; is it mounted?")
        try:
            self._database = sqlite3.connect(self.settings.file)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS entry (path TEXT PRIMARY KEY, size_bytes INTEGER)"
            )
        except sqlite3.DatabaseError as error:
            raise Misconfigured(f"file: {self.settings.file}: {error}") from None
        self._version = f"SQLite {sqlite3.sqlite_version}"

    def version(self) -> str:
        return self._version

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        # One transaction a batch; what is yielded after it is true whatever happens next.
        outcomes = []
        with self._database:
            for file in files:
                if file.size_bytes > self.settings.largest:
                    outcomes.append(Outcome(file.number, Result.NEVER, "is too large"))
                    continue
                path = os.path.join(file.relpath, file.filename)
                entered = self._database.execute(
                    "INSERT OR IGNORE INTO entry VALUES (?, ?)", (path, file.size_bytes)
                ).rowcount
                outcomes.append(Outcome(file.number, Result.DONE if entered else Result.ALREADY))
        yield from outcomes

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        for file in files:
            path = os.path.join(file.relpath, file.filename)
            found = self._database.execute("SELECT 1 FROM entry WHERE path = ?", (path,))
            yield file.number, found.fetchone() is not None

    def close(self) -> None:
        self._database.close()
