"""NOT the LSST stack: doubles that behave as `lsst.obs.base` documents its two tasks.

They reproduce what a plugin has to live with: callbacks, one transaction an exposure, the
`RuntimeError` in the end although other files succeeded, arguments that differ between releases.
The repository under them is a real one.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, ClassVar

from lsst.daf.butler import CollectionType, DatasetIdGenEnum, DatasetRef, FileDataset

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
    ) -> None:
        self.config = config
        self.butler = butler
        self.on_success = on_success
        self.on_metadata_failure = on_metadata_failure
        self.on_ingest_failure = on_ingest_failure

    def run(
        self,
        files: Any,
        *,
        run: str | None = None,
        group_files: bool = True,
        skip_existing_exposures: bool = False,
        update_exposure_records: bool = False,
        track_file_attrs: bool = True,
    ) -> list[Any]:
        self.calls.append({"run": run, "skip_existing_exposures": skip_existing_exposures})
        failed = False
        exposures = defaultdict(list)
        for file in files:
            try:
                infos = headers.observations(file.ospath)
            except Exception as error:  # noqa: BLE001
                self.on_metadata_failure(file, error)
                failed = True
            else:
                exposures[infos[0].instrument, infos[0].exposure_id].append((file, infos[0]))
        refs = []
        for some in exposures.values():
            try:
                datasets = self._ingest_exposure(some, run, skip_existing_exposures)
            except Exception as error:  # noqa: BLE001
                files_of = [SimpleNamespace(filename=file) for file, _ in some]
                self.on_ingest_failure(SimpleNamespace(files=files_of), error)
                failed = True
            else:
                self.on_success(datasets)
                refs += [ref for dataset in datasets for ref in dataset.refs]
        if failed:
            raise RuntimeError("Some failures encountered during ingestion")
        return refs

    def _ingest_exposure(self, some: Any, run: str | None, skip: bool) -> list[FileDataset]:
        butler, info = self.butler, some[0][1]
        rows = records.exposure_rows(info, butler.dimensions)
        band = {"instrument": info.instrument, "name": info.physical_filter, "band": "r"}
        butler.registry.syncDimensionData("physical_filter", band)
        for element, row in rows.items():
            butler.registry.syncDimensionData(element, row)
        collection = run or f"{info.instrument}/raw/all"
        butler.collections.register(collection, CollectionType.RUN)
        raw = butler.get_dataset_type("raw")
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
            if skip and butler.find_dataset(raw, ref.dataId, collections=collection):
                continue
            datasets.append(FileDataset(path=file.abspath(), refs=[ref], formatter=FitsFormatter))
        butler.ingest(*datasets, transfer=self.config.transfer)
        return datasets


class DefineVisitsConfig(Config):
    ignoreNonScienceExposures = True


class DefineVisitsTask:
    """As `lsst.obs.base.DefineVisitsTask`, but that it only notes the exposures."""

    ConfigClass = DefineVisitsConfig
    defined: ClassVar[list[int]] = []
    #: Exposures whose visits cannot be defined.
    impossible: ClassVar[set[int]] = set()

    def __init__(self, config: Any, *, butler: Any) -> None:
        self.config = config

    def run(
        self, dataIds: Any, *, collections: str | None = None, update_records: bool = False
    ) -> None:
        exposures = {data_id["exposure"] for data_id in dataIds}
        if wrong := exposures & self.impossible:
            raise ValueError(f"no camera geometry for {sorted(wrong)}")
        self.defined += sorted(exposures)
