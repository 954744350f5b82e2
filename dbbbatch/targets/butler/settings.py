"""The keys of the plugins ``butler-gen3`` and ``butler-gen2``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option

FORMATTER = "dbbbatch.targets.butler.formatter.FitsFormatter"

#: Arguments of the tasks' methods that the plugins pass themselves.
INGEST_ARGUMENTS = frozenset({"files", "run", "pool", "processes", "file_filter", "skip_ingest"})
VISIT_ARGUMENTS = frozenset({"dataIds_or_records", "dataIds", "data_ids", "pool", "processes"})
GEN2_ARGUMENTS = frozenset({"root", "mode", "create", "dryrun", "ignoreIngested"})


def _run_name(value: Any) -> str:
    text = fields.nonempty(value)
    try:
        text.format(instrument="X")
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"only {{instrument}} can be filled in, not {text!r}") from None
    return text


def _refuse(key: str, options: Mapping[str, Any], ours: frozenset[str]) -> None:
    for name in sorted(ours & set(options)):
        raise ValueError(f"{key}: {name} is no option here: the plugin sets it itself")


def _nextend() -> Any:
    return option(
        True, "refuse a file with fewer extensions than its header counts", parse=fields.boolean
    )


@dataclass(frozen=True)
class Gen3Settings:
    """``[target.NAME.config]`` with ``plugin = "butler-gen3"``."""

    repo: str = option(help="repository: its directory, URI or alias", example="/repo/main")
    run: str = option(
        "{instrument}/raw/all", "collection that the files are put into", parse=_run_name
    )
    dataset_type: str = option("raw", "dataset type of the files")
    transfer: str = option(
        "direct",
        "direct leaves files where they are; the others put copies or links into the repository",
        parse=fields.choice("direct", "copy", "hardlink", "symlink", "relsymlink", "link"),
    )
    formatter: str = option(FORMATTER, "class recorded with each file, to read it with")
    translators: tuple[str, ...] = option(
        [], "modules with header translators of your own", parse=fields.strings
    )
    exposures: str = option(
        "fail",
        "when the repository's record of an exposure differs from a header: fail, keep or update",
        parse=fields.choice("fail", "keep", "update"),
    )
    register_filters: bool = option(
        True, "register a filter when it is first seen", parse=fields.boolean
    )
    nextend: bool = _nextend()
    task: str = option("", "with the LSST stack: the ingest task, lsst.obs.base.RawIngestTask")
    task_config: Mapping[str, Any] = option(
        {}, "fields of the task's configuration", parse=fields.subtable
    )
    task_options: Mapping[str, Any] = option(
        {}, "arguments of the task's run", parse=fields.subtable
    )
    visits: str = option(
        "", "with the LSST stack: lsst.obs.base.DefineVisitsTask, to define visits"
    )
    visits_config: Mapping[str, Any] = option(
        {}, "fields of its configuration", parse=fields.subtable
    )
    visits_options: Mapping[str, Any] = option({}, "arguments of its run", parse=fields.subtable)

    def __post_init__(self) -> None:
        """Refuse keys that do not go together."""
        if self.task and self.exposures != "fail":
            raise ValueError(
                f"exposures: {self.exposures} has no effect with task, which compares exactly; "
                "its own way is task_options = { update_exposure_records = true }"
            )
        if "transfer" in self.task_config:
            raise ValueError("task_config: transfer is the key transfer of this section")
        _refuse("task_options", self.task_options, INGEST_ARGUMENTS)
        _refuse("visits_options", self.visits_options, VISIT_ARGUMENTS)


@dataclass(frozen=True, kw_only=True)
class Gen2Settings:
    """``[target.NAME.config]`` with ``plugin = "butler-gen2"``."""

    root: str = option(help="repository", parse=fields.absolute_path, example="/datasets/repo")
    task: str = option("lsst.pipe.tasks.ingest.IngestTask", "the task that ingests")
    mode: str = option(
        "link",
        "link, copy, skip (write the registry only), or move: out of the storage area",
        parse=fields.choice("link", "copy", "skip", "move"),
    )
    create: bool = option(
        False, "make the registry if the repository has none yet", parse=fields.boolean
    )
    nextend: bool = _nextend()
    options: Mapping[str, Any] = option(
        {}, "more arguments of the task's prepareTask", parse=fields.subtable
    )

    def __post_init__(self) -> None:
        """Refuse options that the plugin sets itself."""
        _refuse("options", self.options, GEN2_ARGUMENTS)
