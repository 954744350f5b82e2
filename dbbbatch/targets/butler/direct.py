"""Registers files where they lie, with packages from PyPI alone: no LSST stack.

A batch costs one query for its exposures, one insertion for the new ones and one `Butler.ingest`;
only files whose exposures are known already are looked up. What fails is taken apart by halves, so
that one bad file costs a few calls and no neighbour.
"""

from __future__ import annotations

import filecmp
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

from dbbbatch.targets.butler import fits, headers, records
from dbbbatch.targets.butler.instruments import band
from dbbbatch.targets.butler.repository import (
    Repository,
    disk_away,
    first_line,
)
from dbbbatch.targets.plugin import NotReady, Outcome, Result, StoredFile


@dataclass(slots=True)
class _Plan:
    """A file and the datasets that it holds."""

    file: StoredFile
    infos: list[ObservationInfo]
    refs: list[DatasetRef]

    @property
    def exposure(self) -> tuple[str, int]:
        info = self.infos[0]
        # Required of headers, but not by their type.
        return str(info.instrument), int(info.exposure_id or 0)

    def outcome(self, result: Result, message: str) -> Outcome:
        return Outcome(self.file.number, result, message)


class DirectIngest:
    """Ingests batches into an open repository.

    Parameters
    ----------
    repository : `Repository`
        Where to.
    settings : `dbbbatch.targets.butler.settings.Gen3Settings`
        How.
    formatter : `type`
        The class whose name is recorded with each file, to read it.
    patience : `float`
        Seconds after which files that were read are ingested, rather than more of them read: the
        ingester waits for outcomes only so long.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Any,
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
            read = self.read(file)
            if isinstance(read, Outcome):
                yield read
            else:
                plans.append(read)
            if time.monotonic() - begun > self._patience:
                yield from self._ingest_together(plans)
                plans = []
                begun = time.monotonic()
        yield from self._ingest_together(plans)

    def _ingest_together(self, plans: list[_Plan]) -> Iterator[Outcome]:
        # Two files of one batch that claim to be the same dataset: the second is judged once the
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
                yield from self._register(part)

    def judge(self, files: Sequence[StoredFile]) -> dict[int, Outcome]:
        """Return what is to be said of the files whose data ids the repository holds already.

        Files that it does not hold, or that cannot be read, are left out.
        """
        plans = [plan for plan in map(self.read, files) if isinstance(plan, _Plan)]
        held = self._repository.asking(self._held, plans)
        judged = {plan.file.number: self._judge(plan, held) for plan in plans} if held else {}
        return {number: outcome for number, outcome in judged.items() if outcome is not None}

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files the repository holds; as `dbbbatch.targets.plugin.Plugin.known`."""
        read = {file.number: self.read(file) for file in files}
        held = self._held([plan for plan in read.values() if isinstance(plan, _Plan)])
        for number, plan in read.items():
            yield (
                number,
                isinstance(plan, _Plan) and all(ref.dataId in held for ref in plan.refs),
            )

    # ---- reading ----

    def read(self, file: StoredFile) -> _Plan | Outcome:
        """Find out which datasets a file holds, or why none can be made of it."""
        if not headers.is_utf8(file.path):
            return Outcome(file.number, Result.NEVER, headers.NOT_UTF8)
        try:
            infos = headers.observations(file.path, count=self._settings.nextend)
        except fits.Damaged as error:
            return Outcome(file.number, Result.NEVER, str(error))
        except headers.Untranslatable as error:
            return Outcome(file.number, Result.FAILED, str(error))
        except OSError as error:
            result = Result.LATER if disk_away(error) else Result.FAILED
            return Outcome(file.number, result, f"cannot be read: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 (one file must not spoil its batch)
            why = f"cannot be read: {type(error).__name__}: {first_line(error)}"
            return Outcome(file.number, Result.FAILED, why)
        if len({(info.instrument, info.exposure_id) for info in infos}) > 1:
            return Outcome(file.number, Result.FAILED, "holds more than one exposure")
        try:
            return _Plan(file, infos, [self._ref(info) for info in infos])
        except Exception as error:  # noqa: BLE001 (a value that is no data id)
            why = f"no dataset can be made of it: {type(error).__name__}: {first_line(error)}"
            return Outcome(file.number, Result.FAILED, why)

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

    # ---- registering ----

    def _register(self, plans: list[_Plan]) -> Iterator[Outcome]:
        ready = []
        for plan in plans:
            instrument, _ = plan.exposure
            detectors = {info.detector_num for info in plan.infos}
            missing = self._repository.asking(self._repository.missing, instrument, detectors)
            missing = missing or self._filter(plan.infos[0])
            if missing:
                yield plan.outcome(Result.FAILED, missing)
            else:
                ready.append(plan)
        if not ready:
            return
        exposures = self._repository.asking(self._exposures, ready)
        held = self._repository.asking(
            self._held, [plan for plan in ready if plan.exposure in exposures]
        )
        new = []
        for plan in ready:
            judged = self._judge(plan, held)
            if judged is not None:
                yield judged
            else:
                new.append(plan)
        wrong = self._add_exposures(new, exposures)
        good = []
        for plan in new:
            if plan.exposure in wrong:
                yield plan.outcome(Result.FAILED, wrong[plan.exposure])
            else:
                good.append(plan)
        yield from self._ingest(good)

    def _filter(self, info: ObservationInfo) -> str | None:
        """Register the filter of an exposure if need be; say what is wrong if that may not be."""
        instrument, name = info.instrument, str(info.physical_filter)
        if self._repository.asking(self._repository.has_filter, instrument, name):
            return None
        if not self._settings.register_filters:
            return f"filter {name!r} of {instrument} is not registered in {self._repository.where}"
        row = {"instrument": instrument, "name": name, "band": band(str(instrument), name)}
        try:
            self._repository.asking(
                self._repository.butler.registry.syncDimensionData, "physical_filter", row
            )
        except NotReady:
            raise
        except Exception as error:  # noqa: BLE001 (a name too long for the database, say)
            return f"filter {name!r} of {instrument} cannot be registered: {first_line(error)}"
        return None

    def _exposures(self, plans: list[_Plan]) -> dict[tuple[str, int], DimensionRecord]:
        ids = defaultdict(set)
        for instrument, exposure in (plan.exposure for plan in plans):
            ids[instrument].add(exposure)
        return {
            (instrument, number): record
            for instrument, numbers in ids.items()
            for number, record in self._repository.exposures(instrument, numbers).items()
        }

    def _held(self, plans: Iterable[_Plan]) -> dict[DataCoordinate, DatasetRef]:
        """Return the datasets of these exposures that the repository holds, these files' or not."""
        ids = defaultdict(set)
        for plan in plans:
            ids[plan.refs[0].run, plan.exposure[0]].add(plan.exposure[1])
        held: dict[DataCoordinate, DatasetRef] = {}
        for (run, instrument), exposures in ids.items():
            held |= self._repository.datasets(self._dataset_type, run, instrument, exposures)
        return held

    def _judge(self, plan: _Plan, held: dict[DataCoordinate, DatasetRef]) -> Outcome | None:
        """Compare with what is there already; None if something is still to be ingested."""
        new = []
        same = "registered before"
        for ref in plan.refs:
            there = held.get(ref.dataId)
            path = (
                None if there is None else self._repository.asking(self._repository.artifact, there)
            )
            if path is None:
                # Not there, or there with its file forgotten: then it may be given a new one.
                new.append(there or ref)
                continue
            try:
                differing = difference(path, plan.file)
            except OSError as error:
                return plan.outcome(
                    Result.LATER, f"cannot be compared with {path}: {error.strerror}"
                )
            if differing:
                return plan.outcome(Result.FAILED, f"{shown(ref)} is there already: {differing}")
            if path != plan.file.path:
                same = f"registered before, the same content in {path}"
        if new:
            plan.refs = new
            return None
        return plan.outcome(Result.ALREADY, f"{self._named(plan)}, {same}")

    def _add_exposures(
        self, plans: list[_Plan], there: dict[tuple[str, int], DimensionRecord]
    ) -> dict[tuple[str, int], str]:
        """Insert the exposures that are not there yet; say which are wrong and why."""
        wrong: dict[tuple[str, int], str] = {}
        new: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        universe = self._repository.butler.dimensions
        for plan in plans:
            key = plan.exposure
            if key in wrong or key in new:
                continue
            try:
                rows = records.exposure_rows(plan.infos[0], universe)
            except Exception as error:  # noqa: BLE001 (a value that no record can hold)
                wrong[key] = f"exposure {key[1]}: {type(error).__name__}: {first_line(error)}"
                continue
            if key not in there:
                new[key] = rows
            elif self._settings.exposures != "keep" and (
                differing := records.differences(there[key], rows["exposure"])
            ):
                if self._settings.exposures == "update":
                    self._sync(rows, wrong, key, update=True)
                else:
                    wrong[key] = f"exposure {key[1]} is there already and differs: " + "; ".join(
                        differing
                    )
        if new:
            try:
                self._repository.asking(self._insert, list(new.values()))
            except NotReady:
                raise
            except Exception:  # noqa: BLE001 (found out one by one whose record it is)
                for key, rows in new.items():
                    self._sync(rows, wrong, key)
        return wrong

    def _insert(self, rows: list[dict[str, dict[str, Any]]]) -> None:
        registry = self._repository.butler.registry
        for element in rows[-1]:
            # Several exposures share a night, and some a group.
            unique = {
                tuple(str(row[element].get(name)) for name in ("instrument", "id", "name")): row[
                    element
                ]
                for row in rows
            }
            registry.insertDimensionData(element, *unique.values(), skip_existing=True)

    def _sync(
        self,
        rows: dict[str, dict[str, Any]],
        wrong: dict[tuple[str, int], str],
        key: tuple[str, int],
        *,
        update: bool = False,
    ) -> None:
        registry = self._repository.butler.registry
        try:
            for element, row in rows.items():
                self._repository.asking(registry.syncDimensionData, element, row, update=update)
        except NotReady:
            raise
        except Exception as error:  # noqa: BLE001
            wrong[key] = f"exposure {key[1]} cannot be registered: {first_line(error)}"

    def _ingest(self, plans: list[_Plan]) -> Iterator[Outcome]:
        if not plans:
            return
        datasets = [
            FileDataset(
                path=ResourcePath(headers.uri(plan.file.path)),
                refs=plan.refs,
                formatter=self._formatter,
            )
            for plan in plans
        ]
        try:
            self._repository.asking(
                self._repository.butler.ingest, *datasets, transfer=self._settings.transfer
            )
        except NotReady:
            raise
        except Exception as error:  # noqa: BLE001 (sorted out in _explain)
            if len(plans) == 1:
                yield self._explain(plans[0], error)
                return
            half = len(plans) // 2
            yield from self._ingest(plans[:half])
            yield from self._ingest(plans[half:])
        else:
            for plan in plans:
                yield plan.outcome(Result.DONE, self._named(plan))

    def _explain(self, plan: _Plan, error: Exception) -> Outcome:
        """Return what an error means for the one file that it came from."""
        if isinstance(error, ConflictingDefinitionError):
            # Another pass was quicker, or another file was ingested as this dataset.
            judged = self._judge(plan, self._repository.asking(self._held, [plan]))
            if judged is not None:
                return judged
        if disk_away(error):
            return plan.outcome(Result.LATER, str(error))
        return plan.outcome(Result.FAILED, f"{type(error).__name__}: {first_line(error)}")

    # ---- words ----

    def _named(self, plan: _Plan) -> str:
        run = plan.refs[0].run
        return f"{shown(plan.refs[0], len(plan.infos) - 1)} in {run}"


def shown(ref: DatasetRef, more: int = 0) -> str:
    """Return a dataset's name for messages."""
    id_ = ref.dataId
    text = f"{ref.datasetType.name} {id_['instrument']} {id_['exposure']}/{id_['detector']}"
    return f"{text} and {more} more" if more else text


def difference(path: str, file: StoredFile) -> str | None:
    """Return in what a file differs from the one that the repository holds; None if in nothing.

    Raises
    ------
    OSError
        If a disk is away.
    """
    if path == file.path:
        return None
    try:
        if os.path.samefile(path, file.path) or filecmp.cmp(path, file.path, shallow=False):
            return None
        size = os.stat(path).st_size
    except FileNotFoundError:
        return f"from {path}, which is gone; here it is {file.path}"
    except OSError as error:
        if disk_away(error):
            raise
        return f"from {path}, which cannot be read ({error.strerror}); here it is {file.path}"
    return f"from {path} ({size} bytes), and differs from {file.path} ({file.size_bytes} bytes)"
