"""The keys of the plugin ``butler-gen3``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option

FORMATTER = "dbbbatch.targets.butler.formatter.FitsFormatter"


#: Arguments of the tasks' ``run`` that are the plugin's own business.
INGEST_ARGUMENTS = frozenset({"files", "run", "pool", "processes", "file_filter", "skip_ingest"})


VISIT_ARGUMENTS = frozenset({"dataIds_or_records", "dataIds", "data_ids", "pool", "processes"})


def _run_name(value: Any) -> str:
    text = fields.text(value)
    try:
        made = text.format(instrument="X")
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"only {{instrument}} can be filled in, not {text!r}") from None
    if not made.strip():
        raise ValueError("a name is wanted")
    return text


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
    nextend: bool = option(
        True, "refuse a file with fewer extensions than its header counts", parse=fields.boolean
    )
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
        if self.task and self.exposures != "fail":
            raise ValueError(
                f"exposures: {self.exposures} has no effect with task, which compares exactly; "
                "its own way is task_options = { update_exposure_records = true }"
            )
        if "transfer" in self.task_config:
            raise ValueError("task_config: transfer is the key transfer of this section")
        for name, options, ours in (
            ("task_options", self.task_options, INGEST_ARGUMENTS),
            ("visits_options", self.visits_options, VISIT_ARGUMENTS),
        ):
            for given in sorted(ours & set(options)):
                raise ValueError(f"{name}: {given} is no option here: the plugin sets it itself")
