"""A finder's source, storage and quarantine, and passes over them in this process."""

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dbbbatch.areas.reasons import REASON
from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.passes import runner
from dbbbatch.passes.finder.scan import FinderWork

SENTINEL = ".dbb-storage"


class Finding:
    """One finder and its directories, made below `root` (or elsewhere, as given)."""

    def __init__(self, settings, root, source=None, work=FinderWork, **keys):
        self.settings = settings
        self.source = Path(source or root / "source")
        self.storage = root / "storage"
        self.quarantine = root / "quarantine"
        for directory in (self.source, self.storage, self.quarantine):
            directory.mkdir(parents=True, exist_ok=True)
        (self.storage / SENTINEL).touch()
        self._work = work
        self.finder = defaults(
            Finder,
            name="latiss",
            source=str(self.source),
            storage=str(self.storage),
            quarantine=str(self.quarantine),
            **keys,
        )

    def change(self, **keys):
        """Change the configuration between two passes."""
        self.finder = replace(self.finder, **keys)

    def put(self, rel, content=b"data", where=None):
        """Write a file below the source, or `where`."""
        path = os.path.join(os.fsencode(where or self.source), os.fsencode(rel))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return Path(os.fsdecode(path))

    def run(self, **options):
        """Make a pass; give its exit code."""
        return runner.run_pass(
            self._work(self.finder), self.settings, self.finder, runner.Options(**options)
        )

    def context(self):
        """Return what a pass sees that only looks."""
        notices = runner.Notices(Path(self.settings.site.state), self.finder.label)
        return runner.PassContext(
            self.settings, self.finder, runner.Options(), notices, runner.Signals()
        )

    def plan(self, **options):
        """Return what a dry run says."""
        made = runner.plan_pass(
            self._work(self.finder), self.settings, self.finder, runner.Options(**options)
        )
        return list(made)

    def rows(self, sql="SELECT relpath, filename, status FROM file ORDER BY relpath, filename"):
        """Ask the database."""
        with self.database():
            return [tuple(row) for row in connect.execute(sql).fetchall()]

    def change_rows(self, sql, values=()):
        """Change the database, past what would change it."""
        with self.database():
            connect.write(connect.execute, sql, values)

    def add_target(self, name="one"):
        """Add a target that reads this storage."""
        self.change_rows(
            "INSERT INTO target (site, name, storage, plugin, created_at)"
            " VALUES ('archive', ?, ?, 'null', '2026-11-24 00:00:00')",
            [name, str(self.storage)],
        )

    @contextmanager
    def database(self):
        """Connect the models to the database."""
        connect.connect(self.settings.database)
        yield
        connect.disconnect()

    def counts(self):
        """What the last pass counted."""
        import json

        return json.loads(self.rows("SELECT counts FROM run ORDER BY id DESC LIMIT 1")[0][0])


def tree(directory):
    """Return the content of files below a directory by relative path: not sentinel and reasons."""
    found = {}
    for top, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(top, name)
            if name != SENTINEL and not name.endswith(REASON):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, directory)] = file.read()
    return found
