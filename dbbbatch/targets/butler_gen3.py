"""The plugin ``butler-gen3``: raw FITS files into a Gen3 Butler repository, where they lie.

Two ways behind one plugin. Without ``task``, packages from PyPI do it (`targets.butler.direct`);
with it, the ingest task of the LSST stack does (`targets.butler.tasks`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch import keys
from dbbbatch.keys import key
from dbbbatch.targets.base import (
    Context,
    Misconfigured,
    Outcome,
    Plugin,
    StoredFile,
)

FORMATTER = "dbbbatch.targets.butler.formatter.FitsFormatter"


#: Arguments of the tasks' ``run`` that are the plugin's own business.
INGEST_ARGUMENTS = frozenset({"files", "run", "pool", "processes", "file_filter", "skip_ingest"})
VISIT_ARGUMENTS = frozenset({"dataIds_or_records", "dataIds", "data_ids", "pool", "processes"})


def _run(value: Any) -> str:
    text = keys.text(value)
    try:
        made = text.format(instrument="X")
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"only {{instrument}} can be filled in, not {text!r}") from None
    if not made.strip():
        raise ValueError("a name is wanted")
    return text


@dataclass(frozen=True)
class Settings:
    """``[target.NAME.config]`` with ``plugin = "butler-gen3"``."""

    repo: str = key(help="repository: its directory, URI or alias", example="/repo/main")
    run: str = key("{instrument}/raw/all", "collection that the files are put into", parse=_run)
    dataset_type: str = key("raw", "dataset type of the files")
    transfer: str = key(
        "direct",
        "direct leaves files where they are; the others put copies or links into the repository",
        parse=keys.choice("direct", "copy", "hardlink", "symlink", "relsymlink", "link"),
    )
    formatter: str = key(FORMATTER, "class recorded with each file, to read it with")
    translators: tuple[str, ...] = key(
        [], "modules with header translators of your own", parse=keys.strings
    )
    exposures: str = key(
        "fail",
        "when the repository's record of an exposure differs from a header: fail, keep or update",
        parse=keys.choice("fail", "keep", "update"),
    )
    register_filters: bool = key(
        True, "register a filter when it is first seen", parse=keys.boolean
    )
    nextend: bool = key(
        True, "refuse a file with fewer extensions than its header counts", parse=keys.boolean
    )
    task: str = key("", "with the LSST stack: the ingest task, lsst.obs.base.RawIngestTask")
    task_config: Mapping[str, Any] = key({}, "fields of the task's configuration", parse=keys.table)
    task_options: Mapping[str, Any] = key({}, "arguments of the task's run", parse=keys.table)
    visits: str = key("", "with the LSST stack: lsst.obs.base.DefineVisitsTask, to define visits")
    visits_config: Mapping[str, Any] = key({}, "fields of its configuration", parse=keys.table)
    visits_options: Mapping[str, Any] = key({}, "arguments of its run", parse=keys.table)

    def __post_init__(self) -> None:
        if self.task and self.exposures != "fail":
            raise ValueError(
                f"exposures: {self.exposures} has no effect with task, which compares exactly; "
                "its own way is task_options = { update_exposure_records = true }"
            )
        if "transfer" in self.task_config:
            raise ValueError("task_config: transfer is the key transfer of this section")
        for name, options, ours in (
            ("task_options", self.task_options, INGEST_ARGUMENTS),
            ("visits_options", self.visits_options, VISIT_ARGUMENTS),
        ):
            for option in sorted(ours & set(options)):
                raise ValueError(f"{name}: {option} is no option here: the plugin sets it itself")


class ButlerGen3(Plugin):
    """Registers raw files in a Gen3 Butler repository."""

    name = "butler-gen3"
    Settings = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
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
