"""NOT the LSST stack: doubles that behave as the two tasks of `lsst.obs.base` were seen to.

They reproduce what a plugin has to live with: callbacks for some failures and none for others, one
transaction an exposure, the `RuntimeError` in the end although other files succeeded, success told
of files that were skipped, filters that must be registered before. The repository under them is a
real one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

from lsst.daf.butler import (
    CollectionType,
    DatasetIdGenEnum,
    DatasetRef,
    DatasetType,
    FileDataset,
)

from dbbbatch.targets.butler import headers, records
from dbbbatch.targets.butler.formatter import FitsFormatter


class Config:
    """As `lsst.pex.config.Config`: only known fields, only values of their type."""

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        if type(value) is not type(getattr(type(self), name)):
            raise TypeError(f"{name}: {value!r} is of incorrect type")
        super().__setattr__(name, value)


class RawIngestConfig(Config):
    transfer = "auto"
    failFast = False


class FitsError(OSError):
    """As afw's, which has no number."""


class RawIngestTask:
    """As `lsst.obs.base.RawIngestTask`, for files of one detector each."""

    ConfigClass = RawIngestConfig
    #: What `run` was called with, for the tests to look at.
    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        config: Any,
        *,
        butler: Any,
        on_success: Any,
        on_metadata_failure: Any,
        on_ingest_failure: Any,
        on_exposure_record: Any = None,
    ) -> None:
        self.config = config
        self.butler = butler
        self.on_success = on_success
        self.on_metadata_failure = on_metadata_failure
        self.on_ingest_failure = on_ingest_failure

    def getDatasetType(self) -> DatasetType:
        return DatasetType(
            "raw",
            ("instrument", "detector", "exposure"),
            "Exposure",
            universe=self.butler.dimensions,
        )

    def run(
        self,
        files: Any,
        *,
        pool: Any = None,
        processes: int | None = None,
        run: str | None = None,
        file_filter: str = "",
        group_files: bool = True,
        skip_existing_exposures: bool = False,
        update_exposure_records: bool = False,
        track_file_attrs: bool = True,
        search_indexes: bool = True,
        num_workers: int = 1,
        skip_ingest: bool = False,
    ) -> list[Any]:
        names = [file.ospath.rpartition("/")[2] for file in files]
        self.calls.append({"run": run, "files": names})
        failed = False
        read = []
        for file in files:
            try:
                infos = self.read(file.ospath)
            except Exception as error:
                self.on_metadata_failure(file, error)
                if self.config.failFast:
                    raise RuntimeError(f"Problem extracting metadata for file {file}") from error
                failed = True
            else:
                # Outside of what is caught: a file without detectors ends the call.
                read.append((file, infos[0]))
        refs = []
        for some in self._prepared(read):
            try:
                self._register(some)
            except Exception as error:  # noqa: BLE001
                self._refuse(some, error)
                failed = True
                continue
            # Outside of what is caught, too.
            self.butler.registry.registerDatasetType(self.getDatasetType())
            try:
                datasets = self._ingest_exposure(some, run, skip_existing_exposures)
            except Exception as error:  # noqa: BLE001
                self._refuse(some, error)
                failed = True
            else:
                self.on_success(datasets)
                refs += [ref for dataset in datasets for ref in dataset.refs]
        if failed:
            raise RuntimeError("Some failures encountered during ingestion")
        return refs

    def read(self, path: str) -> list[Any]:
        try:
            return headers.observations(path)
        except headers.Untranslatable as error:
            if "holds no detector" in str(error):
                return []
            raise

    def _prepared(self, read: list[Any]) -> Iterator[list[Any]]:
        """Group by exposure, and expand the data ids; nothing of it is caught."""
        exposures = defaultdict(list)
        for file, info in read:
            exposures[info.instrument, info.exposure_id].append((file, info))
        for some in exposures.values():
            records.exposure_rows(some[0][1], self.butler.dimensions)
        for some in exposures.values():
            info = some[0][1]
            self.butler.registry.expandDataId(
                instrument=info.instrument, physical_filter=info.physical_filter
            )
            yield some

    def _refuse(self, some: list[Any], error: Exception) -> None:
        files = [SimpleNamespace(filename=file) for file, _ in some]
        self.on_ingest_failure(SimpleNamespace(files=files), error)
        if self.config.failFast:
            raise error

    def _register(self, some: list[Any]) -> None:
        info = some[0][1]
        rows = records.exposure_rows(info, self.butler.dimensions)
        rows["exposure"]["exposure_time"] = float(info.exposure_time_requested.to_value("s"))
        for element, row in rows.items():
            self.butler.registry.syncDimensionData(element, row)

    def _ingest_exposure(self, some: Any, run: str | None, skip: bool) -> list[FileDataset]:
        butler = self.butler
        collection = run or f"{some[0][1].instrument}/raw/all"
        butler.collections.register(collection, CollectionType.RUN)
        raw = self.getDatasetType()
        datasets = []
        for file, one in some:
            ref = DatasetRef(
                raw,
                butler.registry.expandDataId(
                    instrument=one.instrument, exposure=one.exposure_id, detector=one.detector_num
                ),
                run=collection,
                id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
            )
            datasets.append(FileDataset(path=file.abspath(), refs=[ref], formatter=FitsFormatter))
        butler.ingest(*datasets, transfer=self.config.transfer, skip_existing=skip)
        # All of them, whether they were skipped or not.
        return datasets


class RegionsConfig(Config):
    padding = 250


class DefineVisitsConfig(Config):
    ignoreNonScienceExposures = True
    computeVisitRegions = RegionsConfig()

    def __init__(self) -> None:
        self.computeVisitRegions = RegionsConfig()


class DefineVisitsTask:
    """As `lsst.obs.base.DefineVisitsTask`, but that it only notes the exposures."""

    ConfigClass = DefineVisitsConfig
    _DefaultName = "defineVisits"
    defined: ClassVar[list[int]] = []
    #: What `run` was called with, and the padding that was configured.
    calls: ClassVar[list[dict[str, Any]]] = []
    #: Exposures whose visits cannot be defined.
    impossible: ClassVar[set[int]] = set()

    def __init__(self, config: Any, *, butler: Any) -> None:
        self.config = config

    def run(
        self,
        dataIds_or_records: Any,
        *,
        collections: str | None = None,
        update_records: bool = False,
        incremental: bool = False,
        skip_conflicting: bool = False,
        prefilter: bool = False,
    ) -> None:
        if prefilter and (update_records or incremental):
            raise TypeError("prefilter=True cannot be used with incremental=True")
        instruments = {data_id["instrument"] for data_id in dataIds_or_records}
        if len(instruments) > 1:
            raise RuntimeError("All data IDs must be from the same instrument")
        exposures = {data_id["exposure"] for data_id in dataIds_or_records}
        if wrong := exposures & self.impossible:
            raise ValueError(f"no camera geometry for {sorted(wrong)}")
        self.calls.append(
            {
                "instrument": instruments.pop(),
                "incremental": incremental,
                "padding": self.config.computeVisitRegions.padding,
            }
        )
        self.defined += sorted(exposures)


class OldDefineVisitsTask(DefineVisitsTask):
    """As of years ago, with another name for its first argument and less to choose."""

    def run(self, dataIds: Any, *, collections: str | None = None) -> None:  # type: ignore[override]
        super().run(dataIds, collections=collections)


class Latiss:
    """As the stack's class of the instrument: its package widens the regions of visits."""

    def applyConfigOverrides(self, name: str, config: Any) -> None:
        if name == "defineVisits":
            config.computeVisitRegions.padding = 4000
