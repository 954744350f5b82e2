"""Repositories of every age: all versions of the dimension universe."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler, Config, DimensionConfig
from lsst.daf.butler import __file__ as package

from tests.targets.butler.preparing import prepared
from tests.targets.observations import latiss
from tests.targets.offering import offered, results, started

UNIVERSES = sorted(Path(package).parent.glob("configs/old_dimensions/*.yaml"))


@pytest.mark.parametrize("universe", UNIVERSES, ids=lambda path: path.stem)
def test_ingest_into_an_old_repository(universe: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    Butler.makeRepo(str(repo), config=Config(), dimensionConfig=DimensionConfig(str(universe)))
    prepared(repo, "LATISS")
    path = latiss(tmp_path)
    with started("butler-gen3", tmp_path, repo=str(repo)) as plugin:
        assert results(offered(plugin, path)) == ["done"]
        assert results(offered(plugin, path)) == ["already"]
    (record,) = Butler.from_config(str(repo)).query_dimension_records("exposure")
    assert record.day_obs == 20251123
    group = record.group if "group" in record.fields.names else record.group_name
    assert group == "2025-11-23T23:31:00.000"
