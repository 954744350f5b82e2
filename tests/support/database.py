"""Databases for the tests, made fast: the schema is applied once and then copied."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.postgres import Postgres

BACKENDS = ("sqlite", "postgresql")


class Databases:
    """Makes databases of either kind, empty or with the schema."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._postgres: Postgres | None = None
        self._templates: dict[str, str] = {}

    @property
    def postgres(self) -> Postgres:
        """The session's server, started when it is first used."""
        if self._postgres is None:
            self._postgres = Postgres()
        return self._postgres

    @contextmanager
    def fresh(self, backend: str, directory: Path, *, schema: bool = True) -> Iterator[str]:
        """Make a database, give its URL, and remove it in the end."""
        if backend == "sqlite":
            path = directory / "dbb.sqlite"
            if schema:
                shutil.copy(self._template(backend), path)
            yield f"sqlite:///{path}"
            return
        name = self.postgres.create(self._template(backend) if schema else "template1")
        try:
            yield self.postgres.url(name)
        finally:
            self.postgres.drop(name)

    def close(self) -> None:
        """Stop what was started."""
        if self._postgres is not None:
            self._postgres.stop()

    def _template(self, backend: str) -> str:
        if backend not in self._templates:
            if backend == "sqlite":
                path = self._directory / "template.sqlite"
                initialise(f"sqlite:///{path}")
                self._templates[backend] = str(path)
            else:
                self._templates[backend] = self.postgres.template(initialise)
        return self._templates[backend]


def initialise(url: str) -> None:
    """Put the schema into a database, as ``dbb init`` does."""
    from dbbbatch.config.fields import defaults
    from dbbbatch.config.sections import Database
    from dbbbatch.database import connect, schema

    settings = defaults(Database, url=url)
    schema.apply_migrations(connect.connect(settings, check=False))
    connect.disconnect()
