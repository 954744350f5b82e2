"""Files in storage with their rows for tests of the ingester, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.passes import runner
from dbbbatch.passes.ingester.offer import IngesterWork
from tests.support.site import Site


class Ingesting:
    """A site with one target, ``a``, whose ingester runs in this process."""

    def __init__(self, site: Site) -> None:
        self.site = site
        (site.storage / ".dbb-storage").touch()

    def configure(self, plugin: str = "null", **keys: Any) -> Ingesting:
        """Write the target's section; keys of the plugin are under ``config``."""
        self.site.write(targets={"a": {"plugin": plugin, **keys}})
        connect.connect(self.settings.database)
        return self

    @property
    def settings(self) -> Settings:
        settings: Settings = self.site.settings()
        return settings

    def store(self, *names: str, content: bytes = b"data") -> dict[str, int]:
        """Put files into storage as a finder does, and return their ids."""

        def rows() -> dict[str, int]:
            ids = {}
            for name in names:
                relpath, _, filename = name.rpartition("/")
                connect.execute(
                    "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                    " finder, added_on) VALUES (?, ?, ?, ?, ?, 'STORED', 'f',"
                    " '2026-01-01 00:00:00.000000')",
                    [str(self.site.storage), relpath, filename, len(content), _checksum(content)],
                )
                (ids[name],) = connect.execute("SELECT max(id) FROM file").fetchone()
            IngestState.arrive(list(ids.values()), str(self.site.storage))
            return ids

        for name in names:
            self.site.put(name, content, where=self.site.storage)
        return connect.write(rows)

    def lose(self, count: int) -> None:
        """Record so many files that storage had, and has lost."""

        def rows() -> None:
            connect.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                " finder, added_on) SELECT ?, '', 'lost' || i, 4, 'blake2b:00', 'MISSING', 'f',"
                " '2026-01-01 00:00:00.000000' FROM n",
                [count, str(self.site.storage)],
            )
            lost = connect.execute("SELECT id FROM file WHERE status = 'MISSING'").fetchall()
            IngestState.arrive([row[0] for row in lost], str(self.site.storage))

        connect.write(rows)

    def run(self, **options: Any) -> int:
        """Make a pass and return its exit code."""
        section = self.settings.target["a"]
        code = runner.run_pass(
            IngesterWork(section), self.settings, section, runner.Options(**options)
        )
        connect.connect(self.settings.database)
        return code

    def plan(self, **options: Any) -> list[str]:
        """Return what a pass would do."""
        section = self.settings.target["a"]
        lines = list(
            runner.plan_pass(
                IngesterWork(section), self.settings, section, runner.Options(**options)
            )
        )
        connect.connect(self.settings.database)
        return lines

    def statuses(self) -> dict[str, str]:
        """Return the status of each file, by name."""
        rows = connect.execute("SELECT path, status FROM ingest_current ORDER BY path").fetchall()
        return {row[0]: row[1] for row in rows}

    def state(self, name: str) -> Mapping[str, Any]:
        """Return the state of one file."""
        columns = ("status", "attempts", "next_try_at", "message", "claim", "parts_done")
        row = connect.execute(
            f"SELECT {', '.join(f's.{column}' for column in columns)} FROM ingest_state s"
            " JOIN ingest_current c ON c.file_id = s.file_id WHERE c.path = ?",
            [name],
        ).fetchone()
        return dict(zip(columns, row, strict=True))

    def events(self, name: str) -> list[str]:
        """Return the history of one file."""
        rows = connect.execute(
            "SELECT e.status FROM ingest_event e JOIN ingest_current c ON c.file_id = e.file_id"
            " WHERE c.path = ? ORDER BY e.id",
            [name],
        ).fetchall()
        return [row[0] for row in rows]

    def wait_is_over(self) -> None:
        """Make every further try due."""
        connect.execute(
            "UPDATE ingest_state SET next_try_at = '2026-01-01 00:00:00.000000'"
            " WHERE next_try_at IS NOT NULL"
        )


def _checksum(content: bytes) -> str:
    return f"blake2b:{hashlib.blake2b(content).hexdigest()}"
