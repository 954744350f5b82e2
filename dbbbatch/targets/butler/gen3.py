"""The plugin ``butler-gen3``: raw FITS files into a Gen3 Butler repository, where they are.

Without ``task``, packages from PyPI do it (`targets.butler.direct`); with it, the ingest task of
the LSST stack does (`targets.butler.tasks`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dbbbatch.targets.butler.settings import Gen3Settings
from dbbbatch.targets.butler.stack import configured_class
from dbbbatch.targets.plugin import Context, Misconfigured, Outcome, Plugin, StoredFile

if TYPE_CHECKING:
    from dbbbatch.targets.butler.direct import DirectIngest
    from dbbbatch.targets.butler.repository import Repository
    from dbbbatch.targets.butler.tasks import TaskIngest
    from dbbbatch.targets.butler.visits import Visits


class ButlerGen3(Plugin):
    """Registers raw files in a Gen3 Butler repository."""

    name = "butler-gen3"
    Settings = Gen3Settings

    settings: Gen3Settings
    _engine: DirectIngest | TaskIngest | Visits

    def __init__(self, settings: Gen3Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._repository: Repository | None = None

    def start(self) -> None:
        """Open the repository, and import what ingests into it."""
        _keep_offline()
        settings = self.settings
        try:
            from dbbbatch.targets.butler import headers
            from dbbbatch.targets.butler.direct import DirectIngest
            from dbbbatch.targets.butler.repository import Repository
        except ImportError as error:
            raise Misconfigured(
                f"the Butler's packages are not installed ({error}): pip install 'dbbbatch[butler]'"
            ) from None
        try:
            headers.load_translators(settings.translators)
        except ImportError as error:
            raise Misconfigured(f"translators: {error}") from None
        self._repository = repository = Repository(settings.repo)
        instruments = repository.instrument_classes()
        if not instruments:
            raise Misconfigured(
                f"repository {settings.repo} has no instrument; complete it with: "
                f"dbb butler prepare --repo {settings.repo} --instrument NAME"
            )
        for run in {settings.run.format(instrument=name) for name in instruments}:
            repository.check_run(run)
        if settings.task:
            from dbbbatch.targets.butler.tasks import TaskIngest

            task = configured_class("task", settings.task)
            self._engine = TaskIngest(repository, settings, task)
        else:
            formatter = configured_class("formatter", settings.formatter)
            patience = self.context.timeout / 4
            self._engine = DirectIngest(repository, settings, formatter, patience)
        if settings.visits:
            from dbbbatch.targets.butler.visits import Visits

            task = configured_class("visits", settings.visits)
            self._engine = Visits(self._engine, repository, settings, task)

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `Plugin.ingest`."""
        return self._engine.ingest(files)

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files the repository holds; as `Plugin.known`."""
        return self._engine.known(files)

    def version(self) -> str:
        """Return the version of the Butler."""
        from importlib.metadata import version

        return f"lsst-daf-butler {version('lsst-daf-butler')}"

    def close(self) -> None:
        """Close the repository."""
        if self._repository is not None:
            self._repository.close()


def _keep_offline() -> None:
    """Keep astropy from the network: a mountain may have none, and its older tables suffice."""
    import warnings

    os.environ.setdefault("ASTROPY_SKIP_CONFIG_UPDATE", "1")
    try:
        from astropy.utils import iers
        from erfa import ErfaWarning
    except ImportError:
        return
    iers.conf.auto_download = False
    iers.conf.iers_degraded_accuracy = "ignore"
    warnings.simplefilter("ignore", ErfaWarning)
