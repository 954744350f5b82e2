"""The plugin ``butler-gen3``: raw FITS files into a Gen3 Butler repository, where they lie.

Two ways behind one plugin. Without ``task``, packages from PyPI do it (`targets.butler.direct`);
with it, the ingest task of the LSST stack does (`targets.butler.tasks`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from dbbbatch.targets.butler.settings import Gen3Settings
from dbbbatch.targets.plugin import Context, Misconfigured, Outcome, Plugin, StoredFile


class ButlerGen3(Plugin):
    """Registers raw files in a Gen3 Butler repository."""

    name = "butler-gen3"
    Settings = Gen3Settings

    def __init__(self, settings: Gen3Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._repository: Any = None
        self._engine: Any = None

    def start(self) -> None:
        _quiet()
        try:
            from dbbbatch.targets.butler import headers
            from dbbbatch.targets.butler.repository import Repository
        except ImportError as error:
            raise Misconfigured(
                f"the Butler's packages are not installed ({error}): pip install 'dbbbatch[butler]'"
            ) from None
        try:
            headers.load_translators(self.settings.translators)
        except ImportError as error:
            raise Misconfigured(f"translators: {error}") from None
        self._repository = Repository(self.settings.repo)
        instruments = self._repository.instruments()
        if not instruments:
            raise Misconfigured(
                f"repository {self.settings.repo} has no instrument; complete it with: "
                f"dbb butler prepare --repo {self.settings.repo} --instrument NAME"
            )
        for run in {self.settings.run.format(instrument=name) for name in instruments}:
            self._repository.check_run(run)
        from dbbbatch.targets.butler.direct import DirectIngest

        if self.settings.task:
            from dbbbatch.targets.butler.tasks import TaskIngest

            task = imported("task", self.settings.task)
            self._engine = TaskIngest(self._repository, self.settings, task)
        else:
            formatter = imported("formatter", self.settings.formatter)
            patience = self.context.timeout / 4
            self._engine = DirectIngest(self._repository, self.settings, formatter, patience)
        if self.settings.visits:
            from dbbbatch.targets.butler.tasks import Visits

            task = imported("visits", self.settings.visits)
            self._engine = Visits(self._engine, self._repository, self.settings, task)

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        return self._engine.ingest(files)

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]] | None:
        return self._engine.known(files)

    def version(self) -> str:
        from importlib.metadata import version

        return f"lsst-daf-butler {version('lsst-daf-butler')}"

    def close(self) -> None:
        if self._repository is not None:
            self._repository.close()


def imported(key_name: str, dotted: str) -> Any:
    """Import the class that a key names.

    Raises
    ------
    Misconfigured
        If there is none.
    """
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Misconfigured(f"{key_name} = {dotted!r} cannot be imported: {error}") from None


def _quiet() -> None:
    """Keep astropy from the network: a mountain may have none, and old tables suffice here."""
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
