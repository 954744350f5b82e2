"""Ingests by the LSST stack's task (`lsst.obs.base.RawIngestTask`) and defines visits by its other.

The tasks are imported by the names in the configuration. `RawIngestTask` tells of each file by
callbacks, and raises in the end if anything went wrong, although other files succeeded: the
callbacks are trusted, and what they do not mention is looked up in the repository.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lsst.resources import ResourcePath

from dbbbatch import keys
from dbbbatch.targets.base import Misconfigured, Outcome, Result, StoredFile
from dbbbatch.targets.butler import fits, headers
from dbbbatch.targets.butler.direct import DirectIngest
from dbbbatch.targets.butler.repository import Repository, first_line

__all__ = ["RAW", "TaskIngest", "Visits"]

#: Instrument and number.
_Exposure = tuple[str, int]

#: The part of an attempt that is done when the file itself is ingested.
RAW = "raw"


def configured(key: str, task: type, fields: Mapping[str, Any]) -> Any:
    """Make the configuration of a task.

    Raises
    ------
    Misconfigured
        If it has no such field, or not such a value.
    """
    config = task.ConfigClass()  # type: ignore[attr-defined]
    for name, value in fields.items():
        at, _, last = name.rpartition(".")
        try:
            inner = config
            for part in filter(None, at.split(".")):
                inner = getattr(inner, part)
            getattr(inner, last)
            setattr(inner, last, value)
        except Exception as error:  # noqa: BLE001 (pex_config has its own kinds)
            raise Misconfigured(f"{key}: {name} = {value!r}: {first_line(error)}") from None
    return config


def arguments(key: str, call: Any, options: Mapping[str, Any], ours: set[str]) -> dict[str, Any]:
    """Check the options of a call against its signature, which differs between releases.

    Raises
    ------
    Misconfigured
        If it knows no such option.
    """
    known = inspect.signature(call).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
        for name in options:
            if name not in known or name in ours:
                others = sorted(set(known) - ours - {"self"})
                raise Misconfigured(f"{key}: {name} is no option{keys.nearest(name, others)}")
    return dict(options)


class TaskIngest:
    """Ingests batches by a task of the stack.

    Parameters
    ----------
    repository : `Repository`
        Where to.
    settings : `dbbbatch.targets.butler_gen3.Settings`
        How.
    task : `type`
        `lsst.obs.base.RawIngestTask`, or what behaves like it.

    Raises
    ------
    Misconfigured
        If the task refuses its configuration.
    """

    def __init__(self, repository: Repository, settings: Any, task: type) -> None:
        self._repository = repository
        self._settings = settings
        config = configured(
            "task_config", task, {"transfer": settings.transfer} | dict(settings.task_config)
        )
        #: What it said of each path: what was wrong, or nothing; and which failed as an exposure.
        self._said: dict[str, Exception | None] = {}
        self._together: set[str] = set()
        self._task = task(
            config,
            butler=repository.butler,
            on_success=self._succeeded,
            on_metadata_failure=self._unreadable,
            on_ingest_failure=self._refused,
        )
        self._options = arguments(
            "task_options", self._task.run, settings.task_options, {"files", "run"}
        )

    # ---- what the task says ----

    def _succeeded(self, datasets: Sequence[Any]) -> None:
        for dataset in datasets:
            self._said[_path(dataset.path)] = None

    def _unreadable(self, filename: Any, error: Exception) -> None:
        self._said[_path(filename)] = error

    def _refused(self, exposure: Any, error: Exception) -> None:
        for file in exposure.files:
            path = _path(file.filename)
            self._said[path] = error
            self._together.add(path)

    # ---- ingesting ----

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `dbbbatch.targets.base.Plugin.ingest`."""
        whole = []
        for file in files:
            try:
                fits.walk(file.path, count=self._settings.nextend)
            except fits.Damaged as error:
                yield Outcome(file.number, Result.NEVER, str(error))
            except OSError as error:
                yield Outcome(file.number, Result.FAILED, f"cannot be read: {error.strerror}")
            else:
                whole.append(file)
        alone = []
        for file, error in self._run(whole):
            outcome = self._outcome(file, error)
            # An exposure succeeds or fails as a whole: the neighbours of one bad file, or of one
            # that is there already, are innocent. They are tried again, each alone.
            if outcome.result is Result.FAILED and file.path in self._together and len(whole) > 1:
                alone.append(file)
            else:
                yield outcome
        for file in alone:
            ((_, error),) = self._run([file])
            yield self._outcome(file, error)

    def _outcome(self, file: StoredFile, error: Exception | None) -> Outcome:
        """Say what became of a file that was given to the task."""
        if error is None:
            words = f"by {type(self._task).__name__} ({self._settings.run})"
            return Outcome(file.number, Result.DONE, words)
        if judged := self._look_up(file, error):
            return judged
        return Outcome(file.number, Result.FAILED, f"{type(error).__name__}: {first_line(error)}")

    def _run(self, files: Sequence[StoredFile]) -> list[tuple[StoredFile, Exception | None]]:
        """Run the task once; give each file with what is wrong with it, or None."""
        if not files:
            return []
        self._said.clear()
        self._together.clear()
        raised: Exception | None = None
        more = {} if "run" in self._options else self._run_name(files)
        try:
            self._task.run(
                [ResourcePath(headers.uri(file.path)) for file in files], **more, **self._options
            )
        except Exception as error:  # noqa: BLE001 (it raises whenever anything failed)
            raised = error
        for wrong in (raised, *self._said.values()):
            if wrong is not None:
                self._repository.raise_if_away(wrong)
        silent = raised or LookupError(f"{type(self._task).__name__} said nothing about it")
        return [(file, self._said.get(file.path, silent)) for file in files]

    def _run_name(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Name the collection, unless it is the one that the task chooses for each instrument."""
        run = self._settings.run
        return {} if run == "{instrument}/raw/all" else {"run": run}

    def _look_up(self, file: StoredFile, error: Exception) -> Outcome | None:
        """Say whether the repository holds a file already, the same or another."""
        if isinstance(error, OSError):
            return None
        return DirectIngest(self._repository, self._settings, object).judge(file)

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Tell which files the repository holds; as `dbbbatch.targets.base.Plugin.known`."""
        return DirectIngest(self._repository, self._settings, object).known(files)


class Visits:
    """Defines the visits of files that another engine has ingested.

    A visit that cannot be defined leaves its files partly done: only the visit is tried again.

    Parameters
    ----------
    engine : `TaskIngest` or `DirectIngest`
        Ingests the files.
    repository : `Repository`
        Where to.
    settings : `dbbbatch.targets.butler_gen3.Settings`
        How.
    task : `type`
        `lsst.obs.base.DefineVisitsTask`, or what behaves like it.
    """

    def __init__(self, engine: Any, repository: Repository, settings: Any, task: type) -> None:
        self._engine = engine
        self._repository = repository
        self._settings = settings
        config = configured("visits_config", task, settings.visits_config)
        self._task = task(config, butler=repository.butler)
        self._options = arguments(
            "visits_options", self._task.run, settings.visits_options, {"dataIds", "data_ids"}
        )

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch and define its visits; as `dbbbatch.targets.base.Plugin.ingest`."""
        by_number = {file.number: file for file in files}
        ingested = {
            file.number: Outcome(file.number, Result.DONE, "ingested before")
            for file in files
            if RAW in file.parts_done
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
                yield _partly(outcome, f"no visit defined: {error}")
            else:
                exposures.setdefault((info.instrument, info.exposure_id), []).append(outcome)
        for exposure, error in self._define(list(exposures)):
            for outcome in exposures[exposure]:
                yield (
                    outcome
                    if error is None
                    else _partly(
                        outcome, f"visit of exposure {exposure[1]} not defined: {first_line(error)}"
                    )
                )

    def _define(self, exposures: list[_Exposure]) -> Iterator[tuple[_Exposure, Exception | None]]:
        """Define the visits of all, or of each alone if that fails."""
        if not exposures:
            return
        ids = [{"instrument": instrument, "exposure": number} for instrument, number in exposures]
        try:
            # By position: the name of this argument has changed.
            self._task.run(ids, **self._options)
        except Exception as error:  # noqa: BLE001 (a task raises what it likes)
            self._repository.raise_if_away(error)
            if len(exposures) == 1:
                yield exposures[0], error
                return
            for exposure in exposures:
                yield from self._define([exposure])
        else:
            for exposure in exposures:
                yield exposure, None

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Tell which files the repository holds; as `dbbbatch.targets.base.Plugin.known`."""
        return self._engine.known(files)


def _partly(outcome: Outcome, message: str) -> Outcome:
    return Outcome(outcome.number, Result.PARTLY, message, parts_done=frozenset({RAW}))


def _path(named: Any) -> str:
    return str(ResourcePath(named).ospath)
