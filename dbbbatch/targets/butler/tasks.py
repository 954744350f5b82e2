"""Ingests by the LSST stack's task (`lsst.obs.base.RawIngestTask`) and defines visits by its other.

The tasks are imported by the names in the configuration. `RawIngestTask` tells of each file by
callbacks, and raises in the end if anything went wrong, although other files succeeded: the
callbacks are trusted, and what they do not mention is tried again, alone in the end. Only where the
task skips exposures that are there, its success is looked up in the repository.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lsst.daf.butler import DatasetRef, DatasetType
from lsst.resources import ResourcePath

from dbbbatch.config import fields as config_fields
from dbbbatch.targets.butler import fits, headers
from dbbbatch.targets.butler.direct import DirectIngest, difference, shown
from dbbbatch.targets.butler.repository import Repository
from dbbbatch.targets.butler.settings import INGEST_ARGUMENTS, VISIT_ARGUMENTS
from dbbbatch.targets.failures import disk_away, first_line
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile

#: Instrument and number.
_Exposure = tuple[str, int]

#: The part of an attempt that is done when the file itself is ingested.
RAW_PART = "raw"


def configured(key: str, task: Any, fields: Mapping[str, Any], config: Any = None) -> Any:
    """Make the configuration of a task, or complete one.

    Raises
    ------
    Misconfigured
        If it has no such field, or not such a value.
    """
    config = task.ConfigClass() if config is None else config
    for name, value in fields.items():
        at, _, last = name.rpartition(".")
        try:
            inner = config
            for part in filter(None, at.split(".")):
                # What can be chosen from a registry is an item of its field.
                inner = getattr(inner, part) if hasattr(inner, part) else inner[part]
            getattr(inner, last)
            setattr(inner, last, value)
        except Exception as error:  # noqa: BLE001 (pex_config has its own kinds)
            raise Misconfigured(f"{key}: {name} = {value!r}: {first_line(error)}") from None
    return config


def arguments(
    key: str, call: Any, options: Mapping[str, Any], ours: frozenset[str]
) -> dict[str, Any]:
    """Check the options of a call against its signature, which differs between releases.

    Raises
    ------
    Misconfigured
        If it knows no such option.
    """
    known = inspect.signature(call).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
        for name in options:
            if name not in known:
                others = sorted(set(known) - ours - {"self"})
                raise Misconfigured(
                    f"{key}: {name} is no option{config_fields.nearest(name, others)}"
                )
    return dict(options)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the task said of one file.

    Attributes
    ----------
    error : `Exception` or `None`
        What was wrong; `None` if it was ingested.
    refs : `list` [`DatasetRef`]
        Its datasets, if it was ingested.
    together : `bool`
        Whether its exposure failed as a whole, so that another file may be to blame.
    """

    error: Exception | None
    refs: Sequence[DatasetRef] = ()
    together: bool = False


class TaskIngest:
    """Ingests batches by a task of the stack.

    Parameters
    ----------
    repository : `Repository`
        Where to.
    settings : `dbbbatch.targets.butler.settings.Gen3Settings`
        How.
    task : `type`
        `lsst.obs.base.RawIngestTask`, or what behaves like it.

    Raises
    ------
    Misconfigured
        If the task refuses its configuration, or cannot work with this repository.
    """

    def __init__(self, repository: Repository, settings: Any, task: type) -> None:
        self._repository = repository
        self._settings = settings
        config = configured(
            "task_config", task, {"transfer": settings.transfer} | dict(settings.task_config)
        )
        self._said: dict[str, _Said] = {}
        self._task = task(
            config,
            butler=repository.butler,
            on_success=self._succeeded,
            on_metadata_failure=self._unreadable,
            on_ingest_failure=self._refused,
        )
        self._options = arguments(
            "task_options", self._task.run, settings.task_options, INGEST_ARGUMENTS
        )
        self._skips = bool(self._options.get("skip_existing_exposures"))
        self._direct: DirectIngest | None = None
        self._check_dataset_types()

    def _check_dataset_types(self) -> None:
        """Compare what the task will register with what the repository has.

        Raises
        ------
        Misconfigured
            If they differ: the task would refuse every file.
        """
        named = type(self._task).__name__
        where = self._repository.where
        names = set()
        for wanted in self._dataset_types():
            names.add(wanted.name)
            there = self._repository.registered_type(wanted.name)
            if there is not None and there != wanted:
                raise Misconfigured(
                    f"task: {named} registers {wanted.name} as {_dataset_kind(wanted)}, but {where} "
                    f"has it as {_dataset_kind(there)}; leave task out, or ingest into a repository "
                    "made for the stack: dbb butler prepare --storage-class Exposure --repo NEW "
                    "--instrument NAME"
                )
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

    # ---- what the task says ----

    def _succeeded(self, datasets: Sequence[Any]) -> None:
        for dataset in datasets:
            self._said[_path_text(dataset.path)] = _Said(None, dataset.refs)

    def _unreadable(self, filename: Any, error: Exception) -> None:
        self._said[_path_text(filename)] = _Said(error)

    def _refused(self, exposure: Any, error: Exception) -> None:
        for file in exposure.files:
            self._said[_path_text(file.filename)] = _Said(error, together=True)

    # ---- ingesting ----

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `dbbbatch.targets.plugin.Plugin.ingest`."""
        whole = []
        for file in files:
            unfit = self._unfit(file)
            if unfit is None:
                whole.append(file)
            else:
                yield unfit
        if self._skips and (direct := self._looking()) is not None:
            # The task would tell of a success for each of them, whatever file it has instead.
            held = direct.judge(whole)
            yield from held.values()
            whole = [file for file in whole if file.number not in held]
        runs: dict[str, list[StoredFile]] = {}
        for file in whole:
            run = self._run(file)
            if isinstance(run, Outcome):
                yield run
            else:
                runs.setdefault(run, []).append(file)
        for run, some in runs.items():
            yield from self._ingest(run, some)

    def _unfit(self, file: StoredFile) -> Outcome | None:
        """Return why a file cannot be given to the task at all."""
        if not headers.is_utf8(file.path):
            return Outcome(file.number, Result.NEVER, headers.NOT_UTF8)
        try:
            fits.walk(file.path, count=self._settings.nextend)
        except fits.Damaged as error:
            return Outcome(file.number, Result.NEVER, str(error))
        except OSError as error:
            return _unread_outcome(file, error)
        return None

    def _run(self, file: StoredFile) -> str | Outcome:
        """Return the collection for a file; nothing for the one that the task chooses itself."""
        template = self._settings.run
        if template == "{instrument}/raw/all":
            return ""
        named = self._repository.instruments() if "{" in template else [""]
        if len(named) != 1:
            try:
                named = [str(headers.observations(file.path, count=False)[0].instrument)]
            except OSError as error:
                return _unread_outcome(file, error)
            except (fits.Damaged, headers.Untranslatable) as error:
                return Outcome(file.number, Result.FAILED, f"run: its instrument? {error}")
        return str(template.format(instrument=named[0]))

    def _ingest(self, run: str, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        alone = []
        for file, said in self._tried(run, files):
            # An exposure succeeds or fails as a whole: the neighbours of one bad file, or of one
            # that is there already, are innocent. They are tried again, each alone.
            outcome = self._outcome(file, said)
            if outcome.result is Result.FAILED and said.together and len(files) > 1:
                alone.append(file)
            else:
                yield outcome
        for file in alone:
            for _, said in self._tried(run, [file]):
                yield self._outcome(file, said)

    def _tried(self, run: str, files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, _Said]]:
        """Run the task until each file was mentioned, or was tried alone.

        The task stops without a word at an exposure whose filter is not registered, at headers
        that it did not foresee, and, with ``failFast``, at any failure.
        """
        waiting = deque([list(files)])
        while waiting:
            some = waiting.popleft()
            raised = self._call(run, some)
            told = [
                (file, said) for file in some if (said := self._said.get(_path_text(file.path)))
            ]
            silent = [file for file in some if _path_text(file.path) not in self._said]
            yield from (one for one in told if one[1].error is None)
            for wrong in (raised, *(said.error for _, said in told)):
                if wrong is not None:
                    self._repository.raise_if_away(wrong)
            yield from (one for one in told if one[1].error is not None)
            if len(some) == 1 and silent:
                named = type(self._task).__name__
                yield silent[0], _Said(raised or LookupError(f"{named} said nothing about it"))
            elif silent and told:
                waiting.append(silent)
            elif silent:
                half = len(silent) // 2
                waiting += [silent[:half], silent[half:]]

    def _call(self, run: str, files: Sequence[StoredFile]) -> Exception | None:
        """Run the task once; return what it raised, which it does whenever anything failed."""
        self._said = {}
        more = {"run": run} if run else {}
        try:
            self._task.run(
                [ResourcePath(headers.uri(file.path)) for file in files], **more, **self._options
            )
        except Exception as error:  # noqa: BLE001 (it raises what it likes)
            return error
        return None

    def _outcome(self, file: StoredFile, said: _Said) -> Outcome:
        """Return what became of a file that was given to the task."""
        error = said.error
        if error is None:
            return self._confirmed(file, said.refs)
        if disk_away(error):
            return Outcome(file.number, Result.LATER, first_line(error))
        direct = self._looking()
        if direct is not None and (judged := direct.judge([file])):
            return judged[file.number]
        why = f"{type(error).__name__}: {first_line(error)}"
        try:
            why = self._lacking(file) or why
        except headers.Untranslatable as ours:
            # What the task threw may say little.
            why += f"; {ours}"
        return Outcome(file.number, Result.FAILED, why)

    def _confirmed(self, file: StoredFile, refs: Sequence[DatasetRef]) -> Outcome:
        """Look a success up, where the task may have skipped the file for another one."""
        run = refs[0].run if refs else self._settings.run
        if self._skips:
            why = self._repository.asking(self._difference, file, refs)
            if why:
                return Outcome(file.number, Result.FAILED, why)
        return Outcome(file.number, Result.DONE, f"by {type(self._task).__name__} ({run})")

    def _difference(self, file: StoredFile, refs: Sequence[DatasetRef]) -> str | None:
        for ref in refs:
            path = self._repository.artifact(ref)
            if path is None:
                return f"{type(self._task).__name__} skipped it, and the repository has no file"
            if why := difference(path, file):
                return f"{shown(ref)} is there already: {why}"
        return None

    def _lacking(self, file: StoredFile) -> str | None:
        """Return what a file needs that is not registered, which the task tells only obscurely.

        Raises
        ------
        headers.Untranslatable
            If the headers do not say it.
        """
        try:
            infos = headers.observations(file.path, count=False)
        except (fits.Damaged, OSError):
            return None
        instrument, name = str(infos[0].instrument), str(infos[0].physical_filter)
        repository = self._repository
        detectors = {info.detector_num for info in infos}
        if missing := repository.asking(repository.missing, instrument, detectors):
            return str(missing)
        if repository.asking(repository.has_filter, instrument, name):
            return None
        of = repository.instrument_classes().get(instrument, instrument)
        return (
            f"filter {name!r} of {instrument} is not registered in {repository.where}, and "
            f"{type(self._task).__name__} registers none: "
            f"butler register-instrument --update {repository.where} {of}"
        )

    def _looking(self) -> DirectIngest | None:
        """Return what looks files up; None while the repository has no dataset type for them.

        The task registers it at its first success.
        """
        if self._direct is None:
            if self._repository.registered_type(self._settings.dataset_type) is None:
                return None
            self._direct = DirectIngest(self._repository, self._settings, object)
        return self._direct

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Return which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        direct = self._looking()
        if direct is None:
            return iter([(file.number, False) for file in files])
        return direct.known(files)


class Visits:
    """Defines the visits of files that another engine has ingested.

    A visit that cannot be defined leaves its files partly done: only the visit is tried again.

    Parameters
    ----------
    engine : `TaskIngest` or `DirectIngest`
        Ingests the files.
    repository : `Repository`
        Where to.
    settings : `dbbbatch.targets.butler.settings.Gen3Settings`
        How.
    task : `type`
        `lsst.obs.base.DefineVisitsTask`, or what behaves like it.
    """

    def __init__(self, engine: Any, repository: Repository, settings: Any, task: Any) -> None:
        self._engine = engine
        self._repository = repository
        self._settings = settings
        self._type = task
        self._tasks: dict[str, Any] = {}
        configured("visits_config", task, settings.visits_config)
        self._options = arguments(
            "visits_options", task.run, settings.visits_options, VISIT_ARGUMENTS
        )
        if "incremental" in inspect.signature(task.run).parameters:
            # The other detectors and snaps of a visit may come with the next batch.
            self._options.setdefault("incremental", True)
        if self._options.get("prefilter") and self._options.get("incremental"):
            raise Misconfigured(
                "visits_options: prefilter does not go with incremental, which is true unless "
                "visits_options says false; a visit is then defined by its first files alone"
            )

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch and define its visits; as `dbbbatch.targets.plugin.Plugin.ingest`."""
        by_number = {file.number: file for file in files}
        ingested = {
            file.number: Outcome(file.number, Result.DONE, "ingested before")
            for file in files
            if RAW_PART in file.parts_done
        }
        rest = [file for file in files if file.number not in ingested]
        for outcome in self._engine.ingest(rest) if rest else ():
            if outcome.result in (Result.DONE, Result.ALREADY):
                ingested[outcome.number] = outcome
            else:
                yield outcome
        exposures: dict[_Exposure, list[Outcome]] = {}
        for number, outcome in ingested.items():
            try:
                info = headers.observations(by_number[number].path, count=False)[0]
            except (fits.Damaged, headers.Untranslatable, OSError) as error:
                yield _partly(outcome, f"no visit defined: {error}", later=disk_away(error))
            else:
                exposure = str(info.instrument), int(info.exposure_id or 0)
                exposures.setdefault(exposure, []).append(outcome)
        for exposure, wrong in self._define(list(exposures)):
            for outcome in exposures[exposure]:
                if wrong is None:
                    yield outcome
                else:
                    why = f"visit of exposure {exposure[1]} not defined: {first_line(wrong)}"
                    yield _partly(outcome, why, later=disk_away(wrong))

    def _define(self, exposures: list[_Exposure]) -> Iterator[tuple[_Exposure, Exception | None]]:
        """Define the visits, those of each instrument in a call of its own as the task wants it."""
        by_instrument: dict[str, list[_Exposure]] = {}
        for exposure in exposures:
            by_instrument.setdefault(exposure[0], []).append(exposure)
        for instrument, some in by_instrument.items():
            try:
                task = self._task(instrument)
            except (Misconfigured, NotReady):
                raise
            except Exception as failure:  # noqa: BLE001 (a task's constructor is the stack's)
                self._repository.raise_if_away(failure)
                for exposure in some:
                    yield exposure, failure
            else:
                yield from self._define_together(task, some)

    def _define_together(
        self, task: Any, exposures: list[_Exposure]
    ) -> Iterator[tuple[_Exposure, Exception | None]]:
        """Define the visits of all, or of each alone if that fails."""
        ids = [{"instrument": instrument, "exposure": number} for instrument, number in exposures]
        try:
            # By position: the name of this argument has changed.
            task.run(ids, **self._options)
        except Exception as error:  # noqa: BLE001 (a task raises what it likes)
            self._repository.raise_if_away(error)
            if len(exposures) == 1:
                yield exposures[0], error
                return
            for exposure in exposures:
                yield from self._define_together(task, [exposure])
        else:
            for exposure in exposures:
                yield exposure, None

    def _task(self, instrument: str) -> Any:
        """Return the task as ``butler define-visits`` would configure it for an instrument."""
        if instrument not in self._tasks:
            config = self._type.ConfigClass()
            self._override(instrument, config)
            # As that command: repositories of old have no numbers of a sequence to go by.
            exposure = self._repository.butler.dimensions["exposure"]
            grouping: Any = getattr(config, "groupExposures", None)
            by_counter = getattr(grouping, "name", "") == "one-to-one-and-by-counter"
            if by_counter and "seq_end" not in exposure.metadata.names:
                grouping.name = "one-to-one"
            configured("visits_config", self._type, self._settings.visits_config, config)
            self._tasks[instrument] = self._type(config, butler=self._repository.butler)
        return self._tasks[instrument]

    def _override(self, instrument: str, config: Any) -> None:
        """Apply what the instrument's package says of the task."""
        named = self._repository.instrument_classes().get(instrument, "")
        module, _, name = named.rpartition(".")
        try:
            of = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            # The task will say that it needs the class, if it does.
            return
        try:
            of().applyConfigOverrides(getattr(self._type, "_DefaultName", "defineVisits"), config)
        except Exception as error:
            raise Misconfigured(
                f"visits: the overrides of {named} for it fail: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Return which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        return self._engine.known(files)


def _partly(outcome: Outcome, message: str, *, later: bool = False) -> Outcome:
    result = Result.LATER if later else Result.PARTLY
    return Outcome(outcome.number, result, message, parts_done=frozenset({RAW_PART}))


def _unread_outcome(file: StoredFile, error: OSError) -> Outcome:
    result = Result.LATER if disk_away(error) else Result.FAILED
    return Outcome(file.number, result, f"cannot be read: {error.strerror or error}")


def _dataset_kind(dataset_type: DatasetType) -> str:
    return (
        f"{dataset_type.storageClass_name} of {', '.join(sorted(dataset_type.dimensions.required))}"
    )


def _path_text(named: Any) -> str:
    # The task may have tidied a path up.
    path = named if isinstance(named, str) and named.startswith("/") else ResourcePath(named).ospath
    return os.path.normpath(path)
