"""Register files where they are, with packages from PyPI alone: no LSST stack.

* written first: the records of filter, group, night and exposure that the files refer to
* done: one `Butler.ingest` for the batch, in one transaction
* recorded: by that transaction, and then by the ingester from the outcomes
* recovery: the repository is asked which datasets of these exposures it holds; one of the same file
  or the same content is a success

A batch costs one query for its exposures, one insertion for the new ones and one `Butler.ingest`;
only files whose exposures are registered already are looked up. What fails is divided in halves, so
that one bad file costs a few calls and no other file.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astro_metadata_translator import ObservationInfo
from lsst.daf.butler import (
    DataCoordinate,
    DatasetIdGenEnum,
    DatasetRef,
    DimensionRecord,
    FileDataset,
)
from lsst.daf.butler.registry import ConflictingDefinitionError
from lsst.resources import ResourcePath

from dbbbatch.targets.butler import headers, instruments, records
from dbbbatch.targets.butler.outcomes import difference, error_text, failed, unreadable
from dbbbatch.targets.butler.repository import ExposureKey, Repository
from dbbbatch.targets.butler.settings import Gen3Settings
from dbbbatch.targets.failures import first_line
from dbbbatch.targets.plugin import Outcome, Result, StoredFile

#: Dimension element to row, in the order of insertion.
_Rows = dict[str, dict[str, Any]]


@dataclass(slots=True)
class _Plan:
    """A file and the datasets that it holds."""

    file: StoredFile
    infos: list[ObservationInfo]
    refs: list[DatasetRef]

    @property
    def exposure(self) -> ExposureKey:
        info = self.infos[0]
        # The headers must have both, though their types do not say so.
        return str(info.instrument), int(info.exposure_id or 0)

    def outcome(self, result: Result, message: str) -> Outcome:
        return Outcome(self.file.number, result, message)

    def __str__(self) -> str:
        more = f" and {len(self.infos) - 1} more" if len(self.infos) > 1 else ""
        return f"{shown(self.refs[0])}{more} in {self.refs[0].run}"


class DirectIngest:
    """Ingests batches into an open repository.

    The name of `formatter`, a class that reads the files, is recorded with each. After `patience`
    seconds of reading, the files that were read are ingested before more are read: the ingester
    waits for outcomes only so long.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Gen3Settings,
        formatter: type,
        patience: float = float("inf"),
    ) -> None:
        self._patience = patience
        self._repository = repository
        self._settings = settings
        self._formatter = formatter
        self._dataset_type = repository.dataset_type(settings.dataset_type)

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `dbbbatch.targets.plugin.Plugin.ingest`."""
        plans: list[_Plan] = []
        begun = time.monotonic()
        for file in files:
            plan = self.read(file)
            if isinstance(plan, Outcome):
                yield plan
            else:
                plans.append(plan)
            if time.monotonic() - begun > self._patience:
                yield from self._ingest_together(plans)
                plans, begun = [], time.monotonic()
        yield from self._ingest_together(plans)

    def _ingest_together(self, plans: list[_Plan]) -> Iterator[Outcome]:
        # Two files of one batch may claim to be the same dataset: the second is compared once the
        # first is in.
        claimed: set[DataCoordinate] = set()
        first: list[_Plan] = []
        again: list[_Plan] = []
        for plan in plans:
            ids = {ref.dataId for ref in plan.refs}
            (again if ids & claimed else first).append(plan)
            claimed |= ids
        for part in (first, again):
            if part:
                new, registered = yield from self.recover(part)
                yield from self.act((yield from self.intend(new, registered)))

    def judge(self, files: Sequence[StoredFile]) -> dict[int, Outcome]:
        """Return the outcomes of those files whose data ids the repository holds already.

        Files that it does not hold, or that cannot be read, are left out.
        """
        plans = [plan for plan in map(self.read, files) if isinstance(plan, _Plan)]
        held = self._held(plans)
        outcomes = (self._compared(plan, held) for plan in plans) if held else ()
        return {outcome.number: outcome for outcome in outcomes if outcome is not None}

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        read = {file.number: self.read(file) for file in files}
        held = self._held(plan for plan in read.values() if isinstance(plan, _Plan))
        for number, plan in read.items():
            holds = isinstance(plan, _Plan) and all(ref.dataId in held for ref in plan.refs)
            yield number, holds

    def read(self, file: StoredFile) -> _Plan | Outcome:
        """Find out which datasets a file holds, or why it has none."""
        try:
            infos = headers.observations(file.path, count=self._settings.nextend)
        except Exception as error:  # noqa: BLE001 (a translator raises many kinds)
            return unreadable(file, error)
        if len({(info.instrument, info.exposure_id) for info in infos}) > 1:
            return Outcome(file.number, Result.FAILED, "holds more than one exposure")
        try:
            return _Plan(file, infos, [self._ref(info) for info in infos])
        except Exception as error:  # noqa: BLE001 (daf_butler raises many kinds for a bad data id)
            return failed(file, error, f"no dataset can be made of it: {error_text(error)}")

    def _ref(self, info: ObservationInfo) -> DatasetRef:
        data_id = DataCoordinate.standardize(
            instrument=info.instrument,
            exposure=info.exposure_id,
            detector=info.detector_num,
            universe=self._repository.butler.dimensions,
        )
        # The same id whoever ingests the file, as `lsst.obs.base.RawIngestTask` makes it.
        return DatasetRef(
            self._dataset_type,
            data_id,
            run=self._settings.run.format(instrument=info.instrument),
            id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
        )

    def _held(self, plans: Iterable[_Plan]) -> dict[DataCoordinate, DatasetRef]:
        """Return the datasets of these exposures that the repository holds, from whatever file."""
        keys = [plan.exposure for plan in plans]
        return self._repository.datasets(self._dataset_type, self._settings.run, keys)

    def intend(
        self, plans: list[_Plan], registered: dict[ExposureKey, DimensionRecord]
    ) -> Generator[Outcome, None, list[_Plan]]:
        """Register filters and exposures; yield where that fails, and return the other files."""
        wrong: dict[ExposureKey, str] = {}
        new: dict[ExposureKey, _Rows] = {}
        for plan in plans:
            key = plan.exposure
            if key in wrong or key in new:
                continue
            rows = self._rows(plan)
            if isinstance(rows, str):
                wrong[key] = rows
            elif key not in registered:
                new[key] = rows
            elif why := self._amend(registered[key], rows):
                wrong[key] = why
        if new and self._repository.attempt(self._insert, list(new.values())):
            # One by one shows which record was refused.
            for key, rows in new.items():
                if why := self._sync(rows):
                    wrong[key] = why
        ready = []
        for plan in plans:
            if plan.exposure in wrong:
                yield plan.outcome(Result.FAILED, wrong[plan.exposure])
            else:
                ready.append(plan)
        return ready

    def _rows(self, plan: _Plan) -> _Rows | str:
        """Make an exposure's rows and register its filter, or return what is wrong."""
        instrument, number = plan.exposure
        name = str(plan.infos[0].physical_filter)
        try:
            rows = records.exposure_rows(plan.infos[0], self._repository.butler.dimensions)
        except Exception as error:  # noqa: BLE001 (astropy raises many kinds for a bad value)
            return f"exposure {number}: {error_text(error)}"
        if self._repository.has_filter(instrument, name):
            return rows
        if not self._settings.register_filters:
            return f"filter {name!r} of {instrument} is not registered in {self._repository.where}"
        row = {"instrument": instrument, "name": name, "band": instruments.band(instrument, name)}
        register = self._repository.butler.registry.syncDimensionData
        if refusal := self._repository.attempt(register, "physical_filter", row):
            return f"filter {name!r} of {instrument} cannot be registered: {first_line(refusal)}"
        return rows

    def _insert(self, exposures: list[_Rows]) -> None:
        for element in exposures[-1]:
            # Several exposures share a night, and some a group.
            unique = {
                (row["instrument"], row.get("id", row.get("name"))): row
                for row in (rows[element] for rows in exposures)
            }
            self._repository.butler.registry.insertDimensionData(
                element, *unique.values(), skip_existing=True
            )

    def _sync(self, rows: _Rows, *, update: bool = False) -> str | None:
        """Register the rows of one exposure; return what is wrong, if anything."""
        for element, row in rows.items():
            register = self._repository.butler.registry.syncDimensionData
            if error := self._repository.attempt(register, element, row, update=update):
                number = rows["exposure"]["id"]
                return f"exposure {number} cannot be registered: {first_line(error)}"
        return None

    def _amend(self, record: DimensionRecord, rows: _Rows) -> str | None:
        """Compare an exposure with its record, and update that if so configured."""
        if self._settings.exposures == "keep":
            return None
        differing = records.differences(record, rows["exposure"])
        if differing and self._settings.exposures == "update":
            return self._sync(rows, update=True)
        if differing:
            return f"exposure {record.id} is there already and differs: {'; '.join(differing)}"
        return None

    def act(self, plans: list[_Plan]) -> Iterator[Outcome]:
        """Register files whose exposures are registered; halve those that are refused."""
        if not plans:
            return
        datasets = [
            FileDataset(
                path=ResourcePath(Path(plan.file.path).as_uri()),
                refs=plan.refs,
                formatter=self._formatter,
            )
            for plan in plans
        ]
        error = self._repository.attempt(
            self._repository.butler.ingest, *datasets, transfer=self._settings.transfer
        )
        if error is None:
            for plan in plans:
                yield plan.outcome(Result.DONE, str(plan))
        elif len(plans) == 1:
            yield self._refused(plans[0], error)
        else:
            half = len(plans) // 2
            yield from self.act(plans[:half])
            yield from self.act(plans[half:])

    def _refused(self, plan: _Plan, error: Exception) -> Outcome:
        """Return what an error means for the one file that was to be registered."""
        if isinstance(error, ConflictingDefinitionError):
            # Another pass was quicker, or another file was ingested as this dataset.
            outcome = self._compared(plan, self._held([plan]))
            if outcome is not None:
                return outcome
        return failed(plan.file, error, error_text(error))

    def recover(
        self, plans: list[_Plan]
    ) -> Generator[Outcome, None, tuple[list[_Plan], dict[ExposureKey, DimensionRecord]]]:
        """Yield outcomes of files that the repository holds, or lacks the detector of.

        Return the other files, and the records of those of their exposures that are registered.
        """
        ready = []
        for plan in plans:
            detectors = {int(info.detector_num or 0) for info in plan.infos}
            if missing := self._repository.missing(plan.exposure[0], detectors):
                yield plan.outcome(Result.FAILED, missing)
            else:
                ready.append(plan)
        registered = self._repository.exposures([plan.exposure for plan in ready])
        held = self._held(plan for plan in ready if plan.exposure in registered)
        new = []
        for plan in ready:
            outcome = self._compared(plan, held)
            if outcome is None:
                new.append(plan)
            else:
                yield outcome
        return new, registered

    def _compared(self, plan: _Plan, held: dict[DataCoordinate, DatasetRef]) -> Outcome | None:
        """Compare a file with what the repository holds; None if it still lacks something."""
        new = []
        same = "registered before"
        for ref in plan.refs:
            there = held.get(ref.dataId)
            path = self._repository.artifact(there) if there else None
            if path is None:
                # Not there, or there with its file forgotten: then it may have a new one.
                new.append(there or ref)
                continue
            try:
                differing = difference(path, plan.file)
            except OSError as error:
                why = f"cannot be compared with {path}: {error.strerror}"
                return failed(plan.file, error, why)
            if differing:
                return plan.outcome(Result.FAILED, f"{shown(ref)} is there already: {differing}")
            if path != plan.file.path:
                same = f"registered before, the same content in {path}"
        if new:
            plan.refs = new
            return None
        return plan.outcome(Result.ALREADY, f"{plan}, {same}")


def shown(ref: DatasetRef) -> str:
    """Return a dataset's name for messages."""
    id_ = ref.dataId
    return f"{ref.datasetType.name} {id_['instrument']} {id_['exposure']}/{id_['detector']}"
