"""The least that has to be called to ingest files: into a Gen3 Butler, and into Rucio.

Run as ``python targets_floor.py REPO DIRECTORY`` the first one is a program of its own. Nothing is
checked, recorded or recovered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def butler(repo: str, paths: Sequence[str]) -> None:
    """Read, translate, register exposures one by one, ingest in one call."""
    from astro_metadata_translator import MetadataTranslator, ObservationInfo
    from astropy.io import fits
    from lsst.daf.butler import Butler, DataCoordinate, DatasetIdGenEnum, DatasetRef, FileDataset

    from dbbbatch.targets.butler import headers, records
    from dbbbatch.targets.butler.formatter import FitsFormatter

    repository = Butler.from_config(repo, writeable=True)
    raw = repository.get_dataset_type("raw")
    datasets, exposures = [], {}
    for path in paths:
        with fits.open(path) as hdus:
            header = hdus[0].header
        translator = MetadataTranslator.determine_translator(header, filename=path)
        (one,) = translator.determine_translatable_headers(path, header)
        info = ObservationInfo(
            one,
            pedantic=False,
            filename=path,
            required=headers.REQUIRED_PROPERTIES,
            subset=headers.REQUIRED_PROPERTIES | records.PROPERTIES,
        )
        exposures[info.exposure_id] = info
        data_id = DataCoordinate.standardize(
            instrument=info.instrument,
            exposure=info.exposure_id,
            detector=info.detector_num,
            universe=repository.dimensions,
        )
        ref = DatasetRef(
            raw,
            data_id,
            run=f"{info.instrument}/raw/all",
            id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
        )
        datasets.append(FileDataset(path=path, refs=[ref], formatter=FitsFormatter))
    for info in exposures.values():
        for element, row in records.exposure_rows(info, repository.dimensions).items():
            repository.registry.syncDimensionData(element, row)
    repository.ingest(*datasets, transfer="direct")


def rucio(client: Any, rse: str, scope: str, dataset: str, files: Sequence[dict[str, Any]]) -> None:
    """Ask, register and attach; checksums are known, the dataset is there."""
    list(client.get_metadata_bulk([{"scope": scope, "name": file["name"]} for file in files]))
    client.add_replicas(rse, list(files))
    dids = [{key: value for key, value in file.items() if key != "pfn"} for file in files]
    attachment = {"scope": scope, "name": dataset, "dids": dids}
    client.add_files_to_datasets([attachment], ignore_duplicate=True)


def main(repo: str, directory: str) -> None:
    """Ingest all files of a directory."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dbbbatch.targets.butler import headers

    headers.load_translators()
    butler(repo, sorted(map(str, Path(directory).rglob("*.fits"))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
