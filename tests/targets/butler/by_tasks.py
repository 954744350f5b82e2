"""Ingests through the plugin by doubles of the stack's tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbbbatch.targets.plugin import Outcome
from tests.targets.observations import LSSTCAM, rubin, write
from tests.targets.offering import offered, started

DOUBLES = "tests.targets.butler.obs_base_double"
RAWS = {"task": f"{DOUBLES}.RawIngestTask"}
VISITS = {"visits": f"{DOUBLES}.DefineVisitsTask"}


def ingest(repo: Path, *paths: Path, **config: Any) -> list[Outcome]:
    """Ingest files by a plugin that is started for them."""
    with started("butler-gen3", paths[0].parent, repo=str(repo), **config) as plugin:
        return offered(plugin, *paths)


def cam(directory: Path, slot: str, sequence: int = 7) -> Path:
    """Write the file of one detector of LSSTCam."""
    return write(directory / f"{slot}.fits", rubin(LSSTCAM, 20250501, sequence, CCDSLOT=slot))
