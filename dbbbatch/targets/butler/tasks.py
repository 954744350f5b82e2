"""Ingest by the LSST stack's task (`lsst.obs.base.RawIngestTask`).

* written first: nothing
* done: one `run` of the task; it registers the files of each exposure in one transaction
* recorded: by that transaction, and then by the ingester from the outcomes
* recovery: an exposure that the task refuses, or would skip, is compared with what the repository
  holds

The task reports each file by callbacks, and raises in the end if anything went wrong, although
other files succeeded. The callbacks are trusted; what they do not mention is tried again, alone in
the end. Only where the task skips exposures that are there, its success is looked up.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lsst.daf.butler import DatasetRef, DatasetType
from lsst.resources import ResourcePath

from dbbbatch.targets.butler import fits, headers
from dbbbatch.targets.butler.direct import DirectIngest, shown
from dbbbatch.targets.butler.outcomes import difference, error_text, failed, unreadable
from dbbbatch.targets.butler.repository import Repository
from dbbbatch.targets.butler.settings import INGEST_ARGUMENTS, Gen3Settings
from dbbbatch.targets.butler.stack import arguments, configure
from dbbbatch.targets.failures import disk_away, first_line
from dbbbatch.targets.plugin import Misconfigured, Outcome, Result, StoredFile

#: What the task reported of a file: its datasets, or what was wrong.
_Report = Sequence[DatasetRef] | Exception


class TaskIngest:
    """Ingests batches by `task`, which is `lsst.obs.base.RawIngestTask` or a class like it.

    Raises
    ------
    Misconfigured
        If the task refuses its configuration, or cannot work with this repository.
    """

    def __init__(self, repository: Repository, settings: Gen3Settings, task: Any) -> None:
        self._repository = repository
        self._settings = settings
        values = {"transfer": settings.transfer, **settings.task_config}
        #: Of the last run, by path; and the paths whose exposure failed as a whole, so that
        #: another file may be to blame.
        self._reports: dict[str, _Report] = {}
        self._failed_together: set[str] = set()
        self._task = task(
            configure("task_config", task.ConfigClass(), values),
            butler=repository.butler,
            on_success=self._succeeded,
            on_metadata_failure=self._unreadable,
            on_ingest_failure=self._refused,
        )
        self._name = type(self._task).__name__
        self._options = arguments(
            "task_options", self._task.run, settings.task_options, INGEST_ARGUMENTS
        )
        self._skips = bool(self._options.get("skip_existing_exposures"))
        self._direct: DirectIngest | None = None
        self._check_dataset_types()

    def _check_dataset_types(self) -> None:
        """Raise `Misconfigured` if the repository has another type where the task registers one.

        The task would refuse every file.
        """
        where = self._repository.where
        ours = self._dataset_types()
        for expected in ours:
            there = self._repository.registered_type(expected.name)
            if there is not None and there != expected:
                raise Misconfigured(
                    f"task: {self._name} registers {expected.name} as {_dataset_kind(expected)}, "
                    f"but {where} has it as {_dataset_kind(there)}; leave task out, or ingest into "
                    "a repository made for the stack: dbb butler prepare --storage-class Exposure "
                    "--repo NEW --instrument NAME"
                )
        names = {one.name for one in ours}
        if names and self._settings.dataset_type not in names:
            raise Misconfigured(
                f"dataset_type: with task, files become {' or '.join(sorted(names))}, whatever is "
                f"configured, not {self._settings.dataset_type}"
            )

    def _dataset_types(self) -> list[DatasetType]:
        """Return the dataset types that the task makes, if it can be asked."""
        if not hasattr(self._task, "getDatasetType"):
            return []
        usual = self._task.getDatasetType()
        found = []
        for instrument in getattr(self._task, "instruments", {}).values():
            # Some instruments have a dataset type of their own.
            try:
                found.append(self._task.get_raw_datasetType(instrument()))
            except Exception:  # noqa: BLE001 (a release without; a class that needs more)
                found.append(usual)
        return found or [usual]

    def _succeeded(self, datasets: Sequence[Any]) -> None:
        for dataset in datasets:
            self._reports[_normal_path(dataset.path)] = dataset.refs

    def _unreadable(self, filename: Any, error: Exception) -> None:
        self._reports[_normal_path(filename)] = error

    def _refused(self, exposure: Any, error: Exception) -> None:
        for file in exposure.files:
            self._reports[_normal_path(file.filename)] = error
            self._failed_together.add(_normal_path(file.filename))

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `dbbbatch.targets.plugin.Plugin.ingest`."""
        whole = []
        for file in files:
            try:
                headers.whole_hdus(file.path, count=self._settings.nextend)
            except (fits.Unusable, OSError) as error:
                yield unreadable(file, error)
            else:
                whole.append(file)
        if self._skips and (direct := self._lookup()) is not None:
            # The task would report success for each of them, whatever file it has instead.
            held = direct.judge(whole)
            yield from held.values()
            whole = [file for file in whole if file.number not in held]
        runs: dict[str, list[StoredFile]] = {}
        for file in whole:
            run = self._run_of(file)
            if isinstance(run, Outcome):
                yield run
            else:
                runs.setdefault(run, []).append(file)
        for run, some in runs.items():
            yield from self._ingest_into(run, some)

    def _run_of(self, file: StoredFile) -> str | Outcome:
        """Return the collection for a file; nothing for the one that the task chooses itself."""
        template = self._settings.run
        if template == "{instrument}/raw/all":
            return ""
        instruments = list(self._repository.instrument_classes()) if "{" in template else [""]
        if len(instruments) != 1:
            try:
                infos = headers.observations(file.path, count=False)
            except OSError as error:
                return unreadable(file, error)
            except fits.Unusable as error:
                return Outcome(file.number, Result.FAILED, f"run: its instrument? {error}")
            instruments = [str(infos[0].instrument)]
        return template.format(instrument=instruments[0])

    def _ingest_into(self, run: str, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        alone = []
        for file, report in self.act(run, files):
            # An exposure succeeds or fails as a whole, so one bad file, or one that is there
            # already, may have stopped the others. They are tried again, each alone.
            together = _normal_path(file.path) in self._failed_together
            outcome = self._outcome(file, report)
            if outcome.result is Result.FAILED and together and len(files) > 1:
                alone.append(file)
            else:
                yield outcome
        for file in alone:
            yield from self._ingest_into(run, [file])

    def act(self, run: str, files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, _Report]]:
        """Run the task until it has reported each file, or has tried it alone.

        The task stops without a report at an exposure whose filter is not registered, at headers
        that it did not foresee, and, with ``failFast``, at any failure.
        """
        waiting = deque([list(files)])
        while waiting:
            some = waiting.popleft()
            raised = self._run_task(run, some)
            reports = [
                (file, self._reports[path])
                for file in some
                if (path := _normal_path(file.path)) in self._reports
            ]
            silent = [file for file in some if _normal_path(file.path) not in self._reports]
            yield from (one for one in reports if not isinstance(one[1], Exception))
            failures = [one for one in reports if isinstance(one[1], Exception)]
            for error in (raised, *(error for _, error in failures)):
                if isinstance(error, Exception):
                    self._repository.raise_if_away(error)
            yield from failures
            if len(some) == 1 and silent:
                yield silent[0], raised or LookupError(f"{self._name} reported nothing about it")
            elif silent and reports:
                waiting.append(silent)
            elif silent:
                half = len(silent) // 2
                waiting += [silent[:half], silent[half:]]

    def _run_task(self, run: str, files: Sequence[StoredFile]) -> Exception | None:
        """Run the task once; return what it raised, which it does whenever anything failed."""
        self._reports, self._failed_together = {}, set()
        more = {"run": run} if run else {}
        try:
            self._task.run(
                [ResourcePath(Path(file.path).as_uri()) for file in files], **more, **self._options
            )
        except Exception as error:  # noqa: BLE001 (the task raises many kinds)
            return error
        return None

    def _outcome(self, file: StoredFile, report: _Report) -> Outcome:
        """Return what became of a file that the task has tried."""
        if not isinstance(report, Exception):
            return self._confirmed(file, report)
        if disk_away(report):
            return failed(file, report, first_line(report))
        direct = self._lookup()
        if direct is not None and (judged := direct.judge([file])):
            return judged[file.number]
        why = error_text(report)
        try:
            why = self._lacking(file) or why
        except fits.Unusable as error:
            # What the task raised may mean little.
            why += f"; {error}"
        return Outcome(file.number, Result.FAILED, why)

    def _confirmed(self, file: StoredFile, refs: Sequence[DatasetRef]) -> Outcome:
        """Look a success up, where the task may have skipped the file for another one."""
        for ref in refs if self._skips else ():
            path = self._repository.artifact(ref)
            if path is None:
                why = f"{self._name} skipped it, and the repository has no file"
                return Outcome(file.number, Result.FAILED, why)
            if differing := difference(path, file):
                why = f"{shown(ref)} is there already: {differing}"
                return Outcome(file.number, Result.FAILED, why)
        run = refs[0].run if refs else self._settings.run
        return Outcome(file.number, Result.DONE, f"by {self._name} ({run})")

    def _lacking(self, file: StoredFile) -> str | None:
        """Return what a file needs that is not registered, which the task reports obscurely.

        Raises
        ------
        fits.Unusable
            If the headers do not suffice.
        """
        try:
            infos = headers.observations(file.path, count=False)
        except OSError:
            return None
        instrument, name = str(infos[0].instrument), str(infos[0].physical_filter)
        repository = self._repository
        detectors = {int(info.detector_num or 0) for info in infos}
        if missing := repository.missing(instrument, detectors):
            return missing
        if repository.has_filter(instrument, name):
            return None
        of = repository.instrument_classes().get(instrument, instrument)
        return (
            f"filter {name!r} of {instrument} is not registered in {repository.where}, and "
            f"{self._name} registers none: butler register-instrument --update "
            f"{repository.where} {of}"
        )

    def _lookup(self) -> DirectIngest | None:
        """Return what looks files up; None while the repository has no dataset type for them.

        The task registers it at its first success.
        """
        if self._direct is None:
            if self._repository.registered_type(self._settings.dataset_type) is None:
                return None
            self._direct = DirectIngest(self._repository, self._settings, object)
        return self._direct

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        direct = self._lookup()
        if direct is None:
            return iter([(file.number, False) for file in files])
        return direct.known(files)


def _dataset_kind(dataset_type: DatasetType) -> str:
    required = ", ".join(sorted(dataset_type.dimensions.required))
    return f"{dataset_type.storageClass_name} of {required}"


def _normal_path(named: Any) -> str:
    # The task may have tidied a path up.
    path = named if isinstance(named, str) and named.startswith("/") else ResourcePath(named).ospath
    return os.path.normpath(path)
