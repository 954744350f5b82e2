"""Makes a Gen3 repository, or completes one, so that raw files of an instrument can be ingested.

Every step can be repeated: what is there already is left as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from lsst.daf.butler import Butler, CollectionType, Config, DatasetType, StorageClassFactory
from lsst.daf.butler.registry import ConflictingDefinitionError

from dbbbatch.errors import ConfigError
from dbbbatch.targets.butler import fits, headers, instruments
from dbbbatch.targets.butler.repository import Repository, first_line
from dbbbatch.targets.butler.settings import FORMATTER

#: Storage class of raw files that astropy can read, in repositories made here.
READABLE = "RawFits"
#: Limits for an instrument that only its files tell of: no exposure id is larger.
LARGE = 2**53


def prepare(
    where: str,
    instrument: str,
    *,
    run: str = "{instrument}/raw/all",
    dataset_type: str = "raw",
    storage_class: str = "",
    database: str = "",
    namespace: str = "",
    files: Sequence[str] = (),
    translators: Sequence[str] = (),
    update: bool = False,
) -> Iterator[str]:
    """Make or complete a repository.

    Parameters
    ----------
    where : `str`
        Its directory, URI or alias; a directory that does not exist is made.
    instrument : `str`
        Name of the instrument.
    run : `str`
        The collection that its raw files will be put into.
    dataset_type : `str`
        Their dataset type.
    storage_class : `str`
        Storage class of a new dataset type: ``Exposure`` for the LSST stack; by default, what
        astropy can read, where the repository knows it.
    database : `str`
        Database of a new repository, ``postgresql://…``; SQLite in its directory by default.
    namespace : `str`
        Schema in that database.
    files : sequence of `str`
        Sample files, to learn detectors from (all of them, for an instrument that is not known).
    translators : sequence of `str`
        Modules with header translators of the site's own.
    update : `bool`
        Change records of the instrument that differ from what is known of it.

    Yields
    ------
    done : `str`
        What was done, a line each.

    Raises
    ------
    ConfigError
        If it cannot be done; says what to do.
    """
    headers.load_translators(translators)
    if instrument not in instruments.INSTRUMENTS and not files:
        raise ConfigError(
            f"instrument {instrument!r} is not known; known: "
            f"{', '.join(sorted(instruments.INSTRUMENTS))}; "
            "for another one, give a file of each of its detectors with --files"
        )
    if os.path.isabs(where) and not (os.path.isdir(where) and os.listdir(where)):
        yield _make(where, database, namespace)
    repository = Repository(where)
    try:
        yield from _register_instrument(repository, instrument, update=update)
        yield from _register_samples(repository, instrument, files)
        yield from _register_type(repository.butler, dataset_type, storage_class)
        collection = run.format(instrument=instrument)
        if repository.butler.collections.register(collection, CollectionType.RUN):
            yield f"collection {collection}"
    finally:
        repository.close()


def is_alias(where: str) -> bool:
    """Return whether a repository is named by a URI or an alias, rather than by its directory."""
    return "://" in where or where in Butler.get_known_repos()


def _make(where: str, database: str, namespace: str) -> str:
    seed: dict[str, Any] = {
        "storageClasses": {READABLE: {"pytype": "astropy.io.fits.HDUList"}},
        "datastore": {"formatters": {READABLE: FORMATTER}},
    }
    if database:
        seed["registry"] = {"db": database}
        if namespace:
            seed["registry"]["namespace"] = namespace
    # Made beside its place, so that a kill leaves no half of a repository under its name; without
    # a dot, because what follows one is taken for the extension of a file.
    parent, name = os.path.split(where)
    unfinished = os.path.join(parent, f"unfinished-{name.replace('.', '-')}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        Butler.makeRepo(unfinished, config=Config(seed))
        os.rename(unfinished, where)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        hint = ""
        if "btree_gist" in str(error):
            hint = "; an administrator of the database must run CREATE EXTENSION btree_gist in it"
        elif type(error).__name__ == "SchemaAlreadyDefinedError":
            hint = (
                " It holds a repository, or the rest of an interrupted attempt: drop that schema, "
                "or choose another one with --namespace"
            )
        raise ConfigError(
            f"repository {where} cannot be made: {type(error).__name__}: {first_line(error)}{hint}"
        ) from error
    return f"repository {where}"


def _register_instrument(repository: Repository, name: str, *, update: bool) -> Iterator[str]:
    known = instruments.INSTRUMENTS.get(name)
    if known is None:
        return
    if (stack := _of_the_stack(known.class_name)) is not None:
        try:
            stack().register(repository.butler.registry, **({"update": True} if update else {}))
        except ConflictingDefinitionError as error:
            raise _differs(repository, f"{known.class_name} of the stack", error) from error
        yield f"instrument {name}, its detectors and filters (by {known.class_name})"
        return
    rows = {
        "name": name,
        "class_name": known.class_name,
        "visit_max": known.exposure_max,
        "exposure_max": known.exposure_max,
        "detector_max": known.detector_max,
        "visit_system": known.visit_system,
    }
    if _insert_record(repository, "instrument", rows, update=update):
        yield f"instrument {name}"
    detectors: list[dict[str, Any]] = [
        {
            "instrument": name,
            "id": detector.id,
            "full_name": detector.full_name,
            "name_in_raft": detector.name_in_raft,
            "raft": detector.raft,
            "purpose": detector.purpose,
        }
        for detector in instruments.detectors(name)
    ]
    filters: list[dict[str, Any]] = [
        {"instrument": name, "name": filter_name, "band": band}
        for filter_name, band in instruments.filters(name).items()
    ]
    for element, of_them in (("detector", detectors), ("physical_filter", filters)):
        if count := _complete(repository, name, element, of_them, update=update):
            yield f"{count} {_PLURAL[element]} of {name}"


#: What an operator calls records.
_PLURAL = {"detector": "detectors", "physical_filter": "filters"}


def _complete(
    repository: Repository,
    instrument: str,
    element: str,
    rows: Sequence[dict[str, Any]],
    *,
    update: bool,
) -> int:
    """Insert the records that are not there yet, and mend those that said nothing.

    Returns
    -------
    count : `int`
        How many were inserted or changed.

    Raises
    ------
    ConfigError
        If one that is there differs.
    """
    key = "id" if element == "detector" else "name"
    there = {getattr(one, key): one for one in _records_of(repository, element, instrument)}
    missing = [row for row in rows if row[key] not in there]
    if missing:
        repository.butler.registry.insertDimensionData(element, *missing, skip_existing=True)
    changed = 0
    for row in rows:
        held = there.get(row[key])
        if held is None or all(held.toDict().get(name) == value for name, value in row.items()):
            continue
        # A filter that was registered before its band was known has its own name for one.
        unknown = element == "physical_filter" and held.band == held.name
        changed += _insert_record(repository, element, row, update=update or unknown)
    return len(missing) + changed


def _of_the_stack(class_name: str) -> Any:
    """Return the LSST stack's class of an instrument, if it is installed."""
    import importlib

    module, _, name = class_name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def _register_samples(repository: Repository, name: str, files: Sequence[str]) -> Iterator[str]:
    for path in files:
        try:
            found = headers.observations(os.path.abspath(path))
        except (fits.Damaged, headers.Untranslatable, OSError) as error:
            raise ConfigError(f"{path}: {error}") from error
        for info in found:
            if info.instrument != name:
                raise ConfigError(f"{path} is of {info.instrument}, not of {name}")
            if name not in instruments.INSTRUMENTS and name not in repository.instruments():
                row = dict.fromkeys(("visit_max", "exposure_max", "detector_max"), LARGE)
                _insert_record(
                    repository,
                    "instrument",
                    {"name": name, "class_name": "", "visit_system": 0} | row,
                )
                yield f"instrument {name}"
            if info.detector_num not in {
                one.id for one in _records_of(repository, "detector", name)
            }:
                full_name = _full_name(path, info)
                row = {"instrument": name, "id": info.detector_num, "full_name": full_name}
                _insert_record(repository, "detector", row)
                yield f"detector {info.detector_num} of {name} ({full_name})"


def _full_name(path: str, info: Any) -> str:
    # The name is no part of what an exposure needs, so it may be missing from a header.
    translator = getattr(info, "_translator", None)
    try:
        return str(translator.to_detector_unique_name())
    except Exception:  # noqa: BLE001
        return str(info.detector_num)


def _records_of(repository: Repository, element: str, instrument: str) -> list[Any]:
    return repository.butler.query_dimension_records(
        element,
        where="instrument = :of",
        bind={"of": instrument},
        limit=None,
        explain=False,
    )


def _insert_record(
    repository: Repository, element: str, row: dict[str, Any], *, update: bool = False
) -> bool:
    """Insert a record of which the repository's universe may not know every column."""
    dimension = repository.butler.dimensions[element]
    columns = set(dimension.RecordClass.fields.names)
    row = {name: value for name, value in row.items() if name in columns}
    try:
        return bool(repository.butler.registry.syncDimensionData(element, row, update=update))
    except ConflictingDefinitionError as error:
        named = row.get("name", row.get("full_name"))
        raise _differs(repository, f"{element} {named!r} as dbbbatch knows it", error) from error


def _differs(repository: Repository, whose: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"repository {repository.where} has a record that differs from {whose}: "
        f"{first_line(error)}; it was left as it is. Records that were registered by hand, by "
        "another release or with a guessed band do that; if the new ones are right, repeat with "
        "--update"
    )


def _register_type(butler: Butler, name: str, storage_class: str) -> Iterator[str]:
    if not storage_class:
        storage_class = READABLE if READABLE in StorageClassFactory() else "Exposure"
    try:
        there = butler.get_dataset_type(name)
    except KeyError:
        there = None
    if there is not None:
        if not {"instrument", "exposure", "detector"} == set(there.dimensions.required):
            raise ConfigError(f"dataset type {name!r} is not one of instrument, exposure, detector")
        return
    wanted = DatasetType(
        name, {"instrument", "detector", "exposure"}, storage_class, universe=butler.dimensions
    )
    try:
        butler.registry.registerDatasetType(wanted)
    except (ConflictingDefinitionError, KeyError, ValueError) as error:
        raise ConfigError(f"dataset type {name!r}: {first_line(error)}") from error
    yield f"dataset type {name} ({storage_class})"
