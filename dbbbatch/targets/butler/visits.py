"""Define the visits of ingested files by the LSST stack's task (`lsst.obs.base.DefineVisitsTask`).

A visit that cannot be defined leaves its files partly done: only the visit is tried again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from dbbbatch.targets.butler import fits, headers
from dbbbatch.targets.butler.direct import DirectIngest
from dbbbatch.targets.butler.outcomes import error_text
from dbbbatch.targets.butler.repository import ExposureKey, Repository
from dbbbatch.targets.butler.settings import VISIT_ARGUMENTS, Gen3Settings
from dbbbatch.targets.butler.stack import arguments, configure, find_class
from dbbbatch.targets.butler.tasks import TaskIngest
from dbbbatch.targets.failures import disk_away, first_line
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile

#: The part of an attempt that is done when the file itself is ingested.
RAW_PART = "raw"


class Visits:
    """Ingests files by another engine, and defines their visits by `task`.

    That is `lsst.obs.base.DefineVisitsTask` or a class like it.

    Raises
    ------
    Misconfigured
        If the task refuses its configuration or options.
    """

    def __init__(
        self,
        engine: DirectIngest | TaskIngest,
        repository: Repository,
        settings: Gen3Settings,
        task: Any,
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._settings = settings
        self._type = task
        self._tasks: dict[str, Any] = {}
        configure("visits_config", task.ConfigClass(), settings.visits_config)
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
        exposures: dict[ExposureKey, list[Outcome]] = {}
        for number, outcome in ingested.items():
            try:
                info = headers.observations(by_number[number].path, count=False)[0]
            except (fits.Unusable, OSError) as error:
                yield _partly(outcome, error, f"no visit defined: {error}")
            else:
                exposure = str(info.instrument), int(info.exposure_id or 0)
                exposures.setdefault(exposure, []).append(outcome)
        # The task takes one instrument a call.
        for _, some in groupby(sorted(exposures), itemgetter(0)):
            for exposure, wrong in self._define(list(some)):
                for outcome in exposures[exposure]:
                    if wrong is None:
                        yield outcome
                    else:
                        why = f"visit of exposure {exposure[1]} not defined: {first_line(wrong)}"
                        yield _partly(outcome, wrong, why)

    def _define(
        self, exposures: list[ExposureKey]
    ) -> Iterator[tuple[ExposureKey, Exception | None]]:
        """Define the visits of one instrument, or of each exposure alone if that fails."""
        ids = [{"instrument": instrument, "exposure": number} for instrument, number in exposures]
        try:
            # By position: the name of this argument has changed.
            self._task(exposures[0][0]).run(ids, **self._options)
        except (Misconfigured, NotReady):
            raise
        except Exception as error:  # noqa: BLE001 (the task raises many kinds)
            self._repository.raise_if_away(error)
            if len(exposures) == 1:
                yield exposures[0], error
            else:
                for exposure in exposures:
                    yield from self._define([exposure])
        else:
            yield from ((exposure, None) for exposure in exposures)

    def _task(self, instrument: str) -> Any:
        """Return the task as ``butler define-visits`` would configure it for an instrument."""
        if instrument not in self._tasks:
            config = self._type.ConfigClass()
            self._override(instrument, config)
            # As that command does: old repositories have no numbers of a sequence.
            exposure = self._repository.butler.dimensions["exposure"]
            grouping: Any = getattr(config, "groupExposures", None)
            by_counter = getattr(grouping, "name", "") == "one-to-one-and-by-counter"
            if by_counter and "seq_end" not in exposure.metadata.names:
                grouping.name = "one-to-one"
            configure("visits_config", config, self._settings.visits_config)
            self._tasks[instrument] = self._type(config, butler=self._repository.butler)
        return self._tasks[instrument]

    def _override(self, instrument: str, config: Any) -> None:
        """Apply what the instrument's package sets for the task."""
        name = self._repository.instrument_classes().get(instrument, "")
        try:
            of = find_class(name)
        except ImportError:
            # The task will report that it needs the class, if it does.
            return
        try:
            of().applyConfigOverrides(getattr(self._type, "_DefaultName", "defineVisits"), config)
        except Exception as error:
            raise Misconfigured(
                f"visits: the overrides of {name} for it fail: {error_text(error)}"
            ) from error

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        return self._engine.known(files)


def _partly(outcome: Outcome, error: Exception, message: str) -> Outcome:
    result = Result.LATER if disk_away(error) else Result.PARTLY
    return Outcome(outcome.number, result, message, parts_done=frozenset({RAW_PART}))
